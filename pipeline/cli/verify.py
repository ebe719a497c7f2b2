"""`pipeline verify`: an output derived again, and what of it does not hold."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("verify")
@click.argument("output", type=click.Path(path_type=Path), metavar="OUTPUT")
@click.option("--job", type=click.Path(path_type=Path), metavar="JOB", help="Its job file, where it is not near it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify_command(output: Path, *, job: Path | None, as_json: bool) -> int:
    """Derive OUTPUT (a file or a directory of parts) again from source, plan and journal, and compare; sends nothing.

    Every page and part is read by its checksum, every row is compared with what the journal holds for its key, and
    the sums with the summary, the journal's bill and the manifest. The job is loaded as the run had it (date, params,
    endpoint) and planned once more, to compare the keys with the source; what was changed since is a note. Rows that
    the run has gone on from since an export are a note, too. Exit 0 where all holds, else 1, and the first rows that
    do not are named.

    \b
    Examples:
      pipeline verify out/anomaly/2026-11-22.parquet
      pipeline verify out/anomaly/ --job configs/anomaly.yaml
    """
    from pipeline.cli.looking import load_as_run
    from pipeline.cost import usd_text
    from pipeline.run.verify import verify

    found = verify(output, job, load_as_run)
    if as_json:
        print(
            json.dumps(
                {
                    "output": str(output),
                    "run_id": found.run_id,
                    "holds": not found.problems,
                    "rows": found.rows,
                    "files": found.files,
                    "problems": found.problems,
                    "notes": found.notes,
                },
                ensure_ascii=False,
            )
        )
        return 1 if found.problems else 0
    files = "" if found.files == 1 else f" in {found.files:,} parts"
    print(f"{output}: run {found.run_id}, {found.rows:,} rows{files}, {usd_text(found.cost_nanos)}")
    for words in found.problems:
        print(f"  does not hold: {_printable(words)}")
    for words in found.notes:
        print(f"  note: {_printable(words)}")
    if not found.problems:
        but = ", but for what the notes say" if found.notes else ""
        print(f"  holds: every row, key, checksum and sum is what plan and journal make of it{but}")
    return 1 if found.problems else 0


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)

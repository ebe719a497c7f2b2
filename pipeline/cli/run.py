"""`pipeline run` and `pipeline export`: the commands that write an output."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.main import say
from pipeline.cli.options import WAIT, job_options, load_job, selection
from pipeline.errors import Interrupted, PipelineError

if TYPE_CHECKING:
    from pipeline.job import Job, Overrides
    from pipeline.report import Summary
    from pipeline.run.start import Start

ROWS_FAILED = 3
RETRYABLE = ("failed", "invalid", "truncated", "refused")


class Statuses(click.ParamType[frozenset[str]]):
    """Statuses, comma-separated."""

    name = "status,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        """Read and check the names."""
        if isinstance(value, frozenset):
            return value
        names = frozenset(filter(None, str(value).split(",")))
        wrong = sorted(names - set(RETRYABLE))
        if wrong or not names:
            self.fail(f"{', '.join(wrong) or 'nothing'} is not among {', '.join(RETRYABLE)}", param, ctx)
        return names


class RunCommand(click.Command):
    """`--retry-failed` takes its statuses only after an equals sign, so that a JOB may follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the bare flag as its default."""
        return super().parse_args(ctx, [f"{arg}=failed,invalid" if arg == "--retry-failed" else arg for arg in args])


@click.command("run", cls=RunCommand)
@job_options
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N requests: a trial.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0),
    metavar="USD",
    help="What the run may cost since it was last complete, in place of budget.run_usd.",
)
@click.option(
    "--retry-failed",
    type=Statuses(),
    metavar="[=STATUS,…]",
    help="Ask failed and invalid rows (or rows of the named statuses) again.",
)
@click.option("--yes", is_flag=True, help="Consent to what is otherwise refused (exit 6).")
@WAIT
@click.option("--show", type=click.IntRange(min=0), default=0, metavar="N", help="Print the first N answers too.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object, last on stdout.")
@click.option("--quiet", is_flag=True, help="No progress and no messages but errors.")
def run_command(
    job: Path,
    overrides: Overrides,
    *,
    limit: int | None,
    budget: float | None,
    retry_failed: frozenset[str] | None,
    yes: bool,
    wait_secs: float,
    show: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run JOB: ask what is not answered yet, then write the output, whole.

    \b
    Examples:
      pipeline run configs/anomaly.yaml
      pipeline run configs/anomaly.yaml --endpoint simulator     a rehearsal: no key, no cost
      pipeline run nightly.yaml --limit 20                       a trial; the full run takes its answers over
      pipeline run nightly.yaml --date 2026-11-21 --param region=us
      pipeline run nightly.yaml --retry-failed                   ask failed rows again

    Running it again is always right: what is answered is never paid for again. Ctrl-C once lets calls in flight
    finish, twice stops at once; both can be resumed.
    """
    from pipeline.cli.console import Terminal
    from pipeline.cli.serve import local_server
    from pipeline.run.start import Options, Start, interruptible

    del budget  # it is among the overrides
    command = " ".join(["pipeline", *sys.argv[1:]])
    options = Options(limit, retry_failed, yes, wait_secs, command, selection(job, overrides))
    console = Terminal(quiet=quiet)
    start: Start | None = None
    try:
        with interruptible():
            loaded = load_job(job, overrides)
            start = Start(loaded, options, console, environ=os.environ, serve=local_server)
            summary = start.execute()
    except KeyboardInterrupt:
        return _ended_early(job, start, Interrupted(signal.SIGINT), as_json=as_json)
    except PipelineError as error:
        return _ended_early(job, start, error, as_json=as_json)
    except Exception:
        # A bug: its traceback follows, and whoever reads stdout learns of it too.
        _ended_early(job, start, PipelineError("stopped by a bug"), as_json=as_json)
        raise
    _tell(loaded, summary, show=show, as_json=as_json, quiet=quiet)
    return summary.exit_code


def _tell(job: Job, summary: Summary, *, show: int, as_json: bool, quiet: bool) -> None:
    """Say how a run ended; whether anybody still reads of it or not, it has ended as it has ended."""
    from pipeline.report import PUBLISHING, summary_text

    with suppress(OSError, ValueError):
        if show and summary.exit_code in PUBLISHING:
            _show_answers(job.output.path, summary.run_id, job.output.prefix, show)
        if as_json:
            print(json.dumps(summary.as_json(), ensure_ascii=False), flush=True)
        elif not quiet:
            print(summary_text(summary), flush=True)
    if quiet and summary.exit_code == ROWS_FAILED:
        say(f"error: {_too_many(summary, job.expect.max_failed_ratio)}")
    # To whoever wants to hear of errors alone, a run that is complete has nothing more to say.
    if summary.hint and (summary.exit_code if quiet else as_json):
        say(f"next: {summary.hint}")


def _too_many(summary: Summary, ratio: float | None) -> str:
    """Why a complete run does not end with 0."""
    failed = [f"{summary.rows[status]:,} {status}" for status in ("failed", "invalid") if summary.rows.get(status)]
    allowed = "none is allowed (expect.max_failed_ratio)" if not ratio else f"expect.max_failed_ratio allows {ratio:g}"
    total = sum(summary.rows.values())
    return f"{' and '.join(failed)} of {total:,} rows, and {allowed}; why, row by row: {summary.output}"


def _ended_early(job: Path, start: Start | None, error: PipelineError, *, as_json: bool) -> int:
    """Say how a start ended before there was a run to speak of."""
    for line in str(error).splitlines():
        say(f"error: {line if start is None else start.job.mask(line)}")
    if as_json:
        with suppress(OSError, ValueError):
            summary = _unloaded(job, error) if start is None else start.refused(error)
            print(json.dumps(summary.as_json()), flush=True)
    return error.exit_code


def _unloaded(job: Path, error: PipelineError) -> Summary:
    """The summary of a start whose job could not even be loaded."""
    from pipeline.report import Summary
    from pipeline.run.coordinator import now

    moment = now()
    return Summary(
        job=job.stem,
        run_id=None,
        run_date=None,
        exit_code=error.exit_code,
        reason=error.reason,
        output=None,
        started_at=moment,
        finished_at=moment,
    )


def _show_answers(path: Path, run_id: str | None, prefix: str, number: int) -> None:
    """Print the first answers, with the columns that tell whose they are."""
    import pyarrow.parquet as pq

    from pipeline.output import OWN_COLUMNS, files_of

    own = {prefix + name for name in OWN_COLUMNS.names}
    first = next(iter(files_of(path, run_id)), None)
    table = None if first is None else next(pq.ParquetFile(first).iter_batches(number), None)
    for row in table.to_pylist() if table is not None else []:
        whose = ", ".join(f"{name}={value}" for name, value in row.items() if name not in own)
        answer = row[prefix + "response_text"] or row[prefix + "error_message"] or ""
        print(f"── {whose or 'answer'} · {row[prefix + 'status']}")
        for line in answer.strip().splitlines():
            print("   " + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line))
    print(flush=True)


@click.command("export")
@job_options
@click.option("--status", metavar="STATUS,…", help="Only rows of these statuses, to <stem>.STATUS.parquet.")
@click.option("--yes", is_flag=True, help="Replace answered rows of the output by pending ones.")
@WAIT
def export_command(job: Path, overrides: Overrides, *, status: str | None, yes: bool, wait_secs: float) -> int:
    """Write the output of JOB again from its plan and journal; rows without an answer are `pending`.

    Without --date it is the run that was started last, of those that --param and --endpoint fit. Without --output it
    goes to where the run publishes its own output: of a run that is not complete, who reads that finds pending rows
    there, and how many is said on stderr. To look at what there is so far, name another file. Answered rows are never
    replaced by pending ones without --yes.

    \b
    Examples:
      pipeline export nightly.yaml --output so-far.parquet
      pipeline export nightly.yaml --status failed
    """
    from pipeline.cli.console import Terminal
    from pipeline.cli.looking import chosen_by, load_latest
    from pipeline.output import OUTPUT_STATUSES
    from pipeline.run.export import export

    statuses = frozenset(status.split(",")) if status else None
    if statuses and (wrong := sorted(statuses - set(OUTPUT_STATUSES))):
        raise click.UsageError(f"--status {', '.join(wrong)} is not among {', '.join(OUTPUT_STATUSES)}")
    loaded = load_latest(job, overrides)
    path = loaded.output.path
    if statuses and overrides.output is None:
        path = path.with_name(f"{path.stem}.{'-'.join(sorted(statuses))}{path.suffix}")
    counts = export(
        loaded,
        chosen=chosen_by(overrides),
        replace=yes,
        statuses=statuses,
        path=path,
        wait_secs=wait_secs,
        console=Terminal(),
    )
    told = ", ".join(f"{number:,} {name}" for name, number in counts.items()) or "no rows"
    say(f"{loaded.mask(str(path))}: {told}")
    return 0

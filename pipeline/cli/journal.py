"""`pipeline journal`: check, stats, prune and vacuum of a job's journal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.main import say
from pipeline.cli.options import WAIT

if TYPE_CHECKING:
    from pipeline.journal import Journal
    from pipeline.journal.maintenance import Prunable, Stats

JOB = click.argument("job", type=click.Path(path_type=Path), metavar="JOB")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
UNITS = {"h": 1 / 24, "d": 1.0, "w": 7.0}


class Age(click.ParamType[timedelta]):
    """A span such as ``12h``, ``30d``, ``8w``."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read a number and its unit."""
        if isinstance(value, timedelta):
            return value
        text = str(value)
        if text[-1:] not in UNITS or not text[:-1].isdigit():
            self.fail(f"{text!r} is not an age such as 12h, 30d or 8w", param, ctx)
        return timedelta(days=int(text[:-1]) * UNITS[text[-1]])


@click.group("journal")
def journal_command() -> None:
    """Look after the journal of JOB: the paid answers, and what each call cost.

    \b
    Examples:
      pipeline journal check nightly.yaml
      pipeline journal prune nightly.yaml --older-than 90d            says what would go
      pipeline journal prune nightly.yaml --superseded --yes
    """


@journal_command.command("check")
@JOB
@AS_JSON
def check_command(job: Path, *, as_json: bool) -> int:
    """Read every page and every stored response by its checksum; exit 0 where the journal is whole, else 1."""
    from pipeline.journal.maintenance import check

    path = _path(job)
    with _reading(path) as journal:
        found = check(journal)
    if as_json:
        print(json.dumps({"journal": str(path), "responses": found.responses, "problems": found.problems}))
        return 1 if found.problems else 0
    for words in found.problems:
        print(f"{path}: {words}")
    if found.damaged:
        say("damaged responses are never used: `pipeline run` asks their rows again")
    if not found.problems:
        print(f"{path}: whole; {found.responses:,} stored responses")
    return 1 if found.problems else 0


@journal_command.command("stats")
@JOB
@AS_JSON
def stats_command(job: Path, *, as_json: bool) -> int:
    """Show sizes, calls and spend by run and model."""
    from pipeline.journal.maintenance import stats

    path = _path(job)
    with _reading(path) as journal:
        found = stats(journal)
    if as_json:
        print(json.dumps(_stats_json(path, found)))
        return 0
    print(f"{path}: {_size(found.file_bytes)}, of which vacuum gives back {_size(found.free_bytes)}")
    from pipeline.cost import usd_text

    for run in found.runs:
        ended = "complete" if run.completed_at is not None else "unfinished"
        more = f", {run.unpriced:,} without a known price" if run.unpriced else ""
        more += f", up to {usd_text(run.maybe_nanos)} for calls that were lost" if run.maybe_nanos else ""
        print(
            f"  {run.run_id}: {ended}, {run.sent:,} calls, {run.answered:,} answered, "
            f"{_size(run.stored_bytes)}, {usd_text(run.cost_nanos)}{more}"
        )
        for model, nanos in run.by_model.items():
            print(f"    {model}: {usd_text(nanos)}")
    return 0


def _stats_json(path: Path, found: Stats) -> dict[str, Any]:
    from pipeline.records import NANOS_PER_USD

    return {
        "journal": str(path),
        "file_bytes": found.file_bytes,
        "free_bytes": found.free_bytes,
        "version": found.version,
        "runs": [
            {
                "run_id": run.run_id,
                "complete": run.completed_at is not None,
                "calls": run.sent,
                "answered": run.answered,
                "stored_bytes": run.stored_bytes,
                "cost_usd": run.cost_nanos / NANOS_PER_USD,
                "unpriced": run.unpriced,
                "maybe_usd": run.maybe_nanos / NANOS_PER_USD,
                "by_model": {model: nanos / NANOS_PER_USD for model, nanos in run.by_model.items()},
            }
            for run in found.runs
        ],
    }


@journal_command.command("prune")
@JOB
@click.option("--older-than", type=Age(), metavar="AGE", help="Answers of calls made longer ago: 12h, 30d, 8w.")
@click.option("--run", "runs", multiple=True, metavar="RUN_ID", help="Answers of this run; repeatable.")
@click.option("--superseded", is_flag=True, help="Only answers that decide nothing any more: repaired, asked again.")
@click.option("--current", is_flag=True, help="Also answers that the run started last stands on.")
@click.option("--yes", is_flag=True, help="Do it; without, only what would go is said.")
@WAIT
def prune_command(
    job: Path,
    *,
    older_than: timedelta | None,
    runs: tuple[str, ...],
    superseded: bool,
    current: bool,
    yes: bool,
    wait_secs: float,
) -> int:
    """Remove stored answers; what they cost stays on record. A row that wants one again is paid for again.

    Answers that the run started last stands on are left, unless --current says otherwise.
    """
    from pipeline.errors import GuardFailed
    from pipeline.journal.maintenance import Which, prunable, prune

    if older_than is None and not runs and not superseded:
        raise click.UsageError("say what is to go: --older-than AGE, --run RUN_ID, or --superseded")
    path = _path(job)
    before = None if older_than is None else datetime.now(UTC) - older_than

    def chosen(journal: Journal) -> Prunable:
        last = journal.runs()[:1]
        keep = () if current else tuple(run.run_id for run in last)
        return prunable(journal, Which(before, runs, superseded, keep))

    if not yes:
        with _reading(path) as journal:
            gone = chosen(journal)
        print(_prune_words("would free", gone))
        if gone.attempts:
            raise GuardFailed("nothing was removed; say --yes to remove them")
        return 0
    with _holding(path, wait_secs) as journal:
        gone = chosen(journal)
        prune(journal, gone.attempts)
    print(_prune_words("freed", gone))
    if gone.attempts:
        say(f"the file keeps its size until: pipeline journal vacuum {job}")
    return 0


def _prune_words(does: str, gone: Prunable) -> str:
    from pipeline.cost import usd_text

    if not gone.attempts:
        return "there is nothing to remove"
    return (
        f"{does} {len(gone.attempts):,} stored answers, {_size(gone.stored_bytes)}, of {', '.join(gone.runs)}; "
        f"they cost {usd_text(gone.cost_nanos)}"
    )


@journal_command.command("vacuum")
@JOB
@WAIT
def vacuum_command(job: Path, *, wait_secs: float) -> int:
    """Write the file anew, without what was removed from it."""
    from pipeline.journal.maintenance import vacuum

    path = _path(job)
    with _holding(path, wait_secs) as journal:
        freed = vacuum(journal)
    print(f"{path}: gave back {_size(max(0, freed))}")
    return 0


def _path(job: Path) -> Path:
    """The journal of a job file.

    Raises:
        JobError: the job is broken, or never ran.
    """
    from pipeline.errors import JobError
    from pipeline.job import load
    from pipeline.run.naming import journal_path

    path = journal_path(load(job, environ=os.environ))
    if not path.exists():
        raise JobError(f"{job}: there is no journal at {path}: the job never ran")
    return path


@contextmanager
def _reading(path: Path) -> Iterator[Journal]:
    from pipeline.errors import JobError
    from pipeline.journal import Journal

    journal = Journal.read(path)
    if journal is None:
        raise JobError(f"{path}: the journal is empty")
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def _holding(path: Path, wait_secs: float) -> Iterator[Journal]:
    """The journal for writing, while no run has it."""
    from pipeline.journal import Journal, JournalLock

    command = " ".join(["pipeline", *sys.argv[1:]])
    with JournalLock(path.with_suffix(".lock"), wait_secs=wait_secs, purpose=command, notify=say):
        journal = Journal.open(path)
        try:
            yield journal
        finally:
            journal.close()


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB" if number >= 100_000 else f"{number / 1e3:,.1f} kB"

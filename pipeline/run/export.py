"""Writing an output from plan and journal outside of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.answer import contract
from pipeline.errors import GuardFailed, JobError
from pipeline.job import Job
from pipeline.journal import Journal, JournalLock
from pipeline.output import Tally, check_writable, files_of, owner_of, publish
from pipeline.report.words import many
from pipeline.run.console import Console
from pipeline.run.heap import rare_collections
from pipeline.run.look import Chosen, find_run, observer, plan_of
from pipeline.run.metadata import run_columns, run_schema, superseded, superseded_metadata
from pipeline.run.naming import journal_path
from pipeline.run.publish import count, join


@rare_collections()
def export(
    job: Job,
    *,
    chosen: Chosen | None,
    replace: bool,
    statuses: frozenset[str] | None,
    path: Path,
    wait_secs: float,
    console: Console,
) -> dict[str, int]:
    """Write the run's rows as they stand now; returns how many by status.

    Args:
        job: the job; its date and params select the run.
        chosen: what the command line says of the run; None where that is nothing, and it is the one started last.
        replace: consent to replace an output that has more answers.
        statuses: only rows of these; None for all.
        path: where to.
        wait_secs: how long to wait for a run to let go of the journal.
        console: for messages and progress.

    Raises:
        GuardFailed: the output there has more answered rows than the new one would have.
        JobError: there is nothing to export.
        StorageError: it could not be read or written.
        Unavailable: a run holds the journal.
    """
    if not journal_path(job).exists():
        raise JobError(f"{job.file}: there is no journal at {journal_path(job)}: the job never ran")
    check_writable(path)
    lock = JournalLock(
        journal_path(job).with_suffix(".lock"), wait_secs=wait_secs, purpose="pipeline export", notify=console.say
    )
    with lock:
        journal = Journal.open(journal_path(job))
        try:
            run = find_run(job, journal, chosen=chosen)
            console.say(f"run {run.run_id}")
            plan, standing, reading = plan_of(job, run), observer(run), contract(job).reading
            rows = count(plan, journal, standing, reading).rows
            if statuses is None and not replace:
                _guard(path, run.run_id, rows)
            totals, tally = journal.totals(run.id), Tally()
            schema, columns = run_schema(job, plan, reading, run), run_columns(job, run)
            written: dict[str, int] = {}
            with console.progress("exporting", plan.facts.requests, "rows", lambda: sum(tally.statuses.values())):
                batches = join(plan, journal, standing, reading, columns, schema, tally)
                wanted = _only(batches, job.output.prefix + "status", statuses, written)
                publish(
                    path,
                    schema,
                    wanted,
                    lambda: superseded_metadata(superseded(totals.by_model, tally)),
                    rows_per_file=job.output.rows_per_file,
                )
        finally:
            journal.close()
    if pending := written.get("pending"):
        open_rows = f"{pending:,} of {many(sum(written.values()), 'row')} {'is' if pending == 1 else 'are'} pending"
        console.say(f"warning: {open_rows}: {job.mask(str(path))} is not the whole output; `pipeline run` asks them")
    return written


def _only(
    batches: Iterator[pa.RecordBatch], column: str, statuses: frozenset[str] | None, written: dict[str, int]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        wanted = batch
        if statuses is not None:
            wanted = batch.filter(pc.is_in(batch.column(column), pa.array(sorted(statuses))))
        for value in wanted.column(column).to_pylist():
            written[value] = written.get(value, 0) + 1
        yield wanted


def _guard(path: Path, run_id: str, rows: Mapping[str, int]) -> None:
    """Refuse to replace answered rows by pending ones, or by none."""
    status = owner_of(path, run_id).prefix + "status"
    before = 0
    try:
        for file in files_of(path, run_id):
            statuses = pq.ParquetFile(file).read(columns=[status]).column(0)
            before += len(statuses) - (pc.sum(pc.equal(statuses, "pending")).as_py() or 0)
    except (OSError, pa.ArrowException, KeyError, IndexError):
        return
    after = sum(rows.values()) - rows.get("pending", 0)
    if after < before:
        raise GuardFailed(
            f"{path} has {before:,} answered rows, the export would have {after:,}; use --output FILE, or say --yes"
        )

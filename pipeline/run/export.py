"""Writing an output from plan and journal outside of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import GuardFailed, JobError
from pipeline.job import Job
from pipeline.journal import Journal, JournalLock
from pipeline.output import Tally, check_writable, publish
from pipeline.run.look import find_run, observer, plan_of
from pipeline.run.publish import count, join
from pipeline.run.start import Console, journal_path, run_columns, run_schema, superseded


def export(
    job: Job, *, replace_pending: bool, statuses: frozenset[str] | None, path: Path, wait_secs: float, console: Console
) -> dict[str, int]:
    """Write the run's rows as they stand now; returns how many by status.

    Args:
        job: the job; its date and params select the run.
        replace_pending: consent to replace an output that has more answers.
        statuses: only rows of these; None for all.
        path: where to.
        wait_secs: how long to wait for a run to let go of the journal.
        console: for messages and progress.

    Raises:
        GuardFailed: the output there has fewer pending rows than the new one would have.
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
            run = find_run(job, journal, chosen=True)
            plan, standing = plan_of(job, run), observer(run)
            pending = count(plan, journal, standing).rows.get("pending", 0)
            if pending and statuses is None and not replace_pending:
                _guard(path, job.output.prefix + "status", pending)
            totals, tally = journal.totals(run.id), Tally()
            schema, columns = run_schema(job, plan), run_columns(job, run.id)
            written: dict[str, int] = {}
            with console.progress("exporting", plan.facts.requests, "rows", lambda: sum(tally.statuses.values())):
                batches = join(plan, journal, standing, columns, schema, tally)
                chosen = _only(batches, job.output.prefix + "status", statuses, written)
                publish(path, schema, chosen, lambda: superseded(totals.by_model, tally))
        finally:
            journal.close()
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


def _guard(path: Path, column: str, pending: int) -> None:
    """Refuse to replace answered rows by pending ones."""
    if not path.exists():
        return
    try:
        statuses = pq.read_table(path, columns=[column]).column(0)
    except (OSError, pa.ArrowException, KeyError, IndexError):
        return
    before = pc.sum(pc.equal(statuses, "pending")).as_py() or 0
    if pending > before:
        raise GuardFailed(
            f"{path} has {before:,} pending rows, the export would have {pending:,}: answered rows would be "
            "replaced by pending ones; use --output FILE, or say --yes"
        )

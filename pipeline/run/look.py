"""Looking at a run without touching it: where it stands, by plan and journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import JobError
from pipeline.job import Job
from pipeline.journal import Journal, JournalLock, Pulse, RunRecord
from pipeline.records import NANOS_PER_USD
from pipeline.run.coordinator import now
from pipeline.run.naming import journal_path, run_id
from pipeline.run.plan import Plan
from pipeline.run.policy import Standing
from pipeline.run.publish import count


@dataclass(frozen=True, slots=True)
class State:
    """Where a run stands. `rows` by status; `calls` all that were made, `in_flight` those without an answer yet.

    `pulse` is how fast it goes, where it is under way; `maybe_nanos` what calls without an answer may have cost.
    """

    run_id: str
    words: str
    rows: dict[str, int]
    calls: int
    in_flight: int
    cost_nanos: int
    maybe_nanos: int
    unpriced: int
    pulse: Pulse | None

    def as_json(self) -> dict[str, Any]:
        """The same as an object, USD as a number."""
        return {
            "run_id": self.run_id,
            "state": self.words,
            "rows": {"total": sum(self.rows.values()), **self.rows},
            "calls": self.calls,
            "in_flight": self.in_flight,
            "cost_usd": self.cost_nanos / NANOS_PER_USD,
            "maybe_usd": self.maybe_nanos / NANOS_PER_USD,
            "unpriced": self.unpriced,
            "rate": None if self.pulse is None else asdict(self.pulse),
        }


def find_run(job: Job, journal: Journal, *, chosen: bool) -> RunRecord:
    """The run that the command line selects, or without such words the one started last.

    Raises:
        JobError: there is no such run.
    """
    known = journal.runs("job = ?", (job.name,))
    if not chosen and known:
        return known[0]
    wanted = run_id(job)
    for run in known:
        if run.run_id == wanted:
            return run
    names = ", ".join(f"{run.run_id} ({run.scope})" for run in known[:5]) or "none"
    raise JobError(f"{job.file}: there is no run {wanted} yet; runs in the journal: {names}")


def observer(run: RunRecord) -> Standing:
    """The standing of one who only looks: outcomes of the run are taken as they are, whatever a next start would do."""
    return Standing(run=run.id, start=-1, finished=True, max_tokens=0, reopened=run.reopened, looks=True)


def plan_of(job: Job, run: RunRecord) -> Plan:
    """The plan that the run works by.

    Raises:
        JobError: it was never planned, or the plan is gone.
    """
    plan = Plan.load(job.state / run.plan) if run.plan else None
    if plan is None:
        raise JobError(f"run {run.run_id} has no plan on disk; `pipeline run {job.file}` makes it")
    return plan


def standing_of(job: Job, *, chosen: bool) -> State:
    """Where the run stands now.

    Raises:
        JobError: there is no such run, or it was never planned.
        StorageError: plan or journal cannot be read.
    """
    journal = Journal.read(journal_path(job))
    if journal is None:
        raise JobError(f"{job.file}: there is no journal at {journal_path(job)}: the job never ran")
    try:
        run = find_run(job, journal, chosen=chosen)
        counts = count(plan_of(job, run), journal, observer(run))
        totals = journal.totals(run.id)
        in_flight = journal.in_flight(run.id)
        pulse = journal.pulse(run.id, now()) if in_flight else None
    finally:
        journal.close()
    order = ("ok", "truncated", "refused", "invalid", "failed", "pending")
    rows = {status: counts.rows.get(status, 0) for status in order}
    words = "complete" if run.completed_at is not None else "unfinished"
    return State(
        run_id=run.run_id,
        words=words,
        rows=rows,
        calls=totals.attempts + in_flight,
        in_flight=in_flight,
        cost_nanos=totals.cost_nanos,
        maybe_nanos=totals.maybe_nanos,
        unpriced=totals.unpriced,
        pulse=pulse,
    )


def set_limits(job: Job, settings: Mapping[str, float], *, chosen: bool) -> str:
    """Change limits of the run that is under way; returns its id.

    Raises:
        JobError: there is no such run, or none is under way.
        StorageError: the journal cannot be written.
    """
    if not journal_path(job).exists():
        raise JobError(f"{job.file}: there is no journal at {journal_path(job)}: the job never ran")
    if not JournalLock.held(journal_path(job).with_suffix(".lock")):
        raise JobError(f"{job.file}: no run is under way whose limits could change; set them in the job's limits")
    journal = Journal.open(journal_path(job))
    try:
        run = find_run(job, journal, chosen=chosen)
        journal.control(run.id, settings, now())
    finally:
        journal.close()
    return run.run_id

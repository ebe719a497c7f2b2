"""Looking at a run without touching it: where it stands, by plan and journal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from pipeline.errors import JobError
from pipeline.job import Job
from pipeline.journal import Journal, JournalLock, Pulse, RunRecord
from pipeline.journal.maintenance import params_of
from pipeline.records import NANOS_PER_USD
from pipeline.run.coordinator import chosen_outcomes, now
from pipeline.run.naming import journal_path, run_id
from pipeline.run.plan import Plan
from pipeline.run.policy import Standing
from pipeline.run.publish import count

NAMED = 5
"""So many runs are named in a message."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a run stands. `rows` by status; `calls` all that were sent, `in_flight` those without an answer yet.

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


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the command line says of the run that is meant; falsy where it says nothing.

    Attributes:
        dated: its date.
        params: these params of it.
        endpoint: its endpoint.
    """

    dated: bool = False
    params: frozenset[str] = frozenset()
    endpoint: bool = False

    def __bool__(self) -> bool:
        return self.dated or bool(self.params) or self.endpoint


def find_run(job: Job, journal: Journal, *, chosen: Chosen | None) -> RunRecord:
    """The run that the command line selects; of those that fit it, and without such words of all, the newest start.

    Without a date it is the newest of any date. What else is not said may be as it was in the run, as long as that
    leaves no choice.

    Raises:
        JobError: there is no such run, or there are several.
    """
    known = journal.runs("job = ?", (job.name,))
    if not chosen and known:
        return known[0]
    chosen, wanted = chosen or Chosen(), run_id(job)
    fitting = [run for run in known if run.run_id == wanted]
    if not chosen.dated:
        fitting = [run for run in known if _undated(run.run_id) == _undated(wanted)]
    if not fitting:
        params = {run.id: params_of(journal, run.id) for run in known}
        fitting = [run for run in known if _fits(run, params[run.id], job, chosen)]
        if len({_undated(run.run_id) for run in fitting}) > 1:
            ways = "; ".join(f"{run.run_id}: {_words(run, params[run.id], job, chosen)}" for run in fitting[:NAMED])
            raise JobError(f"{job.shown_file}: several runs fit; add what tells them apart: {ways}")
    if fitting:
        return fitting[0]
    names = ", ".join(f"{run.run_id} ({run.scope})" for run in known[:NAMED]) or "none"
    raise JobError(f"{job.shown_file}: there is no run {wanted} yet; runs in the journal: {names}")


def _undated(run_id: str) -> str:
    """A run's id without its date."""
    return re.sub(r"@\d{4}-\d{2}-\d{2}(?=~|$)", "", run_id)


def _fits(run: RunRecord, params: Mapping[str, Any], job: Job, chosen: Chosen) -> bool:
    """Whether nothing that the command line says is otherwise in a run."""
    return (
        (not chosen.dated or run.run_date == job.run_date)
        and (not chosen.endpoint or run.scope == job.endpoint.scope)
        and all(name in params and params[name] == job.params[name] for name in chosen.params)
    )


def _words(run: RunRecord, params: Mapping[str, Any], job: Job, chosen: Chosen) -> str:
    """What the command line has to say besides to mean this run."""
    words = [f"--date {run.run_date}"] if run.run_date and not chosen.dated else []
    words += [f"--param {name}={value}" for name, value in params.items() if job.params.get(name) != value]
    if not chosen.endpoint and run.scope != job.endpoint.scope:
        words.append(f"--endpoint {run.scope if run.scope in ('simulator', 'embedded') else 'URL'}")
    return " ".join(words) or "as the job file has it"


def host_of(job: Job, journal: Journal, run: RunRecord) -> str:
    """Who answered the run, as the output's column `endpoint` has it; empty where nothing was answered yet.

    Raises:
        StorageError: plan or journal cannot be read.
    """
    plan = Plan.load(job.state / run.plan) if run.plan else None
    for planned in () if plan is None else plan.read(prompts=False):
        outcomes = chosen_outcomes(journal, observer(run), [key for key in {*planned.keys} if key is not None])
        used = {key: known.attempt for key, known in outcomes.items() if known is not None}
        for answer in journal.answers(dict(islice(used.items(), 1))).values():
            return answer.endpoint
    return ""


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


def standing_of(job: Job, *, chosen: Chosen | None) -> State:
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
        calls=totals.sent + in_flight,
        in_flight=in_flight,
        cost_nanos=totals.cost_nanos,
        maybe_nanos=totals.maybe_nanos,
        unpriced=totals.unpriced,
        pulse=pulse,
    )


def set_limits(job: Job, settings: Mapping[str, float], *, chosen: Chosen | None) -> str:
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

"""One start of a run: plan, ask, publish, and the summary of how it ended."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.cost import Pricer, usd_text, user_book
from pipeline.errors import Interrupted, JobError, PipelineError, Stopped, StorageError, Unavailable
from pipeline.job import Job
from pipeline.journal import JobStamp, Journal, JournalLock, RunRecord, RunTotals
from pipeline.journal.maintenance import open_again
from pipeline.limits import Budget, next_time
from pipeline.output import Published, Tally, check_writable, output_schema, publish, write_summary
from pipeline.records import NANOS_PER_USD, Usage
from pipeline.report import Calls, Counters, Summary
from pipeline.report.words import many
from pipeline.run.console import Console, Masked
from pipeline.run.coordinator import now
from pipeline.run.guards import guard_failed, guard_output, guard_paid, guard_rows
from pipeline.run.heap import rare_collections
from pipeline.run.metadata import run_columns, run_schema, superseded, superseded_metadata
from pipeline.run.money import budget_of, check_price, nanos_of, worst_case
from pipeline.run.naming import journal_path, make_state, plan_folder, run_id
from pipeline.run.plan import Plan, identity, make_plan
from pipeline.run.policy import UNSENT, Standing
from pipeline.run.publish import DamagedAnswers, count, join
from pipeline.run.ready import Ready, make_ready


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about a start.

    Attributes:
        limit: at most so many requests, from the beginning of the plan.
        retry_failed: statuses to open again; None to leave all as they are.
        yes: consent to what would otherwise be refused.
        wait_secs: how long to wait for another run to let go of the journal.
        command: the command as typed, for messages of others who wait for this one.
        selection: the words that select this run again: the job as typed and its --date, --param, --endpoint, …
    """

    limit: int | None = None
    retry_failed: frozenset[str] | None = None
    yes: bool = False
    wait_secs: float = 0.0
    command: str = "pipeline run"
    selection: str = "JOB"


class Start:
    """One start. `execute` goes through it and returns its summary, however it ended.

    Args:
        job: the loaded job.
        options: from the command line.
        console: where messages and progress go.
        environ: where keys are looked up.
        serve: starts the local server of an endpoint word and yields its URL; called when there is something to ask.
        clock: the present, UTC.
    """

    def __init__(
        self,
        job: Job,
        options: Options,
        console: Console,
        *,
        environ: Mapping[str, str],
        serve: Callable[[str], AbstractContextManager[str]],
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.job = job
        self._options = options
        self._console = Masked(console, job.mask)
        self._environ = environ
        self._serve = serve
        self._clock = clock
        self._pricer = Pricer(job.prices, user=user_book(environ), free=job.endpoint.scope == "embedded")
        started = clock()
        self._summary = Summary(
            job=job.name,
            run_id=run_id(job),
            run_date=job.run_date,
            exit_code=1,
            reason="error",
            output=job.mask(str(job.output.path)),
            started_at=started,
            finished_at=started,
        )

    def execute(self) -> Summary:
        """Plan, ask, publish.

        Returns the summary of a start that ended with its output published, or that was stopped after the
        journal was opened.

        Raises:
            PipelineError: it ended before there was a run to speak of; nothing was sent.
        """
        job = self.job
        api_key = job.endpoint.api_key(self._environ)
        planned = Plan.load(job.state / plan_folder(job, run_id(job), self._options.limit))
        known = planned.facts.inferred if planned else None
        ready = make_ready(job, job.state, known=known, keeps=True)
        for warning in ready.warnings:
            self._console.say(f"warning: {warning}")
        output_schema(job, ready.reader.kept_schema, ready.contract.reading.fields)
        check_price(job, self._pricer, self._clock())
        check_writable(job.output.path)
        make_state(job.state)
        with ExitStack() as stack:
            stack.enter_context(
                JournalLock(
                    journal_path(job).with_suffix(".lock"),
                    wait_secs=self._options.wait_secs,
                    purpose=self._options.command,
                    notify=self._console.say,
                )
            )
            journal = Journal.open(journal_path(job))
            stack.callback(journal.close)
            stack.callback(ready.close)
            if not self._options.yes:
                guard_output(job, journal, self._options.limit)
            return self._run(journal, ready, api_key)

    def refused(self, error: PipelineError) -> Summary:
        """The summary of a start that `execute` let no run come of."""
        return replace(self._summary, exit_code=error.exit_code, reason=error.reason, finished_at=self._clock())

    def _run(self, journal: Journal, ready: Ready, api_key: str | None) -> Summary:
        job, options, name = self.job, self._options, run_id(self.job)
        month = job.budget.month_usd
        stamp = JobStamp(
            name,
            job.name,
            job.run_date,
            job.endpoint.scope,
            job.params,
            job.tags,
            month_nanos=None if month is None else nanos_of(month),
        )
        run, start = journal.begin(stamp, self._clock())
        controls_after = journal.last_control()
        self._mention_older(journal, run)
        orphans = journal.recover(self._clock(), job.request.max_tokens).count(run.id)
        if orphans:
            self._console.say(
                f"an earlier start was killed with up to {many(orphans, 'call')} in flight; they may have been billed, "
                "and are asked again where they are still wanted"
            )
        if options.retry_failed is not None:
            journal.reopen(run.id, options.retry_failed)
            refreshed = journal.run(name)
            assert refreshed is not None
            run = refreshed
        standing = Standing(
            run=run.id,
            start=start,
            finished=run.completed_at is not None,
            max_tokens=job.request.max_tokens,
            reopened=run.reopened,
        )
        budget = budget_of(job, journal, run, self._pricer, self._clock())
        work = _Work(journal, run, standing, orphans, ready, budget, controls_after)
        try:
            summary = self._work(work, api_key)
        except BaseException as error:
            summary = self._stopped(work, error)
            if not isinstance(error, PipelineError | KeyboardInterrupt):
                raise
        # Best kept, but a disk that is full by now must not hide how the start ended.
        with suppress(StorageError):
            journal.end(start, self._clock(), summary.exit_code, summary.reason)
        return summary

    def _finish_at(self) -> datetime | None:
        """When to be done: a span counts from the start, a time of day is the next one."""
        by = self.job.limits.finish_by
        if by is None:
            return None
        if isinstance(by, str):
            zone = UTC if self.job.timezone == "UTC" else ZoneInfo(self.job.timezone)
            return next_time(by, zone, self._summary.started_at)
        return self._summary.started_at + timedelta(seconds=by)

    def _mention_older(self, journal: Journal, run: RunRecord) -> None:
        if run.run_date is None:
            return
        older = journal.runs(
            "run_date < ? AND completed_at IS NULL AND scope = ?", (run.run_date.isoformat(), run.scope)
        )
        for other in older[:3]:
            self._console.say(
                f"run {other.run_id} is unfinished; to finish it: pipeline run "
                + self._options.selection.replace(f" --date {run.run_date}", "")
                + f" --date {other.run_date}"
            )

    def _work(self, work: _Work, api_key: str | None) -> Summary:
        job, options = self.job, self._options
        folder = plan_folder(job, work.run.run_id, options.limit)
        plan = work.plan = self._plan(work, job.state / folder)
        done = self._unchanged(work, folder, plan)
        if done is not None:
            return done
        # A trial's plan is the run's only until there is a whole one.
        if options.limit is None or work.run.plan is None or ".first-" in work.run.plan:
            work.journal.set_plan(work.run.id, folder)
        with self._console.progress("comparing with the journal", None, "rows", lambda: 0):
            counts = count(plan, work.journal, work.standing, work.ready.contract.reading)
        work.answered_before = counts.answered - plan.facts.unsendable
        self._announce(work, plan, counts.open)
        if counts.open:
            work.journal.set_open(work.run.id)
            self._ask(work, plan.narrowed(counts.batches), api_key, counts.open)
        try:
            return self._publish(work, plan, folder)
        except DamagedAnswers as damaged:
            opened = open_again(work.journal, damaged.attempts)
            self._console.say(f"{many(opened, 'stored answer')} found damaged: what rests on them is asked again")
        counts = count(plan, work.journal, work.standing, work.ready.contract.reading)
        if counts.open:
            work.journal.set_open(work.run.id)
            self._ask(work, plan.narrowed(counts.batches), api_key, counts.open)
        return self._publish(work, plan, folder)

    def _plan(self, work: _Work, folder: Path) -> Plan:
        job, limit, ready, name = self.job, self._options.limit, work.ready, work.run.run_id
        plan = Plan.load(folder)
        if (
            plan is not None
            # Pictures may have changed behind an unchanged table: looking again costs microseconds each.
            and ready.pictures is None
            and plan.facts.identity == identity(job, ready.contract, limit)
            and plan.facts.fingerprint == ready.reader.fingerprint
        ):
            guard_rows(job, plan.facts, limit)
            return plan
        before = Plan.load(job.state / work.run.plan) if work.run.plan else None
        planned = 0

        def note(requests: int) -> None:
            nonlocal planned
            planned = requests

        def consent(fresh: Plan) -> None:
            if self._options.yes:
                return
            if limit is None:  # a trial takes the place of nothing
                guard_failed(job, fresh, work.journal, name)
            if before is not None:
                guard_paid(before, fresh, work.journal, work.standing)

        with self._console.progress("planning", None, "requests", lambda: planned):
            return make_plan(
                folder,
                job,
                ready,
                run_id=name,
                limit=limit,
                progress=note,
                guard=lambda facts: guard_rows(job, facts, limit),
                consent=consent,
            )

    def _unchanged(self, work: _Work, folder: str, plan: Plan) -> Summary | None:
        """The summary of a finished run whose plan is the same and whose output lies as it was published."""
        record = (work.run.published or {}).get(folder)
        if not work.standing.finished or self._options.limit is not None or record is None:
            return None
        published = Published(**record["output"])
        if record["plan"] != _plan_mark(self.job, plan, work) or record["unsent"] or not published.intact():
            return None
        summary = record["summary"]
        rows = {status: number for status, number in summary["rows"].items() if status != "total" and number}
        total = sum(rows.values())
        self._console.say(f"all {many(total, 'row')} were answered before; {published.path} is up to date")
        usage = summary["tokens"]
        unchanged = replace(
            self._summary,
            exit_code=summary["exit_code"],
            reason=summary["reason"],
            finished_at=self._clock(),
            rows=rows,
            answered_before=total,
            usage=Usage(usage["input"], usage["output"], usage["cache_write"], 0, usage["cache_read"]),
            cost_nanos=record["cost_nanos"],
            unpriced=record["unpriced"],
            maybe_nanos=round(summary["maybe_usd"] * NANOS_PER_USD),
            superseded_nanos=round(summary["superseded_usd"] * NANOS_PER_USD),
            cache_saved_nanos=round(summary.get("cache_saved_usd", 0) * NANOS_PER_USD),
            hint=self._mend(rows.get("failed", 0) + rows.get("invalid", 0), too_many=summary["exit_code"] != 0),
        )
        write_summary(self.job.output.path, unchanged.as_json())
        return unchanged

    def _announce(self, work: _Work, plan: Plan, to_ask: int) -> None:
        facts, answered = plan.facts, work.answered_before
        words = f"{many(facts.requests, 'row')}: {answered:,} answered, {to_ask:,} to ask"
        repeats = facts.requests - facts.unsendable - facts.distinct
        if repeats:
            words += f"; {repeats:,} of them share the answer of an equal row"
        if facts.unsendable:
            words += f", {facts.unsendable:,} failed before sending"
        self._console.say(words)
        if to_ask:
            repairs = work.ready.contract.repair
            cost = worst_case(self.job, facts, to_ask, self._pricer, self._clock(), repairs=repairs)
            self._console.say(
                f"estimate: at most {usd_text(cost)}"
                if cost is not None
                else f"no price is known for {self.job.request.model}: cost will be null; set prices: in the job, or "
                "see later what it came to: pipeline costs --reprice --prices FILE"
            )

    def _ask(self, work: _Work, plan: Plan, api_key: str | None, to_ask: int) -> None:
        job = self.job
        counters = work.counters
        with ExitStack() as stack:
            url = job.endpoint.url
            if url is None:
                assert job.endpoint.word is not None
                self._console.say(f"starting the {job.endpoint.word} server")
                url = stack.enter_context(self._serve(job.endpoint.word))
            stack.enter_context(self._console.progress("asking", to_ask, "rows", lambda: counters.done, counters))
            # Imported here: a start that has nothing to ask needs no HTTP.
            from pipeline.run.asking import ask, run_loop

            asking = ask(
                job,
                plan,
                url,
                ready=work.ready,
                journal=work.journal,
                standing=work.standing,
                budget=work.budget,
                finish_at=self._finish_at(),
                controls_after=work.controls_after,
                pricer=self._pricer,
                counters=counters,
                api_key=api_key,
                say=self._console.say,
                clock=self._clock,
            )
            run_loop(asking)
        if self._pricer.unpriced and job.request.model not in self._pricer.unpriced:
            models = ", ".join(sorted(self._pricer.unpriced))
            self._console.say(
                f"no price is known for {models}: cost is null there; what is paid: pipeline costs --reprice --prices "
                "FILE; for coming runs: prices: in the job"
            )

    @rare_collections()
    def _publish(self, work: _Work, plan: Plan, folder: str) -> Summary:
        job = self.job
        reading = work.ready.contract.reading
        tally, schema = Tally(), run_schema(job, plan, reading, work.run)
        columns = run_columns(job, work.run)
        totals = work.journal.totals(work.run.id)
        with self._console.progress("publishing", plan.facts.requests, "rows", lambda: sum(tally.statuses.values())):
            batches = join(plan, work.journal, work.standing, reading, columns, schema, tally)
            published = publish(
                job.output.path,
                schema,
                batches,
                lambda: self._closing(totals, tally),
                rows_per_file=job.output.rows_per_file,
            )
        failed = tally.statuses["failed"] + tally.statuses["invalid"]
        total = sum(tally.statuses.values())
        # A little room: 0.29 of 100 rows is 29, which binary fractions would make 28.999….
        too_many = failed > (job.expect.max_failed_ratio or 0.0) * total + 1e-9
        summary = self._finish(work, 3 if too_many else 0, "rows_failed" if too_many else "complete")
        for error_type, (number, example) in sorted(tally.failures.items()):
            self._console.say(f"{many(number, 'row')} failed: {error_type}, such as: {example}")
        for name, number in sorted(tally.misfits.items()):
            words = f"null in {many(number, 'row')}, where a value of another type was found"
            self._console.say(f"warning: {job.complain(f'answer.columns.{name}', words)}")
        summary = replace(
            summary,
            rows=dict(tally.statuses),
            usage=tally.usage,
            cost_nanos=tally.cost_nanos,
            unpriced=tally.unpriced,
            superseded_nanos=sum(self._superseded(totals, tally).values()),
            hint=self._mend(failed, too_many=too_many),
        )
        write_summary(job.output.path, summary.as_json())
        record = {
            "output": asdict(published),
            "plan": _plan_mark(job, plan, work),
            "summary": summary.as_json(),
            "cost_nanos": summary.cost_nanos,
            "unpriced": summary.unpriced,
            # What failed before it was sent is tried again by the next start.
            "unsent": not UNSENT.isdisjoint(tally.failures),
        }
        complete = self._clock() if self._options.limit is None else None
        work.journal.set_completed(work.run.id, complete, {**(work.run.published or {}), folder: record})
        return summary

    def _mend(self, failed: int, *, too_many: bool) -> str | None:
        """What to do about failed rows; of those that the job tolerates, only how they would be asked again."""
        again = f"pipeline run {self._options.selection} --retry-failed"
        if too_many:
            return f"mend what failed, then: {again}"
        return f"{many(failed, 'failed row')}, no more than expect allows; to ask again: {again}" if failed else None

    def _superseded(self, totals: RunTotals, tally: Tally) -> dict[str, int]:
        """Nano-dollars by model, paid in this run for rows that are wanted no more; a trial cannot tell."""
        return {} if self._options.limit is not None else superseded(totals.by_model, tally)

    def _closing(self, totals: RunTotals, tally: Tally) -> dict[str, str]:
        """The output's last metadata, or a reason not to publish it."""
        if tally.damaged:
            raise DamagedAnswers(tally.damaged)
        if pending := tally.statuses["pending"]:
            raise StorageError(
                f"{many(pending, 'row')} have no outcome though all were asked: the journal lost them; run again"
            )
        return superseded_metadata(self._superseded(totals, tally))

    def _finish(self, work: _Work, exit_code: int, reason: str) -> Summary:
        """The summary's figures of this start."""
        paid = work.journal.totals(work.run.id, work.standing.start)
        totals = work.journal.totals(work.run.id)
        asked, now = self.job.request.model, self._clock()
        saved = (
            self._pricer.cache_saved(usage, calls=calls, answered=model, asked=asked, at=now)
            for model, (calls, usage) in totals.cached.items()
        )
        return replace(
            self._summary,
            exit_code=exit_code,
            reason=reason,
            finished_at=self._clock(),
            answered_before=work.answered_before,
            calls=Calls(
                sent=paid.sent,
                answered=paid.answered,
                retried=paid.retried,
                maybe_billed_twice=work.orphans + paid.maybe_billed_retried,
            ),
            paid_now_nanos=paid.cost_nanos,
            unpriced_now=paid.unpriced,
            maybe_nanos=totals.maybe_nanos,
            cache_saved_nanos=sum(saved),
            bound_by=work.counters.bound_by,
        )

    def _stopped(self, work: _Work, error: BaseException) -> Summary:
        """The summary of a start that did not publish; the old output stands, the journal keeps what came."""
        if isinstance(error, KeyboardInterrupt):
            error = Interrupted(signal.SIGINT)
        code, reason = (error.exit_code, error.reason) if isinstance(error, PipelineError) else (1, "error")
        self._console.say(f"error: {error}" if str(error) else f"error: {type(error).__name__}")
        summary = replace(self._summary, exit_code=code, reason=reason, finished_at=self._clock())
        try:
            # Calls that were cut off may have been billed: said now, not only when somebody starts again.
            work.journal.recover(self._clock(), self.job.request.max_tokens)
            summary = self._finish(work, code, reason)
            if work.plan is not None:
                counts = count(work.plan, work.journal, work.standing)
                totals = work.journal.totals(work.run.id)
                summary = replace(
                    summary,
                    rows=counts.rows,
                    usage=totals.usage,
                    cost_nanos=totals.cost_nanos,
                    unpriced=totals.unpriced,
                    hint=self._way_on(error),
                )
            # A broken job leaves nothing behind, not even words beside an older output.
            if not isinstance(error, JobError):
                write_summary(self.job.output.path, summary.as_json())
        except StorageError as second:
            self._console.say(f"error: {second}")
        return summary

    def _way_on(self, error: BaseException) -> str:
        again = "run the same command again to go on"
        match error:
            case Stopped(limit="run_usd"):
                again = f"pipeline run {self._options.selection} --budget USD"
            case Stopped(limit="month_usd"):
                again = f"raise budget.month_usd, or wait for the next month, and {again}"
            case Stopped() | Unavailable() | Interrupted():
                pass
            case _:
                again = f"mend that, then {again}"
        return f"{again}; to see what is there: pipeline export {_beside(self._options.selection)}"


def _beside(selection: str) -> str:
    """The same selection with an output of its own: rows that are pending do not belong in the run's."""
    words, own = iter(shlex.split(selection)), "--output"
    kept = [word for word in words if not (word == own and next(words, None) is not None)]
    return shlex.join([*kept, own, "so-far.parquet"])


@dataclass(slots=True)
class _Work:
    """What a start has in hand."""

    journal: Journal
    run: RunRecord
    standing: Standing
    orphans: int
    ready: Ready
    budget: Budget
    controls_after: int
    counters: Counters = field(default_factory=Counters)
    plan: Plan | None = None
    answered_before: int = 0


def _plan_mark(job: Job, plan: Plan, work: _Work) -> dict[str, Any]:
    return {
        "identity": plan.facts.identity,
        "fingerprint": plan.facts.fingerprint,
        "keys": plan.facts.keys,
        "path": str(job.output.path),
        "rows_per_file": job.output.rows_per_file,
        "prefix": job.output.prefix,
        "ratio": job.expect.max_failed_ratio,
        "reopened": dict(work.run.reopened),
        "rules": work.ready.contract.reading.rules_hash,
    }


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises `Interrupted` where it strikes, as Ctrl-C raises KeyboardInterrupt."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

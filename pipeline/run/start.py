"""One start of a run: plan, ask, publish, and the summary of how it ended."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import pyarrow as pa

from pipeline import __version__
from pipeline.answer import Reading
from pipeline.cost import Pricer, usd_text, user_book
from pipeline.errors import GuardFailed, Interrupted, JobError, PipelineError, StorageError
from pipeline.job import Job
from pipeline.journal import JobStamp, Journal, JournalLock, RunRecord, RunTotals
from pipeline.journal.maintenance import open_again
from pipeline.limits import Budget, Cap, next_time
from pipeline.output import Published, Tally, check_writable, output_schema, owner_of, publish, write_summary
from pipeline.output.table import RunColumns
from pipeline.records import NANOS_PER_USD, Usage
from pipeline.report import Calls, Counters, Summary
from pipeline.run.coordinator import now
from pipeline.run.plan import Facts, Plan, identity, make_plan
from pipeline.run.policy import UNSENT, Standing
from pipeline.run.publish import DamagedAnswers, count, join
from pipeline.run.ready import Ready, make_ready

CHARACTERS_PER_TOKEN = 3.5
PAID_AGAIN_AT_ONCE = 1_000  # answered rows that a changed prompt or model may pay again without consent
REPAIR_TOKENS = 300  # of the words that send an answer back


class Console(Protocol):
    """Where a start speaks: messages, and progress of long work."""

    def say(self, text: str) -> None:
        """A message, one line."""

    def progress(
        self, label: str, total: int | None, unit: str, read: Callable[[], int], counters: Counters | None = None
    ) -> AbstractContextManager[object]:
        """Progress, shown while the block runs."""


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


def run_id(job: Job) -> str:
    """``name``, ``name@date``, and a short hash where params or the endpoint's scope are not those of the file."""
    told_apart = {name: str(value) for name, value in job.changed_params.items()}
    if job.endpoint.scope != job.endpoint.home_scope:
        told_apart["\0scope"] = job.endpoint.scope
    date = f"@{job.run_date.isoformat()}" if job.run_date else ""
    if not told_apart:
        return job.name + date
    text = json.dumps(told_apart, sort_keys=True)
    return f"{job.name}{date}~{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"


def journal_path(job: Job) -> Path:
    """The journal's file."""
    return job.state / f"{job.name}.sqlite"


def plan_folder(job: Job, run: str, limit: int | None) -> str:
    """The plan's folder, relative to the state folder."""
    return f"{job.name}.plans/{run}" + (f".first-{limit}" if limit is not None else "")


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
        self._job = job
        self._options = options
        self._console = console
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
            output=str(job.output.path),
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
        job = self._job
        api_key = job.endpoint.api_key(self._environ)
        ready = make_ready(job, job.state, keeps=True)
        for warning in ready.warnings:
            self._console.say(f"warning: {warning}")
        output_schema(job, ready.reader.kept_schema, ready.contract.reading.fields)
        self._check_price()
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
                self._guard_output(journal)
            return self._run(journal, ready, api_key)

    def _guard_output(self, journal: Journal) -> None:
        """To replace another job's output, or to pay again for one whose journal is lost, needs consent."""
        job, trial = self._job, f".first-{self._options.limit}"
        own = job.output.path
        for output in {own, own.with_name(own.name.replace(trial, ""))}:
            found = owner_of(output, run_id(job))
            if output == own and found.job not in (None, job.name):
                raise GuardFailed(
                    f"{output} is an output of the job {found.job}, and would be replaced; set another output.path, "
                    "use --output FILE, or say --yes to replace it"
                )
            if found.job == job.name and found.run_id == run_id(job) and not journal.asked(found.run_id):
                raise GuardFailed(
                    f"{output} is an output of this run, but {journal_path(job)} knows nothing of it, so every row "
                    "would be paid for again; bring the journal back, or say --yes to pay"
                )

    def _run(self, journal: Journal, ready: Ready, api_key: str | None) -> Summary:
        job, options, name = self._job, self._options, run_id(self._job)
        stamp = JobStamp(name, job.name, job.run_date, job.endpoint.scope, job.params, job.tags)
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
        work = _Work(journal, run, standing, orphans, ready, self._budget(journal, run), controls_after)
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

    def _check_price(self) -> None:
        """A budget needs to know what a call may cost.

        Raises:
            JobError: it does not.
        """
        job, model = self._job, self._job.request.model
        caps = {"run_usd": job.budget.run_usd, "month_usd": job.budget.month_usd}
        named = [name for name, usd in caps.items() if usd is not None]
        price = self._pricer.price(Usage(1, 1), answered=None, asked=model, at=self._clock(), reported_nanos=None)
        if named and price.nanos is None:
            raise JobError(
                job.complain(
                    f"budget.{named[0]}",
                    f"cannot be held: no price is known for {model}; set prices: in the job, or leave the budget out",
                )
            )

    def _budget(self, journal: Journal, run: RunRecord) -> Budget:
        """The caps of the job, and what is spent of them."""
        job, now = self._job, self._clock()
        caps = []
        if job.budget.run_usd is not None:
            caps.append(Cap("run_usd", nanos_of(job.budget.run_usd), journal.spent(run)))
        if job.budget.month_usd is not None:
            month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            caps.append(Cap("month_usd", nanos_of(job.budget.month_usd), journal.spent_since(run.scope, month)))
        model = job.request.model
        budget = Budget(caps)
        for answered, usage, at, cost in journal.reported(run.scope) if caps else ():
            listed = self._pricer.price(usage, answered=answered, asked=model, at=at, reported_nanos=None).nanos
            budget.learn(listed or 0, cost)
        return budget

    def _finish_at(self) -> datetime | None:
        """When to be done: a span counts from the start, a time of day is the next one."""
        by = self._job.limits.finish_by
        if by is None:
            return None
        if isinstance(by, str):
            zone = UTC if self._job.timezone == "UTC" else ZoneInfo(self._job.timezone)
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
        job, options = self._job, self._options
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
        job, limit, ready, name = self._job, self._options.limit, work.ready, work.run.run_id
        plan = Plan.load(folder)
        if (
            plan is not None
            # Pictures may have changed behind an unchanged table: looking again costs microseconds each.
            and ready.pictures is None
            and plan.facts.identity == identity(job, ready.contract, limit)
            and plan.facts.fingerprint == ready.reader.fingerprint
        ):
            self._guard(plan.facts)
            return plan
        planned = 0

        def note(requests: int) -> None:
            nonlocal planned
            planned = requests

        with self._console.progress("planning", None, "requests", lambda: planned):
            return make_plan(
                folder,
                job,
                ready,
                run_id=name,
                limit=limit,
                progress=note,
                guard=self._guard,
                consent=lambda fresh: self._guard_paid(work, fresh),
            )

    def _guard_paid(self, work: _Work, fresh: Plan) -> None:
        """To pay again for many answers, because what is asked was changed, needs consent."""
        before = Plan.load(self._job.state / work.run.plan) if work.run.plan else None
        changed = [] if before is None else changes(before.facts.recipe, fresh.facts.recipe)
        if before is None or not changed or self._options.yes:
            return
        to_ask = count(fresh, work.journal, work.standing).open
        rows = count(before, work.journal, work.standing).rows
        answered = sum(number for status, number in rows.items() if status not in ("pending", "failed"))
        if (paid_again := min(to_ask, answered)) > PAID_AGAIN_AT_ONCE:
            raise GuardFailed(
                f"changed since this run was planned: {', '.join(changed)}. {many(answered, 'row')} are answered as it "
                f"was, and {paid_again:,} would be paid for again; nothing was sent. Say --yes to pay, or use another "
                "job name, --param or --date to keep both"
            )

    def _unchanged(self, work: _Work, folder: str, plan: Plan) -> Summary | None:
        """The summary of a finished run whose plan is the same and whose output lies as it was published."""
        record = (work.run.published or {}).get(folder)
        if not work.standing.finished or self._options.limit is not None or record is None:
            return None
        published = Published(**record["output"])
        if record["plan"] != _plan_mark(self._job, plan, work) or record["unsent"] or not published.intact():
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
        )
        write_summary(self._job.output.path, unchanged.as_json())
        return unchanged

    def _guard(self, facts: Facts) -> None:
        wanted = self._job.expect.min_rows
        if self._options.limit is None and facts.rows < wanted:
            raise GuardFailed(
                f"the source gave {many(facts.rows, 'row')}, but expect.min_rows is {wanted:,}; "
                "nothing was sent. Mend the source, or set expect.min_rows"
                + (": 0 to accept an empty night" if facts.rows == 0 else "")
            )

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
            cost = self._worst_case(plan, to_ask, work.ready.contract.repair)
            self._console.say(
                f"estimate: at most {usd_text(cost)}"
                if cost is not None
                else f"no price is known for {self._job.request.model}: cost will be null; set prices: in the job"
            )

    def _worst_case(self, plan: Plan, rows: int, repairs: int = 0) -> int | None:
        """Nano-dollars if each row's call takes its estimated input and all of max_tokens, and so does each repair."""
        facts, model, answer = plan.facts, self._job.request.model, self._job.request.max_tokens
        sendable = max(1, facts.requests - facts.unsendable)
        tokens = round((facts.prompt_bytes / CHARACTERS_PER_TOKEN + facts.picture_tokens) / sendable) + 1
        nanos = 0
        for turn in range(1 + repairs):
            # A repair sends the answers so far along, each with what was wrong with it.
            usage = Usage(input_tokens=tokens + turn * (answer + REPAIR_TOKENS), output_tokens=answer)
            price = self._pricer.price(usage, answered=None, asked=model, at=self._clock(), reported_nanos=None)
            if price.nanos is None:
                return None
            nanos += price.nanos
        return nanos * rows

    def _ask(self, work: _Work, plan: Plan, api_key: str | None, to_ask: int) -> None:
        job = self._job
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
            self._console.say(f"no price is known for {models}: cost is null there; set prices: in the job")

    def _publish(self, work: _Work, plan: Plan, folder: str) -> Summary:
        job = self._job
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
            hint=f"mend what failed, then: pipeline run {self._options.selection} --retry-failed" if failed else None,
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
        asked, now = self._job.request.model, self._clock()
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
            work.journal.recover(self._clock(), self._job.request.max_tokens)
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
                    hint=self._way_on(code, reason),
                )
            # A broken job leaves nothing behind, not even words beside an older output.
            if not isinstance(error, JobError):
                write_summary(self._job.output.path, summary.as_json())
        except StorageError as second:
            self._console.say(f"error: {second}")
        return summary

    def _way_on(self, code: int, reason: str) -> str:
        mend = "mend that, then " if code in (1, 2, 5, 6) else ""
        again = f"{mend}run the same command again to go on"
        if reason == "budget":
            again = f"pipeline run {self._options.selection} --budget USD"
        return f"{again}; to see what is there: pipeline export {self._options.selection}"


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


def run_columns(job: Job, run: RunRecord) -> RunColumns:
    """What is the same in every row of the run's output."""
    return RunColumns(job.name, run.id, run.run_id, run.run_date, job.request.model, job.endpoint.host)


def run_schema(job: Job, plan: Plan, reading: Reading, run: RunRecord) -> pa.Schema:
    """The output's schema, with what it says of the run in its metadata."""
    return output_schema(
        job,
        plan.kept_schema,
        reading.fields,
        {
            "job": job.name,
            "run_id": run.run_id,
            "run_date": run.run_date.isoformat() if run.run_date else "",
            "scope": run.scope,
            "tags": json.dumps(dict(job.tags), sort_keys=True),
            "prefix": job.output.prefix,
            "version": __version__,
            "job_hash": plan.facts.identity,
            "recipe": recipe_of(job),
        },
    )


def recipe_of(job: Job) -> str:
    """A short hash of prompt, model and schema, to tell in cost reports what changed between runs; 8 hex digits."""
    shape = [job.prompt.model_dump(mode="json"), job.request.model, job.answer.json_schema]
    text = json.dumps(shape, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def superseded(paid: Mapping[str, int], tally: Tally) -> dict[str, int]:
    """What the run paid, by model, for answers that are in no row of its output any more; nano-dollars."""
    return {model: nanos - tally.by_model[model] for model, nanos in paid.items() if nanos > tally.by_model[model]}


def superseded_metadata(nanos: Mapping[str, int]) -> dict[str, str]:
    """The same as the output's metadata says it, in USD."""
    return {"superseded": json.dumps({model: value / NANOS_PER_USD for model, value in sorted(nanos.items())})}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is asked otherwise than before (`recipe_parts`), in words."""
    words = {"model": f"request.model (was {before.get('model')})", "prompt": "prompt", "request": "request"}
    return [words[name] for name in words if before.get(name) != now.get(name)]


def make_state(folder: Path) -> None:
    """Make the folder of journal and plans, for its owner only.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: the folder for journal and plans cannot be made: {error.strerror}; set `state:`"
        ) from error


def nanos_of(usd: float) -> int:
    """Nano-dollars, by way of the text that people wrote: 0.1 is exact."""
    return int(Decimal(str(usd)) * NANOS_PER_USD)


def many(number: int, noun: str) -> str:
    """``1 row``, ``1,200 rows``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


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

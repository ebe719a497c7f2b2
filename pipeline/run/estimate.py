"""What a run would still cost: rows left to pay for, tokens, USD and time, from low to high."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.cost import Pricer, usd_text, user_book
from pipeline.job import Job
from pipeline.journal import Journal
from pipeline.records import NANOS_PER_USD, Key, Usage
from pipeline.report.words import many
from pipeline.run.console import Console
from pipeline.run.coordinator import chosen_outcomes, now
from pipeline.run.money import terms_asked
from pipeline.run.naming import journal_path, plan_folder, run_id
from pipeline.run.plan import Plan, identity, make_plan
from pipeline.run.policy import Standing
from pipeline.run.ready import Ready, make_ready

BYTES_PER_TOKEN = (5.0, 2.5)
"""Of a prompt, before any was counted: for the low and for the high end."""
SHORT_ANSWER = 0.02
"""Of max_tokens, for the low end before any was answered."""
FRAME_BYTES = 54
"""Of a prompt's JSON around its texts, which are no tokens, or few."""
SURE = 2.0
"""Standard errors to either side of a mean, which leave one case in twenty outside."""
SURE_OF_CACHE = 0.9
"""Of the share of input that the cache gave so far, so much is counted on."""
LEAST_SHARE = 0.03
"""A range is never narrower than this to either side: answers of tomorrow are not those of today."""


@dataclass(frozen=True, slots=True)
class Range:
    """A low and a high end."""

    low: float
    high: float

    def times(self, factor: float) -> Range:
        """Both ends times a factor."""
        return Range(self.low * factor, self.high * factor)


@dataclass(slots=True)
class Mean:
    """Mean and spread of figures, as they come."""

    number: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """One more."""
        self.number += 1
        self.total += value
        self.squares += value * value

    def range(self, most: float = math.inf) -> Range:
        """Where the mean of further ones is likely to be."""
        mean = self.total / self.number
        variance = max(0.0, self.squares / self.number - mean * mean)
        # With few figures their spread is not known either: as many as there are count against it.
        doubt = SURE * math.sqrt(variance / self.number) + mean * (LEAST_SHARE + 1.0 / self.number)
        return Range(max(0.0, mean - doubt), min(most, mean + doubt))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would still take.

    Attributes:
        rows: of the whole run.
        answered: of these, without a call.
        to_ask: different requests that would be sent.
        answers: kept answers that the figures go by; 0 for none.
        input_tokens: of all calls together, as `output_tokens`.
        nanos: nano-dollars; None where no price is known.
        secs: seconds under the job's limits; None where these say nothing.
        bound_by: which limit that is.
    """

    run_id: str
    model: str
    rows: int
    answered: int
    to_ask: int
    answers: int
    input_tokens: Range
    output_tokens: Range
    nanos: Range | None
    secs: Range | None
    bound_by: str | None

    def as_json(self) -> dict[str, Any]:
        """The same as an object; ranges as [low, high], USD as numbers."""

        def ends(of: Range | None, unit: float = 1.0) -> list[float] | None:
            return None if of is None else [of.low / unit, of.high / unit]

        return {
            "run_id": self.run_id,
            "model": self.model,
            "rows": self.rows,
            "answered": self.answered,
            "to_ask": self.to_ask,
            "answers": self.answers,
            "input_tokens": ends(Range(round(self.input_tokens.low), round(self.input_tokens.high))),
            "output_tokens": ends(Range(round(self.output_tokens.low), round(self.output_tokens.high))),
            "usd": ends(self.nanos, NANOS_PER_USD),
            "seconds": ends(self.secs),
            "bound_by": self.bound_by,
        }


@dataclass(slots=True)
class _Seen:
    """What the plan's rows come to: bytes that are to be asked, and figures of those that were answered."""

    rows: int = 0
    answered: int = 0
    to_ask: int = 0
    bytes_to_ask: int = 0
    pictures_to_ask: int = 0
    taken: int = 0
    taken_beside_cache: int = 0
    cached: int = 0
    tokens_per_byte: Mean = field(default_factory=Mean)
    output: Mean = field(default_factory=Mean)
    secs: Mean = field(default_factory=Mean)


def estimate(
    job: Job, console: Console, *, environ: Mapping[str, str], clock: Callable[[], datetime] = now
) -> Estimate:
    """Estimate what the run of this job would still take; nothing is sent, and nothing but a temporary folder written.

    Raises:
        JobError: the job, its templates or its source are broken.
        StorageError: plan or journal cannot be read.
    """
    ready = make_ready(job)
    journal = Journal.read(journal_path(job))
    try:
        with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
            seen = _seen(_plan(job, ready, console, Path(folder)), job, journal, ready)
    finally:
        if journal is not None:
            journal.close()
    return _judged(job, ready, seen, Pricer(job.prices, user=user_book(environ), free=_free(job)), clock())


def _free(job: Job) -> bool:
    return job.endpoint.scope == "embedded"


def _plan(job: Job, ready: Ready, console: Console, folder: Path) -> Plan:
    """The run's plan where it is as it would be made now, else one that is thrown away."""
    plan = Plan.load(job.state / plan_folder(job, run_id(job), None))
    if (
        plan is not None
        and plan.facts.identity == identity(job, ready.contract, None)
        and plan.facts.fingerprint == ready.reader.fingerprint
    ):
        return plan
    planned = 0

    def note(requests: int) -> None:
        nonlocal planned
        planned = requests

    with console.progress("planning", None, "requests", lambda: planned):
        return make_plan(folder / "plan", job, ready, run_id=run_id(job), limit=None, progress=note)


def _seen(plan: Plan, job: Job, journal: Journal | None, ready: Ready) -> _Seen:
    run = None if journal is None else journal.run(run_id(job))
    standing = Standing(
        run=-1 if run is None else run.id,
        start=-1,
        finished=run is not None and run.completed_at is not None,
        max_tokens=job.request.max_tokens,
        reopened={} if run is None else run.reopened,
    )
    seen = _Seen()
    for planned in plan.read():
        keys = list({key for key in planned.keys if key is not None})
        chosen = {} if journal is None else chosen_outcomes(journal, standing, keys)
        bills = {} if journal is None else journal.calls({key: k.attempt for key, k in chosen.items() if k is not None})
        counted: set[Key] = set()
        for nth, key in enumerate(planned.keys):
            seen.rows += 1
            if key is None or chosen.get(key) is not None:
                seen.answered += 1
            prompt = planned.prompts[nth]
            if key is None or prompt is None or key in counted or nth in planned.repeats:
                continue
            counted.add(key)
            if chosen.get(key) is None:
                seen.to_ask += 1
                seen.bytes_to_ask += len(prompt)
                seen.pictures_to_ask += 0 if ready.pictures is None else ready.pictures.tokens(prompt)
            elif (call := bills.get(key)) is not None and call.usage is not None:
                usage = call.usage
                taken = usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens
                seen.taken += taken
                # The first calls find the cache empty, those to come will not.
                seen.taken_beside_cache += taken if usage.cache_read_tokens else 0
                seen.cached += usage.cache_read_tokens
                seen.tokens_per_byte.add(taken / max(1, len(prompt)))
                seen.output.add(usage.output_tokens)
                seen.secs.add(call.latency_ms / 1000)
    return seen


def _judged(job: Job, ready: Ready, seen: _Seen, pricer: Pricer, at: datetime) -> Estimate:
    most = float(job.request.max_tokens)
    if seen.output.number:
        per_byte, answer = seen.tokens_per_byte.range(), seen.output.range(most)
        taken = per_byte.times(seen.bytes_to_ask)
    else:
        envelope = len(str(dict(ready.contract.fields))) if ready.contract.way is not None else 0
        sent = seen.bytes_to_ask + envelope * seen.to_ask
        text = max(0, sent - FRAME_BYTES * seen.to_ask)
        pictures = seen.pictures_to_ask
        taken = Range(text / BYTES_PER_TOKEN[0] + pictures / 2, sent / BYTES_PER_TOKEN[1] + pictures)
        # An invalid answer is paid, and sent back with all that was said before.
        turns = 1 + ready.contract.repair
        answer = Range(most * SHORT_ANSWER, most * turns)
        taken = Range(taken.low, taken.high * turns + seen.to_ask * most * (turns - 1))
    made = answer.times(seen.to_ask)
    secs, bound_by = _duration(job, seen, taken, made)
    return Estimate(
        run_id=run_id(job),
        model=job.request.model,
        rows=seen.rows,
        answered=seen.answered,
        to_ask=seen.to_ask,
        answers=seen.output.number,
        input_tokens=taken,
        output_tokens=made,
        nanos=_cost(job, ready, pricer, seen, taken, made, at),
        secs=secs,
        bound_by=bound_by,
    )


def _cached(seen: _Seen, *, marked: bool) -> tuple[float, float, bool]:
    """The share of input that the cache may give, at most and at least; and whether the rest may be written to it.

    Before any answer, of a prompt with a cached part: all, or none and every call writes. After some: what it gave to
    calls that found something in it, or less than it gave to all.
    """
    if not seen.taken:
        return (1.0, 0.0, True) if marked else (0.0, 0.0, False)
    share = seen.cached / seen.taken
    found = seen.cached / seen.taken_beside_cache if seen.taken_beside_cache else share
    return found, share * SURE_OF_CACHE, False


def _cost(job: Job, ready: Ready, pricer: Pricer, seen: _Seen, taken: Range, made: Range, at: datetime) -> Range | None:
    """Priced as so many equal calls: a sum would cross a long-prompt band that no call crosses."""
    if not seen.to_ask:
        return Range(0.0, 0.0)
    ends = []
    most, least, written = _cached(seen, marked=ready.marks.marked)
    long_lived, terms = job.prompt.cache == "1h", terms_asked(job)
    low, high = (taken.low, made.low, most, False), (taken.high, made.high, least, written)
    for tokens_in, tokens_out, cached, writes in (low, high):
        read = int(tokens_in / seen.to_ask * cached)
        rest = math.ceil(tokens_in / seen.to_ask) - read
        usage = Usage(rest, math.ceil(tokens_out / seen.to_ask), cache_read_tokens=read)
        if writes:
            usage = Usage(0, usage.output_tokens, *((0, rest) if long_lived else (rest, 0)), read)
        nanos = pricer.price(
            usage, answered=None, asked=job.request.model, at=at, reported_nanos=None, terms=terms
        ).nanos
        if nanos is None:
            return None
        ends.append(float(nanos * seen.to_ask))
    return Range(*ends)


def _duration(job: Job, seen: _Seen, taken: Range, made: Range) -> tuple[Range | None, str | None]:
    """How long the narrowest of the stated limits takes, and which that is."""
    limits = job.limits
    spans: dict[str, Range] = {}
    if limits.requests_per_minute:
        spans["requests_per_minute"] = Range(seen.to_ask, seen.to_ask).times(60 / limits.requests_per_minute)
    if limits.input_tokens_per_minute:
        spans["input_tokens_per_minute"] = taken.times(60 / limits.input_tokens_per_minute)
    if limits.output_tokens_per_minute:
        spans["output_tokens_per_minute"] = made.times(60 / limits.output_tokens_per_minute)
    if seen.secs.number and isinstance(limits.concurrency, int):
        spans["concurrency"] = seen.secs.range().times(seen.to_ask / limits.concurrency)
    if not spans:
        return None, None
    bound_by = max(spans, key=lambda name: spans[name].high)
    return Range(max(span.low for span in spans.values()), spans[bound_by].high), bound_by


def estimate_text(found: Estimate) -> str:
    """The estimate in words, a few aligned lines."""
    basis = (
        f"by {many(found.answers, 'kept answer')}" if found.answers else "no answer to go by yet; --sample N asks some"
    )
    lines = [
        ("run", found.run_id),
        ("rows", f"{found.rows:,}: {found.answered:,} answered, {found.to_ask:,} to ask ({basis})"),
        ("tokens", f"{_ends(found.input_tokens)} in, {_ends(found.output_tokens)} out"),
        ("cost", _money(found)),
        ("time", _time(found)),
    ]
    return "\n".join(f"{name:<8}{text}" for name, text in lines)


def _ends(of: Range) -> str:
    low, high = round(of.low), round(of.high)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _money(found: Estimate) -> str:
    if found.nanos is None:
        return f"unknown: no price for {found.model}; set prices: in the job"
    low, high = usd_text(round(found.nanos.low)), usd_text(round(found.nanos.high))
    return low if low == high else f"{low} to {high}"


def _time(found: Estimate) -> str:
    if found.secs is None or found.bound_by is None:
        return "as fast as the server allows; state limits, or use --sample N with a concurrency, to know more"
    low, high = _span(found.secs.low), _span(found.secs.high)
    return f"{low if low == high else f'{low} to {high}'}, bound by {found.bound_by.replace('_', ' ')}"


def _span(secs: float) -> str:
    minutes = round(secs / 60)
    if secs < 90:
        return f"{secs:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{secs / 3600:.1f} h"

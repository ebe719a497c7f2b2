"""The one place that composes what a request passes on its way, and runs the pool over it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from zoneinfo import ZoneInfo

from pipeline.cost import Pricer
from pipeline.errors import Interrupted, StorageError
from pipeline.job import Job
from pipeline.journal import Journal
from pipeline.limits import Budget, FinishBy, Growing, Limited, Outage, Pace, Retrying, Window, WorstCase, prompt_chars
from pipeline.prompt.pictures import Studio
from pipeline.records import Attempt, Request, Usage
from pipeline.report import Counters
from pipeline.run.ask import Feed, Pool, Stack
from pipeline.run.console import pause_text
from pipeline.run.conversation import Settling
from pipeline.run.coordinator import Asking, Coordinator
from pipeline.run.heap import rare_collections
from pipeline.run.plan import Plan
from pipeline.run.policy import Standing
from pipeline.run.ready import Ready
from pipeline.wire import Endpoint, Marked, Pictured, Transport, envelope, with_stream

CHARACTERS_PER_TOKEN = 3.5
LOOK_SECS = 1.0
LONG_PAUSE_SECS = 10.0
"""A pause that lasts longer is worth a line."""


async def ask(
    job: Job,
    plan: Plan,
    url: str,
    *,
    ready: Ready,
    journal: Journal,
    standing: Standing,
    budget: Budget,
    finish_at: datetime | None,
    controls_after: int,
    pricer: Pricer,
    counters: Counters,
    api_key: str | None,
    say: Callable[[str], None],
    clock: Callable[[], datetime],
) -> None:
    """Ask every open request of the plan; returns when each has an outcome.

    Args:
        job: whose request fields, endpoint and limits apply.
        plan: what is wanted.
        url: where to post, the job's own or that of a local server.
        ready: the job, made ready: what is sent beside the prompts, and how answers are read.
        journal: where claims and outcomes go.
        standing: the present start.
        budget: what may still be spent.
        finish_at: when the last call is to be answered.
        controls_after: the last limits that `pipeline limits` had set before this start.
        pricer: prices each answer.
        counters: told of each row, for progress.
        api_key: sent as the endpoint says; None sends none.
        say: takes messages.
        clock: the present, UTC.

    Raises:
        Interrupted: a signal came; what was in flight had its grace.
        Stopped: the budget, or the time to be done by, is reached.
        RunRejected: the API rejects every row alike.
        Unavailable: the endpoint is out.
        StorageError: an answer could not be kept.
    """
    limits = job.limits
    asking = Asking(job.request.model, job.request.max_tokens, job.endpoint.host)
    studio = None if ready.pictures is None else Studio(ready.pictures, bytes_in_flight=limits.image_bytes_in_flight)
    async with (
        Endpoint(
            job.endpoint.model_copy(update={"url": url}),
            envelope(with_stream(ready.marks.fields)),
            api_key=api_key,
            key_name=job.endpoint.key_name or "endpoint.api_key_env (none was sent; --api-key-env names one)",
            timeout_secs=limits.timeout_secs,
            # The window bounds the calls in flight, and may be widened while the run is under way.
            connections=0,
        ) as endpoint,
        Coordinator(
            journal,
            standing,
            asking,
            budget=budget,
            clock=clock,
            listed=partial(list_price, pricer, asking.model),
            controls_after=controls_after,
        ) as coordinator,
    ):
        settling = Settling(ready.contract, pricer, asking.model, worst_case(job, ready, pricer, clock))
        stack = _stack(job, ready, dressed(endpoint, ready, studio), settling)
        pool = Pool(
            Feed(plan, coordinator),
            coordinator,
            stack,
            counters,
            # With a budget the first call goes alone too: it shows how far the server's prices are from the list's.
            warm_up=ready.marks.marked or bool(budget.caps),
            finish=None if finish_at is None else FinishBy(finish_at.timestamp(), clock=lambda: clock().timestamp()),
        )
        stack.retrying.waiting = pool.waiting
        try:
            zone = UTC if job.timezone == "UTC" else ZoneInfo(job.timezone)
            follow = Following(coordinator, stack.limited, counters, say, lambda: clock().astimezone(zone))
            await _work(pool, follow, counters, say, limits.grace_secs)
        finally:
            if studio is not None:
                studio.close()


def _stack(job: Job, ready: Ready, sending: Transport, settling: Settling) -> Stack:
    """Limits around what sends, and retries around them, so that a row that waits holds no slot."""
    limits = job.limits
    clock = asyncio.get_running_loop().time
    pace = Pace(
        limits.requests_per_minute,
        limits.input_tokens_per_minute,
        limits.output_tokens_per_minute,
        max_tokens=job.request.max_tokens,
        learns=True,
        clock=clock,
    )
    window = Growing() if limits.concurrency == "auto" else Window(limits.concurrency)
    outage = Outage(job.endpoint.host, give_up_after_secs=limits.give_up_after_secs, clock=clock)
    limited = Limited(sending, window, pace=pace, size=size_of(ready), outage=outage, clock=clock)
    retrying = Retrying(
        limited,
        limits.attempts,
        row_deadline_secs=limits.row_deadline_secs,
        attempt_secs=limits.timeout_secs,
        clock=clock,
    )
    return Stack(retrying, limited, settling)


async def _work(
    pool: Pool,
    follow: Following,
    counters: Counters,
    say: Callable[[str], None],
    grace_secs: float,
) -> None:
    """Run the pool to its end, while signals and changed limits are looked after.

    Raises:
        Interrupted: a signal came.
        PipelineError: as `Pool.run`.
    """
    following = asyncio.create_task(follow.run())
    try:
        with _signals(pool, counters, say, grace_secs) as caught:
            await pool.run(grace_secs=grace_secs)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        counters.bound_by = follow.limited.bound_by()
    if caught:
        raise Interrupted(caught[0])


def dressed(endpoint: Transport, ready: Ready, studio: Studio | None) -> Transport:
    """What a request passes right before it is sent: cache marks are put on, then pictures put in."""
    pictured = endpoint if studio is None else Pictured(endpoint, studio)
    return pictured if ready.marks.bare else Marked(pictured, ready.marks.apply)


def list_price(pricer: Pricer, asked: str, attempt: Attempt) -> int | None:
    """Nano-dollars that an answer's tokens cost by the price list, whatever the server says."""
    answer = attempt.response
    if answer is None:
        return None
    price = pricer.price(
        answer.usage,
        answered=answer.model,
        asked=asked,
        at=attempt.started_at,
        reported_nanos=None,
        terms=answer.terms,
    )
    return price.nanos


def size_of(ready: Ready) -> Callable[[Request], float]:
    """What input tokens are estimated from: a prompt's characters, and as many for each token of its pictures."""
    pictures = ready.pictures
    if pictures is None:
        return prompt_chars
    return lambda request: prompt_chars(request) + CHARACTERS_PER_TOKEN * pictures.tokens(request.prompt)


def worst_case(job: Job, ready: Ready, pricer: Pricer, clock: Callable[[], datetime]) -> WorstCase:
    """What one call of the job may cost at most, by the price list."""
    cached_1h = job.prompt.cache == "1h"

    def price(input_tokens: int, output_tokens: int) -> int | None:
        # What is cached is written once, at a higher price than other input.
        if not ready.marks.marked:
            usage = Usage(input_tokens, output_tokens)
        elif cached_1h:
            usage = Usage(0, output_tokens, 0, input_tokens)
        else:
            usage = Usage(0, output_tokens, input_tokens)
        model = job.request.model
        return pricer.price(usage, answered=None, asked=model, at=clock(), reported_nanos=None).nanos

    worst = WorstCase(price, job.request.max_tokens, len(envelope(ready.marks.fields)))
    return worst if ready.pictures is None else replace(worst, picture_tokens=ready.pictures.tokens)


@dataclass(slots=True)
class Following:
    """Looks after a run under way, every second.

    Attributes:
        coordinator: knows what somebody set meanwhile.
        limited: what the calls wait for.
        counters: told of pauses, for progress.
        say: takes messages.
        clock: the present, in the zone in which times are shown.
    """

    coordinator: Coordinator
    limited: Limited
    counters: Counters
    say: Callable[[str], None]
    clock: Callable[[], datetime]
    _shown: float = 0.0

    async def run(self) -> None:
        """Show pauses, take over the limits that `pipeline limits` has set, record what bounds the speed; for ever."""
        while True:
            await asyncio.sleep(LOOK_SECS)
            self._show_pause()
            try:
                asked = await self.coordinator.look(self.limited.bound_by())
            except StorageError as error:
                # Calls that cannot be kept end the run; this alone does not.
                self.say(f"limits cannot be looked up: {error}")
                return
            if asked:
                rates = {name: value for name, value in asked.items() if name != "concurrency"}
                slots = asked.get("concurrency")
                self.limited.retune(**rates, concurrency=None if slots is None else int(slots))
                self.say("limits are now " + ", ".join(f"{name} {value:g}" for name, value in asked.items()))

    def _show_pause(self) -> None:
        """Say each long pause once."""
        left_secs = self.limited.pause.left_secs
        self.counters.pause_secs = left_secs
        if left_secs > max(LONG_PAUSE_SECS, self._shown):
            self.say(pause_text(left_secs, self.limited.outage.trouble, self.clock()))
        self._shown = left_secs if left_secs > LONG_PAUSE_SECS else 0.0


@contextmanager
def _signals(pool: Pool, counters: Counters, say: Callable[[str], None], grace_secs: float) -> Iterator[list[int]]:
    """Ctrl-C or SIGTERM once: drain; twice: stop now. Yields the list of signals that came."""
    caught: list[int] = []
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int) -> None:
        caught.append(number)
        if len(caught) == 1:
            counters.notice = "stopping"
            pool.drain()
            say(f"stopping: calls in flight have {grace_secs:g} s to finish; once more to stop now")
        else:
            pool.stop()

    for number in before:
        loop.add_signal_handler(number, stop, number)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            # The loop leaves the system's default behind, which would end publishing without a word.
            signal.signal(number, handler)


def run_loop(main: Coroutine[None, None, None]) -> None:
    """Run on uvloop where there is one, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with rare_collections(), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)

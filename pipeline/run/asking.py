"""The one place that composes what a request passes on its way, and runs the pool over it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from zoneinfo import ZoneInfo

from pipeline.cost import Pricer
from pipeline.errors import Interrupted
from pipeline.job import Job
from pipeline.journal import Journal
from pipeline.limits import Budget, FinishBy, Growing, Limited, Outage, Pace, Retrying, Window, WorstCase, prompt_chars
from pipeline.prompt.pictures import Studio
from pipeline.records import Attempt, Request, Terms, Usage
from pipeline.report import Counters
from pipeline.run.ask import Feed, Pool, Stack
from pipeline.run.conversation import Settling
from pipeline.run.coordinator import Asking, Coordinator
from pipeline.run.following import Following
from pipeline.run.heap import rare_collections
from pipeline.run.plan import Plan
from pipeline.run.policy import Standing
from pipeline.run.ready import Ready
from pipeline.wire import Endpoint, Marked, Pictured, Transport, envelope, with_stream

CHARACTERS_PER_TOKEN = 3.5


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
    asking = Asking(job.request.model, job.request.max_tokens, job.endpoint.host)
    finish = None if finish_at is None else FinishBy(finish_at.timestamp(), clock=lambda: clock().timestamp())
    with _studio(job, ready) as studio:
        async with (
            _endpoint(job, url, ready, api_key) as endpoint,
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
                finish=finish,
            )
            stack.retrying.waiting = pool.waiting
            zone = UTC if job.timezone == "UTC" else ZoneInfo(job.timezone)
            follow = Following(coordinator, stack.limited, counters, say, lambda: clock().astimezone(zone))
            await _work(pool, follow, counters, say, job.limits.grace_secs)


@contextmanager
def _studio(job: Job, ready: Ready) -> Iterator[Studio | None]:
    """What prepares pictures while rows are asked; None where the job has none."""
    if ready.pictures is None:
        yield None
        return
    studio = Studio(ready.pictures, bytes_in_flight=job.limits.image_bytes_in_flight)
    try:
        yield studio
    finally:
        studio.close()


def _endpoint(job: Job, url: str, ready: Ready, api_key: str | None) -> Endpoint:
    """What sends to this URL, whatever the job's own is."""
    return Endpoint(
        job.endpoint.model_copy(update={"url": url}),
        envelope(with_stream(ready.marks.fields)),
        api_key=api_key,
        key_name=job.endpoint.key_name or "endpoint.api_key_env (none was sent; --api-key-env names one)",
        timeout_secs=job.limits.timeout_secs,
        # The window bounds the calls in flight, and may be widened while the run is under way.
        connections=0,
    )


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
    """What one call of the job may cost at most, by the price list, on the terms that it asks for."""
    request = job.request
    terms = Terms.asked(speed=request.speed, inference_geo=request.inference_geo)
    cached_1h = job.prompt.cache == "1h"
    listed = partial(pricer.price, answered=None, asked=request.model, reported_nanos=None)

    def price(input_tokens: int, output_tokens: int) -> int | None:
        # What is cached is written once, at a higher price than other input.
        if not ready.marks.marked:
            usage = Usage(input_tokens, output_tokens)
        elif cached_1h:
            usage = Usage(0, output_tokens, 0, input_tokens)
        else:
            usage = Usage(0, output_tokens, input_tokens)
        at = clock()
        nanos = listed(usage, at=at, terms=terms).nanos
        # What some models charge for fast calls is not known; their usual price is better than nothing.
        return listed(usage, at=at).nanos if nanos is None else nanos

    worst = WorstCase(price, request.max_tokens, len(envelope(ready.marks.fields)))
    return worst if ready.pictures is None else replace(worst, picture_tokens=ready.pictures.tokens)


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

"""The one place that composes what a request passes on its way, and runs the pool over it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime

from pipeline.answer import Contract
from pipeline.cost import Pricer
from pipeline.errors import Interrupted
from pipeline.job import Job
from pipeline.journal import Journal
from pipeline.limits import Limited, Outage, Retrying, Window
from pipeline.report import Counters
from pipeline.run.ask import Feed, Pool, Stack
from pipeline.run.conversation import Settling
from pipeline.run.coordinator import Asking, Coordinator
from pipeline.run.plan import Plan
from pipeline.run.policy import Standing
from pipeline.wire import Endpoint, envelope, with_stream


async def ask(
    job: Job,
    plan: Plan,
    url: str,
    *,
    contract: Contract,
    journal: Journal,
    standing: Standing,
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
        contract: what is sent beside the prompts, and how answers are read.
        journal: where claims and outcomes go.
        standing: the present start.
        pricer: prices each answer.
        counters: told of each row, for progress.
        api_key: sent as the endpoint says; None sends none.
        say: takes messages.
        clock: the present, UTC.

    Raises:
        Interrupted: a signal came; what was in flight had its grace.
        RunRejected: the API rejects every row alike.
        Unavailable: the endpoint is out.
        StorageError: an answer could not be kept.
    """
    limits = job.limits
    asking = Asking(job.request.model, job.request.max_tokens, job.endpoint.host)
    window = Window(limits.concurrency)
    async with (
        Endpoint(
            job.endpoint.model_copy(update={"url": url}),
            envelope(with_stream(contract.fields)),
            api_key=api_key,
            key_name=job.endpoint.key_name or "endpoint.api_key_env (none was sent; --api-key-env names one)",
            timeout_secs=limits.timeout_secs,
            connections=limits.concurrency,
        ) as endpoint,
        Coordinator(journal, standing, asking, clock=clock) as coordinator,
    ):
        outage = Outage(job.endpoint.host, give_up_after_secs=limits.give_up_after_secs)
        # Retry outside, so that a waiting row holds no slot.
        limited = Limited(endpoint, window, limits.requests_per_minute, outage=outage)
        retrying = Retrying(
            limited,
            limits.attempts,
            row_deadline_secs=limits.row_deadline_secs,
            attempt_secs=limits.timeout_secs,
        )
        stack = Stack(retrying, limited, Settling(contract, pricer, job.request.model))
        pool = Pool(Feed(plan, coordinator), coordinator, stack, counters, concurrency=limits.concurrency)
        retrying.waiting = pool.waiting
        with _signals(pool, counters, say, limits.grace_secs) as caught:
            await pool.run(grace_secs=limits.grace_secs)
        if caught:
            raise Interrupted(caught[0])


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
        asyncio.run(main)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)

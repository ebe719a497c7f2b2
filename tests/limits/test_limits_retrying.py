from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from limits_simulation import Answering, Scripted, busy, now, refused_connection, request, simulated

from pipeline.errors import Busy, PipelineError, Refused, RunRejected, Unavailable
from pipeline.limits import Backoff, Limited, Outage, Pause, Retrying, Window
from pipeline.limits.pause import TRYING_SECS
from pipeline.records import Attempt, Request

NIGHT = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def stack_of(
    wire: Scripted | Answering,
    *,
    slots: int = 1,
    rpm: float | None = None,
    attempts: int = 6,
    deadline: float = 3600.0,
    spread: float = 1.0,
) -> Retrying:
    limited = Limited(wire, Window(slots), rpm, pause=Pause(spread=lambda: spread), outage=Outage("api.example.com"))
    return Retrying(limited, attempts, Backoff(), row_deadline_secs=deadline, spread=lambda: spread, now=lambda: NIGHT)


async def commit(stack: Retrying, name: str) -> tuple[Attempt, ...]:
    attempts = await stack.send(request(name))
    if attempts[-1].response is not None:
        stack._limited.window.release()
    return attempts


async def send_both(stack: Retrying, *names: str) -> None:
    await asyncio.gather(*(commit(stack, name) for name in names))


def types_of(attempts: tuple[Attempt, ...]) -> list[str | None]:
    return [attempt.error_type for attempt in attempts]


def test_a_waiting_row_holds_no_slot() -> None:
    wire = Scripted(busy(503, 30.0), "b done", "a done")
    stack = stack_of(wire, rpm=600)
    simulated(send_both(stack, "a", "b"))
    assert wire.asked == ["a", "b", "a"]


def test_a_rows_own_trouble_does_not_hold_up_the_others() -> None:
    wire = Scripted(busy(500, 30.0), "b", "c", "a")
    stack = stack_of(wire)

    async def story() -> None:
        await asyncio.gather(commit(stack, "a"), commit(stack, "b"), commit(stack, "c"))

    simulated(story())
    assert [(call.row, round(call.at)) for call in wire.calls] == [("a", 0), ("b", 0), ("c", 0), ("a", 30)]


@pytest.mark.parametrize(
    ("script", "types"),
    [
        (["done"], [None]),
        ([busy(500), "done"], ["server_error", None]),
        ([Refused("bad_request", "no")], ["bad_request"]),
        ([busy(500), Refused("too_long", "no")], ["server_error", "too_long"]),
        ([busy(500)] * 9, ["server_error"] * 3),
        ([busy(500), busy(500), "done"], ["server_error", "server_error", None]),
        # refusals for everybody, and calls that never left, use up no attempts
        ([*[busy(429)] * 12, "done"], ["rate_limit"] * 12 + [None]),
        ([busy(429), busy(500), busy(529), busy(500), busy(429), busy(500)], None),
        ([*[refused_connection()] * 5, "done"], ["connection"] * 5 + [None]),
    ],
)
def test_what_ends_a_row(script: list[str | PipelineError], types: list[str | None] | None) -> None:
    attempts = simulated(commit(stack_of(Scripted(*script), attempts=3), "a"))
    assert types_of(attempts) == (types or [getattr(error, "error_type", None) for error in script])


@pytest.mark.parametrize("error", [RunRejected("check the key"), Unavailable("out", "outage")])
def test_what_concerns_the_run_goes_through(error: PipelineError) -> None:
    with pytest.raises(type(error)):
        simulated(commit(stack_of(Scripted(busy(500), error)), "a"))


def test_waits_double_and_the_servers_wait_is_obeyed_without_a_cap() -> None:
    wire = Scripted(busy(500), busy(500), busy(500, 1800.0), busy(500), "done")
    simulated(commit(stack_of(wire), "a"))
    times = [round(call.at, 2) for call in wire.calls]
    assert times == [0.0, 0.5, 1.5, 1801.5, 1805.5]


def test_an_attempt_says_when_it_was_sent_and_how_long_it_took_without_the_waiting() -> None:
    wire = Scripted("b", "a", latency=2.0)
    stack = stack_of(wire, rpm=6)  # a leaves at 0, b ten seconds later
    clock_at = datetime(2026, 11, 22, tzinfo=UTC)

    async def story() -> list[tuple[Attempt, ...]]:
        loop = asyncio.get_running_loop()
        stack._now = lambda: datetime.fromtimestamp(clock_at.timestamp() + loop.time(), UTC)
        return list(await asyncio.gather(commit(stack, "a"), commit(stack, "b")))

    (first,), (second,) = simulated(story())
    assert (first.latency_ms, second.latency_ms) == (2000, 2000)
    assert (second.started_at - first.started_at).total_seconds() == pytest.approx(10, abs=0.01)


def test_a_row_ends_when_its_time_is_up_with_its_last_error() -> None:
    attempts = simulated(commit(stack_of(Scripted(*[busy(500)] * 9, latency=20.0), deadline=50.0), "a"))
    # 20, 0.5, 20, 1: then 8.5 are left, in which the third call is cut off
    assert types_of(attempts) == ["server_error", "server_error", "deadline"]
    assert attempts[-1].maybe_billed
    assert attempts[-1].latency_ms == 8500


def test_a_wait_that_goes_beyond_the_rows_time_ends_it_at_once() -> None:
    wire = Scripted(busy(500, 7200.0))
    (attempt,) = simulated(commit(stack_of(wire), "a"))
    assert attempt.error_type == "server_error"


def test_pauses_and_waiting_for_the_rate_do_not_run_a_rows_clock() -> None:
    wire = Scripted(busy(429, 7200.0), busy(500), "b", "a")
    stack = stack_of(wire, rpm=0.5, deadline=10.0)

    async def story() -> tuple[Attempt, ...]:
        first = asyncio.create_task(commit(stack, "a"))
        await asyncio.sleep(7200.1)
        await commit(stack, "b")
        return await first

    assert types_of(simulated(story())) == ["rate_limit", "server_error", None]


def test_somebody_else_may_work_while_a_row_waits() -> None:
    """The hook is entered for a row's own backoff and for pauses, never while its call is in flight."""
    wire = Scripted(busy(500, 10.0), busy(429, 20.0), "done", latency=1.0)
    stack = stack_of(wire)
    spans: list[tuple[float, float]] = []

    @asynccontextmanager
    async def waiting() -> AsyncIterator[None]:
        began = now()
        yield
        spans.append((round(began, 2), round(now(), 2)))

    stack.waiting = waiting
    simulated(commit(stack, "a"))
    assert spans == [(1.0, 11.0), (12.0, 32.0)]
    assert [round(call.at, 2) for call in wire.calls] == [0.0, 11.0, 32.0]


def test_a_row_that_alone_is_refused_comes_to_an_end() -> None:
    """A prompt larger than a minute's quota gets 429 for ever, though others are answered in between."""

    def rule(request: Request) -> str | Busy:
        return busy(429, 1.0) if request.row_id == "huge" else "done"

    stack = stack_of(Answering(rule), slots=4)

    async def story() -> tuple[tuple[Attempt, ...], int]:
        huge = asyncio.create_task(commit(stack, "huge"))
        others = 0
        while not huge.done():
            await commit(stack, f"{others}")
            others += 1
            await asyncio.sleep(0.3)
        return await huge, others

    attempts, others = simulated(story())
    assert len(attempts) < 80
    assert others > 600


def run_rows(stack: Retrying, rows: int, workers: int) -> list[tuple[Attempt, ...]]:
    async def story() -> list[tuple[Attempt, ...]]:
        todo = iter(range(rows))

        async def worker() -> list[tuple[Attempt, ...]]:
            return [await commit(stack, f"{nth}") for nth in todo]

        return [ended for of_one in await asyncio.gather(*(worker() for _ in range(workers))) for ended in of_one]

    return simulated(story())


def test_every_row_gets_done_through_a_storm_of_refusals_and_none_asks_too_early() -> None:
    """N1: 30 % 429 with retry-after, 10 % 529, 5 % 500, 2 % resets."""
    dice = random.Random(7)
    not_before = 0.0
    early: list[float] = []

    async def rule(_: Request) -> str | Busy:
        nonlocal not_before
        if now() < not_before - 1e-6:
            early.append(not_before - now())
        await asyncio.sleep(0.05)
        roll = dice.random()
        if roll < 0.30:
            not_before = max(not_before, now() + 2.0)
            return busy(429, 2.0)
        if roll < 0.40:
            return busy(529)
        if roll < 0.45:
            return busy(500)
        return Busy("connection", "reset", maybe_billed=True) if roll < 0.47 else "done"

    stack = stack_of(Answering(rule), slots=16, spread=0.5)
    ended = run_rows(stack, 500, 16)
    assert all(attempts[-1].response for attempts in ended)
    assert len(ended) == 500
    assert not early
    assert stack._limited.window.in_flight == 0


@pytest.mark.parametrize(
    ("failure", "workers"),
    [(refused_connection(), 1), (refused_connection(), 16), (busy(503), 16), (busy(502), 16), (busy(429), 16)],
)
def test_an_outage_of_a_minute_spoils_no_row_and_is_probed_gently(failure: Busy, workers: int) -> None:
    """N9."""

    async def rule(_: Request) -> str | Busy:
        await asyncio.sleep(0.01)
        return failure if 10.0 < now() < 70.0 else "done"

    wire = Answering(rule)
    stack = stack_of(wire, slots=workers, rpm=600)
    ended = run_rows(stack, 900, workers)
    during = [call.at for call in wire.calls if 10.0 < call.at < 70.0]
    assert all(attempts[-1].response for attempts in ended)
    assert len(during) <= 3 * workers + 10
    assert wire.calls[-1].at < 70.0 + 60.0 + 90.0


def test_an_endpoint_that_never_answers_is_out_after_half_a_minute() -> None:
    async def story() -> float:
        stack = stack_of(Answering(lambda _: refused_connection()), slots=8)
        with pytest.raises(Unavailable, match=r"api\.example\.com could not be reached"):
            await asyncio.gather(*(commit(stack, f"{nth}") for nth in range(20)))
        return now()

    assert simulated(story()) == pytest.approx(30.0, abs=0.1)


def test_a_single_row_against_a_dead_endpoint_is_an_outage_too() -> None:
    async def story() -> float:
        with pytest.raises(Unavailable):
            await commit(stack_of(Answering(lambda _: refused_connection())), "a")
        return now()

    assert simulated(story()) == pytest.approx(30.0, abs=0.1)


def test_nothing_but_failures_for_half_an_hour_is_an_outage() -> None:
    async def story() -> tuple[float, int]:
        wire = Answering(lambda _: busy(503))
        stack = stack_of(wire, slots=8)
        with pytest.raises(Unavailable, match="nothing but failures"):
            await asyncio.gather(*(commit(stack, f"{nth}") for nth in range(8)))
        return now(), len(wire.calls)

    ended, calls = simulated(story())
    assert ended == pytest.approx(1800.0, abs=1)
    # Those under way, and then one probe a pause, of which all but the first few last as long as any may.
    assert calls < 2 * 8 + 1800 / TRYING_SECS


def test_a_row_that_the_server_falls_over_ends_though_nobody_else_is_left() -> None:
    attempts = simulated(commit(stack_of(Scripted(*[busy(500)] * 9)), "a"))
    assert types_of(attempts) == ["server_error"] * 6

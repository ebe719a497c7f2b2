from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable

import pytest
from limits_simulation import Answering, busy, now, request, simulated

from pipeline.errors import Busy, ErrorType, TransportError
from pipeline.limits import Growing, Limited, Pace, Pause, Window
from pipeline.records import Request


def run_with(
    window: Window,
    rule: Callable[[Request], object],
    secs: float,
    *,
    workers: int = 256,
    rpm: float | None = None,
    feed_secs: float = 0.0,
) -> tuple[Limited, list[int]]:
    """The stack after so long, and the slots at every second."""

    async def story() -> tuple[Limited, list[int]]:
        stack = Limited(
            Answering(rule),  # type: ignore[arg-type]  # what a rule returns is up to the test
            window,
            pace=Pace(rpm),
            pause=Pause(spread=random.Random(1).random),
        )
        slots: list[int] = []
        source = asyncio.Lock()

        async def work() -> None:
            while True:
                if feed_secs:
                    async with source:
                        await asyncio.sleep(feed_secs)
                try:
                    await stack.send(request("a"))
                except TransportError:
                    continue
                stack.window.release()

        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        for _ in range(round(secs)):
            await asyncio.sleep(1.0)
            slots.append(window.slots)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return stack, slots

    return simulated(story())


class Server:
    """Answers so many calls a second at most, each after its latency at least; more at once only take longer."""

    def __init__(self, per_sec: float, latency: float, noise: float = 0.0, limit: int = 10_000) -> None:
        self._per_sec, self._latency, self._noise, self._limit = per_sec, latency, noise, limit
        self._free_at = 0.0
        self._dice = random.Random(4)
        self.in_flight = 0

    async def __call__(self, _: Request) -> str | Busy:
        if self.in_flight >= self._limit:
            return busy(529)
        self.in_flight += 1
        try:
            self._free_at = max(self._free_at, now()) + 1 / self._per_sec
            latency = self._latency * self._dice.uniform(1 - self._noise, 1 + self._noise)
            await asyncio.sleep(max(latency, self._free_at - now()))
        finally:
            self.in_flight -= 1
        return "done"


@pytest.mark.parametrize("noise", [0.0, 0.8])
@pytest.mark.parametrize("latency", [0.5, 2.0])
def test_it_grows_while_that_brings_more_and_to_the_end_where_the_server_takes_it(latency: float, noise: float) -> None:
    most = round(100 * latency)
    stack, slots = run_with(Growing(most=most), Server(1e6, latency, noise), 60.0 + 30 * latency)
    assert slots[-1] == most
    assert stack.bound_by() == "concurrency"


@pytest.mark.parametrize("latency", [0.1, 1.0])
def test_it_stops_where_more_at_once_only_takes_longer(latency: float) -> None:
    useful = round(40 * latency)  # what 40 calls a second keep busy
    stack, slots = run_with(Growing(), Server(40.0, latency), 60.0)
    usual = sorted(slots[20:])[20]  # now and then it looks whether there is more
    assert useful * 0.9 <= usual <= max(4 * useful, 16)
    assert stack.bound_by() == "server"


def test_it_does_not_grow_because_the_pace_holds_calls_back() -> None:
    stack, slots = run_with(Growing(), Server(1e6, 0.2), 60.0, rpm=600)
    assert slots[-1] == 8
    assert stack.bound_by() == "requests_per_minute"


def test_it_does_not_grow_because_the_source_is_slow() -> None:
    stack, slots = run_with(Growing(), Server(1e6, 0.2), 60.0, feed_secs=0.05)
    assert slots[-1] == 8
    assert stack._bound is not None
    assert max(stack._bound.secs, key=lambda cause: stack._bound.secs[cause]) == "source"  # type: ignore[union-attr]  # seen above


def test_one_cause_halves_it_once_and_it_comes_back_gently() -> None:
    window = Growing(start=64)
    window.troubled(10.0, 11.0)
    for _ in range(20):
        window.troubled(10.9, 11.2)  # they had left before
    assert window.slots == 32
    window.troubled(11.5, 12.0)
    assert window.slots == 16


def test_a_few_rows_that_a_server_falls_silent_over_leave_it_alone() -> None:
    window = Growing(start=64)
    for _ in range(4):
        window.hung(10.0, 12.0)
    assert window.slots == 64
    for _ in range(30):
        window.hung(10.0, 12.1)
    assert window.slots == 32, "that many are the server's, and one cause"

    window = Growing(start=8)
    for slots in (8, 8, 8, 4):
        window.hung(10.0, 12.0)
        assert window.slots == slots


def silent(
    server: Server, mute: Callable[[], bool], timeout_secs: float, error: ErrorType = "timeout"
) -> Callable[[Request], object]:
    """What answers some calls never: they are cut off after so long, and keep the server from nothing."""

    async def rule(asked: Request) -> str | Busy:
        if mute():
            await asyncio.sleep(timeout_secs)
            return Busy(error, "nothing came", maybe_billed=True)
        return await server(asked)

    return rule


def test_rows_that_hang_now_and_then_cost_the_others_nothing() -> None:
    def calls(every: int) -> int:
        nth = itertools.count(1)
        rule = silent(Server(1e6, 0.4, 0.5), lambda: next(nth) % every == 0, 2.0)
        stack, _ = run_with(Growing(most=128), rule, 60.0)
        return len(stack._inner.calls)  # type: ignore[attr-defined]  # the script that this test gave it

    assert calls(100) >= 0.9 * calls(10**9)


@pytest.mark.parametrize("error", ["timeout", "deadline"])
def test_a_server_that_says_nothing_above_a_number_is_kept_busy_below_it(error: ErrorType) -> None:
    server = Server(1e6, 1.0, 0.5)
    stack, slots = run_with(Growing(), silent(server, lambda: server.in_flight >= 50, 10.0, error), 300.0)
    tail = slots[120:]
    assert 20 < sum(tail) / len(tail) < 100
    calls = stack._inner.calls  # type: ignore[attr-defined]  # the script that this test gave it
    assert len(calls) > 300 * 20


def test_a_server_that_refuses_above_a_number_is_kept_busy_below_it() -> None:
    server = Server(1e6, 1.0, 0.5, limit=50)
    stack, slots = run_with(Growing(), server, 300.0)
    tail = slots[120:]
    assert sum(tail) / len(tail) > 20
    calls = stack._inner.calls  # type: ignore[attr-defined]  # the script that this test gave it
    assert len(calls) > 300 * 15


def test_a_pinned_number_stays() -> None:
    window = Growing()
    window.pin(5)
    _, slots = run_with(window, Server(1e6, 0.2), 30.0)
    assert set(slots) == {5}
    window.troubled(1e9, 1e9)
    assert window.slots == 5


def test_fewer_slots_are_reached_as_calls_come_home_and_more_are_given_out_at_once() -> None:
    async def story() -> list[int]:
        window, seen, grown = Window(4), list[int](), list[int]()
        window.grew = lambda: grown.append(window.slots)
        for _ in range(4):
            await window.acquire()
        waiting = [asyncio.create_task(window.acquire()) for _ in range(4)]
        await asyncio.sleep(0)
        window.resize(2)
        for _ in range(2):
            window.release()
            seen.append(window.in_flight)
        window.release()
        seen.append(window.in_flight)
        window.resize(5)
        seen.append(window.in_flight)
        await asyncio.gather(*waiting[:4])
        assert grown == [5]
        return seen

    assert simulated(story()) == [3, 2, 2, 5]


def test_memory_stays_flat_when_a_third_of_the_calls_take_twenty_times_as_long() -> None:
    """N11: the window bounds what is under way, whatever the latencies."""
    dice = random.Random(9)
    most = 0

    async def rule(_: Request) -> str:
        await asyncio.sleep(4.0 if dice.random() < 1 / 3 else 0.2)
        return "done"

    window = Growing(most=64)
    stack, slots = run_with(window, rule, 120.0)
    most = max(slots)
    assert most <= 64
    assert len(stack._inner.calls) > 30 * 120  # type: ignore[attr-defined]  # 64 slots, 1.5 s on average

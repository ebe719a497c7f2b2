from __future__ import annotations

import asyncio
from bisect import bisect_right
from itertools import pairwise

import pytest
from limits_simulation import Answering, Scripted, busy, now, refused_connection, request, simulated

from pipeline.errors import Busy, PipelineError, Refused, RunRejected, TransportError
from pipeline.limits import Backoff, Limited, Pause, Window
from pipeline.records import Request


def limited(wire: Answering | Scripted, slots: int = 4, rpm: float | None = None, spread: float = 1.0) -> Limited:
    return Limited(wire, Window(slots), rpm, pause=Pause(Backoff(), spread=lambda: spread))


async def commit(stack: Limited, name: str, commit_secs: float = 0.0) -> str:
    answer = await stack.send(request(name))
    await asyncio.sleep(commit_secs)
    stack.window.release()
    return answer.text


@pytest.mark.parametrize("rpm", [0.5, 7.0, 60.0, 299.0, 600.0, 6_000.0, 60_000.0])
@pytest.mark.parametrize("callers", [1, 3, 200])
def test_never_above_limit_plus_burst_in_any_window_and_close_below_it(rpm: float, callers: int) -> None:
    """P5, N7: with 0.2 s worth of burst; and at least 97 % of the rate is used."""

    async def story() -> list[float]:
        wire = Answering(lambda _: "done")
        stack = limited(wire, callers, rpm)
        calls = 400

        async def worker(nth: int) -> None:
            for _ in range(nth, calls, callers):
                await commit(stack, "row")

        await asyncio.gather(*(worker(nth) for nth in range(callers)))
        return [call.at for call in wire.calls]

    times = simulated(story())
    rate, burst = rpm / 60, max(1.0, rpm / 300)
    for window_secs in (0.01, 0.2, 1.0, 10.0, 60.0, 600.0):
        most = max(bisect_right(times, at + window_secs) - nth for nth, at in enumerate(times))
        assert most <= rate * window_secs + burst + 1e-3 + 1, (window_secs, most)
    assert (len(times) - burst) / (times[-1] - times[0]) >= 0.97 * rate


def test_calls_that_waited_for_slots_do_not_leave_in_a_burst() -> None:
    """The rate is asked for last: 16 answers arriving at once free 16 slots, and still calls leave one by one."""

    async def story() -> list[float]:
        async def slow(_: object) -> str:
            await asyncio.sleep(120)
            return "done"

        wire = Answering(slow)
        stack = limited(wire, 16, 60.0)
        await asyncio.gather(*(commit(stack, f"{nth}") for nth in range(48)))
        return [call.at for call in wire.calls]

    times = simulated(story())
    assert min(b - a for a, b in pairwise(times)) >= 1.0 - 1e-6


def test_no_more_calls_in_flight_than_slots_until_answers_are_committed() -> None:
    async def story() -> int:
        most = 0

        async def slow(_: object) -> str:
            await asyncio.sleep(1)
            return "done"

        wire = Answering(slow)
        stack = limited(wire, 3)

        async def caller(name: str) -> None:
            nonlocal most
            await stack.send(request(name))
            most = max(most, stack.window.in_flight)
            await asyncio.sleep(5)
            assert stack.window.in_flight == 3 or name >= "6"
            stack.window.release()

        await asyncio.gather(*(caller(f"{nth}") for nth in range(9)))
        assert stack.window.in_flight == 0
        return most

    assert simulated(story()) == 3


@pytest.mark.parametrize(
    "error", [busy(500), busy(429), Refused("bad_request", "no"), RunRejected("no"), refused_connection()]
)
def test_on_an_error_the_slot_goes_back_at_once(error: PipelineError) -> None:
    async def story() -> int:
        stack = limited(Scripted(error))
        with pytest.raises(type(error)):
            await stack.send(request("a"))
        return stack.window.in_flight

    assert simulated(story()) == 0


@pytest.mark.parametrize("secs", [0.5, 5.0])
def test_a_cancelled_call_gives_its_slot_back_wherever_it_was(secs: float) -> None:
    async def story() -> int:
        async def slow(_: object) -> str:
            await asyncio.sleep(3)
            return "done"

        stack = limited(Answering(slow), 2, 12.0)  # the first leaves at 0, the second waits 5 s for the rate
        tasks = [asyncio.create_task(stack.send(request(name))) for name in "abc"]
        await asyncio.sleep(secs)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        return stack.window.in_flight - sum(not isinstance(end, BaseException) for end in ended)

    assert simulated(story()) == 0


def test_a_shared_refusal_pauses_everybody_until_the_named_time() -> None:
    async def story() -> list[tuple[str, float]]:
        wire = Scripted(busy(429, 30.0), "b", "c")
        stack = limited(wire)
        assert stack.pause.left_secs == 0
        with pytest.raises(Busy):
            await stack.send(request("a"))
        assert stack.pause.left_secs == pytest.approx(30.0)
        await asyncio.gather(commit(stack, "b"), commit(stack, "c"))
        return [(call.row, round(call.at, 3)) for call in wire.calls]

    assert simulated(story()) == [("a", 0.0), ("b", 30.0), ("c", 30.0)]


def test_refusals_of_calls_already_under_way_do_not_lengthen_the_pause() -> None:
    async def story() -> float:
        latencies = iter([0.1, 5.0, 9.9])

        async def refuse(_: object) -> Busy:
            await asyncio.sleep(next(latencies))
            return busy(529)

        wire = Answering(refuse)
        stack = limited(wire, 3)
        await asyncio.gather(*(stack.send(request(n)) for n in "abc"), return_exceptions=True)
        began = now()
        await stack.pause.wait()
        return now() - began

    assert simulated(story()) == pytest.approx(0.0, abs=1e-3)  # begun at 0.1, over by 0.6, though c came home at 9.9


def test_a_later_time_named_by_the_server_does_lengthen_the_pause() -> None:
    async def story() -> float:
        waits = iter([(0.1, 2.0), (0.2, 60.0), (0.3, 1.0)])

        async def refuse(_: object) -> Busy:
            latency, named = next(waits)
            await asyncio.sleep(latency)
            return busy(429, named)

        stack = limited(Answering(refuse), 3)
        await asyncio.gather(*(stack.send(request(n)) for n in "abc"), return_exceptions=True)
        await stack.pause.wait()
        return now()

    assert simulated(story()) == pytest.approx(60.2)


def test_pauses_in_a_row_grow_and_an_answer_ends_the_row_of_them() -> None:
    async def story() -> list[float]:
        wire = Scripted(*[busy(529)] * 4, "ok", busy(529), "ok")
        stack = limited(wire)
        for _ in range(7):
            try:
                await stack.send(request("a"))
            except TransportError:
                continue
            stack.window.release()
        times = [call.at for call in wire.calls]
        return [round(b - a, 2) for a, b in pairwise(times)]

    assert simulated(story()) == [0.5, 1.0, 2.0, 4.0, 0.0, 0.5]


def test_a_pause_that_did_not_help_is_followed_by_single_calls_until_one_is_answered() -> None:
    async def story() -> tuple[int, int, float]:
        over = 20.0

        async def rule(_: object) -> str | Busy:
            await asyncio.sleep(0.01)
            return busy(429, 1.0) if now() < over else "done"

        wire = Answering(rule)
        stack = limited(wire, 16)

        async def row(name: str) -> None:
            while True:
                try:
                    await stack.send(request(name))
                except Busy:
                    continue
                stack.window.release()
                return

        await asyncio.gather(*(row(f"{nth}") for nth in range(64)))
        first = sum(call.at < 0.5 for call in wire.calls)
        during = sum(1.5 < call.at < over for call in wire.calls)
        return first, during, wire.calls[-1].at

    first, during, ended = simulated(story())
    assert first == 16
    assert during < 8
    assert ended < 120


def test_a_probe_that_hangs_does_not_keep_everybody_waiting() -> None:
    async def story() -> list[float]:
        answers: list[object] = [busy(429), busy(429), "hang", "hang", "fine", "fine"]

        async def rule(_: object) -> str | PipelineError:
            answer = answers.pop(0)
            if answer == "hang":
                await asyncio.sleep(600)
            return answer if isinstance(answer, PipelineError) else str(answer)

        wire = Answering(rule)
        stack = limited(wire, 4)
        for _ in range(2):
            with pytest.raises(Busy):
                await stack.send(request("a"))
        await asyncio.gather(*(commit(stack, n) for n in "bcde"))
        return [round(call.at, 1) for call in wire.calls]

    # after pauses of 0.5 and 1 s: one call each 5 s, and all the rest once one is answered
    assert simulated(story()) == [0.0, 0.5, 1.5, 6.5, 11.5, 11.5]


def test_a_call_cancelled_in_the_pause_does_not_take_the_turn_with_it() -> None:
    async def story() -> float:
        wire = Scripted(busy(429, 1.0), busy(429, 1.0), "b", "c")
        stack = limited(wire, 4)
        for _ in range(2):
            with pytest.raises(Busy):
                await stack.send(request("a"))
        first = asyncio.create_task(commit(stack, "x"))
        second = asyncio.create_task(commit(stack, "b"))
        # the very moment its turn comes: after the pause's timer, before the task has run
        asyncio.get_running_loop().call_at(stack.pause._until + 5e-10, first.cancel)
        await second
        return wire.calls[-1].at

    assert simulated(story()) == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize(
    ("failure", "times"),
    [
        (busy(529), [0.0, 0.0, 0.5, 1.5, 3.5]),  # it left before the server began to refuse, and says nothing of now
        (refused_connection(), [0.0, 0.0, 0.5, 0.6, 1.1]),  # but it does say that there is a server
    ],
)
def test_what_the_answer_to_an_earlier_call_says_about_a_pause(failure: Busy, times: list[float]) -> None:
    async def story() -> list[float]:
        async def rule(asked: Request) -> str | Busy:
            if asked.row_id == "slow":
                await asyncio.sleep(0.6)
                return "done"
            return failure if len(wire.calls) < 5 else "done"

        wire = Answering(rule)
        stack = limited(wire)

        async def row() -> None:
            for _ in range(3):
                with pytest.raises(Busy):
                    await stack.send(request("a"))
            await commit(stack, "a")

        await asyncio.gather(commit(stack, "slow"), row())
        return [round(call.at, 2) for call in wire.calls]

    assert simulated(story()) == times


def test_saved_up_time_is_no_burst() -> None:
    """C14: a run that stood still for half an hour goes on at its rate."""

    async def story() -> list[float]:
        wire = Answering(lambda _: "done")
        stack = limited(wire, 8, 600.0)
        await commit(stack, "a")
        await asyncio.sleep(1800)
        await asyncio.gather(*(commit(stack, f"{nth}") for nth in range(30)))
        return [call.at for call in wire.calls[1:]]

    times = simulated(story())
    assert bisect_right(times, times[0] + 1.0) <= 10 + 2

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from limits_server import Metered, Sizes, drive, most_in, patient
from limits_simulation import Scripted, busy, now, request, simulated

from pipeline.errors import Busy, Refused, TransportError
from pipeline.limits import Growing, Limited, Pace, Window
from pipeline.records import RateHeaders, RateLimit, Request, Response, Usage

RPM, ITPM, OTPM = 600.0, 200_000.0, 60_000.0


def rows() -> Iterator[str]:
    return (f"{nth}" for nth in itertools.count())


def sizes_of(
    chars: tuple[int, int],
    made: tuple[int, int],
    *,
    per_token: float = 4.0,
    noise: float = 0.0,
    large: tuple[float, int] = (0.0, 0),
) -> Callable[[str], Sizes]:
    """Rows of random size; a share of them of one large size."""
    known: dict[str, Sizes] = {}

    def sizes(row: str) -> Sizes:
        if row not in known:
            dice = random.Random(row)
            length = large[1] if dice.random() < large[0] else dice.randint(*chars)
            tokens = length / per_token * dice.uniform(1 - noise, 1 + noise)
            known[row] = Sizes(length, max(1, round(tokens)), dice.randint(*made))
        return known[row]

    return sizes


def uneven(mean: float) -> Callable[[], float]:
    dice = random.Random(8)
    return lambda: mean * dice.uniform(0.5, 1.5)


def after(
    server: Metered, pace: Pace, secs: float = 120.0, window: Window | None = None, workers: int = 64
) -> tuple[Limited, Metered]:
    async def story() -> Limited:
        stack = Limited(server, window or Window(workers), pace=pace, pause=patient())
        await drive(stack, server.sizes, rows(), secs, workers)
        return stack

    return simulated(story()), server


def used(server: Metered, begin: float, end: float) -> dict[str, float]:
    """The share of each limit that was used between two times."""
    secs = end - begin
    left = [line for line in server.ledger if begin <= line.at < end]
    came = [line for line in server.ledger if begin <= line.made_at < end]
    return {
        "requests": len(left) / ((server.rpm or math.inf) / 60 * secs),
        "input": sum(line.entered for line in left) / ((server.itpm or math.inf) / 60 * secs),
        "output": sum(line.made for line in came) / ((server.otpm or math.inf) / 60 * secs),
    }


def all_three(max_tokens: float = 1_024) -> Pace:
    return Pace(RPM, ITPM, OTPM, max_tokens=max_tokens)


MIXED = {
    "requests": sizes_of((100, 2_000), (20, 100)),
    "input": sizes_of((400, 8_000), (20, 100)),
    "output": sizes_of((100, 1_000), (100, 300)),
}


@pytest.mark.parametrize("whole_minute", [False, True])
@pytest.mark.parametrize("binds", ["requests", "input", "output"])
def test_a_server_that_enforces_the_stated_limits_refuses_nothing_and_is_used_up(
    binds: str, whole_minute: bool
) -> None:
    """N7, N8: whichever limit binds, from ten seconds on."""
    server = Metered(MIXED[binds], RPM, ITPM, OTPM, whole_minute=whole_minute, latency=uneven(0.5))
    stack, _ = after(server, all_three())
    assert not server.refusals
    assert used(server, 10, 120)[binds] >= 0.97
    assert stack.bound_by() == {"requests": "requests"}.get(binds, f"{binds}_tokens") + "_per_minute"
    lines = sorted(server.ledger, key=lambda line: line.at)
    times = [line.at for line in lines]
    assert most_in(times, [1.0] * len(times), 60) <= RPM + RPM / 300 + 1
    assert most_in(times, [line.entered for line in lines], 60) <= ITPM + ITPM / 300


@pytest.mark.parametrize("per_token", [1.4, 2.0, 4.0, 6.0])
def test_sizes_skewed_a_hundredfold_and_estimates_that_are_far_off_settle_within_ten_seconds(per_token: float) -> None:
    """N8: the first guess is two characters a token and a half more, so up to 4.5 times too high here."""
    sizes = sizes_of((150, 250), (10, 30), per_token=per_token, noise=0.1, large=(0.3, 20_000))
    large = 20_000 / per_token
    itpm = large * 40
    server = Metered(sizes, None, itpm, None, latency=uneven(0.5))
    after(server, Pace(None, itpm))
    assert len(server.refusals) <= 2
    assert all(at < 10 for at in server.refusals)
    assert used(server, 10, 120)["input"] >= 0.94  # one large row is 2.5 % of a minute
    lines = sorted(server.ledger, key=lambda line: line.at)
    top = most_in([line.at for line in lines], [line.entered for line in lines], 60)
    assert top <= itpm * (1 + 1 / 300)


def test_large_rows_are_not_starved_by_small_ones() -> None:
    """First come, first served: no row leaves before one that has stood in line longer."""

    async def story() -> list[str]:
        left: list[str] = []
        pace = Pace(None, 60_000.0)

        async def caller(name: str, chars: float) -> None:
            turn = await pace.turn(chars)
            left.append(name)
            pace.answered(turn, Usage(input_tokens=round(chars / 4), output_tokens=1), now())

        tasks = []
        for nth in range(600):
            big = nth % 60 == 30
            tasks.append(asyncio.create_task(caller(f"{nth}", 30_000 if big else 300)))
            await asyncio.sleep(0.05)
        await asyncio.gather(*tasks)
        return left

    assert simulated(story()) == [f"{nth}" for nth in range(600)]


@pytest.mark.parametrize(("kind", "chars"), [("stated", 1_200_000), ("told", 1_200_000)])
def test_a_request_larger_than_a_whole_minute_is_its_rows_failure_and_says_so(kind: str, chars: int) -> None:
    async def story() -> tuple[Refused, int, int]:
        pace = Pace(None, ITPM if kind == "stated" else None)
        await pace.turn(1.0)
        if kind == "told":
            pace.told(RateHeaders({"input_tokens": RateLimit(ITPM)}))
        wire = Scripted()
        stack = Limited(wire, Window(2), pace=pace)
        with pytest.raises(Refused) as caught:
            await stack.send(replace(request("huge"), prompt=b"x" * chars))
        return caught.value, len(wire.calls), stack.window.in_flight

    error, calls, in_flight = simulated(story())
    assert error.error_type == "over_limit"
    assert (calls, in_flight) == (0, 0)
    whose = "the limit" if kind == "stated" else "the server's limit"
    assert str(error) == (
        f"the request needs about 240,000 input tokens, and {whose} of 200,000 input tokens per minute lets none so "
        "large pass; make it shorter or raise the limit"
    )


def test_a_request_close_to_a_whole_minute_passes() -> None:
    server = Metered(lambda _: Sizes(760_000, 190_000, 10), None, ITPM, None)
    after(server, Pace(None, ITPM), 200.0, workers=2)
    assert [round(line.at) for line in server.ledger][:3] == [0, 60, 121]
    assert not server.refusals


def test_cache_reads_do_not_count() -> None:
    async def story() -> float:
        pace = Pace(None, 60_000.0)
        for _ in range(60):
            turn = await pace.turn(40_000)
            usage = Usage(input_tokens=100, output_tokens=1, cache_read_tokens=9_900)
            pace.answered(turn, usage, now())
        return now()

    assert simulated(story()) < 40  # ten thousand each would take ten minutes


@pytest.mark.parametrize(
    ("failure", "counted"),
    [
        (Busy("timeout", "no answer", maybe_billed=True), True),
        (Busy("connection", "reset", maybe_billed=True), True),
        (Busy("connection", "refused"), False),
        (busy(429), False),
        (busy(529), False),
        (Refused("bad_request", "no", http_status=400), False),
    ],
)
def test_a_call_whose_answer_never_came_stays_counted(failure: TransportError, counted: bool) -> None:
    async def story() -> float:
        pace = Pace(None, 60_000.0)
        stack = Limited(Scripted(failure), Window(1), pace=pace)
        with pytest.raises(type(failure)):
            await stack.send(replace(request("a"), prompt=b"x" * 20_000))
        bucket = pace._buckets[0]
        assert bucket is not None
        return bucket._total

    assert simulated(story()) == pytest.approx(15_000 if counted else 0)


def test_a_caller_that_gives_up_in_line_takes_nothing_with_it() -> None:
    async def story() -> tuple[float, int]:
        pace = Pace(60.0, 60_000.0)
        await pace.turn(4_000)
        waiting = [asyncio.create_task(pace.turn(4_000)) for _ in range(5)]
        await asyncio.sleep(0.5)
        for task in waiting[:4]:
            task.cancel()
        await waiting[4]
        return now(), pace.waiting

    at, waiting = simulated(story())
    assert at == pytest.approx(3.0, abs=0.1)  # when the 3,000 tokens of the first are paid for
    assert waiting == 0


def test_standing_still_saves_up_no_burst() -> None:
    """C14: SIGSTOP, half a minute, SIGCONT: many timers are due at once."""

    async def story() -> Metered:
        server = Metered(MIXED["input"], RPM, ITPM, OTPM)
        stack = Limited(server, Window(64), pace=all_three(), pause=patient())
        loop = asyncio.get_running_loop()

        def leap() -> None:
            loop._jump.now += 30.0  # type: ignore[attr-defined]  # the simulated loop's clock

        loop.call_later(20.0, leap)
        await drive(stack, server.sizes, rows(), 90.0, 64)
        return server

    server = simulated(story())
    assert not server.refusals
    lines = sorted((line for line in server.ledger if line.at > 49), key=lambda line: line.at)
    first = lines[0].at
    assert sum(line.entered for line in lines if line.at < first + 1) <= ITPM / 60 * 1.2 + 2_000
    assert sum(line.at < first + 1 for line in lines) <= RPM / 60 * 1.2 + 1


@pytest.mark.parametrize("told", [300.0, 1_200.0])
def test_of_what_the_job_states_and_what_the_server_tells_the_lower_holds(told: float) -> None:
    server = Metered(MIXED["requests"], told, 1e9, 1e9, latency=uneven(0.3))
    after(server, Pace(RPM))
    lower = min(told, RPM)
    lines = [line for line in server.ledger if 20 <= line.at < 120]
    assert len(lines) == pytest.approx(lower / 60 * 100, rel=0.03)
    assert len(server.refusals) < 5


@pytest.mark.parametrize("limits", [(RPM, None, None), (None, ITPM, None), (RPM, ITPM, OTPM)])
@pytest.mark.parametrize("latency", [0.3, 3.0])
def test_limits_that_nobody_states_are_learnt_from_headers(
    limits: tuple[float | None, float | None, float | None], latency: float
) -> None:
    server = Metered(sizes_of((400, 4_000), (20, 100)), *limits, latency=uneven(latency))
    after(server, Pace(max_tokens=1_024, learns=True), 300.0, Growing(), 256)
    assert max(used(server, 30, 300).values()) >= 0.95
    assert len(server.refusals) < 0.02 * len(server.ledger)


@pytest.mark.parametrize("whole_minute", [False, True])
@pytest.mark.parametrize("latency", [0.3, 3.0])
def test_a_limit_that_shows_in_refusals_alone_is_learnt(latency: float, whole_minute: bool) -> None:
    server = Metered(MIXED["requests"], RPM, whole_minute=whole_minute, tells=False, latency=uneven(latency))
    after(server, Pace(max_tokens=1_024, learns=True), 600.0, Growing(), 256)
    assert used(server, 90, 600)["requests"] >= 0.9
    assert len(server.refusals) < 0.02 * len(server.ledger)


def test_a_limit_that_a_refusal_names_is_kept_from_then_on() -> None:
    server = Metered(MIXED["input"], None, ITPM, None, tells=False, names=True, latency=uneven(0.3))
    after(server, Pace(learns=True), 120.0, Growing(), 256)
    assert used(server, 15, 120)["input"] >= 0.97
    assert len(server.refusals) < 8


def test_another_user_of_the_same_limit_is_made_room_for() -> None:
    """Headers tell that little is left: the next call waits until there is enough."""

    async def story() -> float:
        pace = Pace(None, 60_000.0)
        pace.answered(await pace.turn(2_000), Usage(input_tokens=500, output_tokens=1), now())
        pace.told(RateHeaders({"input_tokens": RateLimit(60_000, 0, 50)}))
        await pace.turn(20_000)
        return now()

    assert 3 < simulated(story()) < 20


def test_a_limit_per_day_is_no_pace() -> None:
    async def story() -> float:
        pace = Pace(learns=True)
        await pace.turn(100)
        pace.told(RateHeaders({"requests": RateLimit(200, 150, 21_600)}))
        for _ in range(100):
            await pace.turn(100)
        return now()

    assert simulated(story()) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("factor", [0.1, 0.5, 3.0])
def test_retuning_takes_effect_at_once_and_makes_no_burst(factor: float) -> None:
    async def story() -> tuple[float, Metered]:
        server = Metered(MIXED["input"], tells=False)
        stack = Limited(server, Window(64), pace=all_three(), pause=patient())

        def retune() -> None:
            stack.retune(
                requests_per_minute=RPM * factor,
                input_tokens_per_minute=ITPM * factor,
                output_tokens_per_minute=OTPM * factor,
                concurrency=200,
            )

        asyncio.get_running_loop().call_later(30.0, retune)
        await drive(stack, server.sizes, rows(), 130.0, 200)
        return now(), server

    _, server = simulated(story())
    lines = sorted((line for line in server.ledger if line.at > 30.05), key=lambda line: line.at)
    times, amounts = [line.at for line in lines], [line.entered for line in lines]
    assert most_in(times, amounts, 1.0) <= ITPM / 60 * factor * 1.2 + 2_000
    assert sum(amounts) >= 0.9 * ITPM / 60 * factor * 95


def test_a_rate_of_requests_that_creeps_up_makes_no_bursts() -> None:
    """A learnt rate changes every second; each change is a new bucket."""

    async def story() -> list[float]:
        pace, times = Pace(600.0), list[float]()
        while now() < 60.0:
            pace.retune(requests_per_minute=600.0 + int(now() * 4))
            await pace.turn(1.0)
            times.append(now())
        return times

    times = simulated(story())
    assert 0.97 * 60 * 11 <= len(times) <= 60 * 12.1
    assert most_in(times, [1.0] * len(times), 1.0) <= 14.1 + 3 + 1


def test_a_limit_can_be_taken_away_and_a_pinned_window_too() -> None:
    async def story() -> tuple[float, int]:
        server = Metered(MIXED["requests"], tells=False)
        stack = Limited(server, Window(1), pace=Pace(6.0), pause=patient())
        asyncio.get_running_loop().call_later(5.0, lambda: stack.retune(requests_per_minute=math.inf, concurrency=32))
        await drive(stack, server.sizes, rows(), 30.0, 64)
        return now(), len(server.ledger)

    assert simulated(story())[1] > 1_000


def test_without_limits_nobody_waits_and_nothing_is_counted() -> None:
    async def story() -> float:
        pace = Pace()
        for _ in range(1_000):
            pace.answered(await pace.turn(1e9), Usage(10**9, 10**9), now())
        return now()

    assert simulated(story()) == pytest.approx(0.0, abs=1e-3)


def test_a_refused_call_made_to_wait_is_not_sent_with_a_stale_turn() -> None:
    """Many wait for a slot when a pause comes and goes: they leave at the rate, none wastes its turn."""

    async def story() -> list[float]:
        class Once:
            def __init__(self) -> None:
                self.times: list[float] = []

            async def send(self, _: Request) -> Response:
                self.times.append(now())
                if len(self.times) == 1:
                    raise busy(429, 1.0)
                await asyncio.sleep(0.01)
                return Response(b"{}", "done", "end_turn", "m", None)

        wire = Once()
        stack = Limited(wire, Window(4), 60.0, pause=patient())

        async def one(nth: int) -> None:
            while True:
                try:
                    await stack.send(request(f"{nth}"))
                except Busy:
                    continue
                stack.window.release()
                return

        await asyncio.gather(*(one(nth) for nth in range(20)))
        return wire.times

    times = simulated(story())
    assert times[-1] <= 21 + 3

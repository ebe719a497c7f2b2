"""Laws of a run in an outage: whatever fails, nobody is forgotten, little is asked, and all goes on afterwards."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits_simulation import busy, now, refused_connection, request, simulated

from pipeline.answer import Contract, Reading
from pipeline.cost import Pricer
from pipeline.errors import Busy, Refused, Unavailable
from pipeline.journal import Claim
from pipeline.limits import Limited, Outage, Pause, Retrying, Window, WorstCase
from pipeline.records import Key, Outcome, Request, Response, Usage
from pipeline.run.ask import PARKED_AT_LEAST, PARKED_PER_SLOT, Feed, Pool, Stack
from pipeline.run.conversation import Settling
from pipeline.run.coordinator import Coordinator, Given

RAW = b'{"type":"message","content":[{"type":"text","text":"fine"}],"stop_reason":"end_turn"}'
COMMIT_SECS = 0.002
REFUSED_SECS = 0.01
DOWN_SECS = 60.0
RESET = Busy("connection", "the connection was reset", maybe_billed=True)
TIMEOUT = Busy("timeout", "no answer within 600 s", maybe_billed=True)
ERRORS = {"500": busy(500), "503": busy(503), "529": busy(529), "reset": RESET, "no connection": refused_connection()}

Rule = Callable[[int, random.Random], tuple[float, Busy | Refused | None]]
"""How long a call of the nth row takes, and how it ends."""


def anew(error: Busy) -> Busy:
    """The same again: an error that is raised twice would gather both tracebacks."""
    return Busy(
        error.error_type,
        str(error),
        http_status=error.http_status,
        wait_secs=error.wait_secs,
        shared=error.shared,
        maybe_billed=error.maybe_billed,
    )


# --- what is counted


@dataclass
class Ledger:
    """Every call ever made, and how it ended: what `Outage` says must follow from it."""

    rows: dict[int, Key] = field(default_factory=dict)
    under_way: set[int] = field(default_factory=set)
    known_at: int | None = None
    young: list[tuple[int, Key]] = field(default_factory=list)
    unanswered: set[Key] = field(default_factory=set)

    def left(self, nth: int, key: Key) -> None:
        self.rows[nth] = key
        self.under_way.add(nth)

    def ended(self, nth: int, how: str) -> None:
        self.under_way.remove(nth)
        young = self.known_at is not None and nth > self.known_at
        if how == "answered":
            self.unanswered.clear()
            if young:
                self.known_at = None
                self.young.clear()
        elif how == "failed":
            self.unanswered.add(self.rows[nth])
            if young:
                self.young.append((nth, self.rows[nth]))
            elif self.known_at is None:
                self.known_at = max(self.rows)

    @property
    def likely(self) -> bool:
        if len(self.unanswered) >= 3:
            return True
        if self.known_at is None:
            return False
        under_way = [nth for nth in self.under_way if nth > self.known_at]
        return len({key for _, key in self.young}) >= 3 and len(self.young) > len(under_way)


@pytest.mark.parametrize("seed", range(20))
def test_an_outage_is_likely_exactly_when_the_record_of_every_call_says_so(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        outage, ledger = Outage("h", clock=lambda: 0.0), Ledger()
        ways = chance.choices(
            ["left", "failed", "answered", "cancelled"], [4, 3, chance.random(), chance.random()], k=80
        )
        for way in ways:
            if way == "left":
                ledger.left(outage.left(), bytes([chance.randrange(8)]))
            elif ledger.under_way:
                nth = chance.choice(sorted(ledger.under_way))
                ledger.ended(nth, way)
                match way:
                    case "failed":
                        outage.failed(busy(500), 0.0, ledger.rows[nth], nth)
                    case "answered":
                        outage.answered(nth)
                    case _:
                        outage.cancelled(nth)
            assert outage.likely == ledger.likely


# --- the pause

Step = tuple[str, int, float]
STEPS = st.tuples(
    st.sampled_from(["come", "come", "leave", "failed", "failed for all", "answered", "named"]),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.01, 0.7, 6.0, 40.0]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=40), st.integers(0, 1000))
def test_nobody_who_waits_in_a_pause_is_forgotten(steps: Sequence[Step], seed: int) -> None:
    async def story() -> None:
        pause = Pause(spread=random.Random(seed).random)
        waiting: list[asyncio.Task[int]] = []
        tickets = [0]
        for what, number, secs in steps:
            await asyncio.sleep(secs)
            tickets += [task.result() for task in waiting if task.done() and not task.cancelled()]
            match what:
                case "come":
                    waiting.append(asyncio.create_task(pause.wait(number)))
                case "leave" if waiting:
                    waiting.pop(number % len(waiting)).cancel()
                case "failed":
                    pause.failed(busy(500), tickets[-1 - number % len(tickets)])
                case "failed for all":
                    pause.failed(busy(529), tickets[-1 - number % len(tickets)])
                case "named":
                    pause.failed(busy(429, 30.0), tickets[-1])
                case "answered":
                    pause.answered(tickets[-1])
        begun = now()
        await asyncio.gather(*waiting, return_exceptions=True)
        # Singly at worst, after a pause of a minute at most.
        assert now() - begun <= 60.0 + 5.0 * len(waiting) + 1.0
        await asyncio.sleep(61.0)
        assert not pause.on

    simulated(story())


# --- whole runs


class Rows(Feed):
    """So many rows, without a plan."""

    def __init__(self, number: int) -> None:
        self._names = iter(range(number))
        self.stopped = False

    @property
    def ready(self) -> bool:
        return True

    async def next(self) -> Request | None:
        nth = None if self.stopped else next(self._names, None)
        self.stopped |= nth is None
        return None if nth is None else request(str(nth))

    def stop(self) -> None:
        self.stopped = True


class Memory(Coordinator):
    """A journal that forgets, and knows which claims are held and which of them are parked."""

    def __init__(self) -> None:
        self.held: dict[int, bool] = {}
        self._given = 0

    async def claim(
        self, keys: Sequence[Key], settled: Sequence[Outcome] = (), worst: Sequence[int] = ()
    ) -> list[Given]:
        await self.keep(settled)
        self._given += 1
        self.held[self._given] = False
        return [Claim(self._given, keys[0])]

    async def park(self, claim: int, *, parked: bool, worst: int = 0) -> None:
        await asyncio.sleep(COMMIT_SECS)
        self.held[claim] = parked

    async def keep(self, outcomes: Sequence[Outcome]) -> None:
        await asyncio.sleep(COMMIT_SECS)
        for outcome in outcomes:
            del self.held[outcome.claim]

    async def release(self, claims: Sequence[int]) -> None:
        await asyncio.sleep(COMMIT_SECS)
        for claim in claims:
            del self.held[claim]


@dataclass
class Told:
    """What came of a run.

    Attributes:
        ended_at: when.
        error: what ended it, where something did.
        failed: rows.
        answered: how many rows.
        calls: when each left, and whether it was answered.
        most_held: rows claimed at the same time.
        held: claims left at the end.
        in_flight: slots taken at the end.
    """

    ended_at: float = 0.0
    error: Unavailable | None = None
    failed: int = 0
    answered: int = 0
    calls: list[tuple[float, bool]] = field(default_factory=list)
    most_held: int = 0
    held: int = 0
    in_flight: int = 0

    def ended(self, outcome: Outcome) -> None:
        self.answered += outcome.status == "ok"
        self.failed += outcome.status == "failed"

    def lost(self, since: float = 0.0, until: float = math.inf) -> int:
        """How many calls that left then were not answered."""
        return sum(since <= at < until and not answered for at, answered in self.calls)


@dataclass
class Server:
    rule: Rule
    told: Told
    random: random.Random
    journal: Memory

    async def send(self, request: Request) -> Response:
        self.told.most_held = max(self.told.most_held, len(self.journal.held))
        secs, error = self.rule(int(request.row_id), self.random)
        self.told.calls.append((now(), error is None))
        await asyncio.sleep(secs)
        if isinstance(error, Busy):
            raise anew(error)
        if error is not None:
            raise Refused("bad_request", "no", http_status=400)
        return Response(RAW, "fine", "end_turn", "m", Usage(1, 1))


def run_of(rows: int, slots: int, rule: Rule, *, seed: int = 1, drain_at: float | None = None) -> Told:
    """Ask for all rows, as a run does."""
    told, chance = Told(), random.Random(seed)

    async def story() -> None:
        journal = Memory()
        server = Server(rule, told, chance, journal)
        limited = Limited(server, Window(slots), pause=Pause(spread=chance.random), outage=Outage("h"))
        settling = Settling(Contract({}, None, Reading(None), 0), Pricer({}), "m", WorstCase(lambda _in, _out: 0))
        retrying = Retrying(limited, spread=chance.random, attempt_secs=600.0)
        pool = Pool(Rows(rows), journal, Stack(retrying, limited, settling), told)
        retrying.waiting = pool.waiting
        if drain_at is not None:
            asyncio.get_running_loop().call_at(drain_at, pool.drain)
        try:
            await pool.run(grace_secs=25.0)
        except Unavailable as error:
            told.error = error
        told.ended_at, told.held, told.in_flight = now(), len(journal.held), limited.window.in_flight

    simulated(story())
    return told


def down(latency: float, error: Busy, times: Iterable[tuple[float, float]]) -> Rule:
    times = list(times)

    def rule(_nth: int, chance: random.Random) -> tuple[float, Busy | None]:
        if any(begun <= now() < ended for begun, ended in times):
            return REFUSED_SECS, error
        return latency * chance.uniform(0.5, 1.5), None

    return rule


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize(("slots", "latency"), [(1, 1.0), (4, 2.0), (16, 0.2), (64, 10.0), (200, 60.0)])
def test_an_outage_of_a_minute_fails_no_row_costs_few_calls_and_is_soon_over(
    slots: int, latency: float, error: Busy
) -> None:
    begun = 2 * latency + 5
    rows = min(1500, int(slots * (8 + (begun + 10) / latency)))
    told = run_of(rows, slots, down(latency, error, [(begun, begun + DOWN_SECS)]))
    assert (told.failed, told.answered, told.error) == (0, rows, None)
    # The first pause is the same for all and short; then calls go out singly.
    assert told.lost() <= 2 * slots + 30
    # Of rows that wait, there is one for each call that was lost.
    assert told.most_held <= slots + told.lost()
    # Our own pauses end within a quarter of a minute, those after refusals for all within a minute.
    pause_secs = 60.0 if error.shared else 15.0
    back = next(at for at, _ in told.calls if at >= begun + DOWN_SECS)
    assert back - begun - DOWN_SECS <= pause_secs
    undisturbed = run_of(rows, slots, down(latency, error, [])).ended_at
    assert told.ended_at <= undisturbed + DOWN_SECS + pause_secs + 2 * 1.5 * latency


@pytest.mark.parametrize("error", ["500", "503", "529", "no connection"])
def test_an_outage_that_outlasts_the_patience_ends_the_run_and_leaves_rows_as_they_were(error: str) -> None:
    told = run_of(600, 16, down(1.0, ERRORS[error], [(10.0, math.inf)]))
    assert told.error is not None
    assert 1800 <= told.ended_at - 10 <= 1900
    assert (told.failed, told.held, told.in_flight) == (0, 0, 0)
    assert told.lost() <= 2 * 16 + 1800 / 5


@pytest.mark.parametrize("secs", [0.05, 1.0, 10.0])
@pytest.mark.parametrize(("slots", "latency"), [(4, 2.0), (64, 10.0)])
def test_outages_that_come_back_every_minute_fail_no_row(slots: int, latency: float, secs: float) -> None:
    rows = int(slots / latency * 240)
    told = run_of(rows, slots, down(latency, busy(500), ((at, at + secs) for at in range(30, 6000, 60))))
    assert (told.failed, told.answered) == (0, rows)
    # Of each minute, the outage, a pause and a latency are lost at most.
    assert told.ended_at <= 240 * 60 / (60 - secs - 15 - 1.5 * latency) + 60


@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.parametrize(("slots", "latency"), [(4, 2.0), (64, 10.0), (64, 60.0)])
def test_failures_at_random_cost_no_throughput(slots: int, latency: float, share: float) -> None:
    def rule(_nth: int, chance: random.Random) -> tuple[float, Busy | None]:
        return (REFUSED_SECS, busy(500)) if chance.random() < share else (latency * chance.uniform(0.5, 1.5), None)

    rows = 20 * slots
    told, undisturbed = run_of(rows, slots, rule), run_of(rows, slots, down(latency, busy(500), []))
    assert told.answered >= rows - 1
    assert told.ended_at <= 1.2 * undisturbed.ended_at


@pytest.mark.parametrize("error", ["500", "reset"])
def test_half_a_fleet_that_is_down_for_long_still_does_half_the_work(error: str) -> None:
    def rule(_nth: int, chance: random.Random) -> tuple[float, Busy | None]:
        return (REFUSED_SECS, ERRORS[error]) if chance.random() < 0.5 else (10 * chance.uniform(0.5, 1.5), None)

    told, undisturbed = run_of(960, 64, rule), run_of(960, 64, down(10.0, busy(500), []))
    assert told.error is None
    assert told.answered + told.failed == 960
    assert told.failed < 960 * 0.5**6 * 2.5
    assert told.ended_at <= 2 * undisturbed.ended_at


def falling_over(latency: float, bad: Callable[[int], bool]) -> Rule:
    def rule(nth: int, chance: random.Random) -> tuple[float, Busy | None]:
        return (REFUSED_SECS, busy(500)) if bad(nth) else (latency * chance.uniform(0.5, 1.5), None)

    return rule


@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.parametrize(("slots", "latency"), [(4, 2.0), (64, 1.0), (64, 10.0)])
def test_rows_that_a_server_falls_over_here_and_there_are_done_with_when_the_others_are(
    slots: int, latency: float, share: float
) -> None:
    rows = 20 * slots
    bad = {nth for nth in range(rows) if random.Random(nth * 31 + 7).random() < share}
    told = run_of(rows, slots, falling_over(latency, bad.__contains__))
    assert (told.error, told.failed, told.answered) == (None, len(bad), rows - len(bad))
    assert told.ended_at <= 1.2 * 20 * latency + 30


@pytest.mark.parametrize(("slots", "latency"), [(1, 1.0), (2, 1.0), (4, 2.0), (16, 2.0)])
def test_two_dozen_bad_rows_in_succession_hold_up_the_rest_for_minutes_at_most(slots: int, latency: float) -> None:
    told = run_of(15 * slots + 24, slots, falling_over(latency, lambda nth: 5 * slots <= nth < 5 * slots + 24))
    assert (told.error, told.failed, told.answered) == (None, 24, 15 * slots)
    assert told.ended_at <= 15 * latency + 300


@pytest.mark.parametrize("slots", [1, 2, 4, 16])
def test_while_there_are_rows_to_try_no_row_uses_up_its_attempts_in_a_long_outage(slots: int) -> None:
    told = run_of(20 * slots + 300, slots, down(1.0, busy(500), [(10.0, 1510.0)]))
    assert (told.error, told.failed, told.answered) == (None, 0, 20 * slots + 300)


def test_rows_that_are_all_refused_for_themselves_are_no_outage() -> None:
    told = run_of(200, 16, lambda _nth, _chance: (0.1, Refused("bad_request", "no", http_status=400)))
    assert (told.error, told.failed, len(told.calls)) == (None, 200, 200)


def test_a_row_that_no_server_answers_comes_to_an_end_though_nobody_else_is_there() -> None:
    told = run_of(1, 4, lambda _nth, _chance: (600.0, TIMEOUT))
    assert (told.error, told.failed) == (None, 1)


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_run_that_is_asked_to_stop_in_an_outage_ends_at_once_and_holds_nothing(error: Busy) -> None:
    told = run_of(400, 16, down(1.0, error, [(5.0, math.inf)]), drain_at=77.7)
    assert told.ended_at < 77.7 + 0.1
    assert (told.error, told.failed, told.held, told.in_flight) == (None, 0, 0, 0)


def chaos(seed: int) -> tuple[int, int, Rule]:
    """Slots, rows, and a server with outages of all kinds, bad rows, and failures at random."""
    chance = random.Random(seed)
    latency = chance.choice([0.2, 1.0, 5.0, 20.0, 60.0])
    kinds = [*ERRORS.values(), busy(504), busy(429, 30.0), busy(529, 90.0), TIMEOUT]
    at, outages = chance.uniform(0, 100), list[tuple[float, float, Busy, float, float]]()
    for _ in range(chance.randrange(1, 6)):
        secs = chance.choice([0.1, 1.0, 10.0, 60.0, 300.0])
        outages.append((at, at + secs, chance.choice(kinds), chance.choice([0.01, 0.5, 30.0]), chance.choice([1, 0.9])))
        at += secs + chance.choice([0, 1, 30, 200])
    bad, refused, lost = chance.choice([0, 0, 0.01, 0.1]), chance.choice([0, 0, 0.1]), chance.choice([0, 0.02, 0.1])

    def rule(nth: int, chance: random.Random) -> tuple[float, Busy | Refused | None]:
        for begun, ended, error, secs, share in outages:
            if begun <= now() < ended and chance.random() < share:
                return secs, error
        kind = random.Random(nth * 7919 + seed).random()
        if kind < bad:
            return 0.05, busy(500)
        if kind < bad + refused:
            return 0.1, Refused("bad_request", "no", http_status=400)
        return (0.01, RESET) if chance.random() < lost else (latency * chance.uniform(0.5, 1.5), None)

    slots = chance.choice([1, 2, 4, 16, 64])
    return slots, int(slots * chance.choice([0.5, 3, 10]) + 5), rule


@pytest.mark.parametrize("seed", range(40))
def test_whatever_goes_wrong_every_row_ends_or_the_run_does(seed: int) -> None:
    slots, rows, rule = chaos(seed)
    told = run_of(rows, slots, rule, seed=seed)
    assert told.answered + told.failed == rows or told.error is not None
    assert (told.held, told.in_flight) == (0, 0)
    assert told.most_held <= slots + max(PARKED_AT_LEAST, slots * PARKED_PER_SLOT)


@pytest.mark.parametrize(("slots", "bad"), [(64, 24), (64, 120), (8, 24)])
def test_bad_rows_at_the_very_end_come_to_their_end_before_patience_does(slots: int, bad: int) -> None:
    rows = 300

    def rule(nth: int, chance: random.Random) -> tuple[float, Busy | None]:
        return (REFUSED_SECS, busy(500)) if nth >= rows - bad else (10.0 * chance.uniform(0.5, 1.5), None)

    told = run_of(rows, slots, rule)
    assert (told.error, told.failed, told.answered) == (None, bad, rows - bad)

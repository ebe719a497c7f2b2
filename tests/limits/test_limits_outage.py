from __future__ import annotations

import asyncio

import pytest
from limits_simulation import busy, refused_connection, simulated

from pipeline.errors import Busy, Unavailable
from pipeline.limits import Outage, Trouble
from pipeline.limits.outage import cause

TIMEOUT = Busy("timeout", "no answer within 600 s", maybe_billed=True)


def given_up_after(*failures: tuple[float, Busy, str], answered_at: float | None = None) -> float | None:
    """Feed failures (at, error, row); when the outage was declared, or None."""

    async def story() -> float | None:
        loop = asyncio.get_running_loop()
        outage = Outage("api.example.com", clock=loop.time)
        for at, error, row in failures:
            if answered_at is not None and loop.time() < answered_at <= at:
                await asyncio.sleep(answered_at - loop.time())
                outage.answered(outage.left())
            await asyncio.sleep(at - loop.time())
            try:
                outage.failed(error, at, row.encode(), outage.left())
            except Unavailable:
                return round(loop.time())
        return None

    return simulated(story())


def every(secs: int, until: int, error: Busy, rows: str = "abc") -> list[tuple[float, Busy, str]]:
    return [(float(at), error, rows[nth % len(rows)]) for nth, at in enumerate(range(0, until, secs))]


@pytest.mark.parametrize(
    ("failures", "at"),
    [
        (every(5, 100, refused_connection()), 30),
        (every(5, 100, refused_connection(), rows="a"), 30),
        (every(10, 4000, busy(500)), 1800),
        (every(10, 4000, busy(503)), 1800),
        (every(10, 4000, busy(429)), 1800),
        # a refusal for all uses up no attempts of its row, so the last row alone must come to an end too
        (every(10, 4000, busy(429), rows="a"), 1800),
        (every(10, 4000, busy(529), rows="ab"), 1800),
        (every(600, 4000, TIMEOUT), 1800),
        ([(0.0, busy(503), "a"), *every(5, 4000, refused_connection())[1:]], 1800),
        # one row, or two, that the server falls over: theirs to end, not the run's
        (every(600, 9000, TIMEOUT, rows="a"), None),
        (every(10, 9000, busy(500), rows="ab"), None),
    ],
)
def test_when_an_outage_is_declared(failures: list[tuple[float, Busy, str]], at: float | None) -> None:
    assert given_up_after(*failures) == at


def test_an_answer_starts_the_clock_anew() -> None:
    assert given_up_after(*every(10, 4000, busy(500)), answered_at=1005.0) == 2810


def test_once_answered_a_refused_connection_is_an_outage_like_any_other() -> None:
    assert given_up_after(*every(5, 4000, refused_connection()), answered_at=12.0) == 1815


def test_a_quiet_stretch_before_a_failure_is_no_outage() -> None:
    assert given_up_after((0.0, busy(500), "a"), (9_000.0, busy(500), "b"), answered_at=1.0) is None


def test_the_message_names_host_last_error_and_what_to_do() -> None:
    async def story() -> None:
        outage = Outage("api.example.com", never_answered_secs=0.0)
        outage.failed(refused_connection(), 0.0, b"a", outage.left())

    with pytest.raises(Unavailable) as caught:
        simulated(story())
    assert caught.value.reason == "outage"
    assert caught.value.exit_code == 75
    assert str(caught.value) == (
        "api.example.com could not be reached for 0 s, last: the connection was refused; "
        "what was answered is kept, and the same command later goes on from here"
    )


@pytest.mark.parametrize(
    ("error", "rows", "excused"),
    [
        (busy(429), 1, True),
        (busy(529), 1, True),
        (refused_connection(), 1, True),
        (busy(503), 1, False),
        (busy(503), 3, True),
        (busy(502), 3, True),
        (busy(500), 3, False),
        (TIMEOUT, 3, False),
    ],
)
def test_which_failures_are_surely_not_the_rows_fault(error: Busy, rows: int, excused: bool) -> None:
    async def story() -> bool:
        outage = Outage("h")
        for nth in range(rows):
            outage.failed(error, 0.0, bytes([nth]), outage.left())
        return outage.excuses(error)

    assert simulated(story()) is excused


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (busy(429, 30.0), "429 rate limit, retry-after 30 s"),
        (busy(529), "529 overloaded"),
        (busy(500), "500 server error"),
        (Busy("connection", "h: the connection was refused"), "the connection was refused"),
        (Busy("timeout", "h: no answer within 600 s", maybe_billed=True), "no answer within 600 s"),
    ],
)
def test_trouble_is_told_by_its_cause(error: Busy, words: str) -> None:
    assert cause(error, "h") == words


def test_trouble_lasts_from_the_last_answer_and_says_how_long_it_is_borne() -> None:
    async def story() -> list[Trouble | None]:
        loop = asyncio.get_running_loop()
        outage = Outage("h", give_up_after_secs=100.0, clock=loop.time)
        seen = [outage.trouble]
        outage.failed(busy(529), loop.time(), b"a", outage.left())
        await asyncio.sleep(40)
        seen.append(outage.trouble)
        outage.answered(outage.left())
        return [*seen, outage.trouble]

    before, during, after = simulated(story())
    assert before is None
    assert during is not None
    assert during.for_secs is not None
    assert (during.cause, round(during.for_secs), round(during.left_secs)) == ("529 overloaded", 40, 60)
    assert after == Trouble("h", "529 overloaded", None, float("inf"))


def test_an_endpoint_that_was_never_reached_is_told_apart() -> None:
    async def story() -> Trouble | None:
        outage = Outage("h", never_answered_secs=30.0)
        outage.failed(refused_connection(), asyncio.get_running_loop().time(), b"a", outage.left())
        return outage.trouble

    trouble = simulated(story())
    assert trouble is not None
    assert (trouble.reached, round(trouble.left_secs)) == (False, 30)

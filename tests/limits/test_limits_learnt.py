from __future__ import annotations

import math

import pytest

from pipeline.limits.learnt import Learnt


def fed(learnt: Learnt, began: float, secs: float, per_sec: float, done: float = 0.0) -> float:
    """Answers at that rate; what comes back is all that got through."""
    for nth in range(round(secs * per_sec)):
        done += 1
        learnt.passed(began + nth / per_sec, done)
    return done


def test_nothing_is_known_until_something_is_refused() -> None:
    learnt = Learnt()
    fed(learnt, 0.0, 60.0, 50.0)
    assert learnt.per_minute(60.0) == math.inf


def test_the_ceiling_is_what_got_through_and_the_rate_goes_on_a_little_below() -> None:
    learnt = Learnt()
    done = fed(learnt, 0.0, 20.0, 10.0)
    assert learnt.refused(20.0, done, each=1.0, new=True)
    assert learnt.per_minute(20.0) == pytest.approx(0.95 * 600, rel=0.03)
    done = fed(learnt, 20.0, 20.0, 10.0, done)
    assert learnt.refused(40.0, done, each=1.0, new=True)
    rates = [learnt.per_minute(40.0 + secs) / 600 for secs in (0, 20, 40, 80)]
    assert rates == [pytest.approx(rate, rel=0.03) for rate in (0.95, 1.0, 1.05, 2.35)]


def test_refusals_of_one_cause_lower_it_once() -> None:
    learnt = Learnt()
    done = fed(learnt, 0.0, 20.0, 10.0)
    learnt.refused(20.0, done, each=1.0, new=True)
    before = learnt.per_minute(21.0)
    assert not learnt.refused(20.1, done, each=1.0, new=False)
    assert not learnt.refused(20.5, done, each=1.0, new=True)  # too soon after to measure anything
    assert learnt.per_minute(21.0) == before


def test_a_refusal_before_anything_was_answered_leaves_a_guess_that_grows() -> None:
    learnt = Learnt()
    learnt.refused(0.1, 0.0, each=2.0, new=True)
    assert learnt.per_minute(0.1) == pytest.approx(600 * 0.95)
    assert learnt.per_minute(20.0) > 1_000


def test_where_slowing_down_does_not_help_it_is_given_up_for_a_while() -> None:
    """Three calls in ten are refused at any rate: a gateway with a bad day."""
    learnt, done, now = Learnt(), 0.0, 0.0
    for _ in range(5):
        done = fed(learnt, now, 10.0, 2.0, done)
        now += 10.0
        for nth in range(10):
            learnt.refused(now, done, each=1.0, new=nth == 9)
    assert learnt.per_minute(now) == math.inf
    assert learnt.per_minute(now + 61.0) < math.inf

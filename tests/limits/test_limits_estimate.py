from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.limits.estimate import SETTLED, InputEstimate, OutputEstimate


def taught(slope: float, extra: float, sizes: list[int]) -> InputEstimate:
    estimate = InputEstimate()
    for chars in sizes:
        estimate.learn(chars, chars * slope + extra)
    return estimate


@pytest.mark.parametrize("chars_per_token", [2.0, 3.0, 4.0, 6.0])
def test_the_first_estimate_of_input_errs_high(chars_per_token: float) -> None:
    assert InputEstimate().reserve(10_000) >= 10_000 / chars_per_token


@given(st.floats(0.1, 1.5), st.floats(0, 2_000), st.integers(0, 2**32))
def test_input_settles_on_a_line_within_a_few_answers(slope: float, extra: float, seed: int) -> None:
    """N8: sizes skewed 1:100, and a first guess that is off by several times."""
    dice = random.Random(seed)
    estimate = taught(slope, extra, [dice.choice([200, 1_000, 20_000]) + nth for nth in range(3 * SETTLED)])
    for chars in (200, 20_000):
        real = chars * slope + extra
        assert estimate.likely(chars) == pytest.approx(real, rel=0.2, abs=50)
    assert estimate.reserve(20_000) >= 0.97 * (20_000 * slope + extra)


def test_prompts_of_one_length_make_a_ratio() -> None:
    estimate = taught(0.25, 0.0, [1_000, 1_001, 999, 1_000] * 5)
    assert estimate.likely(1_000) == pytest.approx(250, rel=0.01)
    assert estimate.likely(2_000) == pytest.approx(500, rel=0.02)


def test_what_comes_out_of_the_cache_is_learnt_as_well() -> None:
    """A prefix of 8,000 characters that does not count any more makes the line start below nothing."""
    estimate = InputEstimate()
    for nth in range(40):
        chars = 8_000 + 100 * (nth % 30)
        estimate.learn(chars, (chars - 8_000) / 4 + 5)
    assert estimate.likely(10_000) == pytest.approx(505, rel=0.05)
    assert estimate.likely(100) == 1.0


def test_a_noisy_ratio_is_reserved_with_a_margin() -> None:
    dice, estimate = random.Random(3), InputEstimate()
    for _ in range(200):
        estimate.learn(4_000, 1_000 * dice.uniform(0.7, 1.3))
    assert 1_050 < estimate.reserve(4_000) < 1_300


def test_output_is_reserved_at_max_tokens_until_something_is_known_and_never_above() -> None:
    estimate = OutputEstimate(500)
    assert estimate.reserve() == 500
    estimate.learn(10_000)
    assert estimate.reserve() == 500


def test_output_errs_high_at_first_and_settles_close_above_the_mean() -> None:
    dice, estimate = random.Random(1), OutputEstimate(4_096)
    reserved = []
    for _ in range(300):
        estimate.learn(round(dice.uniform(100, 300)))
        reserved.append(estimate.reserve())
    assert reserved[0] > 200
    assert all(amount > 190 for amount in reserved)
    assert 195 < reserved[-1] < 230

"""Sizes and tokens of pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prompt.pictures import picture_tokens
from pipeline.prompt.pictures.limits import FAMILIES, OTHERS, fits, fitted, for_many, limits_of, patches

SIDES = st.integers(1, 20_000)
MODELS = st.sampled_from(["claude-sonnet-4-5", "claude-opus-4-7", "claude-haiku-5-5", "claude-sonnet-4-6", "llava"])


@pytest.mark.parametrize(
    ("width", "height", "standard", "high"),
    [(200, 200, 64, 64), (1000, 1000, 1296, 1296), (1920, 1080, 1560, 2691), (3840, 2160, 1560, 4784)],
)
def test_tokens_are_those_of_the_documentation(width: int, height: int, standard: int, high: int) -> None:
    assert picture_tokens(width, height, "claude-sonnet-4-5-20250929") == standard
    assert picture_tokens(width, height, "us.anthropic.claude-opus-4-7") == high


@given(SIDES, SIDES, MODELS, st.none() | st.integers(28, 8000), st.integers(1, 100))
def test_what_is_fitted_fits_and_what_fits_stays(
    width: int, height: int, model: str, max_side: int | None, pictures: int
) -> None:
    limits = for_many(limits_of(model, max_side=max_side), pictures)
    size = fitted(width, height, limits)
    assert fits(*size, limits)
    assert size == fitted(*size, limits)
    assert (size == (width, height)) == fits(width, height, limits)
    assert size[0] <= width
    assert size[1] <= height
    assert max(size) <= limits.side


@given(SIDES, SIDES, MODELS)
def test_a_picture_is_made_no_smaller_than_it_must(width: int, height: int, model: str) -> None:
    limits = limits_of(model)
    new_width, new_height = fitted(width, height, limits)
    if (new_width, new_height) != (width, height):
        long_side, short_side = max(new_width, new_height) + 1, min(width, height)
        assert not fits(long_side, max(1, round(short_side * long_side / max(width, height))), limits)


@given(SIDES, SIDES, MODELS)
def test_tokens_are_those_of_the_size_that_is_sent(width: int, height: int, model: str) -> None:
    tokens = picture_tokens(width, height, model)
    assert tokens == patches(*fitted(width, height, limits_of(model)))
    assert 1 <= tokens <= limits_of(model).tokens
    assert picture_tokens(0, 0, model) == limits_of(model).tokens


@pytest.mark.parametrize(
    ("model", "megabytes", "most"),
    [
        ("claude-haiku-4-5", 10, 100),
        ("claude-sonnet-5-5", 10, 600),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 5, 100),
        ("claude-opus-4-7@20260101", 5, 600),
        ("gpt-5", 5, 100),
    ],
)
def test_what_resellers_take_is_less(model: str, megabytes: int, most: int) -> None:
    limits = limits_of(model)
    assert (limits.base64_bytes, limits.most) == (megabytes * 1_000_000, most)


def test_a_larger_side_than_the_model_looks_at_is_the_jobs_own_wish() -> None:
    assert fits(4000, 4000, limits_of("claude-sonnet-4-5", max_side=4000))
    assert not fits(1500, 1500, limits_of("claude-sonnet-4-5", max_side=1500))


def test_every_family_is_within_what_any_request_takes() -> None:
    for limits in (*FAMILIES, OTHERS):
        assert limits.long_side <= limits.side
        assert for_many(limits, 21).long_side <= 2000
        assert for_many(limits, 20) == limits
        assert for_many(replace(limits, side=1000), 21).side == 1000

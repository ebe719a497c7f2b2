from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.limits import Backoff


@pytest.mark.parametrize(
    ("attempt", "named", "spread", "secs"),
    [
        (1, None, 1.0, 0.5),
        (2, None, 1.0, 1.0),
        (3, None, 1.0, 2.0),
        (4, None, 0.5, 2.0),
        (8, None, 1.0, 60.0),
        (500_000, None, 1.0, 60.0),
        (1, None, 0.0, 0.0),
        (1, 30.0, 1.0, 30.0),
        (1, 86_400.0, 0.3, 86_400.0),
        (8, 2.0, 1.0, 60.0),
        (1, 0.0, 1.0, 0.5),
    ],
)
def test_waits_double_up_to_a_cap_and_never_undercut_the_server(
    attempt: int, named: float | None, spread: float, secs: float
) -> None:
    assert Backoff().wait_secs(attempt, named, spread) == secs


@given(st.integers(1, 10**9), st.none() | st.floats(0, 10**6), st.floats(0, 1))
def test_a_wait_is_at_least_what_was_named_and_at_most_that_or_the_cap(
    attempt: int, named: float | None, spread: float
) -> None:
    secs = Backoff().wait_secs(attempt, named, spread)
    assert (named or 0.0) <= secs <= max(named or 0.0, 60.0)

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits_server import most_in

from pipeline.limits.bucket import Bucket, Cell

LIMIT = 60_000.0
PER_SEC = LIMIT / 60
BURST = LIMIT / 300


def departures(bucket: Bucket, amounts: list[float], gaps: list[float]) -> list[float]:
    """Each amount leaves as soon as it may, but no sooner than its gap after the one before."""
    now, times = 0.0, list[float]()
    for amount, gap in zip(amounts, gaps, strict=True):
        now += gap
        for _ in range(10):
            wait = bucket.wait_secs(amount, now)
            if wait <= 1e-6:
                break
            now += wait
        else:
            raise AssertionError("it never may leave")
        bucket.take(amount, now)
        times.append(now)
    return times


sizes = st.one_of(st.floats(1, 300), st.floats(300, 3_000), st.floats(3_000, LIMIT))
waits = st.one_of(st.just(0.0), st.floats(0, 1), st.floats(0, 120))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(sizes, waits), min_size=1, max_size=80))
def test_no_minute_holds_more_than_the_limit_and_a_burst(rows: list[tuple[float, float]]) -> None:
    """P5, whatever the sizes and however long it stood still between (C14)."""
    amounts, gaps = [amount for amount, _ in rows], [gap for _, gap in rows]
    times = departures(Bucket(LIMIT, 0.0), amounts, gaps)
    assert most_in(times, amounts, 60.0) <= LIMIT + BURST + 1e-3
    for secs in (0.1, 1.0, 10.0, 300.0):
        assert most_in(times, amounts, secs) <= PER_SEC * secs + BURST + max(amounts) + 1e-3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1, LIMIT * 0.02), min_size=20, max_size=40))
def test_what_waits_uses_the_limit_up(amounts: list[float]) -> None:
    many = amounts * max(1, int(3 * LIMIT / sum(amounts)))
    times = departures(Bucket(LIMIT, 0.0), many, [0.0] * len(many))
    # The last one leaves before it is paid for.
    assert sum(many[:-1]) >= 0.97 * PER_SEC * times[-1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1, 1_000), st.floats(0.3, 3.0), st.floats(0.0, 30.0)), min_size=10, max_size=60),
)
def test_real_amounts_stay_within_the_minute_where_estimates_err_high(
    rows: list[tuple[float, float, float]],
) -> None:
    """Real amounts come home after their latency; what is estimated low is put right, what is high is not lost."""
    bucket, now = Bucket(LIMIT, 0.0), 0.0
    home: list[tuple[float, int]] = []
    cells: list[Cell] = []
    times: list[float] = []
    reals: list[float] = []
    for nth, (estimate, off, latency) in enumerate(rows * 6):
        real = estimate * min(off, 1.0)
        while (wait := bucket.wait_secs(estimate, now)) > 1e-6:
            now += wait
        for at, which in sorted(found for found in home if found[0] <= now):
            taken = rows[which % len(rows)][0]
            bucket.correct(cells[which], taken, taken, reals[which], at)
            home.remove((at, which))
        while (wait := bucket.wait_secs(estimate, now)) > 1e-6:
            now += wait
        cells.append(bucket.take(estimate, now))
        times.append(now)
        reals.append(real)
        home.append((now + latency, nth))
    assert most_in(times, reals, 60.0) <= LIMIT + BURST + 1e-3


def test_a_leap_of_the_clock_saves_up_no_more_than_a_burst() -> None:
    """C14: half a minute of standing still."""
    bucket = Bucket(LIMIT, 0.0)
    departures(bucket, [100.0] * 50, [0.0] * 50)
    later = departures(bucket, [100.0] * 50, [1000.0, *[0.0] * 49])
    assert most_in(later, [100.0] * 50, 0.01) <= BURST + 100


@pytest.mark.parametrize("change", [0.1, 0.5, 2.0, 10.0])
def test_another_limit_brings_no_burst(change: float) -> None:
    bucket = Bucket(LIMIT, 0.0)
    times = departures(bucket, [100.0] * 300, [0.0] * 300)
    now = times[-1]
    bucket.retune(LIMIT * change, now)
    after = departures(bucket, [100.0] * 300, [now, *[0.0] * 299])
    rate = PER_SEC * change
    assert most_in(after, [100.0] * 300, 1.0) <= rate * 1.0 + 0.2 * rate + 100 + 1e-3
    assert sum([100.0] * 299) >= 0.9 * rate * (after[-1] - now)


def test_what_comes_back_of_long_ago_makes_no_wave() -> None:
    """Calls that reserved ten times too much come home when a tenth would be reserved: that time is past."""
    bucket, now = Bucket(LIMIT, 0.0), 0.0
    first: list[tuple[float, Cell]] = []
    while now < 20.0:
        now += max(0.0, bucket.wait_secs(1_000.0, now))
        first.append((now, bucket.take(1_000.0, now)))
    times: list[float] = []
    while first:
        home = first[0][0] + 20.0
        wait = bucket.wait_secs(100.0, now)
        if home <= now + max(0.0, wait):
            now = max(now, home)
            bucket.correct(first.pop(0)[1], 1_000.0, 100.0, 100.0, now)
        else:
            now += max(0.0, wait)
            bucket.take(100.0, now)
            times.append(now)
    assert most_in(times, [100.0] * len(times), 5.0) <= 5.0 * PER_SEC * 1.1

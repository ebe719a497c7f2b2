from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from pipeline.limits import FinishBy, next_time

BERLIN = ZoneInfo("Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "now", "at"),
    [
        ("06:00", "2026-11-22 22:00", "2026-11-23 05:00"),
        ("06:00", "2026-11-23 04:59:59", "2026-11-23 05:00"),
        ("06:00", "2026-11-23 05:00", "2026-11-24 05:00"),  # this very moment is over
        ("6:00", "2026-07-01 12:00", "2026-07-02 04:00"),
        ("23:30:15", "2026-11-22 12:00", "2026-11-22 22:30:15"),
        ("00:00", "2026-11-22 22:59", "2026-11-22 23:00"),
        # clocks go forward on 29 March 2026: 02:30 is left out
        ("02:30", "2026-03-28 23:00", "2026-03-29 01:30"),
        ("02:30", "2026-03-29 02:00", "2026-03-30 00:30"),
        # and back on 25 October: 02:30 comes twice
        ("02:30", "2026-10-24 23:00", "2026-10-25 00:30"),
        ("02:30", "2026-10-25 00:45", "2026-10-25 01:30"),
        ("02:30", "2026-10-25 01:45", "2026-10-26 01:30"),
    ],
)
def test_the_next_such_time(text: str, now: str, at: str) -> None:
    assert next_time(text, BERLIN, utc(now)) == utc(at)


@pytest.mark.parametrize("text", ["24:00", "6", "06:60", "6 am", "", "-1:00"])
def test_what_is_no_time_of_day(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time of day such as 06:00"):
        next_time(text, BERLIN, utc("2026-11-22 12:00"))


def test_no_call_starts_that_would_hardly_end_in_time() -> None:
    now = 0.0
    finish = FinishBy(100.0, first_secs=5.0, clock=lambda: now)
    assert (finish.stop_in_secs(), finish.may_start()) == (95.0, True)
    for _ in range(95):
        finish.answered(1.0)
    for _ in range(5):
        finish.answered(30.0)
    assert finish.needed_secs in {1.0, 30.0}
    for _ in range(20):
        finish.answered(30.0)
    assert finish.needed_secs == 30.0
    now = 69.0
    assert (finish.stop_in_secs(), finish.may_start()) == (1.0, True)
    now = 70.0
    assert (finish.stop_in_secs(), finish.may_start()) == (0.0, False)

"""What a run says while it waits for its endpoint."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from pipeline.limits import Trouble
from pipeline.run.console import pause_text

AT = datetime(2026, 11, 22, 2, 31, 5, tzinfo=UTC)


GOES_ON = "nothing is lost, the same command goes on later"


@pytest.mark.parametrize(
    ("left_secs", "trouble", "parts"),
    [
        (
            12.4,
            Trouble("api.example.com", "529 overloaded", 65.0, 1735.0),
            [
                "api.example.com: 529 overloaded, and no answer since 02:30:00 UTC",
                "all calls wait, the next goes out in 12 s",
                "without an answer by 03:00:00 UTC the run gives up (limits.give_up_after_secs)",
                GOES_ON,
            ],
        ),
        (
            11.0,
            Trouble("h:9", "the connection was refused", 5.0, 25.0, reached=False),
            [
                "h:9: the connection was refused, and no answer since 02:31:00 UTC",
                "all calls wait, the next goes out in 11 s",
                "without an answer by 02:31:30 UTC the run gives up (it was never reached)",
                GOES_ON,
            ],
        ),
        # something was answered meanwhile: a limit, and no outage
        (
            30.0,
            Trouble("h", "429 rate limit, retry-after 30 s", None, float("inf")),
            ["h: 429 rate limit, retry-after 30 s", "all calls wait, the next goes out in 30 s"],
        ),
        (30.0, None, ["all calls wait, the next goes out in 30 s"]),
    ],
)
def test_a_pause_is_said_with_its_cause_its_beginning_and_when_the_run_gives_up(
    left_secs: float, trouble: Trouble | None, parts: list[str]
) -> None:
    assert pause_text(left_secs, trouble, AT) == "; ".join(parts)


def test_a_pause_longer_than_the_patience_is_waited_out_before_giving_up() -> None:
    trouble = Trouble("h", "429 rate limit, retry-after 86400 s", 0.0, 1800.0)
    assert "by 2026-11-23 02:31:05 UTC the run gives up" in pause_text(86_400.0, trouble, AT)


def test_times_are_shown_in_the_zone_of_the_job() -> None:
    trouble = Trouble("h", "500 server error", 5.0, 55.0)
    words = pause_text(20.0, trouble, AT.astimezone(ZoneInfo("Europe/Berlin")))
    assert "since 03:31:00 CET" in words
    assert "by 03:32:00 CET" in words

"""When to stop starting calls, so that the last one is answered by a time of day."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

CLOCK_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")

LAST_CALLS = 200
"""So many latencies are kept to go by."""

LATE_SHARE = 0.95
"""Of the calls that leave last, this share should be answered in time; the grace is for the rest."""


def next_time(text: str, zone: tzinfo, now: datetime) -> datetime:
    """The next moment at which clocks in `zone` show `text`, after `now`, in UTC.

    A time that a change of the clocks leaves out is as long after the gap as it would have been after its beginning;
    of one that comes twice, the first that is still to come.

    Args:
        text: hours and minutes, and seconds if need be: ``06:00``, ``23:30:15``.
        zone: where the clocks stand.
        now: the present, with a zone.

    Raises:
        ValueError: it is no time of day.
    """
    if (parts := CLOCK_TIME.fullmatch(text.strip())) is None:
        raise ValueError(f"must be a time of day such as 06:00, found '{text}'")
    hour, minute, second = (int(part or 0) for part in parts.groups())
    today = now.astimezone(zone)
    for days in range(-1, 3):
        day = (today + timedelta(days=days)).date()
        for fold in (0, 1):
            local = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=zone, fold=fold)
            at = local.astimezone(UTC)
            if at > now:
                return at
    raise AssertionError("three days without that time")


class FinishBy:
    """Says whether a call may still start, by how long calls have been taking.

    Args:
        deadline: on `clock`, in seconds.
        first_secs: what a call is taken to last before any was answered.
        clock: seconds on a clock; the loop's for a duration. A time of day is better held against a clock that
            follows the wall's, as a machine that slept must not work through the morning.
    """

    def __init__(self, deadline: float, *, first_secs: float = 0.0, clock: Callable[[], float]) -> None:
        self.deadline = deadline
        self._clock = clock
        self._last: deque[float] = deque(maxlen=LAST_CALLS)
        self._needed = first_secs
        self._look_in = 1

    def answered(self, secs: float) -> None:
        """A call took so long."""
        last = self._last
        last.append(secs)
        self._look_in -= 1
        if self._look_in <= 0:
            ordered = sorted(last)
            self._needed = ordered[min(len(ordered) - 1, int(len(ordered) * LATE_SHARE))]
            # Sorting costs more than a call does: seldom, once many are known.
            self._look_in = max(1, len(last) // 10)

    @property
    def needed_secs(self) -> float:
        """How long a call is to be expected to last, at the outside: 95 of 100 are shorter."""
        return self._needed

    def stop_in_secs(self) -> float:
        """Seconds until no call may start any more; 0 once that is so."""
        return max(0.0, self.deadline - self.needed_secs - self._clock())

    def may_start(self) -> bool:
        """Whether a call that starts now is likely to be answered in time."""
        return self._clock() + self.needed_secs < self.deadline

"""A limit that nobody states, learnt from refusals: where they come, how much got through, and how far up to go."""

from __future__ import annotations

import math
from collections import deque

LOOK_BACK_SECS = 10.0
"""The ceiling is what got through in the time before a refusal, this long at most."""

MEASURE_SECS = 3.0
MEASURE_CALLS = 5
"""Less than this measures nothing."""

GUESS = 300.0
"""Calls a minute to go on with where the first refusal comes before anything could be measured."""

BELOW = 0.05
"""After a refusal the rate goes on this far below the ceiling, as a share."""

PLATEAU_SECS = 20.0
"""So long after a refusal the ceiling is reached again; slowly at first beyond it, then ever faster."""

FAST_PER_SEC = 0.05
"""Growth a second until a second refusal is measured: the first one comes in the middle of a steep start."""

HOPELESS_SHARE = 0.25
HOPELESS_TIMES = 3
"""When over so many measures this share of calls was refused, it is not the rate that they are refused for."""

OFF_SECS = 60.0


class Learnt:
    """The rate per minute that the refusals of a server leave, as arithmetic on the time.

    A server that refuses has an empty bucket, so what gets through just then is what flows into it: that is the
    ceiling. The rate follows a cubic through it (as TCP CUBIC's window does): back near the ceiling soon, a while
    there, and then ever further up, in case there is more.
    """

    __slots__ = (
        "_at",
        "_ceiling",
        "_judged",
        "_looked",
        "_measured",
        "_off_secs",
        "_off_until",
        "_passed",
        "_refused",
    )

    def __init__(self) -> None:
        self._ceiling = math.inf
        self._at = -math.inf
        self._measured = 0
        self._looked: deque[tuple[float, float]] = deque()
        self._passed = 0
        self._refused = 0
        self._judged: deque[tuple[int, int]] = deque(maxlen=HOPELESS_TIMES)
        self._off_secs = OFF_SECS
        self._off_until = -math.inf

    def per_minute(self, now: float) -> float:
        """The rate to keep to; infinite while nothing is known."""
        if self._ceiling == math.inf or now < self._off_until:
            return math.inf
        since = max(0.0, now - self._at)
        if self._measured < 2:
            return self._ceiling * (1.0 - BELOW) * math.exp(min(FAST_PER_SEC * since, 50.0))
        x = (since - PLATEAU_SECS) / PLATEAU_SECS
        return self._ceiling * (1.0 + BELOW * x * x * x)

    def passed(self, now: float, done: float) -> None:
        """A call was answered; `done` is all that got through so far."""
        self._passed += 1
        looked = self._looked
        if not looked or now - looked[-1][0] >= 0.25:
            looked.append((now, done))
            while len(looked) > 2 and looked[1][0] <= now - LOOK_BACK_SECS:
                looked.popleft()

    def refused(self, now: float, done: float, *, each: float, new: bool) -> bool:
        """A call was refused for the rate; whether that has changed anything.

        Args:
            now: the time.
            done: all that got through so far.
            each: what a call takes, on average.
            new: it left after the last pause had begun, so it says something new.
        """
        self._refused += 1
        if not new or now < self._off_until:
            return False
        began, before = self._looked[0] if self._looked else (now, done)
        secs = now - began
        if secs >= MEASURE_SECS and self._passed >= MEASURE_CALLS:
            self._judge(now)
            most, least = self.per_minute(now), self._ceiling / 2 if self._measured else 0.0
            self._ceiling = max(min((done - before) / secs * 60.0, most), least, each)
            self._measured += 1
        elif self._measured:
            return False
        else:
            self._ceiling = min(GUESS * each, self._ceiling)
        self._at = now
        self._passed = self._refused = 0
        self._looked.clear()
        self._looked.append((now, done))
        return True

    def _judge(self, now: float) -> None:
        """Look at the calls of the last measures together: few each, they say little one by one."""
        if not self._measured:
            return
        self._judged.append((self._refused, self._passed))
        refused, passed = map(sum, zip(*self._judged, strict=True))
        if len(self._judged) == HOPELESS_TIMES and refused >= HOPELESS_SHARE * (refused + passed):
            self._judged.clear()
            self._off_until = now + self._off_secs
            self._off_secs *= 2

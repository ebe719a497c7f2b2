"""Requests per minute: a leaky bucket that can be given another rate while it runs."""

from __future__ import annotations

import math

from aiolimiter import AsyncLimiter

BURSTS_PER_MINUTE = 300
"""A burst is what the limit allows in 0.2 s: servers may enforce a limit per minute in slices of a second."""


def pacer(requests_per_minute: float) -> AsyncLimiter:
    """A leaky bucket that keeps to the rate in any window of time, but for one burst of 0.2 s worth."""
    burst = max(1.0, requests_per_minute / BURSTS_PER_MINUTE)
    return AsyncLimiter(burst, 60.0 * burst / requests_per_minute)


class RequestPace:
    """Requests per minute, of which no change makes a burst.

    One caller at a time may be in `acquire`: whoever waits in line stands before it, so that a change of the rate
    concerns all but the first.
    """

    __slots__ = ("_left_at", "_limiter", "per_minute")

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._limiter: AsyncLimiter | None = pacer(per_minute)
        self._left_at = -math.inf

    def retune(self, per_minute: float) -> None:
        """Go on at another rate, from the next call on."""
        if per_minute != self.per_minute:
            self.per_minute = per_minute
            self._limiter = None

    def has_capacity(self) -> bool:
        """Whether `acquire` would not wait."""
        return self._limiter is not None and self._limiter.has_capacity()

    async def acquire(self, now: float) -> None:
        """Wait until a request may leave; `now` is the time on the loop's clock."""
        limiter = self._limiter
        if limiter is None:
            self._limiter = limiter = pacer(self.per_minute)
            # A new bucket is empty, which would be a burst: it starts as full as the last departure leaves it.
            passed = (now - self._left_at) * self.per_minute / 60.0
            await limiter.acquire(min(max(limiter.max_rate - passed, 0.0), limiter.max_rate))
        await limiter.acquire()

    def left(self, now: float) -> None:
        """A request leaves."""
        self._left_at = now

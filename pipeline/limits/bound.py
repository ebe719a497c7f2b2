"""What bound the run: the time between departures, by what each had waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

Cause = Literal[
    "server",
    "requests_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
    "tokens_per_minute",
    "concurrency",
    "source",
    "preparation",
]

BUSY_SHARE = 0.8
"""A process that uses this share of a core is busy preparing rows, and does not wait for their source."""


class Bound:
    """Adds up how long departures were apart, under the cause that held each back.

    Args:
        cpu: seconds of CPU that this process has used; tells a source that is slow from rows that take long to make.
    """

    __slots__ = ("_began", "_cpu", "_cpu_began", "_last", "secs")

    def __init__(self, now: float, cpu: Callable[[], float] = time.process_time) -> None:
        self.secs: dict[Cause, float] = {}
        self._began = self._last = now
        self._cpu = cpu
        self._cpu_began = cpu()

    def departed(self, cause: Cause, now: float) -> None:
        """A call left at `now`, held back by `cause`."""
        self.secs[cause] = self.secs.get(cause, 0.0) + now - self._last
        self._last = now

    def shares(self) -> Mapping[Cause, float]:
        """The share of the time that each cause took."""
        total = sum(self.secs.values()) or 1.0
        return {cause: secs / total for cause, secs in self.secs.items()}

    def by(self) -> Cause | None:
        """What bound the run most; None before the first departure."""
        if not self.secs:
            return None
        cause = max(self.secs, key=lambda found: self.secs[found])
        if cause == "source" and self._cpu() - self._cpu_began > BUSY_SHARE * (self._last - self._began):
            return "preparation"
        return cause

"""Working time: the starts of a run laid end to end, in equal steps, so that a night between two takes no room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MICROS = 1_000_000
FEWEST_STEPS = 6
CALLS_PER_STEP = 12
"""So many calls make a step worth one: fewer would show noise."""


@dataclass(frozen=True, slots=True)
class Work:
    """One start's stretch of calls, from the first one sent to the last one ended; microseconds since 1970."""

    start: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Clock:
    """The working time of a run.

    Attributes:
        works: in order.
        offsets: microseconds of work before each.
        total: microseconds of work, at least 1.
        steps: how many equal steps it is divided into.
    """

    works: Sequence[Work]
    offsets: Sequence[int]
    total: int
    steps: int

    @classmethod
    def of(cls, works: Sequence[Work], calls: int, most: int) -> Clock:
        """Lay the starts end to end, in `most` steps or, for few calls, in fewer."""
        offsets, total = [], 0
        for work in works:
            offsets.append(total)
            total += work.last - work.first
        return cls(works, offsets, max(1, total), max(FEWEST_STEPS, min(most, calls // CALLS_PER_STEP)))

    @property
    def secs(self) -> float:
        """Seconds of work."""
        return self.total / MICROS

    @property
    def step_secs(self) -> float:
        """Seconds a step takes."""
        return self.secs / self.steps

    @property
    def unit(self) -> tuple[str, float]:
        """What the axis counts, and how many seconds that is."""
        if self.secs < 180:
            return "seconds", 1.0
        return ("minutes", 60.0) if self.secs < 3 * 3600 else ("hours", 3600.0)

    @property
    def rate(self) -> tuple[str, float]:
        """What rates are per, and how many seconds that is: nobody waits a minute in a run of seconds."""
        return ("second", 1.0) if self.secs < 180 else ("minute", 60.0)

    @property
    def breaks(self) -> list[float]:
        """Where a later start begins, in the axis's unit."""
        return [offset / MICROS / self.unit[1] for offset in self.offsets[1:]]

    @property
    def words(self) -> str:
        """What the axis is."""
        since = "of work since the first call, breaks left out" if self.breaks else "since the first call"
        return f"{self.unit[0]} {since}"

    def edges(self, step: int) -> tuple[float, float]:
        """Where a step begins and ends, in the axis's unit."""
        width = self.step_secs / self.unit[1]
        return step * width, (step + 1) * width

"""A few of many: an even spread over a stream of unknown length, in bounded memory, the same each time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Spread(Generic[T]):
    """Keeps up to `most` of what it is shown, evenly spread from the first on.

    Every `step`-th is kept; when twice as many as wanted are, every other goes and the step doubles.
    """

    most: int
    seen: int = 0
    step: int = 1
    kept: list[T] = field(default_factory=list)

    def wants(self) -> bool:
        """Whether the next one is to be kept; to be followed by `keep` if so. Counts it as seen."""
        wanted = self.seen % self.step == 0
        self.seen += 1
        return wanted

    def keep(self, value: T) -> None:
        """Keep one that was wanted."""
        self.kept.append(value)
        if len(self.kept) >= 2 * self.most:
            self.kept = self.kept[::2]
            self.step *= 2

    @property
    def chosen(self) -> list[T]:
        """At most `most`, evenly spread."""
        number = len(self.kept)
        if number <= self.most:
            return list(self.kept)
        return [self.kept[nth * number // self.most] for nth in range(self.most)]

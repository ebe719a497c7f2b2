"""Where a command of the run speaks to a person."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pipeline.report import Counters


class Console(Protocol):
    """Where a start speaks: messages, and progress of long work."""

    def say(self, text: str) -> None:
        """A message, one line."""

    def progress(
        self, label: str, total: int | None, unit: str, read: Callable[[], int], counters: Counters | None = None
    ) -> AbstractContextManager[object]:
        """Progress, shown while the block runs."""


@dataclass(frozen=True, slots=True)
class Masked:
    """A console that shows no value of the environment.

    Attributes:
        console: where messages and progress go.
        mask: hides such values in a text.
    """

    console: Console
    mask: Callable[[str], str]

    def say(self, text: str) -> None:
        """A message, one line."""
        self.console.say(self.mask(text))

    def progress(
        self, label: str, total: int | None, unit: str, read: Callable[[], int], counters: Counters | None = None
    ) -> AbstractContextManager[object]:
        """Progress, shown while the block runs."""
        return self.console.progress(label, total, unit, read, counters)

"""Where a command of the run speaks to a person."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pipeline.limits import Trouble
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


def pause_text(left_secs: float, trouble: Trouble | None, at: datetime) -> str:
    """Say that all calls wait: why, since when nothing is answered, until when, and when the run gives up.

    Args:
        left_secs: of the pause.
        trouble: how calls fail.
        at: the present, in the zone in which times are shown.
    """
    waits = f"all calls wait, the next goes out in {left_secs:.0f} s"
    if trouble is None:
        return waits
    start = f"{trouble.host}: {trouble.cause}"
    if trouble.for_secs is None:
        return f"{start}; {waits}"
    since = _moment(at - timedelta(seconds=trouble.for_secs), at)
    # A pause that the server asked for may be longer than the patience: it is the call after it that decides.
    until = _moment(at + timedelta(seconds=max(trouble.left_secs, left_secs)), at)
    why = "limits.give_up_after_secs" if trouble.reached else "it was never reached"
    return (
        f"{start}, and no answer since {since}; {waits}; without an answer by {until} the run gives up ({why}); "
        "nothing is lost, the same command goes on later"
    )


def _moment(moment: datetime, at: datetime) -> str:
    """A time of day with its zone, and its date where that is not today's."""
    return f"{moment:%H:%M:%S %Z}" if moment.date() == at.date() else f"{moment:%Y-%m-%d %H:%M:%S %Z}"

"""What is looked after while rows are asked: pauses are shown, limits that somebody set meanwhile are taken over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pipeline.errors import StorageError
from pipeline.limits import Limited
from pipeline.report import Counters
from pipeline.run.console import pause_text
from pipeline.run.coordinator import Coordinator

LOOK_SECS = 1.0
LONG_PAUSE_SECS = 10.0
"""A pause that lasts longer is worth a line."""

BRIEF_CHARS = 36
"""Of a pause's cause, beside a bar."""


@dataclass(slots=True)
class Following:
    """Looks after a run under way, every second.

    Attributes:
        coordinator: knows what somebody set meanwhile.
        limited: what the calls wait for.
        counters: told of pauses, for progress.
        say: takes messages.
        clock: the present, in the zone in which times are shown.
    """

    coordinator: Coordinator
    limited: Limited
    counters: Counters
    say: Callable[[str], None]
    clock: Callable[[], datetime]
    _shown: float = 0.0
    _pauses: int = 0

    async def run(self) -> None:
        """Show pauses, take over the limits that `pipeline limits` has set, record what bounds the speed; for ever."""
        looks = True
        while True:
            await asyncio.sleep(LOOK_SECS)
            self._show_pause()
            looks = looks and await self._take_over()

    async def _take_over(self) -> bool:
        """Go by the limits that somebody has set meanwhile; False where these cannot be looked up."""
        try:
            asked = await self.coordinator.look(self.limited.bound_by())
        except StorageError as error:
            # Calls that cannot be kept end the run; this alone does not.
            self.say(f"limits cannot be looked up: {error}")
            return False
        if asked:
            rates = {name: value for name, value in asked.items() if name != "concurrency"}
            slots = asked.get("concurrency")
            self.limited.retune(**rates, concurrency=None if slots is None else int(slots))
            self.say("limits are now " + ", ".join(f"{name} {value:g}" for name, value in asked.items()))
        return True

    def _show_pause(self) -> None:
        """Show each pause with its cause, and say a long one once."""
        pause, trouble = self.limited.pause, self.limited.outage.trouble
        left_secs = pause.left_secs
        self.counters.pause_secs = left_secs
        # Calls that were under way when it began may fail in other ways meanwhile.
        if pause.begun != self._pauses and trouble is not None:
            self._pauses, self.counters.pause_cause = pause.begun, brief(trouble.cause)
        if left_secs > max(LONG_PAUSE_SECS, self._shown):
            self.say(pause_text(left_secs, trouble, self.clock()))
        self._shown = left_secs if left_secs > LONG_PAUSE_SECS else 0.0


def brief(cause: str) -> str:
    """The cause of a pause, as short as it can stand beside a bar: ``429 rate limit``, ``the connection was refused``.

    For how long the server asked to wait is left out: how long the pause still lasts stands beside it.
    """
    words = cause.partition(", ")[0]
    return words if len(words) <= BRIEF_CHARS else words[: BRIEF_CHARS - 1].rstrip() + "…"

"""The window: slots for calls in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


def _nobody() -> None:
    pass


class Window:
    """A number of slots, given to those who wait in the order they came.

    A call is in flight until its answer is committed: whoever sends takes the slot, whoever commits gives it back.

    Attributes:
        slots: how many there are; `resize` changes it.
        most: it is never made larger than this by itself.
        grew: called when there are more slots than before, for a pool that could now use more workers.
    """

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"a window has at least one slot, not {slots}")
        self.slots = slots
        self.most = slots
        self.grew: Callable[[], None] = _nobody
        self._taken = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def in_flight(self) -> int:
        """Slots taken now."""
        return self._taken

    @property
    def full(self) -> bool:
        """Whether every slot is taken."""
        return self._taken >= self.slots

    async def acquire(self) -> None:
        """Take a slot, waiting for one if need be. Cancelled while it waits, it takes none."""
        if self._taken < self.slots:
            self._taken += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()  # the slot had come in the same moment
            raise

    def release(self) -> None:
        """Give a slot back: to the one who has waited longest, who then holds it."""
        if not self._taken:
            raise RuntimeError("a slot was given back that nobody had taken")
        self._taken -= 1
        self._hand_out()

    def pin(self, slots: int) -> None:
        """Have so many slots from now on, and no other number."""
        self.most = slots
        self.resize(slots)

    def resize(self, slots: int) -> None:
        """Have so many slots from now on; where fewer, those in flight come home first."""
        more = slots > self.slots
        self.slots = slots
        self._hand_out()
        if more:
            self.grew()

    def departed(self, *, idle: bool) -> None:
        """A call left; `idle`: a slot was free, or the pace held it back, so more slots would have been of no use."""

    def answered(self, sent_at: float, now: float) -> None:
        """The call that left at `sent_at` was answered at `now`."""

    def troubled(self, sent_at: float, now: float) -> None:
        """The server refused the call that left at `sent_at` (429, 529)."""

    def hung(self, sent_at: float, now: float) -> None:
        """The call that left at `sent_at` was not answered in time."""

    def _hand_out(self) -> None:
        while self._waiters and self._taken < self.slots:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._taken += 1
                waiter.set_result(None)

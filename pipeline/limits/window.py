"""The window: slots for calls in flight."""

from __future__ import annotations

import asyncio
from collections import deque


class Window:
    """A fixed number of slots, given to those who wait in the order they came.

    A call is in flight until its answer is committed: whoever sends takes the slot, whoever commits gives it back.
    """

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"a window has at least one slot, not {slots}")
        self.slots = slots
        self._taken = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def in_flight(self) -> int:
        """Slots taken now."""
        return self._taken

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
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._taken -= 1

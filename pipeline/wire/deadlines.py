"""Calls that take too long are cut off, with one timer for all of them instead of one for each."""

from __future__ import annotations

import asyncio


class Watch:
    """One call under a deadline.

    Attributes:
        expired: the deadline has passed, and the call's task was cancelled for it.
    """

    __slots__ = ("_cancelling", "_settled", "deadline", "expired", "task")

    def __init__(self, task: asyncio.Task[object], deadline: float) -> None:
        self.task = task
        self.deadline = deadline
        self.expired = False
        self._cancelling = task.cancelling()
        self._settled = False

    def took_the_blame(self) -> bool:
        """After a `CancelledError`: whether it was the deadline alone that cancelled the task, which now goes on.

        False means that somebody else wants the task to end as well, so the error must go on its way
        (`asyncio.timeout` decides the same way).
        """
        if not self.expired or self._settled:
            return False
        self._settled = True
        return self.task.uncancel() <= self._cancelling


class Deadlines:
    """The deadlines of calls in flight, each the same number of seconds after its start.

    As all calls get the same time, they expire in the order they began, so one timer, set for the oldest, does what a
    timer for each would, as exactly.
    """

    def __init__(self, secs: float) -> None:
        self._secs = secs
        self._watches: dict[Watch, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> Watch:
        """Put the current task under a deadline from now on; `stop` must follow."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        watch = Watch(task, loop.time() + self._secs)
        self._watches[watch] = None
        if self._timer is None:
            self._timer = loop.call_at(watch.deadline, self._cut, loop)
        return watch

    def stop(self, watch: Watch) -> None:
        """The call has ended, in whatever way."""
        self._watches.pop(watch, None)
        watch.took_the_blame()

    def close(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for watch in list(self._watches):
            if watch.deadline > now:
                self._timer = loop.call_at(watch.deadline, self._cut, loop)
                break
            del self._watches[watch]
            watch.expired = True
            watch.task.cancel()

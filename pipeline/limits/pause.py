"""The pause that everybody who shares a limit makes together, and who goes first after it."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Callable
from itertools import count

from pipeline.errors import Busy
from pipeline.limits.backoff import Backoff
from pipeline.limits.clock import loop_time

PROBE_SECS = 5.0
"""After two pauses that did not help calls go out singly, this far apart, until one is answered."""

TRYING_SECS = 15.0
"""Our own pauses are no longer than this while each probe can be of a row that has not failed yet: that uses up no
row's attempts, finds its way past rows that a server falls over, and a server that is back is soon used again."""

TICK_SECS = 1e-6
"""Timers may fire early by a rounding error; a rest below this is none."""


class Pause:
    """Slows everybody down at once, and only once for what one cause did to many calls.

    What the calls that are under way when a pause begins bring home does not lengthen it, unless the server names a
    later time. The wait is the backoff's: its n-th step for the n-th pause in a row without an answer in between. From
    the second on, calls go out one at a time, the next when the last has failed its pause out or has been silent for
    `PROBE_SECS`; an answer opens the way for all. Probes are of the rows that have failed the fewest times: where it is
    some rows that the server falls over, others show that it works; where it is out, no row uses up its attempts.

    Whoever is let through gets a ticket, the number of pauses so far: it tells later which pauses the call has seen.
    """

    def __init__(
        self,
        backoff: Backoff | None = None,
        *,
        clock: Callable[[], float] = loop_time,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.begun = 0
        self.last_rows = False
        """Whether no row is left but those that were asked before; set by who hands rows out."""
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._spread = spread
        self._until = -math.inf
        self._named_until = -math.inf
        self._streak = 0
        self._streak_ticket = 0
        self._asked_for = False
        self._untried_until = math.inf
        self._waiters: list[tuple[int, int, int, asyncio.Future[int]]] = []  # a heap: failures, order, tries left, turn
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def on(self) -> bool:
        """Whether a caller would have to wait now."""
        return bool(self._waiters) or (self._until > -math.inf and self._until - self._clock() > TICK_SECS)

    @property
    def left_secs(self) -> float:
        """Seconds that the pause has still to go, for people to see; 0 where none is on."""
        return max(0.0, self._until - self._clock())

    @property
    def searching(self) -> bool:
        """Whether each probe had better be of a row that has not failed yet: nothing was refused for all."""
        return self._probing and not self._asked_for

    @property
    def untried(self) -> bool:
        """Whether somebody waits here whose row has not failed yet."""
        return bool(self._waiters) and self._waiters[0][0] == 0

    def pass_by(self) -> int | None:
        """The ticket of a caller who need not wait; None for one who must."""
        if self.on:
            return None
        self._one_went()
        return self.begun

    async def wait(self, failures: int = 0, tries: int = 1) -> int:
        """Wait until it is this caller's turn to send; what comes back is its ticket.

        Args:
            failures: how often the caller's row has failed so far: while calls go out singly the fewest go first, then
                who came first.
            tries: how many attempts the row has left.
        """
        if (ticket := self.pass_by()) is not None:
            return ticket
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (failures, next(self._order), tries, turn))
        if failures == 0:
            self._until = min(self._until, self._untried_until)
        self._set_timer()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and self._probing:
                self._open_at(max(self._clock(), self._named_until))  # the turn goes to the next
            raise

    def answered(self, ticket: int) -> None:
        """A call was answered, if only to say what is wrong with its row."""
        # An answer to a call that left before the server began to refuse does not say that it has stopped.
        if self._streak and (ticket >= self._streak_ticket or not self._asked_for):
            self._streak = 0
            self._untried_until = math.inf
            self._open_at(max(self._clock(), self._named_until))

    def failed(self, error: Busy, ticket: int, *, patience_secs: float = math.inf) -> None:
        """A call failed in a way that concerns everybody.

        Args:
            error: how; `wait_secs` is obeyed.
            ticket: what `wait` gave the call.
            patience_secs: wait no longer than this of our own accord: there is something to decide then.
        """
        now = self._clock()
        named = error.wait_secs or 0.0
        # What was asked for holds also where a probe keeps the way closed for longer: its answer opens the way.
        self._named_until = max(self._named_until, now + named)
        if ticket < self.begun:
            self._untried_until = max(self._untried_until, self._named_until)
            if named and now + named > self._until:
                self._close_until(now + named)
            return
        self.begun += 1
        self._streak += 1
        if self._streak == 1:
            self._streak_ticket = self.begun
        self._asked_for = error.shared
        own = min(self._backoff.wait_secs(self._streak, None, self._spread()), patience_secs)
        until = max(self._named_until, now + own)
        if self.searching:
            # Such a row may come only now that this call has given its slot back.
            self._untried_until = max(self._named_until, now + min(own, TRYING_SECS * self._spread()))
            if self.untried:
                until = self._untried_until
            elif self.last_rows:
                until = max(self._named_until, now + min(own, self._each_secs(patience_secs)))
        self._close_until(until)

    def _each_secs(self, patience_secs: float) -> float:
        """The pause between probes with which all who wait have used up their attempts when patience ends.

        Else rows that a server falls over, where nothing else is left to ask, would end each start as an outage.
        """
        return patience_secs / (1 + sum(max(1, tries) for _, _, tries, _ in self._waiters))

    @property
    def _probing(self) -> bool:
        return self._streak >= 2

    def _one_went(self) -> None:
        self._untried_until = math.inf
        if self._probing:
            self._until = self._clock() + PROBE_SECS

    def _close_until(self, until: float) -> None:
        self._until = until
        self._set_timer()

    def _open_at(self, until: float) -> None:
        self._until = min(self._until, until)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiters:
            rest = max(0.0, self._until - self._clock())
            self._timer = asyncio.get_running_loop().call_later(rest, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if self._streak:
            while self._waiters and self._until - self._clock() <= TICK_SECS:
                *_, turn = heapq.heappop(self._waiters)
                if not turn.done():
                    turn.set_result(self.begun)
                    self._one_went()
        elif self._until - self._clock() <= TICK_SECS:
            self._open()
        self._set_timer()

    def _open(self) -> None:
        """Let all go, those apart that failed together: side by side they would look like an outage once more."""
        waiters, self._waiters = self._waiters, []
        for *_, turn in sorted(waiters, key=lambda _: self._spread()):
            if not turn.done():
                turn.set_result(self.begun)

"""Ask: a pool of workers over the plan sends what the journal cannot answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import PipelineError, RunRejected, Stopped, Unavailable
from pipeline.journal import Claim
from pipeline.limits import FinishBy, Limited, Retrying
from pipeline.records import Attempt, Key, Outcome, Request
from pipeline.run.conversation import Conversation, Settling
from pipeline.run.coordinator import Coordinator, NoRoom
from pipeline.run.plan import Plan, Planned

PARKED_PER_SLOT = 4
"""Rows that may wait for another attempt, for each slot: bounds memory while a server refuses much."""

PARKED_AT_LEAST = 32
"""With few slots so many may: in an outage rows that were never asked must last for the search, or rows use up their
attempts."""


class Watcher(Protocol):
    """What the pool tells about its work."""

    def ended(self, outcome: Outcome) -> None:
        """The outcome of a turn is durable; with a status, the row's."""


@dataclass(frozen=True, slots=True)
class Stack:
    """What a request passes on its way: retries around limits around the endpoint; and how its answers are taken."""

    retrying: Retrying
    limited: Limited
    settling: Settling


@dataclass(slots=True)
class Held:
    """A row under way: its claim, the attempts that ended so far, and how many of these were reserved for again."""

    claim: Claim
    made: list[Attempt]
    lost: int = 0


class Feed:
    """The plan's open requests, in order, looked up a batch at a time and a batch ahead at most."""

    def __init__(self, plan: Plan, coordinator: Coordinator) -> None:
        self._requests = self._walk(plan, coordinator)
        self._ready: deque[Request] = deque()
        self._lock = asyncio.Lock()
        self.stopped = False

    @property
    def ready(self) -> bool:
        """Whether `next` will answer without waiting for the disk."""
        return bool(self._ready) or self.stopped

    async def next(self) -> Request | None:
        """The next request to send; None at the end, or once stopped."""
        if self._ready:
            return self._ready.popleft()
        async with self._lock:
            while not self._ready and not self.stopped:
                batch = await anext(self._requests, None)
                if batch is None:
                    self.stopped = True
                elif not self.stopped:  # meanwhile
                    self._ready.extend(batch)
            return self._ready.popleft() if self._ready else None

    def stop(self) -> None:
        """Hand out nothing more."""
        self.stopped = True
        self._ready.clear()

    @staticmethod
    async def _walk(plan: Plan, coordinator: Coordinator) -> AsyncIterator[list[Request]]:
        batches = plan.read()
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            yield await open_requests(batch, coordinator)


async def open_requests(batch: Planned, coordinator: Coordinator) -> list[Request]:
    """The requests of the batch that are to be asked; of equal ones in the batch, the first."""
    places: dict[Key, int] = {}
    for nth, key in enumerate(batch.keys):
        if key is not None:
            places.setdefault(key, nth)
    opened = await coordinator.open(list(places))
    requests = [batch.request(nth) for nth, wanted in zip(places.values(), opened, strict=True) if wanted]
    return [request for request in requests if request is not None]


class Pool:
    """Workers that take a request from the feed, claim it, send it and keep its outcome, until the feed ends.

    A worker whose row waits for another attempt is parked: it holds no slot, and another worker takes its place.
    """

    def __init__(
        self,
        feed: Feed,
        coordinator: Coordinator,
        stack: Stack,
        watcher: Watcher,
        *,
        warm_up: bool = False,
        finish: FinishBy | None = None,
    ) -> None:
        """Compose.

        Args:
            feed: gives what is to be asked.
            coordinator: claims keys and keeps outcomes.
            stack: sends.
            watcher: told of each outcome.
            warm_up: one row at a time until the first is answered, so that the others find the API's cache filled: an
                entry can be used only after the first response has begun (messages-api §1.3).
            finish: says when no call may start any more.
        """
        self._feed = feed
        self._coordinator = coordinator
        self._stack = stack
        self._watcher = watcher
        self._window = stack.limited.window
        self._workers: dict[asyncio.Task[None], bool] = {}  # whether it is parked
        self._parked = 0
        self._rows: dict[asyncio.Task[object], Held] = {}  # workers that have a row under way
        self._unsent: set[asyncio.Task[object]] = set()  # of these, cancelled before their call left
        self._changed = asyncio.Event()
        self._window.grew = self._changed.set
        self._cold = warm_up
        self._finish = finish
        self._failure: BaseException | None = None
        self._draining = False
        self._stopping = False

    async def run(self, *, grace_secs: float) -> None:
        """Work until every open request has an outcome, or `drain` was called.

        Args:
            grace_secs: after `drain`, how long calls in flight may go on.

        Raises:
            PipelineError: what ended the run: the API rejects every row, it is out, or the journal cannot be written.
        """
        deadline: float | None = None
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._changed.clear()
                self._fill()
                if not self._workers or self._stopping:
                    break
                timeout: float | None = None
                if self._draining:
                    self._give_up_unsent()
                    deadline = loop.time() + grace_secs if deadline is None else deadline
                    timeout = max(0.0, deadline - loop.time())
                elif self._finish is not None:
                    timeout = self._finish.stop_in_secs()
                try:
                    await asyncio.wait_for(self._changed.wait(), timeout)
                except TimeoutError:
                    if deadline is not None:
                        break
                    self._time_is_up()
        finally:
            await self._cancel_all()
        if self._failure is not None:
            raise self._failure

    def drain(self) -> None:
        """Start nothing more; calls in flight may finish within the grace time."""
        self._draining = True
        self._feed.stop()
        self._changed.set()

    def stop(self) -> None:
        """Cut calls in flight off; what they would have answered may have been billed."""
        self._stopping = True
        self.drain()

    def _time_is_up(self) -> None:
        """Start nothing more; what is in flight is expected in time, with the grace beyond."""
        if self._finish is not None and not self._finish.may_start() and not self._draining:
            self._failure = self._failure or Stopped(
                "limits.finish_by is reached: no further call would be answered in time; what was answered is kept, "
                "and the same command goes on from here",
                "finish_by",
                "finish_by",
            )
            self.drain()

    def _fill(self) -> None:
        active = self._active
        slots = self._window.slots
        room = min(
            (1 if self._cold else slots) - active,
            slots + max(PARKED_AT_LEAST, slots * PARKED_PER_SLOT) - len(self._workers),
        )
        pause = self._stack.limited.pause
        if self._workers and pause.on:
            # Nobody sends: a worker more would only claim a row and wait with it, unless that row is to be tried next.
            room = min(room, int(pause.searching and not pause.untried))
        for _ in range(0 if self._feed.stopped else room):
            task = asyncio.create_task(self._work())
            self._workers[task] = False
            task.add_done_callback(self._done)

    @property
    def _active(self) -> int:
        """Workers that are not parked."""
        return len(self._workers) - self._parked

    def _done(self, task: asyncio.Task[None]) -> None:
        self._parked -= self._workers.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._failure is None:
            self._failure = error
            if not isinstance(error, RunRejected | Unavailable | Stopped):
                # A bug, or a journal that cannot be written: further answers would be lost.
                for other in self._workers:
                    other.cancel()
            self.drain()
        self._changed.set()

    def _give_up_unsent(self) -> None:
        """Cancel rows that have no call in flight: they wait for another attempt, for a slot or for the rate."""
        for task in self._rows.keys() - self._unsent - self._stack.limited.sending:
            self._unsent.add(task)
            task.cancel()

    async def _cancel_all(self) -> None:
        for task in self._workers:
            task.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Around the time a row waits for another attempt: its worker and its claim count as parked meanwhile.

        After a crash only claims that were not parked may have been billed.
        """
        task = asyncio.current_task()
        assert task is not None
        held = self._rows[task]
        self._set_parked(task, parked=True)
        self._changed.set()
        # One that lost a call stays marked: that call may have been billed, whatever happens meanwhile.
        await self._coordinator.park(held.claim.id, parked=not any(attempt.maybe_billed for attempt in held.made))
        try:
            yield
        finally:
            self._set_parked(task, parked=False)
            # A pause that is over now may have kept workers from being made.
            self._changed.set()
        # What was lost on the way may have been paid, so another call needs money of its own.
        lost = sum(attempt.maybe_billed for attempt in held.made) - held.lost
        held.lost += lost
        await self._coordinator.park(held.claim.id, parked=False, worst=lost * held.claim.reserved)

    def _set_parked(self, task: asyncio.Task[None], *, parked: bool) -> None:
        if task in self._workers:
            self._parked += parked - self._workers[task]
            self._workers[task] = parked

    async def _work(self) -> None:
        outcome: Outcome | None = None
        while True:
            # The answer becomes durable at once where the next request is not at hand yet.
            if outcome is not None and not self._feed.ready:
                await self._keep(outcome)
                outcome = None
            request = await self._feed.next()
            if request is None:
                self._stack.limited.pause.last_rows = True
                break
            claim = await self._claim(request, outcome)
            outcome = None
            if claim is not None:
                outcome = await self._send(request, claim)
                if self._active > self._window.slots:
                    break  # rows came back from waiting, or the window has shrunk
        if outcome is not None:
            await self._keep(outcome)

    async def _claim(self, request: Request, settled: Outcome | None) -> Claim | None:
        """Keep the outcome and claim the request's key, when the budget has room for its call; None if it is taken."""
        worst = [self._stack.settling.worst.nanos(request.prompt)]
        try:
            (given,) = await self._coordinator.claim([request.key], () if settled is None else (settled,), worst)
        finally:
            # Also where the budget ends the run: the outcome was kept before it was asked.
            if settled is not None:
                self._kept(settled)
        while isinstance(given, NoRoom):
            if self._draining:
                return None
            await self._coordinator.room()
            (given,) = await self._coordinator.claim([request.key], (), worst)
        return given

    async def _keep(self, outcome: Outcome) -> None:
        await self._coordinator.keep([outcome])
        self._kept(outcome)

    def _kept(self, outcome: Outcome) -> None:
        """The outcome is durable: only now may another call take its slot."""
        if outcome.attempts and outcome.attempts[-1][0].response is not None:
            self._window.release()
            if self._cold:
                self._cold = False
                self._changed.set()
            if self._finish is not None:
                self._finish.answered(outcome.attempts[-1][0].latency_ms / 1000)
                self._time_is_up()
        self._watcher.ended(outcome)

    async def _send(self, request: Request, claim: Claim) -> Outcome | None:
        """Hold the row's conversation; None where it was given up because the pool drains."""
        talk = Conversation(request, self._stack.settling)
        if claim.begun and (decided := talk.go_on(claim, await self._coordinator.turns(request.key))) is not None:
            return decided
        held: Claim | None = claim
        if talk.request is not request:
            # The turn that is due is longer than the first, for which money was reserved.
            await self._coordinator.release([claim.id])
            held = await self._claim(talk.request, None)
        while held is not None:
            if self._draining:
                await self._coordinator.release([held.id])
                return None
            outcome = await self._turn(talk, held)
            if outcome is None or outcome.status is not None:
                return outcome
            # An answer that is paid for is durable before the next turn is asked.
            held = await self._claim(talk.request, outcome)
        return None

    async def _turn(self, talk: Conversation, claim: Claim) -> Outcome | None:
        """Send what is next; None where it was given up because the pool drains."""
        task = asyncio.current_task()
        assert task is not None
        made: list[Attempt] = []
        self._rows[task] = Held(claim, made)
        try:
            attempts = await self._stack.retrying.send(talk.request, made)
        except asyncio.CancelledError:
            if task in self._unsent:
                await self._give_up(talk, claim, made)
            raise
        except Stopped:
            # No room for another call beside those that were lost: the row gives its reservation up and waits.
            return talk.give_up(claim, made)
        except PipelineError:
            await self._give_up(talk, claim, made)
            raise
        finally:
            del self._rows[task]
        return talk.settle(claim, attempts)

    async def _give_up(self, talk: Conversation, claim: Claim, made: list[Attempt]) -> None:
        """Keep what was tried, and leave the key open."""
        if made:
            await self._coordinator.keep([talk.give_up(claim, made)])
        else:
            await self._coordinator.release([claim.id])

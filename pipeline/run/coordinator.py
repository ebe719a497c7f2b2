"""The coordinator: owns the journal of a run, says which keys are open, claims them, keeps outcomes.

Workers speak to it in batches and only through its coroutines, so it may live in another
process. Every write goes to one thread, which commits what has arrived as soon as its last commit is down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from pipeline.cost import usd_texts
from pipeline.errors import Stopped
from pipeline.journal import Claim, Journal, Known, Turn
from pipeline.limits import Budget, Cap
from pipeline.records import Attempt, Key, Outcome
from pipeline.run.policy import Standing, choose

CLAIM_SECS = 24 * 3600.0


class NoRoom:
    """In place of a claim: the budget has no room for its call while others are under way; an answer may make some."""


NO_ROOM = NoRoom()


@dataclass(frozen=True, slots=True)
class Asking:
    """What the journal records with each attempt: the model asked, the limit, and where it went."""

    model: str
    max_tokens: int
    endpoint: str


Given = Claim | NoRoom | None

ANSWERED, FULL = -1, -2


@dataclass(frozen=True, slots=True)
class _Want:
    """A key that is wished for: what is reserved for it, or why it is not to be claimed."""

    key: Key
    nanos: int
    worst: int = 0


@dataclass(slots=True)
class _Held:
    """What is reserved for a claim in all, and what the price list says that one call of it costs at worst."""

    nanos: int
    worst: int


@dataclass(slots=True)
class _Wish:
    """What one caller wants written; its future gets the claims."""

    keys: Sequence[Key] = ()
    worst: Sequence[int] = ()
    outcomes: Sequence[Outcome] = ()
    released: Sequence[int] = ()
    parked: Sequence[tuple[int, bool]] = ()
    more: Sequence[tuple[int, int]] = ()
    done: asyncio.Future[list[Given]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def now() -> datetime:
    """The present, UTC."""
    return datetime.now(UTC)


class Coordinator:
    """The local form: an object beside the workers. Use as an async context manager."""

    def __init__(
        self,
        journal: Journal,
        standing: Standing,
        asking: Asking,
        *,
        budget: Budget | None = None,
        clock: Callable[[], datetime] = now,
        listed: Callable[[Attempt], int | None] = lambda _: None,
        controls_after: int = 0,
    ) -> None:
        """Compose.

        Args:
            journal: of the run; from now on only this object writes to it.
            standing: the present start.
            asking: what is recorded with each attempt.
            budget: what may still be spent; no caps by default.
            clock: the present, UTC.
            listed: nano-dollars of an answer by the price list, to hold against what the server reports.
            controls_after: the last limits set from outside that are none of this start's.
        """
        self._journal = journal
        self._standing = standing
        self._asking = asking
        self._budget = budget or Budget()
        self._reserved: dict[int, _Held] = {}
        self._settled = asyncio.Event()
        self._last_control = controls_after
        self._bound_by: str | None = None
        self._clock = clock
        self._listed = listed
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._waiting: list[_Wish] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._writer.shutdown(wait=True)

    async def open(self, keys: Sequence[Key]) -> list[bool]:
        """For each key, whether it is to be asked. What another run answered is taken over on the way."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._open, keys)

    async def turns(self, key: Key) -> list[Turn]:
        """The answered turns of a conversation without a verdict, in order."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._journal.turns, key)

    async def look(self, bound_by: str | None) -> dict[str, float]:
        """Record what limits the run's speed, and fetch what limits somebody set meanwhile, by key of the job's."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._look, bound_by)

    def _look(self, bound_by: str | None) -> dict[str, float]:
        if bound_by != self._bound_by:
            self._journal.set_bound(self._standing.start, bound_by)
            self._bound_by = bound_by
        found = self._journal.controls(self._standing.run, self._last_control)
        if found:
            self._last_control = found[-1][0]
        return {name: value for _, name, value in found}

    async def claim(
        self, keys: Sequence[Key], settled: Sequence[Outcome] = (), worst: Sequence[int] = ()
    ) -> list[Given]:
        """Keep the outcomes, and claim the keys, in one transaction; returns when it is durable.

        None stands for a key that is answered by now, or that another row of the run has in flight, `NO_ROOM` for one
        whose call the budget does not allow now: see `room`.

        Args:
            keys: of the requests that are to be sent.
            settled: outcomes of earlier ones.
            worst: nano-dollars that each of the calls may cost; nothing by default.

        Raises:
            StorageError: it could not be made durable.
            Stopped: the budget has no room for the call, and nothing is under way that could make any.
        """
        return await self._written(_Wish(keys, worst or [0] * len(keys), settled))

    async def room(self) -> None:
        """Wait until calls have been settled, so that there may be room in the budget."""
        await self._settled.wait()

    async def keep(self, outcomes: Sequence[Outcome]) -> None:
        """Make outcomes durable and settle their claims.

        Raises:
            StorageError: it could not be made durable.
        """
        await self._written(_Wish(outcomes=outcomes))

    async def release(self, claims: Sequence[int]) -> None:
        """Give up claims that have no call in flight."""
        await self._written(_Wish(released=claims))

    async def park(self, claim: int, *, parked: bool, worst: int = 0) -> None:
        """Say that a claim waits with nothing in flight, or (durably, before its next call) that it goes on.

        Args:
            claim: its id.
            parked: whether it waits.
            worst: nano-dollars to reserve beside: an earlier call of it was lost and may have been paid.

        Raises:
            StorageError: it could not be made durable.
            Stopped: the budget has no room for another call.
        """
        await self._written(_Wish(parked=((claim, parked),), more=((claim, worst),) if worst else ()))

    async def _written(self, wish: _Wish) -> list[Given]:
        self._waiting.append(wish)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())
        return await wish.done

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            wishes, self._waiting = self._waiting, []
            self._settled.clear()
            try:
                claims = await loop.run_in_executor(self._writer, self._commit, wishes)
            except BaseException as error:  # noqa: BLE001 - it belongs to those who wait, who raise it
                for wish in wishes:
                    if not wish.done.done():
                        wish.done.set_exception(error)
                continue
            if any(wish.outcomes or wish.released for wish in wishes):
                self._settled.set()
            for wish, given in zip(wishes, claims, strict=True):
                if wish.done.done():
                    continue
                if isinstance(given, Stopped):
                    wish.done.set_exception(given)
                else:
                    wish.done.set_result(given)

    def _commit(self, wishes: Sequence[_Wish]) -> list[list[Given] | Stopped]:
        journal, asking, standing = self._journal, self._asking, self._standing
        outcomes = [outcome for wish in wishes for outcome in wish.outcomes]
        released = [claim for wish in wishes for claim in wish.released]
        with journal.transaction():
            journal.keep(
                outcomes,
                run=standing.run,
                start=standing.start,
                model=asking.model,
                max_tokens=asking.max_tokens,
                endpoint=asking.endpoint,
            )
            journal.release(released)
            journal.park([claim for wish in wishes for claim in wish.parked])
            self._settle(outcomes, released)
            # Looked up again here: an equal row may have been answered since the sweep passed this one.
            chosen = self._chosen([key for wish in wishes for key in wish.keys])
            return self._grant(wishes, chosen)

    def _settle(self, outcomes: Sequence[Outcome], released: Sequence[int]) -> None:
        """Put what was reserved for calls that are over at what they cost, or may have cost."""
        for outcome in outcomes:
            if (held := self._reserved.pop(outcome.claim, None)) is not None:
                self._budget.settle(held.nanos, spent_by(outcome))
                for attempt, price in outcome.attempts:
                    self._budget.learn(held.worst, price.nanos or 0)
                    # A short answer stays below the worst case at any price: only the list shows the ratio.
                    if price.priced_by == "server" and price.nanos:
                        self._budget.learn(self._listed(attempt) or 0, price.nanos)
        for claim in released:
            if (held := self._reserved.pop(claim, None)) is not None:
                self._budget.settle(held.nanos, 0)

    def _grant(self, wishes: Sequence[_Wish], chosen: Mapping[Key, Known | None]) -> list[list[Given] | Stopped]:
        """Claim what is wished for, as far as the budget goes."""
        allowed = [self._allowed(wish, chosen) for wish in wishes]
        wanted = [want for given in allowed if not isinstance(given, Stopped) for want in given if want.nanos >= 0]
        standing = self._standing
        claims = iter(
            self._journal.add_claims(
                standing.run,
                standing.start,
                [want.key for want in wanted],
                self._asking.endpoint,
                self._clock(),
                CLAIM_SECS,
                [want.nanos for want in wanted],
            )
        )
        return [
            given if isinstance(given, Stopped) else [self._taken(want, claims) for want in given] for given in allowed
        ]

    def _allowed(self, wish: _Wish, chosen: Mapping[Key, Known | None]) -> list[_Want] | Stopped:
        """What of a wish may be claimed, at which reservation."""
        budget = self._budget
        for claim, nanos in wish.more:
            held = self._reserved[claim]
            cap = budget.more(nanos)
            if cap is not None:
                return Stopped(reached(cap, nanos), "budget", cap.name)
            held.nanos += nanos
            self._journal.reserve([(claim, nanos)])
        wants: list[_Want] = []
        for key, worst in zip(wish.keys, wish.worst, strict=True):
            if chosen[key] is not None:
                wants.append(_Want(key, ANSWERED))
                continue
            nanos = budget.scaled(worst)
            cap = budget.reserve(nanos)
            if cap is not None and budget.idle:
                return Stopped(reached(cap, nanos), "budget", cap.name)
            wants.append(_Want(key, FULL if cap is not None else nanos, worst))
        return wants

    def _taken(self, want: _Want, claims: Iterator[Claim | None]) -> Given:
        if want.nanos < 0:
            return NO_ROOM if want.nanos == FULL else None
        claim = next(claims)
        if claim is None:
            self._budget.settle(want.nanos, 0)
        else:
            self._reserved[claim.id] = _Held(want.nanos, want.worst)
        return claim

    def _open(self, keys: Sequence[Key]) -> list[bool]:
        chosen = self._chosen(keys)
        taken = [
            (key, known.attempt)
            for key, known in chosen.items()
            if known is not None and known.run != self._standing.run
        ]
        if taken:
            with self._journal.transaction():
                self._journal.set_reused(self._standing.run, taken)
        return [chosen[key] is None for key in keys]

    def _chosen(self, keys: Sequence[Key]) -> dict[Key, Known | None]:
        return chosen_outcomes(self._journal, self._standing, keys)


def spent_by(outcome: Outcome) -> int:
    """Nano-dollars that a turn has cost, or may have; an answer whose price is unknown counts as the worst."""
    spent = 0
    for attempt, price in outcome.attempts:
        unknown = attempt.maybe_billed or (attempt.response is not None and price.nanos is None)
        spent += (outcome.worst_nanos if unknown else 0) + (price.nanos or 0)
    return spent


def reached(cap: Cap, nanos: int) -> str:
    """Say that a cap stands against another call, and what to do."""
    way_out = "--budget USD or budget.run_usd" if cap.name == "run_usd" else "budget.month_usd"
    most, spent, call = usd_texts(cap.nanos, cap.spent, nanos)
    return (
        f"budget.{cap.name} of {most} is reached: {spent} are spent, and another call may cost {call}; "
        f"nothing more was sent. What was answered is kept; a larger {way_out} goes on"
    )


def chosen_outcomes(journal: Journal, standing: Standing, keys: Sequence[Key]) -> dict[Key, Known | None]:
    """For each key the outcome that this run refers to, or None where it is open."""
    outcomes = journal.find(keys)
    reused = journal.reused(standing.run, keys)
    return {key: choose(outcomes.get(key, ()), reused.get(key), standing) for key in keys}

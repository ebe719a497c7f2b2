"""The coordinator: owns the journal of a run, says which keys are open, claims them, keeps outcomes.

Workers speak to it in batches and only through its coroutines, so it may live in another
process. Every write goes to one thread, which commits what has arrived as soon as its last commit is down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from pipeline.journal import Claim, Journal, Known, Turn
from pipeline.records import Key, Outcome
from pipeline.run.policy import Standing, choose

CLAIM_SECS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Asking:
    """What the journal records with each attempt: the model asked, the limit, and where it went."""

    model: str
    max_tokens: int
    endpoint: str


@dataclass(slots=True)
class _Wish:
    """What one caller wants written; its future gets the claims."""

    keys: Sequence[Key]
    outcomes: Sequence[Outcome]
    released: Sequence[int] = ()
    parked: Sequence[tuple[int, bool]] = ()
    done: asyncio.Future[list[Claim | None]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def now() -> datetime:
    """The present, UTC."""
    return datetime.now(UTC)


class Coordinator:
    """The local form: an object beside the workers. Use as an async context manager."""

    def __init__(
        self, journal: Journal, standing: Standing, asking: Asking, *, clock: Callable[[], datetime] = now
    ) -> None:
        self._journal = journal
        self._standing = standing
        self._asking = asking
        self._clock = clock
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

    async def claim(self, keys: Sequence[Key], settled: Sequence[Outcome] = ()) -> list[Claim | None]:
        """Keep the outcomes and claim the keys in one transaction; returns when it is durable.

        None stands for a key that is answered by now, or that another row of the run has in flight.

        Raises:
            StorageError: it could not be made durable.
        """
        return await self._written(_Wish(keys, settled))

    async def keep(self, outcomes: Sequence[Outcome]) -> None:
        """Make outcomes durable and settle their claims.

        Raises:
            StorageError: it could not be made durable.
        """
        await self._written(_Wish((), outcomes))

    async def release(self, claims: Sequence[int]) -> None:
        """Give up claims that have no call in flight."""
        await self._written(_Wish((), (), claims))

    async def park(self, claim: int, *, parked: bool) -> None:
        """Say that a claim waits with nothing in flight, or (durably, before its next call) that it goes on."""
        await self._written(_Wish((), (), (), ((claim, parked),)))

    async def _written(self, wish: _Wish) -> list[Claim | None]:
        self._waiting.append(wish)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())
        return await wish.done

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            wishes, self._waiting = self._waiting, []
            try:
                claims = await loop.run_in_executor(self._writer, self._commit, wishes)
            except BaseException as error:  # noqa: BLE001 - it belongs to those who wait, who raise it
                for wish in wishes:
                    if not wish.done.done():
                        wish.done.set_exception(error)
                continue
            for wish, given in zip(wishes, claims, strict=True):
                if not wish.done.done():
                    wish.done.set_result(given)

    def _commit(self, wishes: Sequence[_Wish]) -> list[list[Claim | None]]:
        journal, asking, standing = self._journal, self._asking, self._standing
        with journal.transaction():
            journal.keep(
                [outcome for wish in wishes for outcome in wish.outcomes],
                run=standing.run,
                start=standing.start,
                model=asking.model,
                max_tokens=asking.max_tokens,
                endpoint=asking.endpoint,
            )
            journal.release([claim for wish in wishes for claim in wish.released])
            journal.park([claim for wish in wishes for claim in wish.parked])
            keys = [key for wish in wishes for key in wish.keys]
            # Looked up again here: an equal row may have been answered since the sweep passed this one.
            answered = {key for key, chosen in self._chosen(keys).items() if chosen is not None}
            wanted = [key for key in keys if key not in answered]
            given = iter(
                journal.add_claims(standing.run, standing.start, wanted, asking.endpoint, self._clock(), CLAIM_SECS)
            )
            return [[None if key in answered else next(given) for key in wish.keys] for wish in wishes]

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


def chosen_outcomes(journal: Journal, standing: Standing, keys: Sequence[Key]) -> dict[Key, Known | None]:
    """For each key the outcome that this run refers to, or None where it is open."""
    outcomes = journal.find(keys)
    reused = journal.reused(standing.run, keys)
    return {key: choose(outcomes.get(key, ()), reused.get(key), standing) for key in keys}

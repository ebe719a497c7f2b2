"""The pool: as many calls in flight as there are slots, after a pause as before it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from pipeline.answer import Contract, Reading
from pipeline.cost import Pricer
from pipeline.errors import Busy
from pipeline.journal import JobStamp, Journal
from pipeline.limits import Backoff, Limited, Pause, Retrying, Window, WorstCase
from pipeline.records import Outcome, Request, Response, Usage
from pipeline.run.ask import Feed, Pool, Stack
from pipeline.run.conversation import Settling
from pipeline.run.coordinator import Asking, Coordinator
from pipeline.run.plan import Plan, Planned
from pipeline.run.policy import Standing

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
SLOTS = 4
RAW = b'{"type":"message","content":[{"type":"text","text":"fine"}],"stop_reason":"end_turn"}'
PAUSE_SECS, OWN_WAIT_SECS, PATIENCE_SECS = 0.2, 60.0, 30.0


class Rows(Plan):
    """So many rows, without a folder."""

    def __init__(self, number: int) -> None:
        self._number = number

    def read(self, *, prompts: bool = True) -> Generator[Planned, None, None]:
        keys = [bytes([nth]) * 16 for nth in range(self._number)]
        names = [f"row-{nth}" for nth in range(self._number)]
        nothing = pa.record_batch({"kept": pa.nulls(self._number)})
        bodies = [b'"messages":[]'] * self._number
        yield Planned(0, list(keys), names, list(bodies), [None] * self._number, nothing, frozenset())


class Stopping(Rows):
    """Its feed is stopped while the second batch is looked up."""

    feed: Feed

    def read(self, *, prompts: bool = True) -> Generator[Planned, None, None]:
        yield from super().read(prompts=prompts)
        self.feed.stop()
        for batch in super().read(prompts=prompts):
            batch.keys[:] = [bytes([255 - nth]) * 16 for nth in range(len(batch.keys))]
            yield batch


class Unwatched:
    def ended(self, outcome: Outcome) -> None:
        """Nobody looks."""


@dataclass
class Wire:
    """Refuses one row for everybody, then another for itself; after the pause it holds every call."""

    pause: Pause
    in_flight: int = 0
    refused: set[str] = field(default_factory=set)
    full: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, request: Request) -> Response:
        self.in_flight += 1
        try:
            return await self._answer(request.row_id)
        finally:
            self.in_flight -= 1

    async def _answer(self, name: str) -> Response:
        first = name not in self.refused
        self.refused.add(name)
        if name == "row-3" and first:
            raise Busy("rate_limit", "slow down", http_status=429, wait_secs=PAUSE_SECS, shared=True)
        if name in {"row-0", "row-1", "row-2"}:
            while not self.pause.begun:  # noqa: ASYNC110 - the pause tells nobody when it begins
                await asyncio.sleep(0.001)
        if name == "row-0" and first:
            raise Busy("server_error", "not this one", http_status=500, wait_secs=OWN_WAIT_SECS)
        if name not in {"row-1", "row-2"}:
            if self.in_flight == SLOTS:
                self.full.set()
            await self.full.wait()
        return Response(RAW, "fine", "end_turn", "m", Usage(1, 1))


def test_after_a_pause_for_all_every_slot_is_used_again_though_a_row_waits_for_itself(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "job.sqlite")
    run, start = journal.begin(JobStamp("r", "job", None, "public", {}, {}), NOW)
    standing = Standing(run=run.id, start=start, finished=False, max_tokens=100)

    async def story() -> None:
        pause = Pause(spread=lambda: 0.0)
        wire = Wire(pause)
        limited = Limited(wire, Window(SLOTS), pause=pause)
        settling = Settling(Contract({}, None, Reading(None), 0), Pricer({}), "m", WorstCase(lambda _in, _out: 0))
        stack = Stack(Retrying(limited), limited, settling)
        async with Coordinator(journal, standing, Asking("m", 100, "api.example"), clock=lambda: NOW) as coordinator:
            pool = Pool(Feed(Rows(20), coordinator), coordinator, stack, Unwatched())
            stack.retrying.waiting = pool.waiting
            working = asyncio.create_task(pool.run(grace_secs=1.0))
            try:
                await asyncio.wait_for(wire.full.wait(), PATIENCE_SECS)
            finally:
                pool.stop()
                await working

    asyncio.run(story())
    journal.close()


@dataclass
class Falling:
    """A server that falls over some rows, one after the other."""

    bad: frozenset[str]
    asked: list[str] = field(default_factory=list)

    async def send(self, request: Request) -> Response:
        self.asked.append(request.row_id)
        if request.row_id in self.bad:
            raise Busy("server_error", "fell over", http_status=500)
        return Response(RAW, "fine", "end_turn", "m", Usage(1, 1))


def test_rows_that_a_server_falls_over_hold_up_no_others_though_they_are_more_than_slots(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "job.sqlite")
    run, start = journal.begin(JobStamp("r", "job", None, "public", {}, {}), NOW)
    standing = Standing(run=run.id, start=start, finished=False, max_tokens=100)
    first, last = 2, 2 + 4 * SLOTS
    wire = Falling(frozenset(f"row-{nth}" for nth in range(first, last)))

    async def story() -> None:
        limited = Limited(wire, Window(SLOTS), pause=Pause(Backoff(0.05, 0.05), spread=lambda: 1.0))
        settling = Settling(Contract({}, None, Reading(None), 0), Pricer({}), "m", WorstCase(lambda _in, _out: 0))
        stack = Stack(Retrying(limited, 6, Backoff(0.001)), limited, settling)
        async with Coordinator(journal, standing, Asking("m", 100, "api.example"), clock=lambda: NOW) as coordinator:
            pool = Pool(Feed(Rows(last + 20), coordinator), coordinator, stack, Unwatched())
            stack.retrying.waiting = pool.waiting
            await asyncio.wait_for(pool.run(grace_secs=1.0), PATIENCE_SECS)

    asyncio.run(story())
    journal.close()
    # Rows that were never asked go before those that have failed, so a good one is soon found.
    before = Counter(wire.asked[: wire.asked.index(f"row-{last}")])
    assert max(before.values()) < 4
    asked = Counter(wire.asked)
    assert all(asked[f"row-{nth}"] == (6 if first <= nth < last else 1) for nth in range(last + 20))


def test_what_was_looked_up_while_the_feed_was_stopped_is_not_handed_out(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "job.sqlite")
    run, start = journal.begin(JobStamp("r", "job", None, "public", {}, {}), NOW)
    standing = Standing(run=run.id, start=start, finished=False, max_tokens=100)

    async def story() -> list[str | None]:
        plan = Stopping(2)
        async with Coordinator(journal, standing, Asking("m", 100, "api.example"), clock=lambda: NOW) as coordinator:
            plan.feed = Feed(plan, coordinator)
            given = [await plan.feed.next() for _ in range(4)]
        return [None if request is None else request.row_id for request in given]

    assert asyncio.run(story()) == ["row-0", "row-1", None, None]
    journal.close()

"""The coordinator: one claim a key, outcomes durable when `keep` and `claim` return."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StorageError
from pipeline.journal import Claim, JobStamp, Journal
from pipeline.records import Attempt, Outcome, Price, Response, Usage
from pipeline.run.coordinator import Asking, Coordinator
from pipeline.run.policy import Standing

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
A, B, C = (bytes([n]) * 16 for n in range(3))
RAW = b'{"type":"message","content":[{"type":"text","text":"fine"}],"stop_reason":"end_turn"}'


def outcome(claim: int, key: bytes) -> Outcome:
    response = Response(RAW, "fine", "end_turn", "m", Usage(1, 1))
    return Outcome(claim, key, "ok", ((Attempt(NOW, 5, response, http_status=200), Price(7, "table")),))


def standing(journal: Journal, run_id: str = "r") -> Standing:
    run, start = journal.begin(JobStamp(run_id, "job", None, "public", {}, {}), NOW)
    return Standing(run=run.id, start=start, finished=False, max_tokens=100)


def work(journal: Journal, now: Standing, story: Callable[[Coordinator], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        async with Coordinator(journal, now, Asking("m", 100, "api.example"), clock=lambda: NOW) as coordinator:
            await story(coordinator)

    asyncio.run(told())


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.open(tmp_path / "job.sqlite")


def test_of_many_who_want_a_key_at_once_one_gets_it(journal: Journal) -> None:
    async def story(coordinator: Coordinator) -> None:
        given = await asyncio.gather(*(coordinator.claim([A]) for _ in range(20)))
        assert sum(claims != [None] for claims in given) == 1

    work(journal, standing(journal), story)


def test_a_key_that_was_answered_since_the_sweep_is_not_claimed_again(journal: Journal) -> None:
    async def story(coordinator: Coordinator) -> None:
        assert await coordinator.open([A, B]) == [True, True]
        (claim,) = await coordinator.claim([A])
        assert isinstance(claim, Claim)
        (repeat, other) = await coordinator.claim([A, B], [outcome(claim.id, A)])
        assert repeat is None
        assert other is not None
        assert await coordinator.claim([A]) == [None]
        assert await coordinator.open([A]) == [False]

    work(journal, standing(journal), story)


def test_what_keep_returned_from_is_on_disk_for_others(journal: Journal) -> None:
    async def story(coordinator: Coordinator) -> None:
        (claim,) = await coordinator.claim([A])
        assert isinstance(claim, Claim)
        await coordinator.keep([outcome(claim.id, A)])
        other = Journal.read(journal.path)
        assert other is not None
        assert [known.status for known in other.find([A])[A]] == ["ok"]
        assert other.in_flight(1) == 0
        other.close()

    work(journal, standing(journal), story)


def test_a_row_given_up_leaves_its_key_open_and_its_attempts_kept(journal: Journal) -> None:
    async def story(coordinator: Coordinator) -> None:
        (claim,) = await coordinator.claim([A])
        assert isinstance(claim, Claim)
        lost = Attempt(NOW, 5, None, "timeout", "no answer", maybe_billed=True)
        await coordinator.keep([Outcome(claim.id, A, None, ((lost, Price(0, None)),))])
        assert await coordinator.open([A]) == [True]
        assert await coordinator.claim([A]) != [None]

    now = standing(journal)
    work(journal, now, story)
    assert journal.totals(now.run).maybe_billed == 1


def test_what_another_run_answered_is_taken_over_and_stays_taken(journal: Journal) -> None:
    async def answer(coordinator: Coordinator) -> None:
        claims = await coordinator.claim([A, B])
        await coordinator.keep([outcome(claim.id, claim.key) for claim in claims if isinstance(claim, Claim)])

    async def take(coordinator: Coordinator) -> None:
        assert await coordinator.open([A, C]) == [False, True]

    work(journal, standing(journal, "first"), answer)
    second = standing(journal, "second")
    work(journal, second, take)
    assert list(journal.reused(second.run, [A, B, C])) == [A]
    assert journal.totals(second.run).cost_nanos == 0


def test_a_journal_that_cannot_be_written_fails_everyone_who_waits(journal: Journal) -> None:
    now = standing(journal)

    async def story(coordinator: Coordinator) -> None:
        journal.close()
        results = await asyncio.gather(*(coordinator.claim([key]) for key in (A, B, C)), return_exceptions=True)
        assert [type(result) for result in results] == [StorageError] * 3

    work(journal, now, story)

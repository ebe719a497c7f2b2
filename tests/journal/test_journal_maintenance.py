"""Care of the journal: what is damaged is named, what goes is said before, and nothing that counts goes by itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import JobError
from pipeline.journal import JobStamp, Journal, RunRecord
from pipeline.journal.maintenance import Which, check, open_again, prunable, prune, stats, vacuum
from pipeline.records import Attempt, Outcome, Price, Response, Usage

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
KEYS = [bytes([n]) * 16 for n in range(8)]
EVERYTHING = Which(before=NOW + timedelta(days=365))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "small.sqlite")
    yield opened
    opened.close()


def begin(journal: Journal, name: str) -> tuple[RunRecord, int]:
    return journal.begin(JobStamp(name, "small", None, "public", {}, {}), NOW)


def keep(journal: Journal, run: RunRecord, start: int, key: bytes, *, at: datetime = NOW, size: int = 40) -> int:
    """Keep an answer; the id of its attempt."""
    raw = f'{{"type":"message","content":[{{"type":"text","text":"{key.hex() * size}"}}]}}'.encode()
    response = Response(raw, "x", "end_turn", "claude-haiku-4-5", Usage(10, 5), "req")
    with journal.transaction():
        (claim,) = journal.add_claims(run.id, start, [key], "api.example", at, 60)
        assert claim is not None
        attempts = ((Attempt(at, 250, response, http_status=200), Price(1_000, "table")),)
        outcome = Outcome(claim.id, key, "ok", attempts)
        journal.keep([outcome], run=run.id, start=start, model="asked", max_tokens=100, endpoint="api.example")
    return journal.find([key])[key][-1].attempt


def spoil(journal: Journal, sql: str) -> None:
    """Change the file behind the journal's back."""
    with closing(sqlite3.connect(journal.path)) as db, db:
        db.execute(sql)


def test_a_sound_journal_has_no_problems(journal: Journal) -> None:
    run, start = begin(journal, "a")
    for key in KEYS:
        keep(journal, run, start, key)
    assert check(journal) == type(check(journal))(8, (), ())


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("UPDATE response SET checksum = x'0011' WHERE attempt = {first}", "1 stored response is damaged: k1-0000"),
        ("UPDATE response SET body = x'28b52ffd00' WHERE attempt = {first}", "1 stored response is damaged: k1-0000"),
        ("UPDATE response SET body = x'' WHERE attempt = {first}", "1 stored response is damaged: k1-0000"),
        ("DELETE FROM response WHERE attempt = {first}", "has lost its response: k1-0000"),
        ("DELETE FROM attempt WHERE id = {first}", "1 response belongs to no attempt"),
        ("DELETE FROM run", "attempts belong to no run"),
        ("INSERT INTO reuse VALUES (1, x'aa', 99)", "1 taken-over answer is gone: k1-aa"),
    ],
)
def test_what_is_wrong_is_named(journal: Journal, sql: str, words: str) -> None:
    run, start = begin(journal, "a")
    first, _ = keep(journal, run, start, KEYS[0]), keep(journal, run, start, KEYS[1])
    spoil(journal, sql.format(first=first))
    problems = check(journal).problems
    assert any(words in problem for problem in problems), problems


def test_an_answer_opened_again_is_no_outcome_any_more_and_its_bill_stays(journal: Journal) -> None:
    run, start = begin(journal, "a")
    first = keep(journal, run, start, KEYS[0])
    keep(journal, run, start, KEYS[1])
    journal.set_completed(run.id, NOW, {})
    spoil(journal, f"UPDATE response SET checksum = x'00' WHERE attempt = {first}")

    assert open_again(journal, check(journal).damaged) == 1

    assert set(journal.find(KEYS)) == {KEYS[1]}
    assert check(journal).problems == ()
    assert journal.totals(run.id).cost_nanos == 2_000
    assert journal.turns(KEYS[0]) == []
    again = journal.run("a")
    assert again is not None
    assert again.completed_at is None
    keep(journal, run, start, KEYS[0])
    assert journal.bills(run.id, KEYS)[KEYS[0]].cost_nanos == 2_000


def test_stats_tell_calls_bytes_and_spend_of_each_run(journal: Journal) -> None:
    run, start = begin(journal, "a")
    other, second = begin(journal, "b")
    for key in KEYS[:3]:
        keep(journal, run, start, key)
    keep(journal, other, second, KEYS[3])
    found = stats(journal)
    assert [(r.run_id, r.sent, r.answered, r.cost_nanos, r.by_model) for r in found.runs] == [
        ("a", 3, 3, 3_000, {"claude-haiku-4-5": 3_000}),
        ("b", 1, 1, 1_000, {"claude-haiku-4-5": 1_000}),
    ]
    assert all(r.stored_bytes > 0 for r in found.runs)
    assert found.file_bytes > 0


def test_answers_of_the_current_run_stay_unless_they_decide_nothing(journal: Journal) -> None:
    run, start = begin(journal, "old")
    old = keep(journal, run, start, KEYS[0])
    taken = keep(journal, run, start, KEYS[1])
    current, second = begin(journal, "new")
    first = keep(journal, current, second, KEYS[2])
    keep(journal, current, second, KEYS[2])
    with journal.transaction():
        journal.set_reused(current.id, [(KEYS[1], taken)])

    kept = prunable(journal, Which(before=NOW + timedelta(days=1), keep=("new",)))
    assert kept.attempts == (old, first)
    assert len(prunable(journal, EVERYTHING).attempts) == 4


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        (Which(before=NOW), [0]),
        (Which(runs=("b",)), [2]),
        (Which(before=NOW, runs=("b",)), []),
        (Which(superseded=True), []),
    ],
)
def test_what_goes_is_what_every_condition_names(journal: Journal, which: Which, wanted: list[int]) -> None:
    run, start = begin(journal, "a")
    other, second = begin(journal, "b")
    ids = [
        keep(journal, run, start, KEYS[0], at=NOW - timedelta(days=9)),
        keep(journal, run, start, KEYS[1]),
        keep(journal, other, second, KEYS[2]),
    ]
    found = prunable(journal, which)
    assert found.attempts == tuple(ids[nth] for nth in wanted)
    assert found.cost_nanos == 1_000 * len(wanted)


def test_an_unknown_run_is_said_with_those_there_are(journal: Journal) -> None:
    begin(journal, "a")
    with pytest.raises(JobError, match="no run x; runs in the journal: a"):
        prunable(journal, Which(runs=("x",)))


def test_pruning_removes_answers_and_keeps_what_they_cost(journal: Journal) -> None:
    run, start = begin(journal, "a")
    for key in KEYS:
        keep(journal, run, start, key)
    before = stats(journal).runs[0]
    gone = prunable(journal, EVERYTHING)

    prune(journal, gone.attempts)

    after = stats(journal).runs[0]
    assert gone.stored_bytes == before.stored_bytes
    assert (after.stored_bytes, after.cost_nanos, after.sent) == (0, before.cost_nanos, before.sent)
    assert journal.find(KEYS) == {}
    assert check(journal).problems == ()


def test_vacuum_gives_back_what_was_removed(journal: Journal) -> None:
    run, start = begin(journal, "a")
    import os

    for key in KEYS:
        raw = os.urandom(200_000).hex().encode()
        with journal.transaction():
            (claim,) = journal.add_claims(run.id, start, [key], "api.example", NOW, 60)
            assert claim is not None
            response = Response(raw, "x", "end_turn", "m", Usage(1, 1), "req")
            attempts = ((Attempt(NOW, 1, response, http_status=200), Price(1, "table")),)
            outcome = Outcome(claim.id, key, "ok", attempts)
            journal.keep([outcome], run=run.id, start=start, model="m", max_tokens=1, endpoint="e")
    prune(journal, prunable(journal, EVERYTHING).attempts)
    assert stats(journal).free_bytes > 1_000_000
    assert vacuum(journal) > 1_000_000
    assert stats(journal).free_bytes == 0

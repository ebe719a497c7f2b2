"""The journal keeps what was paid for: once, whole, and for the run that paid."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import JobError, StorageError, Unavailable
from pipeline.journal import Claim, JobStamp, Journal, JournalLock, Judgement, RunRecord, attempt_id
from pipeline.journal.schema import VERSION, create, migrate
from pipeline.journal.terms import read_terms
from pipeline.records import Attempt, Outcome, Price, Response, Status, Terms, Usage

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
KEYS = [bytes([n]) * 16 for n in range(8)]


def begin(journal: Journal, run_id: str = "nightly@2026-11-22") -> tuple[RunRecord, int]:
    return journal.begin(JobStamp(run_id, "nightly", date(2026, 11, 22), "public", {"region": "eu"}, {}), NOW)


def claim(journal: Journal, run: RunRecord, start: int, *keys: bytes) -> list[Claim | None]:
    with journal.transaction():
        return journal.add_claims(run.id, start, keys, "api.example", NOW, 60)


def answered(text: str = "fine", cost: int | None = 1_000) -> tuple[Attempt, Price]:
    raw = f'{{"type":"message","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn"}}'.encode()
    response = Response(raw, text, "end_turn", "claude-haiku-4-5", Usage(10, 5, 1, 2, 3), "req_1")
    return Attempt(NOW, 250, response, http_status=200), Price(cost, "table" if cost is not None else None)


def refusal(error_type: str = "rate_limit", *, maybe_billed: bool = False) -> tuple[Attempt, Price]:
    attempt = Attempt(NOW, 5, None, error_type, "429", 429, maybe_billed=maybe_billed)
    return attempt, Price(0, None)


def keep(
    journal: Journal,
    run: RunRecord,
    start: int,
    taken: Claim | None,
    *attempts: tuple[Attempt, Price],
    status: Status = "ok",
) -> Outcome:
    assert taken is not None
    outcome = Outcome(taken.id, taken.key, status, attempts or (answered(),))
    with journal.transaction():
        journal.keep([outcome], run=run.id, start=start, model="asked", max_tokens=100, endpoint="api.example")
    return outcome


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.open(tmp_path / "state" / "nightly.sqlite")


def test_what_is_kept_comes_back_whole(journal: Journal) -> None:
    run, start = begin(journal)
    (taken,) = claim(journal, run, start, KEYS[0])
    keep(journal, run, start, taken, answered("schön"))
    (known,) = journal.find(KEYS[:1])[KEYS[0]]
    answer = journal.answers({KEYS[0]: known.attempt})[KEYS[0]]
    assert (known.status, known.run, known.max_tokens) == ("ok", run.id, 100)
    assert answer.body is not None
    assert "schön" in answer.body.decode()
    assert answer.completed_at == NOW + timedelta(milliseconds=250)
    assert (answer.stop_reason, answer.model, answer.request_id) == ("end_turn", "claude-haiku-4-5", "req_1")


def test_a_key_is_claimed_by_one_caller_at_a_time(journal: Journal) -> None:
    run, start = begin(journal)
    first, second = claim(journal, run, start, KEYS[0], KEYS[1])
    assert first is not None
    assert second is not None
    assert claim(journal, run, start, KEYS[0]) == [None]
    with journal.transaction():
        journal.release([first.id])
    assert claim(journal, run, start, KEYS[0]) != [None]


def test_an_outcome_kept_twice_is_paid_once(journal: Journal) -> None:
    run, start = begin(journal)
    (taken,) = claim(journal, run, start, KEYS[0])
    for _ in range(2):
        keep(journal, run, start, taken)
    assert journal.totals(run.id).cost_nanos == 1_000
    assert journal.bills(run.id, KEYS)[KEYS[0]].attempts == 1


def test_a_bill_sums_every_attempt_and_only_of_the_run_that_made_it(journal: Journal) -> None:
    run, start = begin(journal)
    other, other_start = begin(journal, "nightly@2026-11-23")
    (taken,) = claim(journal, run, start, KEYS[0])
    keep(journal, run, start, taken, refusal(), answered(cost=300), answered(cost=700))
    (taken,) = claim(journal, other, other_start, KEYS[0])
    keep(journal, other, other_start, taken, answered(cost=50))
    bill = journal.bills(run.id, KEYS)[KEYS[0]]
    assert (bill.attempts, bill.usage, bill.cost_nanos) == (3, Usage(20, 10, 2, 4, 6), 1_000)
    assert journal.bills(other.id, KEYS)[KEYS[0]].cost_nanos == 50
    assert bill.by_model == {"claude-haiku-4-5": 1_000}


def test_an_unknown_price_makes_the_bill_unknown_and_never_smaller(journal: Journal) -> None:
    run, start = begin(journal)
    (taken,) = claim(journal, run, start, KEYS[0])
    keep(journal, run, start, taken, answered(cost=300), answered(cost=None))
    assert journal.bills(run.id, KEYS)[KEYS[0]].cost_nanos is None
    assert journal.totals(run.id).unpriced == 1


def test_calls_in_flight_at_a_crash_are_remembered_as_maybe_billed(tmp_path: Path, journal: Journal) -> None:
    run, start = begin(journal)
    claim(journal, run, start, KEYS[0], KEYS[1])
    journal.close()
    again = Journal.open(tmp_path / "state" / "nightly.sqlite")
    assert again.recover(NOW, 100) == [run.id] * 2
    assert again.totals(run.id).maybe_billed == 2
    assert again.find(KEYS) == {}
    assert claim(again, run, start, KEYS[0]) != [None]
    assert again.recover(NOW, 100) == [run.id]


def test_a_transaction_that_fails_leaves_nothing(journal: Journal) -> None:
    run, start = begin(journal)

    def fail() -> None:
        with journal.transaction():
            journal.add_claims(run.id, start, KEYS, "api.example", NOW, 60)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert journal.in_flight(run.id) == 0


def test_a_damaged_response_is_reported_not_used(tmp_path: Path, journal: Journal) -> None:
    run, start = begin(journal)
    (taken,) = claim(journal, run, start, KEYS[0])
    keep(journal, run, start, taken)
    with sqlite3.connect(journal.path) as raw:
        raw.execute("UPDATE response SET checksum = zeroblob(8)")
    raw.close()
    assert journal.answers({KEYS[0]: journal.find(KEYS)[KEYS[0]][0].attempt}) == {}


def test_reopening_is_durable_and_names_what_it_opened(tmp_path: Path, journal: Journal) -> None:
    run, start = begin(journal)
    (taken,) = claim(journal, run, start, KEYS[0])
    keep(journal, run, start, taken, refusal(), status="failed")
    journal.set_completed(run.id, NOW, {})
    journal.reopen(run.id, ["truncated"])
    (later,) = claim(journal, run, start, KEYS[1])
    keep(journal, run, start, later, refusal(), status="failed")
    journal.reopen(run.id, ["failed", "invalid"])
    journal.close()
    found = Journal.open(journal.path).run(run.run_id)
    assert found is not None
    assert taken is not None
    assert later is not None
    first, second = taken.id * 1024, later.id * 1024
    assert found.reopened == {"truncated": first, "failed": second, "invalid": second}


def test_state_folder_and_journal_are_for_their_owner_only(journal: Journal) -> None:
    begin(journal)
    assert stat.S_IMODE(journal.path.parent.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in journal.path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 4000])
def test_a_foreign_file_is_refused_and_left_as_it_was(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nightly.sqlite"
    path.write_bytes(content)
    with pytest.raises((JobError, StorageError)):
        Journal.open(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nightly.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE run (id)")
    raw.close()
    with pytest.raises(JobError, match="not a journal of this program"):
        Journal.open(path)


def test_a_newer_journal_is_refused_with_words(tmp_path: Path, journal: Journal) -> None:
    with sqlite3.connect(journal.path) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(JobError, match="newer version"):
        Journal.read(journal.path)


def test_a_reader_without_a_journal_makes_none(tmp_path: Path) -> None:
    assert Journal.read(tmp_path / "none.sqlite") is None
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from pipeline.journal import JournalLock
with JournalLock(Path(sys.argv[1]), wait_secs=0, purpose="pipeline run nightly.yaml"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "nightly.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Unavailable, match=rf"process {holder.pid} .*pipeline run nightly.yaml") as refused:
        JournalLock(path, wait_secs=0, purpose="another").__enter__()
    assert (refused.value.exit_code, refused.value.reason) == (75, "locked")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with JournalLock(path, wait_secs=0, purpose="another"):
        pass


def test_the_lock_can_be_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "nightly.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("60", "0.5"), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told: list[str] = []
    with JournalLock(path, wait_secs=30, purpose="another", notify=told.append):
        time.sleep(0)
    holder.wait()
    holder.stdout.close()
    assert told
    assert "waiting up to 30 s" in told[0]


def test_a_journal_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "nightly.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA journal_mode = WAL")
    raw.close()
    assert path.stat().st_size > 0
    assert Journal.read(path) is None
    begin(Journal.open(path))


def test_a_run_that_asked_nothing_yet_is_told_from_one_that_did(journal: Journal) -> None:
    run, start = begin(journal)
    assert not journal.asked(run.run_id)
    (taken,) = claim(journal, run, start, KEYS[0])
    keep(journal, run, start, taken)
    assert journal.asked(run.run_id)
    assert not journal.asked("another")


def test_a_claim_that_waited_between_attempts_is_not_thought_billed(journal: Journal) -> None:
    run, start = begin(journal)
    waiting, flying, back = claim(journal, run, start, *KEYS[:3])
    assert waiting is not None
    assert flying is not None
    assert back is not None
    with journal.transaction():
        journal.park([(waiting.id, True), (back.id, True), (back.id, False)])
    assert journal.in_flight(run.id) == 2
    assert journal.recover(NOW, 100) == [run.id] * 2
    assert journal.totals(run.id).maybe_billed == 2
    assert None not in claim(journal, run, start, *KEYS[:3])


def turn(
    journal: Journal,
    run: RunRecord,
    start: int,
    *,
    status: Status | None = None,
    asked: bytes | None = None,
    continues: int | None = None,
    text: str = "fine",
) -> int:
    """One answered turn of the conversation of the first key; gives its attempt."""
    (taken,) = claim(journal, run, start, KEYS[0])
    assert taken is not None
    outcome = Outcome(taken.id, KEYS[0], status, (answered(text),), asked=asked, continues=continues)
    with journal.transaction():
        journal.keep([outcome], run=run.id, start=start, model="asked", max_tokens=100, endpoint="api.example")
    return attempt_id(taken.id, 0)


def test_a_claim_says_whether_a_conversation_was_begun_and_the_turns_come_back_in_order(journal: Journal) -> None:
    run, start = begin(journal)
    first = turn(journal, run, start, text="one")
    second = turn(journal, run, start, asked=KEYS[1], text="two")
    begun, other = claim(journal, run, start, KEYS[0], KEYS[2])
    assert begun is not None
    assert other is not None
    assert (begun.begun, other.begun) == (True, False)
    turns = journal.turns(KEYS[0])
    assert [(found.attempt, found.asked) for found in turns] == [(first, None), (second, KEYS[1])]
    assert [b"one" in turns[0].body, b"two" in turns[1].body] == [True, True]
    assert journal.find(KEYS[:1]) == {}


@pytest.mark.parametrize(
    ("verdict", "left"), [("ok", 0), ("refused", 0), ("invalid", 0), ("truncated", 1), ("failed", 1)]
)
def test_turns_before_a_verdict_are_another_conversation_but_for_one_that_was_cut_short(
    journal: Journal, verdict: Status, left: int
) -> None:
    run, start = begin(journal)
    turn(journal, run, start)
    turn(journal, run, start, status=verdict, asked=KEYS[1])
    assert len(journal.turns(KEYS[0])) == left


def test_a_damaged_turn_is_not_gone_on_from(journal: Journal, tmp_path: Path) -> None:
    run, start = begin(journal)
    damaged = turn(journal, run, start)
    with closing(sqlite3.connect(journal.path)) as other, other:
        other.execute("UPDATE response SET checksum = X'00' WHERE attempt = ?", (damaged,))
    assert journal.turns(KEYS[0]) == []


def test_every_turn_is_on_the_bill_of_its_row_and_none_counts_as_a_retry(journal: Journal) -> None:
    run, start = begin(journal)
    turn(journal, run, start)
    turn(journal, run, start, asked=KEYS[1], status="ok")
    bill = journal.bills(run.id, KEYS[:1])[KEYS[0]]
    assert (bill.attempts, bill.cost_nanos, bill.usage) == (2, 2_000, Usage(20, 10, 2, 4, 6))
    totals = journal.totals(run.id)
    assert (totals.sent, totals.answered, totals.retried) == (2, 2, 0)


def test_the_parts_of_a_paused_answer_come_back_in_order(journal: Journal) -> None:
    run, start = begin(journal)
    first = turn(journal, run, start, text="one")
    second = turn(journal, run, start, asked=KEYS[1], continues=first, text="two")
    last = turn(journal, run, start, asked=KEYS[2], continues=second, status="ok", text="three")
    answer = journal.answers({KEYS[0]: last})[KEYS[0]]
    assert [b"one" in answer.earlier[0], b"two" in answer.earlier[1]] == [True, True]
    assert b"three" in (answer.body or b"")


def test_a_new_verdict_takes_the_place_of_the_old_one(journal: Journal) -> None:
    run, start = begin(journal)
    (taken,) = claim(journal, run, start, KEYS[0])
    keep(journal, run, start, taken, status="invalid")
    (old,) = journal.find(KEYS[:1])[KEYS[0]]
    with journal.transaction():
        journal.judge([Judgement(old.attempt, "ok", None, None, b"r" * 16)])
    (new,) = journal.find(KEYS[:1])[KEYS[0]]
    assert (new.attempt, new.status, new.rules) == (old.attempt, "ok", b"r" * 16)


def test_an_earlier_attempt_can_turn_out_to_decide(journal: Journal) -> None:
    run, start = begin(journal)
    first = turn(journal, run, start)
    (taken,) = claim(journal, run, start, KEYS[0])
    assert taken is not None
    outcome = Outcome(taken.id, KEYS[0], "invalid", (), "schema_mismatch", "no", decided=first)
    with journal.transaction():
        journal.keep([outcome], run=run.id, start=start, model="asked", max_tokens=100, endpoint="api.example")
    (known,) = journal.find(KEYS[:1])[KEYS[0]]
    # The verdict stands on a copy, the newest of all, which is no call and costs nothing.
    assert (known.attempt, known.status, known.error_type) == (attempt_id(taken.id, 0), "invalid", "schema_mismatch")
    assert b"fine" in (journal.answers({KEYS[0]: known.attempt})[KEYS[0]].body or b"")
    assert journal.in_flight(run.id) == 0
    totals, bill = journal.totals(run.id), journal.bills(run.id, KEYS[:1])[KEYS[0]]
    assert (totals.sent, totals.retried, totals.cost_nanos) == (1, 0, 1_000)
    assert (bill.attempts, bill.cost_nanos) == (1, 1_000)


def test_a_journal_of_the_first_version_keeps_its_answers_and_takes_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "small.sqlite"
    shutil.copy(Path(__file__).parent / "data" / "small-v1.sqlite", path)
    journal = Journal.open(path)
    (run,) = journal.runs()
    totals = journal.totals(run.id)
    assert (totals.answered, totals.cost_nanos, run.run_id) == (20, 1_080_000, "small")
    start = begin(journal)[1]
    turn(journal, run, start)
    assert len(journal.turns(KEYS[0])) == 1
    journal.close()
    with closing(sqlite3.connect(path)) as opened:
        assert opened.execute("PRAGMA user_version").fetchone() == (VERSION,)


def columns_of(connection: sqlite3.Connection) -> dict[str, set[tuple[str, str, int]]]:
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    told = {table: connection.execute(f"PRAGMA table_info({table})").fetchall() for table in tables}
    return {table: {(name, kind, needed) for _, name, kind, needed, *_ in rows} for table, rows in told.items()}


@pytest.mark.parametrize("old", ["small-v1.sqlite", "terms-v2.sqlite"])
def test_an_older_journal_has_the_tables_of_a_new_one_afterwards(tmp_path: Path, old: str) -> None:
    path = tmp_path / old
    shutil.copy(Path(__file__).parent / "data" / old, path)
    Journal.open(path).close()
    with closing(sqlite3.connect(path)) as migrated, closing(sqlite3.connect(":memory:")) as new:
        create(new)
        assert columns_of(migrated) == columns_of(new)
        assert migrated.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_a_journal_of_the_second_version_learns_the_terms_of_its_attempts_from_their_answers(tmp_path: Path) -> None:
    path = tmp_path / "terms.sqlite"
    shutil.copy(Path(__file__).parent / "data" / "terms-v2.sqlite", path)
    journal = Journal.open(path)
    (run,) = journal.runs()
    assert (journal.totals(run.id).answered, journal.totals(run.id).cost_nanos) == (7, 72_900_000)
    journal.close()
    with closing(sqlite3.connect(path)) as opened:
        found = opened.execute("SELECT terms FROM attempt WHERE answered ORDER BY id").fetchall()
    assert [read_terms(text) for (text,) in found] == [
        Terms(),
        Terms(batch=True),
        Terms(us=True),
        Terms(fast=True),
        Terms(batch=True, us=True),
        Terms(web_searches=3),
        Terms(),
    ]


def test_a_step_that_another_process_takes_meanwhile_is_taken_once(tmp_path: Path) -> None:
    path = tmp_path / "terms.sqlite"
    shutil.copy(Path(__file__).parent / "data" / "terms-v2.sqlite", path)
    for _ in range(2):
        with closing(sqlite3.connect(path, isolation_level=None)) as opened:
            migrate(opened, 2)
            assert opened.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_an_attempt_keeps_the_model_that_was_asked_and_the_terms_it_was_charged_by(journal: Journal) -> None:
    run, start = begin(journal)
    (plain, other) = claim(journal, run, start, *KEYS[:2])
    attempt, price = answered()
    assert attempt.response is not None
    served = replace(attempt.response, model="asked", terms=Terms(batch=True, us=True, web_searches=2))
    keep(journal, run, start, plain, refusal(), (replace(attempt, response=served), price))
    keep(journal, run, start, other)
    with closing(sqlite3.connect(journal.path)) as opened:
        told = opened.execute("SELECT model, asked, terms FROM attempt ORDER BY id").fetchall()
    assert told == [
        ("asked", None, None),
        ("asked", None, '{"batch": true, "us": true, "web_searches": 2}'),
        ("claude-haiku-4-5", "asked", None),
    ]
    assert read_terms(told[1][2]) == served.terms

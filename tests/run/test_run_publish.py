"""Publishing: each row as the journal has it, whichever way it takes there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.answer import contract
from pipeline.job import Job, load
from pipeline.journal import JobStamp, Journal, RunRecord
from pipeline.journal.settled import Asked
from pipeline.output import Tally, table
from pipeline.records import Attempt, Key, Outcome, Price, Response, Status, Usage, key_text
from pipeline.run.metadata import run_columns, run_schema
from pipeline.run.plan import Plan, make_plan
from pipeline.run.policy import Standing
from pipeline.run.publish import Joined, count, join, text_of
from pipeline.run.ready import make_ready

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
JOB = """\
name: small
source: {path: rows.csv, id: [name]}
prompt: {user: "Say <<word>>"}
request: {model: claude-haiku-4-5, max_tokens: 100}
endpoint: simulator
output: {path: out.parquet}
"""
SCHEMA = """
answer: {schema: {type: object, properties: {label: {type: string}}, required: [label]}}
"""
NAMES = ["once", "retried", "other", "failed", "never", "truncated", "refused", "unpriced", "equal", "equal"]
WORDS = [*NAMES[:-1], "equal"]


def body(text: str) -> bytes:
    return f'{{"type":"message","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn"}}'.encode()


def answered(text: str = "fine", cost: int | None = 1_000, stop: str = "end_turn") -> tuple[Attempt, Price]:
    response = Response(body(text), text, stop, "claude-haiku-4-5", Usage(10, 5, 1, 2, 3), "req_1")
    return Attempt(NOW, 250, response, http_status=200), Price(cost, None if cost is None else "table")


def lost() -> tuple[Attempt, Price]:
    return Attempt(NOW, 5, None, "overloaded", "529", 529), Price(0, None)


@dataclass
class Bench:
    """A plan of ten rows, and a journal that this run and another one wrote in."""

    job: Job
    plan: Plan
    journal: Journal
    run: RunRecord
    start: int
    keys: dict[str, Key]

    def keep(self, name: str, *attempts: tuple[Attempt, Price], status: Status = "ok", run: int | None = None) -> None:
        run = self.run.id if run is None else run
        with self.journal.transaction():
            (claim,) = self.journal.add_claims(run, self.start, [self.keys[name]], "api.example", NOW, 60)
            assert claim is not None
            error = ("overloaded", "529") if status == "failed" else (None, None)
            outcome = Outcome(claim.id, claim.key, status, attempts, *error)
            self.journal.keep(
                [outcome], run=run, start=self.start, model="asked", max_tokens=100, endpoint="api.example"
            )

    @property
    def standing(self) -> Standing:
        return Standing(self.run.id, -1, finished=True, max_tokens=100)

    def rows(self, standing: Standing | None = None) -> tuple[list[dict[str, Any]], Tally]:
        reading, tally = contract(self.job).reading, Tally()
        schema = run_schema(self.job, self.plan, reading, self.run)
        columns = run_columns(self.job, self.run)
        batches = join(self.plan, self.journal, standing or self.standing, reading, columns, schema, tally)
        rows: list[dict[str, Any]] = pa.Table.from_batches(list(batches), schema).to_pylist()
        return rows, tally


@pytest.fixture
def made(tmp_path: Path) -> Bench:
    return bench(tmp_path, JOB)


def bench(folder: Path, text: str) -> Bench:
    lines = [f"{number}-{name},{word}" for number, (name, word) in enumerate(zip(NAMES, WORDS, strict=True))]
    (folder / "rows.csv").write_text("\n".join(["name,word", *lines]) + "\n")
    (folder / "job.yaml").write_text(text)
    job = load(folder / "job.yaml", environ={})
    plan = make_plan(folder / "plan", job, make_ready(job), run_id="small", limit=None)
    journal = Journal.open(folder / "small.sqlite")
    run, start = journal.begin(JobStamp("small", "small", None, "simulator", {}, {}), NOW)
    (planned,) = plan.read()
    keys = {word: key for word, key in zip(WORDS, planned.keys, strict=True) if key is not None}
    return Bench(job, plan, journal, run, start, keys)


def fill(made: Bench) -> None:
    """One row for each way of being answered."""
    other, _ = made.journal.begin(JobStamp("other", "small", None, "simulator", {}, {}), NOW)
    made.keep("once", answered("first"))
    made.keep("retried", lost(), answered("second"))
    made.keep("other", answered("theirs"), run=other.id)
    made.keep("failed", lost(), status="failed")
    made.keep("truncated", answered("cut", stop="max_tokens"), status="truncated")
    made.keep("refused", answered("no", stop="refusal"), status="refused")
    made.keep("unpriced", answered("dear", None))
    made.keep("equal", answered("both"))


def test_each_row_stands_as_the_journal_has_it(made: Bench) -> None:
    fill(made)
    rows, tally = made.rows()
    told = [
        (r["status"], r["response_text"], r["attempts"], r["cost_usd"], r["input_tokens"], r["reused"]) for r in rows
    ]
    assert told == [
        ("ok", "first", 1, 1e-6, 10, False),
        ("ok", "second", 2, 1e-6, 10, False),
        ("ok", "theirs", 0, 0.0, 0, True),
        ("failed", None, 1, 0.0, 0, False),
        ("pending", None, 0, 0.0, 0, False),
        ("truncated", "cut", 1, 1e-6, 10, False),
        ("refused", "no", 1, 1e-6, 10, False),
        ("ok", "dear", 1, None, 10, False),
        ("ok", "both", 1, 1e-6, 10, False),
        ("ok", "both", 0, 0.0, 0, True),
    ]
    assert (tally.cost_nanos, tally.unpriced) == (5_000, 1)
    assert tally.statuses == {"ok": 6, "failed": 1, "pending": 1, "truncated": 1, "refused": 1}
    assert tally.usage.input_tokens == 60
    assert tally.failures == {"overloaded": (1, "529")}
    assert sum(tally.by_model.values()) == 5_000


def test_a_row_that_was_asked_once_has_every_column(made: Bench) -> None:
    fill(made)
    first = made.rows()[0][0]
    assert first == {
        "name": "0-once",
        "word": "once",
        "response_text": "first",
        "status": "ok",
        "error_type": None,
        "error_message": None,
        "stop_reason": "end_turn",
        "model": "claude-haiku-4-5",
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_write_tokens": 3,
        "cache_read_tokens": 3,
        "cost_usd": 1e-6,
        "priced_by": "table",
        "attempts": 1,
        "latency_ms": 250,
        "reused": False,
        "request_key": key_text(made.keys["once"]),
        "request_id": "req_1",
        "endpoint": "api.example",
        "job": "small",
        "run_id": "small",
        "run_date": None,
        "completed_at": NOW + timedelta(milliseconds=250),
    }


def test_both_ways_make_the_same_row(made: Bench) -> None:
    """An attempt without an answer sends a row the general way; but for the count of attempts it must be the same."""
    made.keep("once", answered("same"))
    made.keep("retried", lost(), answered("same"))
    rows, _ = made.rows()
    apart = ("name", "word", "request_key", "attempts")
    once, retried = ({k: v for k, v in row.items() if k not in apart} for row in rows[:2])
    assert once == retried


def in_pieces(made: Bench, at_once: int) -> tuple[pa.Schema, list[pa.RecordBatch], Tally]:
    (planned,) = made.plan.read(prompts=False)
    reading, tally = contract(made.job).reading, Tally()
    schema, columns = run_schema(made.job, made.plan, reading, made.run), run_columns(made.job, made.run)
    joined = Joined(made.journal, made.standing, reading, columns, tally)
    asked = Asked(made.journal, list(made.keys.values()))
    return schema, [table(p, joined.lines(p, asked), columns, schema, tally) for p in planned.pieces(at_once)], tally


@pytest.mark.parametrize("at_once", [1, 3])
def test_rows_come_out_alike_however_many_are_joined_at_a_time(made: Bench, at_once: int) -> None:
    """What is usual in the last rows is compared with first; a row that is unusual must not come out as usual."""
    fill(made)
    whole, told = made.rows()
    schema, pieces, tally = in_pieces(made, at_once)
    assert pa.Table.from_batches(pieces, schema).to_pylist() == whole
    assert tally == told


def test_a_row_that_differs_from_the_usual_by_its_status_alone_keeps_it(made: Bench) -> None:
    made.keep("once", answered("a"))
    made.keep("retried", answered("b"), status="invalid")
    made.keep("other", answered("c"))
    schema, pieces, tally = in_pieces(made, 1)
    assert pa.Table.from_batches(pieces, schema).column("status").to_pylist()[:3] == ["ok", "invalid", "ok"]
    assert tally.failures == {"error": (1, "")}


def test_a_bill_with_an_unknown_part_is_unknown_and_counts_every_model(made: Bench) -> None:
    with_price, without = answered("first"), answered("second", None)
    made.keep("retried", with_price, without, with_price)
    made.keep("once", lost(), answered("third"))
    rows, tally = made.rows()
    row = rows[NAMES.index("retried")]
    assert (row["cost_usd"], row["priced_by"], row["input_tokens"], row["attempts"]) == (None, "table", 30, 3)
    assert (tally.cost_nanos, tally.unpriced, sum(tally.by_model.values())) == (1_000, 1, 3_000)


def test_an_equal_row_of_a_damaged_answer_is_pending_too(made: Bench) -> None:
    made.keep("equal", answered("both"))
    with closing(sqlite3.connect(made.journal.path)) as db, db:
        db.execute("UPDATE response SET body = x'00'")
    rows, tally = made.rows()
    assert [(row["status"], row["attempts"], row["reused"]) for row in rows[-2:]] == [
        ("pending", 1, False),
        ("pending", 0, False),
    ]
    assert (len(tally.damaged), tally.cost_nanos) == (1, 1_000)


def test_a_reopened_answer_is_not_taken_by_the_quick_way(made: Bench) -> None:
    made.keep("once", answered("first"))
    (known,) = made.journal.find([made.keys["once"]])[made.keys["once"]]
    reopened = Standing(made.run.id, -1, finished=True, max_tokens=100, reopened={"ok": known.attempt})
    assert made.rows(reopened)[0][0]["status"] == "pending"
    assert count(made.plan, made.journal, reopened).rows["pending"] == 10


def test_a_damaged_answer_is_never_published_and_is_named(made: Bench) -> None:
    made.keep("once", answered("first"))
    made.keep("retried", lost(), answered("second"))
    with closing(sqlite3.connect(made.journal.path)) as db, db:
        db.execute("UPDATE response SET checksum = x'00' WHERE attempt = (SELECT min(attempt) FROM response)")
    rows, tally = made.rows()
    assert [row["status"] for row in rows[:2]] == ["pending", "ok"]
    (known,) = made.journal.find([made.keys["once"]])[made.keys["once"]]
    assert tally.damaged == {known.attempt}


def test_typed_cells_come_by_both_ways(tmp_path: Path) -> None:
    made = bench(tmp_path, JOB + SCHEMA)
    made.keep("once", answered('{\\"label\\": \\"a\\"}'))
    made.keep("retried", lost(), answered('{\\"label\\": \\"b\\"}'))
    rows, _ = made.rows()
    assert [row["label"] for row in rows[:3]] == ["a", "b", None]


def test_counting_agrees_with_publishing_and_says_where_to_ask(made: Bench) -> None:
    fill(made)
    counts = count(made.plan, made.journal, made.standing)
    rows, _ = made.rows()
    assert sorted(counts.rows.items()) == sorted(
        {status: sum(r["status"] == status for r in rows) for status in {r["status"] for r in rows}}.items()
    )
    assert (counts.open, counts.answered, counts.batches) == (1, 9, frozenset({0}))
    assert [len(batch) for batch in made.plan.narrowed(counts.batches).read()] == [10]
    assert list(made.plan.narrowed(frozenset()).read()) == []


def test_a_batch_with_an_answer_of_another_run_is_walked_again_though_nothing_is_open(made: Bench) -> None:
    other, _ = made.journal.begin(JobStamp("other", "small", None, "simulator", {}, {}), NOW)
    for name in made.keys:
        made.keep(name, answered())
    assert count(made.plan, made.journal, made.standing).batches == frozenset()
    stranger = Standing(other.id, -1, finished=True, max_tokens=100)
    counts = count(made.plan, made.journal, stranger)
    assert (counts.open, counts.batches) == (0, frozenset({0}))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (body("plain"), "plain"),
        (b'{"type":"message","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}', "ab"),
        (b'{"type":"message","content":[{"type":"thinking","thinking":"x"},{"type":"text","text":"b"}]}', "b"),
        (b'{"choices":[{"message":{"content":"c"},"finish_reason":"stop"}]}', "c"),
        (b'{"type":"message","content":"d"}', "d"),
        (b'{"type":"message","content":[]}', ""),
        (b'{"type":"error","error":{"type":"x"}}', None),
        (b"not json", None),
        (b"[]", None),
    ],
)
def test_the_text_alone_is_the_text_of_the_whole_answer(raw: bytes, text: str | None) -> None:
    assert text_of(raw) == text

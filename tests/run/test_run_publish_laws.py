"""Whatever a journal holds, publishing and counting say what a plain reading of its rows says, in bounded memory."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from run_journals import Desk, attempt, body, desk_of, plainly, random_journal

from pipeline.answer import contract
from pipeline.journal.bodies import Bodies
from pipeline.output import Tally
from pipeline.run.metadata import run_columns, run_schema
from pipeline.run.plan import Plan
from pipeline.run.policy import Standing
from pipeline.run.publish import MOST_BYTES, count, join

ROWS = (1, 2, 7, 40, 300)
CASES = (
    [(seed, ROWS[seed % len(ROWS)]) for seed in range(60)] + [(seed, 2_500) for seed in range(60, 64)] + [(64, 9_000)]
)


@pytest.mark.parametrize(("seed", "rows"), CASES)
def test_publishing_and_counting_say_what_a_plain_reading_says(tmp_path: Path, seed: int, rows: int) -> None:
    known = random_journal(tmp_path, random.Random(seed), rows)
    desk, reading, tally = known.desk, contract(known.desk.job).reading, Tally()
    columns, schema = run_columns(desk.job, desk.run), run_schema(desk.job, desk.plan, reading, desk.run)
    batches = list(join(desk.plan, desk.journal, known.standing, reading, columns, schema, tally))
    told = plainly(known, columns)
    published = pa.Table.from_batches(batches, schema).to_pylist()
    assert [{name: row[name] for name in told.rows[0]} for row in published] == told.rows
    assert tally.damaged == told.damaged
    assert +tally.by_model == +told.by_model
    assert tally.statuses == Counter(row["status"] for row in told.rows)
    assert tally.unpriced == sum(row["cost_usd"] is None for row in told.rows)
    assert tally.cost_nanos == round(sum(1e9 * (row["cost_usd"] or 0) for row in told.rows))
    counts = count(desk.plan, desk.journal, known.standing)
    assert Counter(counts.rows) == told.statuses
    assert (counts.open, counts.batches) == (len(told.open), frozenset(told.batches))
    desk.journal.close()


def joined(desk: Desk) -> list[pa.RecordBatch]:
    """The output of the desk's run, as who only looks gets it."""
    reading, tally = contract(desk.job).reading, Tally()
    columns, schema = run_columns(desk.job, desk.run), run_schema(desk.job, desk.plan, reading, desk.run)
    standing = Standing(desk.run.id, -1, finished=True, max_tokens=100)
    return list(join(desk.plan, desk.journal, standing, reading, columns, schema, tally))


LARGE = 1 << 20
"""Bytes of an answer, so that forty come to more than twice of what may be in memory."""


@pytest.mark.parametrize("how", ["asked once", "asked again", "equal rows", "many small ones first"])
def test_however_large_answers_are_only_so_many_bytes_of_them_are_joined_at_a_time(tmp_path: Path, how: str) -> None:
    """Also where nothing told before that they are large: they are in the first rows, or behind many small ones."""
    small = 1_500 if how == "many small ones first" else 0
    words = [(f"w{0 if how == 'equal rows' else nth}", 1) for nth in range(small + 40)]
    desk = desk_of(tmp_path, words)
    made: list[dict[str, Any]] = []
    responses: list[tuple[int, bytes, bytes]] = []
    run, start = desk.run.id, desk.starts[desk.run.id][0]
    for nth, key in enumerate(desk.keys):
        number = (nth + 1) * 1024
        if how == "asked again":
            made.append(attempt(number, key, run, start, error_type="timeout"))
            number += 1
        made.append(attempt(number, key, run, start, answered=1, status="ok"))
        responses.append((number, *Bodies({}).pack(body("x" * (10 if nth < small else LARGE)))))
    desk.keep(made, responses)
    batches = joined(desk)
    assert max(batch.nbytes for batch in batches) < MOST_BYTES + LARGE
    assert sum(map(len, batches)) == len(words)
    lengths = [len(row["response_text"]) for batch in batches for row in batch.to_pylist()]
    assert lengths == [10] * small + [LARGE] * 40
    desk.journal.close()


def test_answers_that_are_each_too_large_are_joined_one_by_one(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, [(f"w{nth}", 1) for nth in range(3)])
    run, start = desk.run.id, desk.starts[desk.run.id][0]
    made = [attempt(nth * 1024, key, run, start, answered=1, status="ok") for nth, key in enumerate(desk.keys, 1)]
    packed = Bodies({}).pack(body("x" * MOST_BYTES))
    desk.keep(made, [(one["id"], *packed) for one in made])
    batches = joined(desk)
    assert [len(batch) for batch in batches] == [1, 1, 1]
    desk.journal.close()


NUMBERS = """
answer: {schema: {type: object, properties: {x: {type: number}, l: {type: array, items: {type: number}}}}}
"""


def test_equal_values_that_are_not_the_same_stay_apart(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, [("a", 1), ("b", 1), ("c", 1)], NUMBERS)
    run, start = desk.run.id, desk.starts[desk.run.id][0]
    made = [attempt(nth * 1024, key, run, start, answered=1, status="ok") for nth, key in enumerate(desk.keys, 1)]
    texts = [json.dumps({"x": value, "l": [value]}) for value in (0.0, -0.0, 0.0)]
    packed = [Bodies({}).pack(body(text)) for text in texts]
    desk.keep(made, [(one["id"], *pair) for one, pair in zip(made, packed, strict=True)])
    (batch,) = joined(desk)
    assert [str(row["x"]) + str(row["l"]) for row in batch.to_pylist()] == ["0.0[0.0]", "-0.0[-0.0]", "0.0[0.0]"]
    desk.journal.close()


@pytest.mark.parametrize("text", ["", "7", "null", '"x"', "[]", "{}", '{"format": 2}', "{", "\x00"])
def test_what_is_no_description_of_a_plan_is_no_plan(tmp_path: Path, text: str) -> None:
    desk = desk_of(tmp_path, [("w", 1)])
    desk.journal.close()
    described = desk.plan.folder / "plan.json"
    assert json.loads(described.read_text())["requests"] == 1
    described.write_text(text)
    assert Plan.load(desk.plan.folder) is None

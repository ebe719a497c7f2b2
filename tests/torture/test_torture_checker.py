"""The checker catches what it is there for: a sound scene is spoiled in one way at a time."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from desk import Desk
from torture_checker import Broken, Mark, Scene, check, entries
from torture_rig import bench

pytest_plugins = ("torture_fixtures",)

ROWS = 8


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    desk = Desk(tmp_path_factory.mktemp("sound"))
    try:
        made = bench(desk, 1, ROWS)
        assert made.run().code == 0
    finally:
        desk.close()
    check(made.scene)
    return made.scene


@pytest.fixture
def scene(sound: Scene, tmp_path: Path) -> Scene:
    folder = tmp_path / "spoiled"
    shutil.copytree(sound.folder, folder)
    return Scene(folder, sound.names, sound.in_flight)


def rewrite(scene: Scene, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    path = scene.folder / scene.output
    table = pq.read_table(path)
    changed = change(pl.DataFrame(table)).to_arrow().cast(table.schema.remove_metadata())
    pq.write_table(pa.Table.from_batches(changed.to_batches(), table.schema), path)


def sql(scene: Scene, statement: str) -> None:
    with closing(sqlite3.connect(scene.journal)) as db, db:
        assert db.execute(statement).rowcount > 0


def summarise(scene: Scene, **changes: object) -> None:
    path = scene.folder / "out/answers.parquet.summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def bill_again(scene: Scene, *, at_the_end: bool) -> None:
    """The server answered a call once more than the journal knows."""
    ledger = scene.folder / scene.ledger
    first = {**entries(ledger)[0], "n": 999}
    line = json.dumps(first) + "\n"
    ledger.write_text(ledger.read_text() + line if at_the_end else line + ledger.read_text())


def a_row_is_missing(scene: Scene) -> None:
    rewrite(scene, lambda rows: rows.slice(1))


def a_row_is_twice(scene: Scene) -> None:
    rewrite(scene, lambda rows: pl.concat([rows, rows.slice(ROWS - 1)]))


def rows_out_of_order(scene: Scene) -> None:
    rewrite(scene, lambda rows: rows.reverse())


def two_answers_exchanged(scene: Scene) -> None:
    rewrite(scene, lambda rows: rows.with_columns(pl.col("response_text").reverse()))


def a_row_is_pending(scene: Scene) -> None:
    rewrite(scene, lambda rows: rows.with_columns(status=pl.lit("pending")))


def a_cost_is_changed(scene: Scene) -> None:
    rewrite(scene, lambda rows: rows.with_columns(cost_usd=pl.col("cost_usd") + 1e-9))


def half_an_output(scene: Scene) -> None:
    path = scene.folder / scene.output
    path.write_bytes(path.read_bytes()[:-200])


def the_summary_miscounts(scene: Scene) -> None:
    summarise(scene, rows={"total": ROWS, "ok": ROWS - 1, "failed": 1})


def the_summary_undercharges(scene: Scene) -> None:
    summarise(scene, cost_usd=0.0)


def a_response_is_damaged(scene: Scene) -> None:
    sql(scene, "UPDATE response SET checksum = x'0000000000000000' WHERE attempt = (SELECT min(attempt) FROM response)")


def a_response_is_gone(scene: Scene) -> None:
    sql(scene, "DELETE FROM response WHERE attempt = (SELECT min(attempt) FROM response)")


def an_attempt_is_gone(scene: Scene) -> None:
    sql(scene, "DELETE FROM attempt WHERE id = (SELECT min(id) FROM attempt)")


def an_answer_nobody_gave(scene: Scene) -> None:
    sql(scene, "UPDATE attempt SET request_id = 'req_x' WHERE id = (SELECT min(id) FROM attempt)")


def a_price_is_wrong(scene: Scene) -> None:
    sql(scene, "UPDATE attempt SET cost_nanos = cost_nanos + 1 WHERE id = (SELECT min(id) FROM attempt)")


def a_call_is_in_flight_for_ever(scene: Scene) -> None:
    sql(
        scene,
        "INSERT INTO claim (id, key, run, start, owner, expires_at, claimed_at) VALUES (9999, x'00', 1, 1, '', 0, 0)",
    )


def paid_twice_without_a_crash(scene: Scene) -> None:
    bill_again(scene, at_the_end=False)


def paid_twice_after_it_was_journalled(scene: Scene) -> None:
    scene.crashes = 1
    lines = entries(scene.folder / scene.ledger)
    scene.marks.append(Mark(len(lines), frozenset(f"req_sim{line['n']:020d}" for line in lines)))
    bill_again(scene, at_the_end=True)


def over_budget(scene: Scene) -> None:
    scene.budget_nanos = 1


SPOILT: list[tuple[Callable[[Scene], None], str]] = [
    (a_row_is_missing, "P1: 7 output rows for 8 input rows: 1 missing"),
    (a_row_is_twice, "P1: 9 output rows"),
    (rows_out_of_order, "out of order"),
    (two_answers_exchanged, "P1: the answer of row-00000 is another row's"),
    (a_row_is_pending, "P1: rows are ['pending']"),
    (a_cost_is_changed, "bill: rows"),
    (the_summary_miscounts, "P2: the summary counts"),
    (the_summary_undercharges, "bill: the rows cost"),
    (a_response_is_damaged, "does not match its checksum"),
    (a_response_is_gone, "journal: 1 answered attempts have no response"),
    (an_attempt_is_gone, "journal: a response belongs to no attempt"),
    (an_answer_nobody_gave, "journal: req_x is kept as answered"),
    (a_price_is_wrong, "bill: the journal says"),
    (a_call_is_in_flight_for_ever, "journal: 1 calls are still said to be in flight"),
    (paid_twice_without_a_crash, "P3: 1 answers paid twice, with 0 crashes"),
    (paid_twice_after_it_was_journalled, "P3: answered and journalled before start 2, yet asked again"),
    (over_budget, "P4: "),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILT, ids=lambda value: getattr(value, "__name__", ""))
def test_the_checker_finds_it(scene: Scene, spoil: Callable[[Scene], None], words: str) -> None:
    spoil(scene)
    with pytest.raises(Broken) as found:
        check(scene)
    assert words in str(found.value)


def test_the_checker_does_not_read_half_an_output(scene: Scene) -> None:
    half_an_output(scene)
    with pytest.raises(pa.ArrowInvalid):
        check(scene)


def test_the_checker_imports_nothing_of_the_program() -> None:
    text = Path(__file__).with_name("torture_checker.py").read_text()
    assert "pipeline." not in text.replace('b"pipeline.', "").replace('".pipeline"', "")

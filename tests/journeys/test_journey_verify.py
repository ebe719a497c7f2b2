"""`pipeline verify` and `pipeline journal`: what holds is told apart from what does not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from desk import Desk, job_text, rows_text

ROWS = 30


def ran(desk: Desk, *, parts: bool) -> tuple[Path, Path]:
    """A finished run: its job and its output."""
    desk.write("rows.csv", rows_text(ROWS))
    text = job_text(None)
    if parts:
        text = text.replace("out/answers.parquet}", "out/d/, rows_per_file: 12}")
    job = desk.write("job.yaml", text)
    ended = desk.pipeline("run", job)
    assert ended.code == 0, ended.err
    return job, desk.folder / ("out/d" if parts else "out/answers.parquet")


@pytest.mark.parametrize("parts", [False, True])
def test_an_output_as_it_was_published_holds(desk: Desk, *, parts: bool) -> None:
    _, output = ran(desk, parts=parts)
    ended = desk.pipeline("verify", output, "--json")
    assert ended.code == 0, ended.out + ended.err
    found = json.loads(ended.out)
    assert (found["holds"], found["rows"], found["problems"], found["notes"]) == (True, ROWS, [], [])


def rewrite(output: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace a file's table, metadata and all."""
    table = pq.read_table(output)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), output)


def set_column(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    values = table.column(name).to_pylist()
    values[row] = value
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: set_column(t, "response_text", 7, "invented"), "response_text: row 8 (row-00007) has 'invented'"),
        (lambda t: set_column(t, "cost_usd", 3, 0.5), "cost_usd: the summary says"),
        (lambda t: set_column(t, "status", 2, "failed"), "rows by status: the summary says {'ok': 30}"),
        (lambda t: set_column(t, "size", 4, 99.0), "size: row 5 (row-00004) has 99.0, by plan and journal it is"),
        (lambda t: set_column(t, "request_key", 0, "k1-0"), "request_key: row 1 (row-00000) has 'k1-0'"),
        (
            lambda t: t.slice(1),
            "the output has 29 rows, the plan 30 requests; the first that does not fit: request_key: row 1 (row-00000)",
        ),
        (lambda t: t.drop_columns(["attempts"]), "the output has no column attempts"),
    ],
)
def test_what_was_changed_in_an_output_is_named(desk: Desk, change: Callable[[pa.Table], pa.Table], words: str) -> None:
    _, output = ran(desk, parts=False)
    rewrite(output, change)
    ended = desk.pipeline("verify", output)
    assert ended.code == 1
    assert words in ended.out


def test_a_flipped_bit_is_found(desk: Desk) -> None:
    _, output = ran(desk, parts=False)
    raw = bytearray(output.read_bytes())
    raw[300] ^= 1
    output.write_bytes(bytes(raw))
    ended = desk.pipeline("verify", output)
    assert ended.code == 1
    assert "cannot be read to its end" in ended.out


def test_parts_that_are_gone_changed_or_too_many_are_named(desk: Desk) -> None:
    _, output = ran(desk, parts=True)
    first, second, _ = sorted(output.glob("part-*.parquet"))
    (output / f"{first.name[:14]}77777.parquet").write_bytes(first.read_bytes())
    second.unlink()
    ended = desk.pipeline("verify", output)
    assert ended.code == 1
    assert f"{second.name} is missing" in ended.out
    assert "77777.parquet is named as a part of this run, but the manifest does not list it" in ended.out


def test_a_journal_that_lost_an_answer_is_found_by_the_output(desk: Desk) -> None:
    _, output = ran(desk, parts=False)
    with closing(sqlite3.connect(desk.folder / ".pipeline/small.sqlite")) as db, db:
        db.execute("UPDATE attempt SET cost_nanos = cost_nanos + 5 WHERE id = (SELECT min(id) FROM attempt)")
    ended = desk.pipeline("verify", output)
    assert ended.code == 1
    assert "cost_usd: row" in ended.out


def test_a_source_that_was_changed_since_is_a_note_and_no_fault(desk: Desk) -> None:
    _, output = ran(desk, parts=False)
    desk.write("rows.csv", rows_text(ROWS + 1))
    ended = desk.pipeline("verify", output)
    assert ended.code == 0, ended.out
    assert "the source was changed since" in ended.out


def test_what_was_paid_for_an_earlier_prompt_adds_up(desk: Desk) -> None:
    _, output = ran(desk, parts=False)
    job = desk.folder / "job.yaml"
    job.write_text(job.read_text().replace("Describe", "Name"))
    again = desk.pipeline("run", job, "--json")
    assert again.summary["superseded_usd"] > 0, again.err
    ended = desk.pipeline("verify", output)
    assert ended.code == 0, ended.out


def test_the_job_is_found_from_anywhere_when_it_is_named(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> None:
    job, output = ran(desk, parts=False)
    far = tmp_path_factory.mktemp("far") / "copy.parquet"
    far.write_bytes(output.read_bytes())
    elsewhere = Desk(far.parent)
    lost = elsewhere.pipeline("verify", far)
    assert lost.code == 2, lost.out
    assert "--job JOB" in lost.err
    named = elsewhere.pipeline("verify", far, "--job", job)
    assert named.code == 0, named.out


@pytest.mark.parametrize("content", [None, b"", b"no parquet"])
def test_what_is_no_output_is_a_mistake_and_not_a_fault(desk: Desk, content: bytes | None) -> None:
    path = desk.folder / "x.parquet"
    if content is not None:
        path.write_bytes(content)
    ended = desk.pipeline("verify", path)
    assert ended.code == 2
    assert "Traceback" not in ended.err


def test_pruning_says_what_would_go_needs_consent_and_spares_the_last_run(desk: Desk) -> None:
    job, output = ran(desk, parts=False)
    assert "nothing to remove" in desk.pipeline("journal", "prune", job, "--older-than", "0d").out

    asked = desk.pipeline("journal", "prune", job, "--older-than", "0d", "--current")
    assert asked.code == 6
    assert f"would free {ROWS} stored answers" in asked.out
    assert desk.pipeline("verify", output).code == 0

    done = desk.pipeline("journal", "prune", job, "--older-than", "0d", "--current", "--yes")
    assert done.code == 0, done.err
    assert f"freed {ROWS} stored answers" in done.out
    assert desk.pipeline("journal", "vacuum", job).code == 0
    stats = json.loads(desk.pipeline("journal", "stats", job, "--json").out)
    assert [(run["calls"], run["stored_bytes"]) for run in stats["runs"]] == [(ROWS, 0)]
    assert len(pl.read_parquet(output)) == ROWS


def test_journal_maintenance_waits_for_nobody_and_names_who_holds_it(desk: Desk) -> None:
    server = desk.simulator("--latency", "3000")
    desk.write("rows.csv", rows_text(5))
    job = desk.write("job.yaml", job_text(server.url))
    running = desk.start("run", job)
    lock = desk.folder / ".pipeline/small.holder"
    while not (lock.exists() and server.requests) and running.poll() is None:
        pass
    assert desk.pipeline("journal", "vacuum", job).code == 75
    assert desk.pipeline("journal", "check", job).code == 0
    assert desk.pipeline("journal", "stats", job).code == 0
    assert desk.finish(running).code == 0

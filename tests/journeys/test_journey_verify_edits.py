"""`pipeline verify` of outputs and journals that somebody has edited: each edit is found, and its row named."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from desk import Desk, job_text, rows_text

ROWS = 12
ROW = "row 5 (name=row-00004, size=4.5)"
AT = 4

Change = Callable[[pa.Table], pa.Table]


def ran(desk: Desk, *, output: str = "out/answers.parquet", more: str = "", name: str = "job.yaml") -> Path:
    """A finished run's output, with a row of every kind that is not ok."""
    server = desk.simulator(
        *("--fault", "contains:row-00001=529,ok"),
        *("--fault", "contains:row-00002=400"),
        *("--fault", "contains:row-00003=refusal"),
        *("--fault", "contains:row-00007=pause_turn"),
    )
    desk.write("rows.csv", rows_text(ROWS) + "row-00005,2.5\n")
    text = job_text(server.url, more="tags: {team: quality}\n" + more).replace(", id: [name]", ", id: [name, size]")
    ended = desk.pipeline("run", desk.write(name, text.replace("out/answers.parquet", output)))
    assert ended.code == 3, ended.err
    return desk.folder / output.partition(",")[0]


def found(desk: Desk, output: Path) -> str:
    """What does not hold, one a line."""
    ended = desk.pipeline("verify", output, "--json")
    assert ended.out, ended.err
    assert ended.code == 1, ended.out
    return "\n".join(json.loads(ended.out)["problems"])


def edit(output: Path, change: Change) -> None:
    """Rewrite a file, its metadata and all."""
    table = pq.read_table(output)
    changed = change(table)
    pq.write_table(changed, output)


def put(name: str, value: object, row: int = AT) -> Change:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(name).to_pylist()
        values[row] = value
        at = table.schema.get_field_index(name)
        return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))

    return change


def order(*rows: int) -> Change:
    return lambda table: table.take(list(rows))


def metadata(name: str, value: str) -> Change:
    def change(table: pa.Table) -> pa.Table:
        return table.replace_schema_metadata({**table.schema.metadata, f"pipeline.{name}".encode(): value.encode()})

    return change


def cast(name: str, kind: pa.DataType) -> Change:
    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        return table.set_column(at, name, table.column(name).cast(kind))

    return change


KEPT = list(range(ROWS + 1))
LATER = datetime(2100, 1, 1, tzinfo=UTC)
EARLIER = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, to be put back after each edit."""
    desk = Desk(tmp_path_factory.mktemp("published"))
    try:
        return ran(desk)
    finally:
        desk.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("response_text", "invented"), f"response_text: {ROW} has 'invented', by plan and journal it is '"),
        (put("response_text", None), f"response_text: {ROW} has None"),
        (put("cost_usd", 0.000055), f"cost_usd: {ROW} has 5.5e-05, by plan and journal it is 5.4e-05"),
        (put("cost_usd", None), f"cost_usd: {ROW} has None"),
        (put("priced_by", "server"), f"priced_by: {ROW} has 'server'"),
        (put("status", "truncated"), f"status: {ROW} has 'truncated', by plan and journal it is 'ok'"),
        (put("status", "pending"), f"status: {ROW} has 'pending', by plan and journal it is 'ok'"),
        (
            put("status", "ok", 2),
            "status: row 3 (name=row-00002, size=2.5) has 'ok', by plan and journal it is 'failed'",
        ),
        (put("error_message", "", 2), "error_message: row 3 (name=row-00002, size=2.5) has ''"),
        (put("stop_reason", "end_turn", 3), "stop_reason: row 4 (name=row-00003, size=3.5) has 'end_turn'"),
        (put("size", 99.0), f"size: {ROW} has 99.0, by plan and journal it is 4.5"),
        (put("name", "row-00009"), f"name: {ROW} has 'row-00009'"),
        (put("attempts", 1, 1), "attempts: row 2 (name=row-00001, size=1.5) has 1, by plan and journal it is 2"),
        (put("attempts", 1, 7), "attempts: row 8 (name=row-00007, size=0.5) has 1, by plan and journal it is 2"),
        (put("output_tokens", 1), f"output_tokens: {ROW} has 1"),
        (put("latency_ms", 0), f"latency_ms: {ROW} has 0"),
        (put("reused", value=True), f"reused: {ROW} has True"),
        (put("reused", value=False, row=ROWS), "reused: row 13 (name=row-00005, size=2.5) has False"),
        (put("request_key", "k1-" + "0" * 32), f"request_key: {ROW} has 'k1-0000"),
        (put("request_id", "req_x"), f"request_id: {ROW} has 'req_x'"),
        (put("model", "claude-opus-4-5"), f"model: {ROW} has 'claude-opus-4-5'"),
        (put("endpoint", "api.anthropic.com"), f"endpoint: {ROW} has 'api.anthropic.com'"),
        (put("run_id", "small@2026-11-01"), f"run_id: {ROW} has 'small@2026-11-01'"),
        (put("completed_at", LATER), f"completed_at: {ROW} has "),
        (put("completed_at", EARLIER), f"completed_at: {ROW} has "),
        (order(0, 2, 1, *KEPT[3:]), "that is the key of row 3 (name=row-00002, size=2.5)"),
        (order(0, 2, 1, *KEPT[3:]), "that is the key of row 2 (name=row-00001, size=1.5)"),
        (order(*KEPT[:4], *KEPT[5:]), f"the first that does not fit: request_key: {ROW} has"),
        (order(*KEPT[:-1]), "the first that does not fit: row 13 (name=row-00005, size=2.5) is missing"),
        (order(*KEPT[:5], *KEPT[4:]), "the first that does not fit: request_key: row 6 (name=row-00005, size=5.5) has"),
        (order(*KEPT, 0), "the first that does not fit: row 14 and what follows it are in no plan"),
        (order(*KEPT[:4], 3, *KEPT[5:]), f"request_key: {ROW} has"),
        (
            order(*[at for at in KEPT if at != 3]),
            "the first that does not fit: request_key: row 4 (name=row-00003, size=3.5)",
        ),
        (lambda table: table.slice(0, 0), "the first that does not fit: row 1 (name=row-00000, size=0.5) is missing"),
        (metadata("run_id", "small@2026-11-01"), "knows nothing of the run small@2026-11-01"),
        (metadata("job", "other"), "metadata: job is other, the summary says small"),
        (metadata("tags", '{"team": "sales"}'), "metadata: tags is"),
        (metadata("scope", "public"), "metadata: scope is 'public', by plan and journal it is 'local'"),
        (metadata("run_date", "2026-11-01"), "metadata: run_date is '2026-11-01'"),
        (metadata("job_hash", "0" * 32), "metadata: job_hash is '0000"),
        (metadata("prefix", "llm_"), "the output has no column llm_"),
        (metadata("named_by", "[]"), "metadata: named_by is '[]'"),
        (metadata("superseded", '{"claude-haiku-4-5": 0.5}'), "superseded_usd: the output's metadata says 0.5"),
        (metadata("superseded", "no json"), "metadata: superseded is 'no json'"),
        (cast("attempts", pa.int64()), "attempts: the column is int64, by plan and journal it is int32"),
        (lambda t: t.append_column("note", pa.nulls(t.num_rows)), "note: the output has this column too"),
        (lambda t: t.select([*t.schema.names[1:], t.schema.names[0]]), "the columns stand in another order"),
        (lambda t: t.drop_columns(["size"]), "size: the output has no such column"),
    ],
)
def test_an_edit_of_the_output_is_found_and_its_row_named(published: Path, change: Change, words: str) -> None:
    desk, content = Desk(published.parents[1]), published.read_bytes()
    try:
        edit(published, change)
        assert words in found(desk, published)
    finally:
        published.write_bytes(content)
        desk.close()


@pytest.mark.parametrize("length", [0, 3, 500, -1, -9])
def test_a_file_that_was_cut_off_is_found(published: Path, length: int) -> None:
    desk, content = Desk(published.parents[1]), published.read_bytes()
    try:
        published.write_bytes(content[:length])
        assert "cannot be read" in found(desk, published)
    finally:
        published.write_bytes(content)
        desk.close()


def test_a_part_of_another_run_is_found_whatever_the_manifest_says(desk: Desk) -> None:
    output = ran(desk, output="out/d/, rows_per_file: 5")
    ended = desk.pipeline("run", "job.yaml", "--date", "2026-11-01")
    assert ended.code == 3, ended.err
    manifest = json.loads((output / "_manifest.json").read_text())
    first = [part for part in manifest["parts"] if part["run_id"] == "small"]
    last = [part for part in manifest["parts"] if part["run_id"] != "small"]
    for nth in (1, 0):
        (output / last[nth]["name"]).write_bytes((output / first[nth]["name"]).read_bytes())
        assert f"{last[nth]['name']} " in found(desk, output)
        last[nth] |= {name: first[nth][name] for name in ("rows", "bytes", "sha256")}
    parts = [last.pop(0) if part["run_id"] != "small" else part for part in manifest["parts"]]
    (output / "_manifest.json").write_text(json.dumps({**manifest, "parts": parts}))
    words = found(desk, output)
    assert "run_id: row 1 (name=row-00000, size=0.5) has 'small', by plan and journal it is 'small@2026-11-01'" in words
    assert "run_id is 'small', by plan and journal it is 'small@2026-11-01'" in words


def test_an_edit_is_found_in_rows_that_were_asked_again_and_exported_over_the_output(desk: Desk) -> None:
    server = desk.simulator("--fault", "contains:row-00002=400,ok", "--fault", "contains:row-00005=400,ok")
    desk.write("rows.csv", rows_text(ROWS))
    job = desk.write("job.yaml", job_text(server.url, more="limits: {concurrency: 1}\n"))
    assert desk.pipeline("run", job).code == 3
    # Room for the worst case of one call, and after it for none.
    assert desk.pipeline("run", job, "--retry-failed", "--budget", "0.0011").code == 4
    assert desk.pipeline("export", job, "--yes").code == 0
    output = desk.folder / "out/answers.parquet"
    assert desk.pipeline("verify", output).code == 0
    assert pq.read_table(output).column("status").to_pylist().count("pending") == 1
    edit(output, put("cost_usd", 0.5, 2))
    assert "cost_usd: row 3 (row-00002) has 0.5" in found(desk, output)


def test_a_run_that_was_taken_out_of_the_manifest_is_missed(desk: Desk) -> None:
    output = ran(desk, output="out/d/, rows_per_file: 5")
    ended = desk.pipeline("run", "job.yaml", "--date", "2026-11-01")
    assert ended.code == 3, ended.err
    manifest = json.loads((output / "_manifest.json").read_text())
    for kept in ("small", "small@2026-11-01"):
        parts = [part for part in manifest["parts"] if part["run_id"] == kept]
        (output / "_manifest.json").write_text(json.dumps({**manifest, "parts": parts}))
        if kept == "small":
            assert "small@2026-11-01 was published, the manifest lists no part" in found(desk, output)
    (output / "_manifest.json").write_text(json.dumps({**manifest, "parts": parts[1:]}))
    words = found(desk, output)
    assert "is named as a part of this run, but the manifest does not list it" in words
    assert "the output has 8 rows, the plan 13 requests" in words


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE response SET body = CAST(substr(body, 1, 9) || x'0000' AS BLOB) WHERE attempt = :attempt",
            "1 stored response found damaged",
        ),
        ("UPDATE response SET body = body || x'00' WHERE attempt = :attempt", "the journal could not be"),
        (
            "UPDATE response SET body = zeroblob(length(body)) WHERE attempt = :attempt",
            "1 stored response found damaged",
        ),
        (
            "UPDATE response SET checksum = x'0011223344556677' WHERE attempt = :attempt",
            "1 stored response found damaged",
        ),
        ("DELETE FROM response WHERE attempt = :attempt", ROW),
        ("DELETE FROM attempt WHERE id = :attempt", ROW),
        ("UPDATE attempt SET cost_nanos = cost_nanos + 1 WHERE id = :attempt", f"cost_usd: {ROW} has"),
        ("UPDATE attempt SET cost_nanos = NULL WHERE id = :attempt", f"cost_usd: {ROW} has"),
        ("UPDATE attempt SET request_key = x'00112233445566778899aabbccddeeff' WHERE id = :attempt", ROW),
        ("UPDATE attempt SET status = 'refused' WHERE id = :attempt", f"status: {ROW} has 'ok'"),
        ("UPDATE attempt SET model = 'claude-opus-4-5' WHERE id = :attempt", f"model: {ROW} has"),
        ("UPDATE attempt SET latency_ms = latency_ms + 1 WHERE id = :attempt", f"latency_ms: {ROW} has"),
        ("UPDATE attempt SET started_at = started_at + 90000000 WHERE id = :attempt", f"completed_at: {ROW} has"),
        ("UPDATE attempt SET run = 77 WHERE id = :attempt", f"input_tokens: {ROW} has 9, by plan and journal it is 0"),
        ("UPDATE attempt SET answered = 0 WHERE id = :attempt", ROW),
    ],
)
def test_an_edit_of_the_journal_is_found_by_the_output(published: Path, statement: str, words: str) -> None:
    desk, journal = Desk(published.parents[1]), published.parents[1] / ".pipeline/small.sqlite"
    content = journal.read_bytes()
    key = bytes.fromhex(pq.read_table(published).column("request_key")[AT].as_py().removeprefix("k1-"))
    try:
        with closing(sqlite3.connect(journal)) as db, db:
            (attempt,) = db.execute("SELECT id FROM attempt WHERE request_key = ?", (key,)).fetchone()
            changed = db.execute(statement, {"attempt": attempt}).rowcount
        assert changed == 1
        assert words in found(desk, published)
    finally:
        journal.write_bytes(content)
        desk.close()


def test_a_plan_that_was_edited_together_with_the_output_is_found_by_the_source(desk: Desk) -> None:
    output = ran(desk)
    edit(output, put("size", 77.5))
    folder = desk.folder / ".pipeline/small.plans/small"
    with pa.ipc.open_stream(folder / "plan.arrow") as stream:
        table = put("in:size", 77.5)(stream.read_all())
    with pa.ipc.new_stream(folder / "plan.arrow", table.schema) as written:
        written.write_table(table)
    described = json.loads((folder / "plan.json").read_text())
    described["sizes"]["plan.arrow"] = (folder / "plan.arrow").stat().st_size
    (folder / "plan.json").write_text(json.dumps(described))
    assert found(desk, output) == f"{ROW} has other input columns by the source than by the plan"


def test_rows_that_differ_are_counted_and_only_the_first_named(published: Path) -> None:
    desk, content = Desk(published.parents[1]), published.read_bytes()
    try:
        edit(published, lambda table: put("size", 0.25, 9)(put("response_text", "x", 9)(table.take(KEPT[::-1]))))
        words = found(desk, published)
        assert len(re.findall(r"row \d+ \(name=row-", words)) >= 5
        assert "12 rows differ in all" in words
    finally:
        published.write_bytes(content)
        desk.close()

"""Costs and prices as a person meets them: the real command line, good days and bad input."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from desk import Desk, job_text
from report_month import Row, write_output

from pipeline.records import Usage


def small_output(desk: Desk, name: str = "out/o.parquet") -> Path:
    path = desk.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    at = datetime(2026, 10, 5, 1, tzinfo=UTC)
    row = Row(nanos=1_500_000_000, usage=Usage(500_000, 50_000), key="a", completed_at=at)
    return write_output(path, [row], tags={"team": "quality"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["empty"], "no *.parquet file in this directory"),
        (["theirs.parquet"], "theirs.parquet: not an output of this program"),
        (["mixed"], "an output without cost_usd, which a report needs; it was written by version 0.1.0"),
        (["mixed/cut.parquet"], "cannot be read as Parquet"),
        (["out", "--reconcile", "bill.csv"], "bill.csv:2: column 3 (cost_usd): the amount is 'much'"),
        (["out", "--reprice", "--prices", "broken.yaml"], "broken.yaml:1:12: m.input: must be a number from 0 on"),
        (
            ["out", "-o", "x.xlsx"],
            "--output x.xlsx: no format ends in .xlsx; write one of .csv, .parquet, .json, .html",
        ),
        (
            ["out", "--by", "team"],
            "--by team: no output has such a column, but it is a tag of its job; write --by tag.team",
        ),
        ([], "no journal (.pipeline/*.sqlite) under"),
    ],
)
def test_bad_input_gets_words_and_no_traceback(desk: Desk, arguments: list[str], said: str) -> None:
    small_output(desk)
    (desk.folder / "empty").mkdir()
    pl.DataFrame({"x": [1]}).write_parquet(desk.folder / "theirs.parquet")
    small_output(desk, "mixed/new.parquet")
    older = small_output(desk, "mixed/older.parquet")
    pq.write_table(pq.read_table(older).drop_columns(["cost_usd"]), older)
    if arguments == ["mixed/cut.parquet"]:
        (desk.folder / "mixed/cut.parquet").write_bytes(older.read_bytes()[:-20])
    desk.write("bill.csv", "usage_date_utc,model,cost_usd\n2026-10-05,claude-sonnet-5,much\n")
    desk.write("broken.yaml", "m: {input: cheap, output: 1}")
    ended = desk.pipeline("costs", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert not (desk.folder / "x.xlsx").exists()


def test_prices_shows_what_a_job_and_its_days_would_be_charged_and_from_where(desk: Desk) -> None:
    desk.write("rows.csv", "name\na\n")
    dated = (
        "prices:\n  our-model:\n    - {until: 2026-06-30, input: 3, output: 15}\n"
        "    - {from: 2026-07-01, input: 2, output: 10, above: {1000: {input: 4, output: 20}}}\n"
    )
    job = desk.write("job.yaml", job_text(None, more=dated))
    june = desk.pipeline("prices", "our-model", "--job", job, "--date", "2026-06-30")
    july = desk.pipeline("prices", "our-model", "claude-opus-5-5", "--job", job, "--date", "2026-07-01")
    assert (june.code, july.code) == (0, 0)
    assert "from job our-model until 2026-06-30 (override)\n  input 3  output 15" in june.out
    assert "from job our-model from 2026-07-01 (override)\n  input 2  output 10" in july.out
    assert "prompt over 1,000: input 4  output 20" in july.out
    assert "claude-opus-5-5: USD per million tokens, from genai-prices" in july.out
    unknown = desk.pipeline("prices", "our-model")
    assert (unknown.code, unknown.out) == (2, "")
    assert "no price is known for our-model; state it in the job's prices:" in unknown.err


def test_a_run_is_billed_at_its_jobs_price_of_the_day(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", "name\na\nb\n")
    dated = (
        "prices:\n  claude-haiku-4-5:\n    - {until: 2026-01-01, input: 900, output: 900}\n"
        "    - {from: 2026-01-02, input: 7, output: 11}\n"
    )
    ended = desk.pipeline("run", desk.write("job.yaml", job_text(server.url, more=dated)), "--json")
    assert ended.code == 0, ended.err
    used = [entry["usage"] for entry in server.requests]
    paid = sum(usage["input_tokens"] * 7_000 + usage["output_tokens"] * 11_000 for usage in used)
    assert round(ended.summary["cost_usd"] * 1e9) == paid
    with closing(sqlite3.connect(desk.folder / ".pipeline/small.sqlite")) as journal:
        sources = journal.execute("SELECT DISTINCT priced_by, price_source FROM attempt").fetchall()
    assert sources == [("override", "job claude-haiku-4-5 from 2026-01-02")]


def test_a_tag_of_the_journals_here_is_suggested_for_its_name(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", "name\na\n")
    assert desk.pipeline("run", desk.write("job.yaml", job_text(server.url, more="tags: {team: quality}"))).code == 0
    ended = desk.pipeline("costs", "--by", "team")
    assert (ended.code, ended.out) == (2, "")
    assert "--by team: is a tag of the jobs here; write --by tag.team" in ended.err
    assert "journals hold no input columns" in desk.pipeline("costs", "--by", "region").err


def test_what_has_no_price_is_unknown_and_never_0(desk: Desk) -> None:
    at = datetime(2026, 10, 5, 1, tzinfo=UTC)
    unpriced = Row(model="m-9", nanos=None, priced_by=None, usage=Usage(10, 10), key="b", completed_at=at)
    rows = [unpriced, Row(nanos=2_000_000_000, usage=Usage(10, 10), key="c", completed_at=at)]
    write_output(desk.folder / "o.parquet", rows)
    for form in ("csv", "json", "parquet"):
        assert desk.pipeline("costs", "o.parquet", "--by", "model", "-o", f"c.{form}").code == 0
    found = {
        "csv": pl.read_csv(desk.folder / "c.csv"),
        "parquet": pl.read_parquet(desk.folder / "c.parquet"),
        "json": pl.DataFrame(json.loads((desk.folder / "c.json").read_text())["groups"]),
    }
    for form, frame in found.items():
        priced = frame.select("model", "cost_usd", "usd_per_ok_row", "unpriced_requests").rows()
        assert priced == [("claude-sonnet-5", 2.0, 2.0, 0), ("m-9", None, None, 1)], form
    table = desk.pipeline("costs", "o.parquet", "--by", "model").out.splitlines()
    assert next(line for line in table if line.startswith("m-9")).split()[6] == "unknown"
    assert "≥ 2.0000" in table[-1]


def test_small_sums_are_shown_with_the_digits_that_they_need(desk: Desk) -> None:
    at = datetime(2026, 10, 5, 1, tzinfo=UTC)
    write_output(desk.folder / "o.parquet", [Row(nanos=31_000, usage=Usage(10, 10), key="c", completed_at=at)])
    assert "0.000031000" in desk.pipeline("costs", "o.parquet").out


def test_the_most_expensive_rows_of_a_journal_are_named_by_their_ids(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", "name\nticket-17\nticket-18\n")
    assert desk.pipeline("run", desk.write("job.yaml", job_text(server.url))).code == 0
    assert desk.pipeline("costs", "--rehearsals", "-o", "costs.html").code == 0
    page = (desk.folder / "costs.html").read_text()
    assert "<td>ticket-17</td>" in page.replace(' class="text"', "")
    assert "ticket-18" in page

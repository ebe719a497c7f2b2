"""The cost report over outputs: it adds up to the ledger, counts each cent once, and says what it left out."""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_month import MODELS, Month, Row, make_month, write_output

from pipeline.cost import Pricer, read_book
from pipeline.errors import JobError
from pipeline.output import publish
from pipeline.records import Usage
from pipeline.report.costs import Query, Report, make_report, read_outputs
from pipeline.report.costs.report import SUMS

DAY = datetime(2026, 10, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Month:
    return make_month(tmp_path_factory.mktemp("month"))


def costs(
    *paths: Path | str, by: str = "", rehearsals: bool = False, pricer: Pricer | None = None, **more: Any
) -> Report:
    reprice = more.pop("reprice", False)
    query = Query(tuple(by.split(",")) if by else (), **more)
    lines = read_outputs([str(path) for path in paths], query.columns, query.tags, rehearsals=rehearsals)
    return make_report(lines, query, pricer or Pricer({}), reprice=reprice)


def by_key(report: Report) -> dict[Any, Any]:
    return {keys[0] if len(keys) == 1 else keys: sums for keys, sums in report.groups}


def test_a_months_totals_are_the_ledgers_to_the_nano_dollar(month: Month) -> None:
    total = costs(month.folder).total
    assert total.cost_nanos + total.superseded_nanos == sum(call.nanos for call in month.ledger)
    assert total.superseded_nanos == month.superseded
    assert total.rows == month.rows
    assert total.unpriced_requests == 0


@pytest.mark.parametrize("key", ["day", "week", "month", "run", "model", "job"])
def test_every_group_is_the_ledgers_to_the_nano_dollar(month: Month, key: str) -> None:
    expected: Counter[Any] = Counter()
    for call in month.ledger:
        day = call.at.date()
        expected[
            {
                "day": day,
                "week": date.fromordinal(day.toordinal() - day.weekday()),
                "month": f"{day:%Y-%m}",
                "run": call.run,
                "model": call.model,
                "job": call.job,
            }[key]
        ] += call.nanos
    found = by_key(costs(month.folder, by=key))
    assert {
        name: sums.cost_nanos + sums.superseded_nanos for name, sums in found.items() if name is not None
    } == expected


def test_tokens_and_requests_are_those_of_every_billed_call(month: Month) -> None:
    found = by_key(costs(month.folder, by="model"))
    gone = month.superseded  # superseded calls stand in no row, so their tokens do not either
    assert gone > 0
    for model in MODELS:
        calls = [call for call in month.ledger if call.model == model]
        assert found[model].output_tokens <= sum(call.usage.output_tokens for call in calls)
        assert found[model].requests >= len(calls) - 5


def test_groups_by_several_keys_add_up_to_the_total(month: Month) -> None:
    report = costs(month.folder, by="day,job,tag.team,region,status")
    for name in SUMS:
        assert sum(getattr(sums, name) for _, sums in report.groups) == getattr(report.total, name)
    assert report.total == costs(month.folder).total


def test_days_are_inclusive_and_parts_of_a_month_add_up(month: Month) -> None:
    first = costs(month.folder, until=date(2026, 10, 10)).total
    rest = costs(month.folder, since=date(2026, 10, 11)).total
    one = costs(month.folder, by="day", since=date(2026, 10, 10), until=date(2026, 10, 10))
    assert first.cost_nanos + rest.cost_nanos == costs(month.folder).total.cost_nanos
    assert [keys for keys, _ in one.groups] == [(date(2026, 10, 10),)]


def test_days_are_utc(tmp_path: Path) -> None:
    late = datetime(2026, 10, 5, 23, 59, 59, 999_999, tzinfo=UTC)
    rows = [
        Row(nanos=1, key="a", completed_at=late),
        Row(nanos=10, key="b", completed_at=datetime(2026, 10, 6, tzinfo=UTC)),
    ]
    write_output(tmp_path / "o.parquet", rows)
    assert costs(tmp_path, until=date(2026, 10, 5)).total.cost_nanos == 1
    assert costs(tmp_path, since=date(2026, 10, 6)).total.cost_nanos == 10


def test_a_row_in_two_files_of_its_run_counts_once_as_the_file_that_knows_more_has_it(tmp_path: Path) -> None:
    trial = [Row("truncated", nanos=5, attempts=1, key="a", completed_at=DAY), Row(nanos=3, key="b", completed_at=DAY)]
    full = [
        Row(nanos=12, attempts=2, key="a", completed_at=DAY),
        Row(nanos=3, key="b", completed_at=DAY),
        Row(nanos=7, key="c", completed_at=DAY),
        Row(attempts=0, reused=True, key="c", completed_at=DAY),
    ]
    write_output(tmp_path / "o.parquet", full)
    write_output(tmp_path / "o.first-2.parquet", trial)
    report = costs(tmp_path, by="status")
    assert report.total.cost_nanos == 22
    assert report.total.rows == 4
    assert by_key(report)["ok"].rows == 4
    assert any("2 rows of a run seen in more than one file" in note for note in report.notes)


def test_equal_rows_of_one_output_are_rows_of_their_own(tmp_path: Path) -> None:
    rows = [Row(nanos=7, key="a", completed_at=DAY)] + [Row(attempts=0, reused=True, key="a", completed_at=DAY)] * 3
    report = costs(write_output(tmp_path / "o.parquet", rows))
    assert (report.total.rows, report.total.cost_nanos, report.notes) == (4, 7, [])


def test_the_same_key_in_two_runs_is_paid_twice(tmp_path: Path) -> None:
    for night in ("1", "2"):
        write_output(tmp_path / f"{night}.parquet", [Row(nanos=4, key="a", completed_at=DAY)], run=f"n@{night}")
    assert costs(tmp_path).total.cost_nanos == 8


def test_what_a_trial_paid_for_an_older_prompt_is_not_superseded_too(tmp_path: Path) -> None:
    trial = write_output(tmp_path / "trial.parquet", [Row(nanos=5, key="old", completed_at=DAY)])
    full = [Row(nanos=7, key="new", completed_at=DAY)]
    later = write_output(tmp_path / "full.parquet", full, superseded={"claude-sonnet-5": 9})
    os.utime(trial, ns=(0, 0))
    both, alone = costs(tmp_path).total, costs(later).total
    assert alone.cost_nanos + alone.superseded_nanos == 16
    assert both.cost_nanos + both.superseded_nanos == 16


def test_one_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write_output(tmp_path / "o.parquet", [Row(nanos=4, key="a", completed_at=DAY)])
    report = costs(path, tmp_path, str(tmp_path / "*.parquet"))
    assert (report.total.cost_nanos, report.notes) == (4, [])


def test_parts_of_a_directory_are_one_output_in_which_equal_rows_stay_apart(tmp_path: Path) -> None:
    paid, repeat = Row(nanos=7, key="a", completed_at=DAY), Row(attempts=0, reused=True, key="a", completed_at=DAY)
    gone = {"claude-sonnet-5": 3}
    write_output(tmp_path / "o" / "part-5f2a01bc-00000.parquet", [paid], superseded=gone)
    write_output(tmp_path / "o" / "part-5f2a01bc-00001.parquet", [repeat], superseded=gone)
    report = costs(tmp_path)
    assert (report.total.rows, report.total.cost_nanos, report.total.superseded_nanos) == (2, 7, 3)
    assert report.notes == []
    write_output(tmp_path / "trial.parquet", [paid])
    again = costs(tmp_path)
    assert (again.total.rows, again.total.cost_nanos) == (2, 7)
    assert any("1 row of a run seen in more than one file" in note for note in again.notes)


def published(folder: Path, key: str, run: str = "nightly", superseded: int = 0) -> None:
    """Publish one row as the run's only part of a directory."""
    source = write_output(folder.parent / "row.parquet", [Row(nanos=1_000, key=key, completed_at=DAY)], run=run)
    schema = pq.read_schema(source)
    told = {"superseded": json.dumps({"claude-sonnet-5": superseded / 1e9})}
    publish(folder, schema, pq.read_table(source).to_batches(), lambda: told)
    source.unlink()


def test_a_part_that_the_manifest_no_longer_lists_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "o"
    published(folder, "old")
    (old,) = folder.glob("part-*.parquet")
    kept = old.read_bytes()
    published(folder, "new", superseded=1_000)
    published(folder, "other", run="other")
    old.write_bytes(kept)
    found = costs(tmp_path / "out")
    assert (found.total.rows, found.total.cost_nanos, found.total.superseded_nanos) == (2, 2_000, 1_000)
    assert [note for note in found.notes if note.startswith("1 part left out") and str(old) in note]
    assert costs(f"{tmp_path}/out/o/*.parquet").total == costs(folder).total == found.total


def test_a_part_that_the_manifest_lists_and_that_is_gone_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "o"
    published(folder, "one")
    published(folder, "two", run="two")
    min(folder.glob("part-*.parquet")).unlink()
    found = costs(folder)
    assert found.total.cost_nanos == 1_000
    assert any("1 part of the manifest not there" in note for note in found.notes)


def test_a_manifest_of_another_program_decides_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "o"
    published(folder, "one")
    (folder / "_manifest.json").write_text('{"files": []}')
    found = costs(folder)
    assert found.total.cost_nanos == 1_000
    assert any("no manifest that can be read" in note for note in found.notes)


def test_what_other_writers_left_in_a_directory_of_parts_is_passed_over_with_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "o"
    published(folder, "one")
    pl.DataFrame({"a": [1]}).write_parquet(folder / "theirs.parquet")
    pl.DataFrame({"a": [1]}).write_parquet(folder / "part-00000000-00000.parquet")
    found = costs(folder)
    assert found.total.cost_nanos == 1_000
    assert any("2 files passed over, no output of this program" in note for note in found.notes)


def test_rehearsals_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    for scope in ("public", "simulator", "embedded", "local"):
        write_output(tmp_path / f"{scope}.parquet", [Row(nanos=1, key="a", completed_at=DAY)], scope=scope, run=scope)
    report = costs(tmp_path)
    assert report.total.cost_nanos == 1
    assert any("3 rehearsals left out (embedded, local, simulator)" in note for note in report.notes)
    assert costs(tmp_path, rehearsals=True).total.cost_nanos == 4


def test_rows_without_a_price_make_a_lower_bound(tmp_path: Path) -> None:
    rows = [Row(nanos=None, attempts=2, key="a", completed_at=DAY), Row(nanos=6, key="b", completed_at=DAY)]
    total = costs(write_output(tmp_path / "o.parquet", rows)).total
    assert (total.cost_nanos, total.unpriced_requests) == (6, 2)


def test_reuse_saved_what_the_row_that_paid_cost_else_the_mean_of_job_and_model(tmp_path: Path) -> None:
    write_output(tmp_path / "1.parquet", [Row(nanos=40, key="a", completed_at=DAY)], run="n@1")
    night = [
        Row(attempts=0, reused=True, key="a", completed_at=DAY),
        Row(attempts=0, reused=True, key="elsewhere", completed_at=DAY),
        Row(nanos=20, key="b", completed_at=DAY),
    ]
    write_output(tmp_path / "2.parquet", night, run="n@2")
    assert costs(tmp_path).total.reuse_saved_nanos == 40 + 30


def test_the_cache_saved_what_its_tokens_cost_less_than_input(tmp_path: Path) -> None:
    # Sonnet 5: 1,000 reads at 0.20 for 2 USD a million save 1,800,000 nanos; 1,000 writes at 2.50 lose 500,000.
    read = Row(nanos=1_000_000 + 200_000, usage=Usage(500, 0, 0, 0, 1_000), key="a", completed_at=DAY)
    write = Row(nanos=2_500_000, usage=Usage(0, 0, 1_000), key="b", completed_at=DAY)
    dearer = Row(nanos=2_400_000, usage=Usage(500, 0, 0, 0, 1_000), key="c", completed_at=DAY, priced_by="server")
    assert costs(write_output(tmp_path / "a.parquet", [read])).total.cache_saved_nanos == 1_800_000
    assert costs(write_output(tmp_path / "b.parquet", [write])).total.cache_saved_nanos == -500_000
    # A reseller that charges twice the list price saved twice as much.
    assert costs(write_output(tmp_path / "c.parquet", [dearer])).total.cache_saved_nanos == 3_600_000


def test_repricing_at_the_same_prices_changes_nothing_where_a_row_is_a_call(tmp_path: Path) -> None:
    pricer, rows = Pricer({}), []
    usages = [Usage(100_000, 10), Usage(100_001, 10), Usage(5, 5, 7, 0, 9), Usage(90_000, 1, 5_000, 0, 5_001)]
    for nth, model in enumerate(MODELS * 4):
        usage = usages[nth % 4]
        price = pricer.price(usage, answered=model, asked=model, at=DAY, reported_nanos=None)
        rows.append(Row(model=model, usage=usage, nanos=price.nanos, key=str(nth), completed_at=DAY))
    path = write_output(tmp_path / "o.parquet", rows)
    assert costs(path, by="model", reprice=True).groups == costs(path, by="model").groups


def test_repricing_uses_other_prices_exactly_and_prices_what_had_none(tmp_path: Path) -> None:
    rows = [
        Row(model="mine", usage=Usage(3, 1), nanos=None, key="a", completed_at=DAY),
        Row(model="mine", usage=None, nanos=None, key="b", completed_at=DAY),
        Row("failed", model="mine", nanos=0, attempts=6, key="c", completed_at=DAY),
        Row(model="mine", attempts=0, reused=True, key="d", completed_at=DAY),
    ]
    book = tmp_path / "prices.yaml"
    book.write_text("mine: {input: 1.3755, output: 2}")
    path = write_output(tmp_path / "o.parquet", rows)
    total = costs(path, pricer=Pricer({}, user=read_book(book)), reprice=True).total
    # 3 times 1,375.5 and 2,000 nanos: half a nano-dollar is rounded up once, at the end.
    assert total.cost_nanos == 6_127
    assert total.unpriced_requests == 1


def test_tags_recipe_and_input_columns_are_keys(tmp_path: Path) -> None:
    rows = [Row(nanos=1, key="a", completed_at=DAY, values={"day": "x", "Unit Price": "3"})]
    write_output(tmp_path / "a.parquet", rows, run="a", tags={"team": "q"}, facts={"recipe": "5f2a"}, prefix="llm_")
    write_output(tmp_path / "b.parquet", [Row(nanos=2, key="a", completed_at=DAY)], run="b")
    report = costs(tmp_path, by="tag.team,recipe,Unit Price,day")
    assert [keys for keys, _ in report.groups] == [
        ("q", "5f2a", "3", date(2026, 10, 5)),
        (None, None, None, date(2026, 10, 5)),
    ]


def test_what_may_have_been_billed_stands_apart(tmp_path: Path) -> None:
    path = write_output(tmp_path / "o.parquet", [Row(nanos=1, key="a", completed_at=DAY)])
    summary = {"run_id": "nightly", "maybe_usd": 0.25}
    path.with_name("o.parquet.summary.json").write_text(json.dumps(summary))
    report = costs(path)
    assert (report.total.cost_nanos, report.maybe_nanos) == (1, 250_000_000)
    assert any("may have been billed" in note for note in report.notes)


def test_a_file_that_lost_its_metadata_is_read_by_its_columns(tmp_path: Path) -> None:
    rows = [Row(nanos=1, key="a", completed_at=DAY), Row(nanos=9, key="b", completed_at=DAY, endpoint="127.0.0.1:8080")]
    path = write_output(tmp_path / "o.parquet", rows)
    pl.read_parquet(path).write_parquet(path)
    assert costs(path).total.cost_nanos == 1


def test_other_parquet_files_beside_outputs_are_passed_over_with_a_word(tmp_path: Path) -> None:
    write_output(tmp_path / "o.parquet", [Row(nanos=1, key="a", completed_at=DAY)])
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "input.parquet")
    report = costs(tmp_path)
    assert report.total.rows == 1
    assert any("1 file passed over" in note and "input.parquet" in note for note in report.notes)


def test_an_empty_output_is_a_report_of_nothing(tmp_path: Path) -> None:
    report = costs(write_output(tmp_path / "o.parquet", []), by="day,model")
    assert (report.groups, report.total.cost_nanos) == ([], 0)
    assert report.frame().columns[:3] == ["day", "model", "rows"]


def bad_inputs(folder: Path) -> dict[str, tuple[str, str]]:
    """By name: the path, and what is said of it."""
    pl.DataFrame({"x": [1]}).write_parquet(folder / "foreign.parquet")
    (folder / "text.parquet").write_text("not Parquet at all")
    (folder / "zero.parquet").write_bytes(b"")
    (folder / "empty").mkdir()
    (folder / "foreign").mkdir()
    pl.DataFrame({"x": [1]}).write_parquet(folder / "foreign/x.parquet")
    older = write_output(folder / "older.parquet", [Row(nanos=1, key="a", completed_at=DAY)])
    table = pq.read_table(older).drop_columns(["cost_usd", "cache_read_tokens"])
    pq.write_table(table, older)
    cut = write_output(folder / "cut.parquet", [Row(nanos=1, key="a", completed_at=DAY)])
    cut.write_bytes(cut.read_bytes()[:-20])
    return {
        "foreign": (str(folder / "foreign.parquet"), "not an output of this program: it has no status"),
        "text": (str(folder / "text.parquet"), "cannot be read as Parquet"),
        "zero": (str(folder / "zero.parquet"), "cannot be read as Parquet"),
        "cut": (str(folder / "cut.parquet"), "cannot be read as Parquet"),
        "empty": (str(folder / "empty"), "no *.parquet file in this directory"),
        "only foreign": (str(folder / "foreign"), "none of its 1 Parquet file is an output"),
        "no glob": (str(folder / "*.csv"), "no file matches"),
        "missing": (str(folder / "nowhere"), "no such file or directory"),
        "older": (str(older), "an output without cache_read_tokens, cost_usd"),
        "store": ("s3://bucket/out/", "object stores cannot be read yet"),
    }


@pytest.mark.parametrize(
    "name", ["foreign", "text", "zero", "cut", "empty", "only foreign", "no glob", "missing", "older", "store"]
)
def test_bad_input_gets_words(name: str, tmp_path: Path) -> None:
    path, words = bad_inputs(tmp_path)[name]
    with pytest.raises(JobError) as error:
        costs(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_that_is_no_column_is_said_with_those_there_are(tmp_path: Path) -> None:
    write_output(tmp_path / "o.parquet", [Row(nanos=1, key="a", completed_at=DAY, values={"region": "n"})])
    with pytest.raises(JobError, match=r"--by regoin: no output has such a column; input columns are: .*region"):
        costs(tmp_path, by="regoin")


def test_an_input_column_that_cannot_be_a_key_is_said(tmp_path: Path) -> None:
    path = write_output(tmp_path / "o.parquet", [Row(nanos=1, key="a", completed_at=DAY)])
    table = pq.read_table(path).append_column("parts", pa.array([[{"x": 1}]]))
    pq.write_table(table, path)
    with pytest.raises(JobError, match="parts"):
        costs(path, by="parts")

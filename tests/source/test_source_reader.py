# ruff: noqa: DTZ001 - a table may hold local times, which have no zone
from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_job import Job, job, kept, refusal, refused, rows

from pipeline.errors import Complaint
from pipeline.source import open_source
from pipeline.source.unique import find_twice

READINGS = """sensor,site,value,ts
b,x,1,2024-01-03
a,x,2,2024-01-02
,y,3,2024-01-01
b,x,4,2024-01-01
a,y,5,
a,x,6,2024-01-01
b,x,7,2024-01-03
"""


@pytest.fixture
def readings(tmp_path: Path) -> Path:
    path = tmp_path / "readings.csv"
    path.write_text(READINGS)
    return path


def values(found: list[tuple[str, list[dict[str, Any]]]]) -> list[tuple[str, list[Any]]]:
    return [(name, [row["value"] for row in of]) for name, of in found]


def test_one_request_per_row_in_source_order(readings: Path) -> None:
    assert [name for name, _ in rows(job(readings))] == [f"readings.csv:{n}" for n in range(1, 8)]
    assert [row["value"] for row in kept(job(readings))] == [1, 2, 3, 4, 5, 6, 7]


def test_rows_carry_the_needed_columns_and_the_output_its_own(readings: Path) -> None:
    reader = open_source(
        job(readings, keep=["ts", "site"], columns=["sensor", "value", "ts", "site"]), frozenset({"value"})
    )
    assert reader.columns == ("sensor", "value", "ts", "site")
    [batch] = reader.batches()
    assert batch.rows[0].rows[0] == {"value": 1}
    assert batch.kept.schema.names == reader.kept_schema.names == ["ts", "site"]


@pytest.mark.parametrize(
    ("sort_by", "expected"),
    [
        (["value"], [1, 2, 3, 4, 5, 6, 7]),
        (["-value"], [7, 6, 5, 4, 3, 2, 1]),
        (["sensor"], [3, 2, 5, 6, 1, 4, 7]),
        (["-sensor"], [1, 4, 7, 2, 5, 6, 3]),
        (["ts"], [5, 3, 4, 6, 2, 1, 7]),
        (["-ts"], [1, 7, 2, 3, 4, 6, 5]),
        (["sensor", "-ts"], [3, 2, 6, 5, 1, 7, 4]),
    ],
)
def test_sorting_keeps_ties_in_source_order_and_puts_nulls_first_ascending(
    readings: Path, sort_by: list[str], expected: list[int]
) -> None:
    found = rows(job(readings, sort_by=sort_by))
    assert [row["value"] for _, [row] in found] == expected
    assert [name for name, _ in found] == [f"readings.csv:{value}" for value in expected]


def test_a_column_whose_name_begins_with_a_dash_is_sorted_by_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("-a\n2\n1\n")
    assert kept(job(tmp_path / "t.csv", sort_by=["-a"])) == [{"-a": 1}, {"-a": 2}]
    assert kept(job(tmp_path / "t.csv", sort_by=["--a"])) == [{"-a": 2}, {"-a": 1}]


def test_groups_come_in_the_order_of_their_keys_nulls_first(readings: Path) -> None:
    asked = job(readings, group_by=["sensor", "site"], sort_by=["-ts"])
    assert values(rows(asked)) == [
        ("sensor=null, site=y", [3]),
        ("sensor=a, site=x", [2, 6]),
        ("sensor=a, site=y", [5]),
        ("sensor=b, site=x", [1, 7, 4]),
    ]
    day = [datetime(2024, 1, day).date() for day in range(1, 4)]
    assert kept(asked) == [
        {"sensor": None, "site": "y", "row_count": 1, "ts_first": day[0], "ts_last": day[0]},
        {"sensor": "a", "site": "x", "row_count": 2, "ts_first": day[1], "ts_last": day[0]},
        {"sensor": "a", "site": "y", "row_count": 1, "ts_first": None, "ts_last": None},
        {"sensor": "b", "site": "x", "row_count": 3, "ts_first": day[2], "ts_last": day[0]},
    ]


def test_chunks_begin_anew_at_each_group(readings: Path) -> None:
    asked = job(readings, group_by=["sensor"], rows_per_request=2)
    assert values(rows(asked)) == [
        ("sensor=null chunk 0", [3]),
        ("sensor=a chunk 0", [2, 5]),
        ("sensor=a chunk 1", [6]),
        ("sensor=b chunk 0", [1, 4]),
        ("sensor=b chunk 1", [7]),
    ]
    reader = open_source(asked)
    assert reader.kept_schema == pa.schema(
        {"sensor": pa.string(), "row_count": pa.int64(), "chunk": pa.int64()},
    )
    assert [row["chunk"] for row in kept(asked)] == [0, 0, 1, 0, 1]


def test_chunks_begin_anew_at_each_file_unless_rows_are_sorted(tmp_path: Path) -> None:
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text("value\n1\n2\n3\n")
    assert values(rows(job(tmp_path, rows_per_request=2))) == [
        ("1.csv chunk 0", [1, 2]),
        ("1.csv chunk 1", [3]),
        ("2.csv chunk 0", [1, 2]),
        ("2.csv chunk 1", [3]),
    ]
    assert values(rows(job(tmp_path, rows_per_request=4, sort_by=["value"]))) == [
        ("chunk 0", [1, 1, 2, 2]),
        ("chunk 1", [3, 3]),
    ]


def test_chunks_run_across_the_batches_they_are_read_in(tmp_path: Path) -> None:
    pq.write_table(pa.table({"value": list(range(10_001))}), tmp_path / "t.parquet")
    found = rows(job(tmp_path / "t.parquet", rows_per_request=3_000, keep="none"))
    assert [len(of) for _, of in found] == [3_000, 3_000, 3_000, 1_001]
    assert [row["value"] for _, of in found for row in of] == list(range(10_001))


def test_groups_of_unsorted_input_larger_than_memory_are_whole(tmp_path: Path) -> None:
    n, groups = 60_000, 700
    frame = pl.DataFrame({"n": range(n)}).with_columns(key=(pl.col("n") * 7919) % groups, pad=pl.lit("x" * 60))
    frame.write_parquet(tmp_path / "t.parquet")
    asked = job(tmp_path / "t.parquet", group_by=["key"], sort_by=["-n"])
    spill = tmp_path / "spill"
    spill.mkdir()
    expected: dict[int, list[int]] = defaultdict(list)
    for key, number in frame.select("key", "n").iter_rows():
        expected[key].insert(0, number)
    found = rows(asked, frozenset({"n", "pad"}), spill=spill, memory=4 << 20)
    assert [(name, [row["n"] for row in of]) for name, of in found] == [
        (f"key={key}", expected[key]) for key in range(groups)
    ]
    assert list(spill.iterdir()) == []


def test_a_group_that_does_not_fit_in_memory_is_named_with_its_size(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("key,value\n" + "small,1\n" * 10 + "tall,2\n" * 5_000)
    asked = job(tmp_path / "t.csv", group_by=["key"])
    message = refusal(asked, memory=1 << 20)
    assert message.startswith("source.group_by: key=tall has 5,000 rows that take about ")
    assert message.endswith(" MiB in memory, the most is 1.0 MiB; rows_per_request makes smaller requests of it")
    assert len(rows(job(tmp_path / "t.csv", group_by=["key"], rows_per_request=1_000), memory=1 << 20)) == 6


def test_an_id_names_rows_and_is_unique(readings: Path) -> None:
    assert rows(job(readings, id=["value"]))[0][0] == "1"
    assert rows(job(readings, id=["value", "sensor"]))[2][0] == "value=3, sensor=null"
    places = "readings.csv:1 and readings.csv:7"
    message = f"source.id: two rows are named sensor=b, ts=2024-01-03: {places}; a name must be unique"
    assert refusal(job(readings, id=["sensor", "ts"])) == message
    assert len(rows(job(readings, id=["sensor", "ts"], where="value < 7"))) == 6
    assert len(rows(job(readings, id=["sensor", "ts"], limit=6))) == 6


def test_a_name_taken_twice_is_said_before_the_first_batch(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a\n" + "".join(f"{n}\n" for n in range(9_000)))
    (tmp_path / "2.csv").write_text("a\n8999\n")
    reader = open_source(job(tmp_path, id=["a"]))
    with pytest.raises(Exception, match=r"two rows are named 8999: 1\.csv:9000 and 2\.csv:1"):
        next(reader.batches())


@pytest.mark.parametrize("held", [10, 100_000])
@pytest.mark.parametrize("twice", [(None, None), (1.5, 1.5), (float("nan"), float("nan")), (0.0, -0.0), (1.5, 2.5)])
def test_names_are_compared_in_little_memory(tmp_path: Path, held: int, twice: tuple[Any, Any]) -> None:
    def batch(start: int, *more: Any) -> pa.RecordBatch:
        numbers = [float(n) for n in range(start, start + 500)]
        return pa.RecordBatch.from_pydict(
            {"a": pa.array([*more, *numbers], pa.float64()), "b": ["x"] * (500 + len(more))}
        )

    found = find_twice(
        lambda: (batch(*some) for some in ((1_000, twice[0]), (2_000,), (3_000, twice[1]))),
        ["a", "b"],
        tmp_path,
        held=held,
    )
    assert (found is None) == (twice == (1.5, 2.5))
    assert list(tmp_path.iterdir()) == []


def test_complaints_come_in_the_order_of_the_file(readings: Path) -> None:
    lines = {"source.sort_by.0": 12, "source.id.0": 9, "source.types.q": 9}

    @dataclass(frozen=True)
    class Placed(Job):
        def complain(self, path: str, message: str, /) -> Complaint:
            return Complaint(f"C:/12:40/job.yaml:{lines[path]}:{len(path)}", path, message)

    asked = job(readings, sort_by=["a"], id=["b"], types={"q": "string"})
    assert [path for path, _ in refused(Placed(asked.source))] == ["source.id.0", "source.types.q", "source.sort_by.0"]


def test_unknown_columns_are_all_said_with_the_nearest_names(readings: Path) -> None:
    asked = job(
        readings,
        columns=["sensors", "value"],
        id=["valu"],
        sort_by=["-tss"],
        group_by=["sitee"],
        types={"sense": "string"},
        where="sensr = 1",
    )
    assert refused(asked) == [
        ("source.sort_by.0", "the source has no column 'tss'; did you mean ts?"),
        ("source.group_by.0", "the source has no column 'sitee'; did you mean site?"),
        ("source.columns.0", "the source has no column 'sensors'; did you mean sensor?"),
        ("source.id.0", "the source has no column 'valu'; did you mean value?"),
        ("source.types.sense", "the source has no column 'sense'; did you mean sensor?"),
        ("source.where", "the source has no column 'sensr'; did you mean sensor?"),
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"keep": ["valeu"]},
            "output.keep: cannot keep 'valeu': the source has no such column; did you mean value?",
        ),
        (
            {"keep": ["value"], "columns": ["ts"]},
            "output.keep: cannot keep 'value': source.columns leaves it out; there are ts",
        ),
        (
            {"keep": ["value"], "group_by": ["site"], "sort_by": ["ts"]},
            (
                "output.keep: cannot keep 'value': a request is made from several rows, which may differ in it; "
                "such a request keeps site, row_count, ts_first, ts_last"
            ),
        ),
        (
            {"keep": ["site"], "rows_per_request": 2},
            (
                "output.keep: cannot keep 'site': a request is made from several rows, which may differ in it; "
                "such a request keeps row_count, chunk"
            ),
        ),
    ],
)
def test_what_cannot_be_kept_is_said_with_the_reason(readings: Path, options: dict[str, Any], expected: str) -> None:
    assert refusal(job(readings, **options)) == expected


def test_of_a_group_some_columns_or_none_are_kept(readings: Path) -> None:
    assert kept(job(readings, keep=["row_count", "site"], group_by=["site"])) == [
        {"row_count": 5, "site": "x"},
        {"row_count": 2, "site": "y"},
    ]
    reader = open_source(job(readings, keep="none", group_by=["site"]))
    assert [batch.kept.num_rows for batch in reader.batches()] == [1, 1]
    assert reader.kept_schema == pa.schema([])


@pytest.mark.parametrize(
    ("header", "options", "path"),
    [
        ("row_count,b", {"group_by": ["row_count"]}, "source.group_by"),
        ("chunk,b", {"group_by": ["chunk"], "rows_per_request": 2}, "source.group_by"),
        ("ts_first,ts", {"group_by": ["ts_first"], "sort_by": ["ts"]}, "source.group_by"),
    ],
)
def test_a_group_column_that_clashes_with_an_added_one_is_said(
    tmp_path: Path, header: str, options: dict[str, Any], path: str
) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\n1,2\n")
    assert refused(job(tmp_path / "t.csv", **options))[0][0] == path


def test_columns_of_lists_cannot_be_sorted_grouped_or_named_by(tmp_path: Path) -> None:
    (tmp_path / "t.ndjson").write_text('{"a": [1], "b": {"c": 1}}\n')
    found = refused(job(tmp_path / "t.ndjson", sort_by=["-a"], group_by=["b"], id=["a"]))
    assert [path for path, _ in found] == ["source.id.0", "source.sort_by.0", "source.group_by.0"]
    assert found[0][1].startswith(
        "column 'a' is list<item: int64>; rows are told apart by text, numbers, dates and times"
    )


def test_columns_named_like_our_own_marks_do_not_mix_with_them(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(":file,:row,::x\n9,8,7\n")
    assert rows(job(tmp_path / "t.csv", where='":row" = 8', sort_by=[":file"])) == [
        ("t.csv:1", [{":file": 9, ":row": 8, "::x": 7}])
    ]


def test_a_reader_can_be_read_again(readings: Path) -> None:
    reader = open_source(job(readings, group_by=["sensor"], id=["value"]))
    first = [batch.kept.to_pylist() for batch in reader.batches()]
    assert [batch.kept.to_pylist() for batch in reader.batches()] == first


def test_batches_of_requests_are_bounded(tmp_path: Path) -> None:
    pq.write_table(pa.table({"k": [n // 2 for n in range(9_000)]}), tmp_path / "t.parquet")
    sizes = [len(batch.rows) for batch in open_source(job(tmp_path / "t.parquet", group_by=["k"])).batches()]
    assert sum(sizes) == 4_500
    assert max(sizes) <= 2_000
    sparse = job(tmp_path / "t.parquet", where="k % 50 = 0")
    assert [len(batch.rows) for batch in open_source(sparse).batches()] == [180]

# ruff: noqa: DTZ001 - a table may hold local times, which have no zone
from __future__ import annotations

import os
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_job import job, kept, refusal, rows

from pipeline.source import open_source


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


MOMENT = datetime(2024, 1, 2, 3, 4, 5, 600000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (pa.array([7], pa.uint8()), 7),
        (pa.array([1.5], pa.float16()), 1.5),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array(["x"], pa.string_view()), "x"),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array([b"x"]), b"x"),
        (pa.array([Decimal("1.10")]), Decimal("1.10")),
        (pa.array([date(2024, 1, 2)]), date(2024, 1, 2)),
        (pa.array([time(1, 2)]), time(1, 2)),
        (pa.array([timedelta(1)]), timedelta(1)),
        (pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("ms")), MOMENT.replace(tzinfo=None)),
        (pa.array([MOMENT], pa.timestamp("ns", "Europe/Berlin")), MOMENT),
        (pa.array([MOMENT], pa.timestamp("us", "+02:00")), MOMENT),
        (pa.array([1_000_000_001], pa.timestamp("ns")), datetime(1970, 1, 1, 0, 0, 1)),
        (pa.array([[{"a": [1, None]}]]), [{"a": [1, None]}]),
        (
            pa.array([[1, 1_000]], pa.list_(pa.timestamp("ns"))),
            [datetime(1970, 1, 1), datetime(1970, 1, 1, 0, 0, 0, 1)],
        ),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), {"k": 1}),
        (pa.array([None]), None),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_templates_get_plain_python_and_the_output_keeps_arrow_types(tmp_path: Path, array: Any, value: Any) -> None:
    path = parquet(tmp_path / "t.parquet", {"v": array})
    reader = open_source(job(path, keep=["v"]))
    [batch] = reader.batches()
    found = batch.rows[0].rows[0]["v"]
    assert found == value
    assert type(found) is type(value)
    stored = pq.read_schema(path).field("v").type
    plain = {pa.string_view(): pa.large_string()}.get(stored, stored)
    assert reader.kept_schema.field("v").type == (stored.value_type if pa.types.is_dictionary(stored) else plain)
    assert batch.kept.schema == reader.kept_schema


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([0, 2**40], pa.timestamp("s")), "timestamp[ms]"),
        (pa.array([0, 2**30], pa.date32()), "date32[day]"),
        (pa.array([0, 2**60], pa.timestamp("us", "UTC")), "timestamp[us, tz=UTC]"),
        (pa.array([0, 1 - 2**63], pa.timestamp("us")), "timestamp[us]"),
        (pa.array([0, -62_135_596_800_000_000], pa.timestamp("us", "-05:00")), "timestamp[us, tz=-05:00]"),
    ],
)
def test_a_time_beyond_the_calendar_is_one_error_with_its_row(tmp_path: Path, array: Any, kind: str) -> None:
    path = parquet(tmp_path / "t.parquet", {"v": array})
    expected = (
        f"source.path: t.parquet:2: column 'v' holds a {kind} that Python cannot hold: outside the years 1 to 9999"
    )
    assert refusal(job(path)) == expected


@pytest.mark.parametrize(
    "array",
    [
        pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64())),
        pa.array([0], pa.timestamp("us", "Mars/Phobos")),
    ],
    ids=["a key twice", "an unknown zone"],
)
def test_what_has_no_counterpart_in_python_is_one_error_with_its_row(tmp_path: Path, array: Any) -> None:
    path = parquet(tmp_path / "t.parquet", {"v": array})
    message = refusal(job(path))
    assert message.startswith("source.path: t.parquet:1: column 'v' holds a ")
    assert " that Python cannot hold: " in message


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["a", "b"], pa.string_view()),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array([b"a", b"b"]),
        pa.array([1, 2], pa.decimal128(10, 2)),
        pa.array([1.5, 2.5], pa.float16()),
        pa.array([1, 2], pa.timestamp("us", "+02:00")),
        pa.array([1, 2], pa.duration("ms")),
        pa.array([time(1), time(2)]),
        pa.array([False, True]),
        pa.array([None, None]),
    ],
    ids=lambda array: str(array.type),
)
def test_rows_are_filtered_whatever_types_they_have_and_sorted_by_those_that_have_an_order(
    tmp_path: Path, array: Any
) -> None:
    path = parquet(tmp_path / "t.parquet", {"n": [1, 2], "v": array})
    sort = [] if pa.types.is_float16(array.type) else ["-v"]
    found = rows(job(path, where="n > 0 AND (v IS NULL OR v IS NOT NULL)", sort_by=[*sort, "-n"]))
    assert [name for name, _ in found] == ["t.parquet:2", "t.parquet:1"]
    assert len(rows(job(path, group_by=["n", *(["v"] if sort else [])], id=["n"]))) == 2


def test_only_the_columns_that_serve_something_are_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {"a": [1], "b": [2], "c": [3], "broken": ["x" * 1000]}, use_dictionary=False)
    meta = pq.ParquetFile(path).metadata.row_group(0).column(3)
    with path.open("r+b") as file:
        file.seek(meta.data_page_offset)
        file.write(b"\xff" * meta.total_compressed_size)
    asked = job(path, keep=["b"], where="c = 3")
    assert rows(asked, frozenset({"a", "unknown"})) == [("t.parquet:1", [{"a": 1}])]
    assert kept(asked, frozenset({"a"})) == [{"b": 2}]
    assert str(path) in refusal(job(path))


def test_nothing_needed_still_counts_the_rows(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {"a": [1, 2, 3]})
    [batch] = open_source(job(path, keep="none"), frozenset()).batches()
    assert batch.kept.num_rows == len(batch.rows) == 3
    assert batch.kept.schema == pa.schema([])
    assert batch.rows[2].rows[0] == {}


def test_all_means_all_columns_but_binary_ones(tmp_path: Path) -> None:
    columns = {"a": [1], "b": [b"x"], "c": [[b"x"]], "d": [{"e": b"x"}], "f": pa.array([b"xy"], pa.binary(2))}
    path = parquet(tmp_path / "t.parquet", columns)
    assert kept(job(path)) == [{"a": 1}]
    assert kept(job(path, keep=["b", "a"])) == [{"b": b"x", "a": 1}]
    assert rows(job(path, columns=["b"])) == [("t.parquet:1", [{"b": b"x"}])]


def test_names_with_dots_and_nested_columns_do_not_mix(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {"a.b": [1], "a": [{"b": 2, "c": 3}], "Unit Price": [4.5]})
    assert rows(job(path, keep="none"), frozenset({"a"})) == [("t.parquet:1", [{"a": {"b": 2, "c": 3}}])]
    assert rows(job(path, keep="none"), frozenset({"a.b"})) == [("t.parquet:1", [{"a.b": 1}])]
    assert rows(job(path, where='"Unit Price" > 4 AND a.c = 3', columns=["a.b"])) == [("t.parquet:1", [{"a.b": 1}])]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.int8(), pa.int64()),
        (pa.uint32(), pa.int8(), pa.int64()),
        (pa.uint64(), pa.int64(), None),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.int64(), pa.float64(), None),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.null(), pa.string(), pa.string()),
        (pa.int64(), pa.null(), pa.int64()),
        (pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), None),
        (pa.string(), pa.int64(), None),
        (pa.date32(), pa.timestamp("ms"), None),
        (pa.bool_(), pa.int8(), None),
    ],
    ids=str,
)
def test_types_of_files_are_joined_only_where_nothing_is_lost(
    tmp_path: Path, first: Any, second: Any, expected: Any
) -> None:
    parquet(tmp_path / "1.parquet", {"v": pa.array([None], first)})
    parquet(tmp_path / "2.parquet", {"v": pa.array([None], second)})
    if expected is None:
        message = (
            f"source.path: {tmp_path}/2.parquet: column 'v' is {second}, the files before it have {first}; "
            "source.types.v can name one type for all"
        )
        assert refusal(job(tmp_path)) == message
        assert kept(job(tmp_path, types={"v": "string"})) == [{"v": None}] * 2
    else:
        reader = open_source(job(tmp_path))
        assert reader.kept_schema.field("v").type == expected
        assert [batch.kept.schema for batch in reader.batches()] == [reader.kept_schema]


def test_columns_may_stand_in_another_order_but_not_be_others(tmp_path: Path) -> None:
    parquet(tmp_path / "1.parquet", {"a": [1], "b": ["x"]})
    parquet(tmp_path / "2.parquet", {"b": ["y"], "a": [2]})
    assert kept(job(tmp_path)) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    parquet(tmp_path / "3.parquet", {"b": ["y"]})
    assert (
        refusal(job(tmp_path)) == f"source.path: {tmp_path}/3.parquet lacks column 'a', which {tmp_path}/1.parquet has"
    )


@pytest.mark.parametrize(
    ("array", "kind", "value"),
    [
        (pa.array([7]), "string", "7"),
        (pa.array(["007"]), "integer", 7),
        (pa.array([7.0]), "integer", 7),
        (pa.array([7]), "number", 7.0),
        (pa.array(["2024-01-02"]).dictionary_encode(), "date", date(2024, 1, 2)),
        (pa.array(["2024-01-02T03:04:05.6Z"]), "datetime", MOMENT),
        (pa.array([MOMENT]), "datetime", MOMENT),
        (pa.array([date(2024, 1, 2)]), "datetime", datetime(2024, 1, 2)),
    ],
)
def test_types_are_taken_from_the_job_where_it_names_them(tmp_path: Path, array: Any, kind: str, value: Any) -> None:
    path = parquet(tmp_path / "t.parquet", {"v": array})
    assert kept(job(path, types={"v": kind})) == [{"v": value}]


@pytest.mark.parametrize(
    ("array", "kind", "expected"),
    [
        (pa.array([1.0, 7.5]), "integer", "row 2: column 'v' is '7.5', expected a whole number such as 12"),
        (pa.array(["1", "x"]), "integer", "row 2: column 'v' is 'x', expected a whole number such as 12"),
        (
            pa.array([[1]]),
            "integer",
            "row 1: column 'v' is list<element: int64>, which cannot become a whole number such as 12",
        ),
    ],
)
def test_a_value_that_does_not_fit_its_type_is_named(tmp_path: Path, array: Any, kind: str, expected: str) -> None:
    path = parquet(tmp_path / "t.parquet", {"v": array})
    assert refusal(job(path, types={"v": kind})) == f"source.types.v: {path}: {expected}"


def test_hostile_parquet_works_or_is_one_error_that_names_the_file(tmp_path: Path) -> None:
    good = parquet(tmp_path / "good.parquet", {"a": list(range(10_000))}).read_bytes()
    path = tmp_path / "t.parquet"
    mark = "cannot be read as parquet: it is cut off, or no parquet at all (the mark at its end is missing)"
    for data in (good[: len(good) // 2], b"a,b\n1,2\n", os.urandom(100), b"PAR1" + good[4:-4] + b"XXXX"):
        path.write_bytes(data)
        assert refusal(job(path)) == f"source.path: {path}: {mark}"
    for data in (b"PAR1", b"PAR1PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", good[:-8] + b"\xff\xff\xff\x7fPAR1", b"x"):
        path.write_bytes(data)
        assert refusal(job(path)).startswith(f"source.path: {path}: cannot be read as parquet: ")
    broken = bytearray(good)
    broken[40:3000] = b"\xff" * 2960
    path.write_bytes(broken)
    assert refusal(job(path)).startswith(f"source.path: {path}: cannot be read as parquet: ")


def test_a_table_without_columns_or_with_two_of_one_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1]}).select([]), path)
    assert refusal(job(path)) == f"source.path: {path} has no columns"
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"]), path)
    assert refusal(job(path)) == f"source.path: {path} has 2 columns named 'a'; each needs a name of its own"


def test_ten_thousand_columns_are_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {f"c{i}": [i, None] for i in range(10_000)})
    [batch] = open_source(job(path)).batches()
    assert batch.rows[0].rows[0]["c9999"] == 9_999
    assert batch.kept.num_columns == 10_000


def test_a_table_without_rows_is_no_rows(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {"a": pa.array([], pa.int64())})
    assert rows(job(path)) == []
    assert rows(job(path, group_by=["a"], sort_by=["a"], where="a > 1", id=["a"])) == []


def test_batches_are_bounded_in_rows_and_in_bytes(tmp_path: Path) -> None:
    small = parquet(tmp_path / "small.parquet", {"a": list(range(4_500))})
    assert [len(batch.rows) for batch in open_source(job(small)).batches()] == [2_000, 2_000, 500]
    texts = [os.urandom(1 << 19).hex() for _ in range(20)]
    large = parquet(tmp_path / "large.parquet", {"a": texts})
    batches = list(open_source(job(large)).batches())
    assert [row.rows[0]["a"] for batch in batches for row in batch.rows] == texts
    assert max(len(batch.rows) for batch in batches) <= 8


def test_invalid_text_is_an_error(tmp_path: Path) -> None:
    binary = pa.array([b"ok", b"\xff\xfe"])
    text = pa.Array.from_buffers(pa.string(), 2, binary.buffers())
    path = parquet(tmp_path / "t.parquet", {"a": text})
    assert refusal(job(path)).startswith(f"source.path: {path}: cannot be read as parquet: ")

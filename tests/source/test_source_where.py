# ruff: noqa: DTZ001 - a table may hold local times, which have no zone
from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_job import job, kept, refusal, refused, rows

from pipeline.source.where import Where, WhereError

SCHEMA = pa.schema(
    {
        "x": pa.int64(),
        "y": pa.int64(),
        "z": pa.string(),
        "ts": pa.timestamp("us"),
        "d": pa.date32(),
        "l": pa.list_(pa.int64()),
        "s": pa.struct({"a": pa.int64()}),
        "Unit Price": pa.float64(),
        "in": pa.int64(),
    }
)


def batch(*values: dict[str, Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([*values], schema=SCHEMA)


ROWS = batch(
    {"x": 1, "y": 2, "z": "abc", "ts": datetime(2024, 1, 2), "d": date(2024, 1, 2), "l": [1], "s": {"a": 1}, "in": 1},
    {"x": 2, "y": None, "z": "it's", "ts": datetime(2023, 1, 1), "d": date(2023, 1, 1), "l": [], "Unit Price": 2.5},
    {"x": None, "y": 1, "z": None},
)


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("x > 1", [1]),
        ("x = 1 OR y = 1", [0, 2]),
        ("x IS NULL", [2]),
        ("NOT (x = 1)", [1]),
        ("x IN (1, 2)", [0, 1]),
        ("x NOT IN (1) AND z IN ('abc', 'it''s')", [1]),
        ("x in(1)or y in(1)", [0, 2]),
        ("z LIKE 'a%'", [0]),
        ("z = 'x > (SELECT 1) OVER sum('", []),
        ("lower(z) = 'abc'", [0]),
        ("length(z) % 2 = 0", [1]),
        ("rows.x = 1", [0]),
        ('"Unit Price" > 2', [1]),
        ("`Unit Price` IN (2.5)", [1]),
        ('"in" = 1', [0]),
        ("ts >= '2024-01-01'", [0]),
        ("ts BETWEEN '2023-01-01' AND '2023-12-31'", [1]),
        ("d IN ('2024-01-02')", [0]),
        ("EXTRACT(year FROM ts) = 2024", [0]),
        ("CASE WHEN x = 1 THEN true ELSE false END", [0]),
        ("s.a = 1", [0]),
        ("array_contains(l, 1)", [0]),
        ("x > 0 -- and y > 100", [0, 1]),
        ("x /* sum( */ > 0", [0, 1]),
        ("true", [0, 1, 2]),
        ("NULL", []),
        ("x = y", []),
    ],
)
def test_a_condition_picks_the_rows_that_sql_would(sql: str, wanted: list[int]) -> None:
    where = Where.parse(sql, SCHEMA.names)
    where.check(SCHEMA)
    mask = where.mask(ROWS).to_pylist()
    assert [row for row, holds in enumerate(mask) if holds] == wanted


@pytest.mark.parametrize(
    "sql",
    [
        "sum(x) > 1",
        "x > max(x)",
        "sum(x % 2) > 1",
        "x IN (1, max(y))",
        "count(*) > 1",
        "first(x) = 1",
        "median(x) = 1",
        "row_number() OVER (ORDER BY x) = 1",
        "x > avg(y) OVER (PARTITION BY z)",
        "lag(x) OVER (ORDER BY y) > 1",
        "x IN (SELECT y FROM rows)",
        "EXISTS (SELECT 1 FROM rows)",
        "x > (SELECT max(x) FROM rows)",
        "unnest(l) > 1",
        "array_agg(x) = 1",
        "1 = 1 UNION SELECT 2",
    ],
)
def test_what_looks_at_more_than_one_row_is_refused(sql: str) -> None:
    with pytest.raises(WhereError, match="one row only, without aggregates, windows and subqueries"):
        Where.parse(sql, SCHEMA.names)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("x > 1 LIMIT 5", "it cannot be read as a condition in SQL: .*LIMIT"),
        ("x > 1; DROP TABLE rows", "it cannot be read as a condition in SQL"),
        ("x >", "it cannot be read as a condition in SQL"),
        ("", "it cannot be read as a condition in SQL"),
        ("x > 1) OR (y > 2", "it cannot be read as a condition in SQL"),
        ("frobnicate(x) > 1", "it cannot be read as a condition in SQL: unsupported function 'frobnicate'"),
        ("xx > 1", "the source has no column 'xx'; did you mean x"),
        ('z = "abc"', "the source has no column 'abc'; the source has x, y"),
        ("x", "it gives Int64, expected true or false"),
        ("x > 'a'", "column 'x' is a number and 'a' is text; write the number without quotes"),
        ("ts > 'noon'", "cannot compare 'date/datetime/time' to a string value$"),
    ],
)
def test_what_is_no_condition_on_this_source_is_refused_with_words(sql: str, expected: str) -> None:
    with pytest.raises(WhereError, match=expected) as caught:
        Where.parse(sql, SCHEMA.names).check(SCHEMA)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "z > 10.5",
        "z > 10",
        "z > 1e3",
        "z > -10.5",
        "10.5 < z",
        "z = 10.5",
        "z <> 10.5",
        "z > 10.5 AND x > 1",
        "NOT (z > 10.5)",
        "z BETWEEN 10.5 AND 20",
        "z NOT BETWEEN 1 AND 20.5",
        "z IN (10.5, 11)",
        "z NOT IN (10)",
        "x IN (1) OR z IN (10.5)",
        "rows.z > 10.5",
        "upper(z) > 1.5",
        "coalesce(z, 1.5) > 2.5",
        "z > x",
        "x < z",
        "z * 2 > 1",
        "CASE WHEN z > 10.5 THEN true ELSE false END",
        "CASE z WHEN 1.5 THEN true ELSE false END",
    ],
)
def test_text_is_never_compared_with_a_number(sql: str) -> None:
    where = Where.parse(sql, SCHEMA.names)
    with pytest.raises(WhereError, match=r"column 'z' is text \(string\), compared with .* CAST\(z AS DOUBLE\)"):
        where.check(SCHEMA)


@pytest.mark.parametrize("sql", ["price > '9'", "price = '9.50'", "'9' < price", "price IN ('9.5')", "x IN ('1')"])
def test_a_number_is_never_compared_with_text(sql: str) -> None:
    schema = pa.schema({"price": pa.decimal128(10, 2), "x": pa.int64()})
    with pytest.raises(WhereError, match=r"is a number and '.*' is text; write the number without quotes"):
        Where.parse(sql, schema.names).check(schema)


def test_texts_compared_for_equality_may_be_meant_so() -> None:
    with pytest.raises(WhereError, match=r"quote the number to compare texts \('80331'\), or write CAST\("):
        Where.parse("z IN (80331)", SCHEMA.names).check(SCHEMA)


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("TRY_CAST(wert AS DOUBLE) > 10.5", ["11", "100"]),
        ("TRY_CAST(REPLACE(\"Betrag €\", ',', '.') AS DOUBLE) > 10.5", ["5", "11"]),
        ("wert IN ('5', '11')", ["5", "11"]),
        ("wert > '10.5'", ["5", "n.a.", "11", "100"]),
        ("length(wert) > 2.5", ["n.a.", "100"]),
        ("wert LIKE '1%' AND TRY_CAST(wert AS DOUBLE) BETWEEN 10.5 AND 20.5", ["11"]),
    ],
)
def test_the_ways_that_are_shown_filter_by_number(tmp_path: Path, sql: str, wanted: list[str]) -> None:
    (tmp_path / "t.csv").write_text('wert,Betrag €\n5,"10,6"\nn.a.,x\n11,"11,5"\n100,"9,5"\n')
    assert [row["wert"] for row in kept(job(tmp_path / "t.csv", where=sql))] == wanted


def test_a_text_column_with_an_odd_name_is_shown_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Betrag €\n5\nn.a.\n")
    message = refusal(job(tmp_path / "t.csv", where='"Betrag €" > 10.5'))
    assert message.startswith("source.where: text and numbers do not go together in a condition: column 'Betrag €'")
    assert 'CAST("Betrag €" AS DOUBLE)' in message


def test_a_column_of_a_type_that_polars_lacks_is_refused() -> None:
    schema = pa.schema({"x": pa.decimal256(50, 2)})
    with pytest.raises(WhereError, match=r"column 'x' is decimal256\(50, 2\), which a condition cannot look at"):
        Where.parse("x > 1", schema.names).check(schema)


def test_a_condition_sees_columns_that_templates_do_not(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,x\n2,y\n")
    assert kept(job(tmp_path / "t.csv", where="a = 2", columns=["b"])) == [{"b": "y"}]


def test_row_names_are_those_of_the_file_whatever_is_left_out(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(5_000))}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": [5, 4_998]}), tmp_path / "2.parquet")
    found = [name for name, _ in rows(job(tmp_path, where="a >= 4998"))]
    assert found == ["1.parquet:4999", "1.parquet:5000", "2.parquet:2"]


def test_limit_counts_rows_after_the_condition_over_all_files(tmp_path: Path) -> None:
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text("a\n" + "".join(f"{n}\n" for n in range(10)))
    found = [name for name, _ in rows(job(tmp_path, where="a >= 8", limit=3))]
    assert found == ["1.csv:9", "1.csv:10", "2.csv:9"]
    assert rows(job(tmp_path, limit=0)) == []


def test_a_condition_that_fails_on_a_value_says_where(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n2\nx\n")
    message = refusal(job(tmp_path / "t.csv", where="CAST(a AS INTEGER) > 1"))
    assert message.startswith("source.where: cannot be applied to a row from t.csv:1 to t.csv:3: ")


def test_a_bad_condition_is_said_together_with_other_complaints(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")
    asked = job(tmp_path / "t.csv", where="sum(a) > 1", columns=["b"], sort_by=["-c"])
    assert [path for path, _ in refused(asked)] == ["source.sort_by.0", "source.columns.0", "source.where"]


CONDITIONS = [
    "a > 2",
    "a % 3 = 1 OR b IS NULL",
    "b IN ('x', 'y') AND a NOT IN (1, 4)",
    "length(b) > 1",
    "a IS NOT NULL",
]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.none() | st.integers(0, 6), st.none() | st.sampled_from(["x", "y", "zz"])), max_size=30),
    st.sampled_from(CONDITIONS),
    st.integers(1, 7),
)
def test_a_condition_batch_by_batch_equals_one_over_the_whole_table(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[int | None, str | None]], sql: str, group_rows: int
) -> None:
    path = tmp_path_factory.mktemp("where") / "t.parquet"
    columns = {"a": pa.array([a for a, _ in table], pa.int64()), "b": pa.array([b for _, b in table], pa.string())}
    pq.write_table(pa.table(columns), path, row_group_size=group_rows)
    whole = pl.SQLContext(rows=pl.read_parquet(path), eager=True).execute(f"SELECT * FROM rows WHERE {sql}")
    assert kept(job(path, where=sql)) == whole.to_dicts()

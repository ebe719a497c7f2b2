from __future__ import annotations

import csv as csv_reader
import io
import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.prompt.dataset import write
from pipeline.prompt.values import NoTextError, text

ROWS: list[dict[str, Any]] = [
    {"ts": date(2026, 11, 22), "name": "a, b", "value": 0.1, "ok": True},
    {"ts": None, "name": 'say "x"\nnow', "value": Decimal("12.50"), "ok": None},
    {"ts": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "name": "", "value": 1e300, "ok": False},
]
COLUMNS = ("ts", "name", "value", "ok")


def test_csv_quotes_what_needs_it_and_tells_null_from_empty() -> None:
    assert write(ROWS, COLUMNS, "csv") == (
        "ts,name,value,ok\n"
        '2026-11-22,"a, b",0.1,true\n'
        ',"say ""x""\nnow",12.50,\n'
        '2026-01-02T03:04:05+00:00,"",1e+300,false'
    )


def test_csv_keeps_blanks_and_lone_carriage_returns() -> None:
    rows = [{"a": " x"}, {"a": "x\t"}, {"a": "x\ry"}, {"a": "x y"}]
    assert write(rows, ("a",), "csv") == 'a\n" x"\n"x\t"\n"x\ry"\nx y'


def test_json_is_one_array_of_objects() -> None:
    assert write(ROWS, COLUMNS, "json") == (
        '[{"ts":"2026-11-22","name":"a, b","value":0.1,"ok":true},'
        '{"ts":null,"name":"say \\"x\\"\\nnow","value":12.50,"ok":null},'
        '{"ts":"2026-01-02T03:04:05+00:00","name":"","value":1e+300,"ok":false}]'
    )


def test_ndjson_is_an_object_a_line() -> None:
    assert write(ROWS[:2], ("value", "ts"), "ndjson") == '{"value":0.1,"ts":"2026-11-22"}\n{"value":12.50,"ts":null}'


def test_markdown_escapes_pipes_and_line_breaks() -> None:
    rows: list[dict[str, Any]] = [
        {"a|b": "x|y\nz", "n": "\r"},
        {"a|b": "", "n": "back\\slash"},
        {"a|b": '""', "n": None},
    ]
    assert write(rows, ("a|b", "n"), "markdown") == (
        '| a\\|b | n |\n| --- | --- |\n| x\\|y\\nz | \\r |\n| "" | back\\\\slash |\n| \\"" |  |'
    )


@pytest.mark.parametrize("form", ["csv", "json", "ndjson", "markdown"])
def test_only_the_named_columns_are_shown(form: str) -> None:
    assert "12.50" not in write(ROWS, ("name", "ok"), form)


@pytest.mark.parametrize("form", ["csv", "json", "ndjson", "markdown"])
def test_a_column_of_bytes_is_named_with_a_way_out(form: str) -> None:
    rows: list[dict[str, Any]] = [{"id": 1, "photo": None}, {"id": 2, "photo": b"\xff\xd8"}]
    with pytest.raises(NoTextError, match="column photo: 2 bytes of binary data have no text form; prompt"):
        write(rows, ("id", "photo"), form)


# The laws: whatever the rows hold, a reader gets every value back.

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", '"', '""', ",", "\n", "\r", "\r\n", " ", "|", "\\", "\\n", "null", "1", " | ", "| --- |"]
)
VALUES = st.one_of(
    st.none(),
    TEXTS,
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(allow_nan=False, allow_infinity=False, places=3),
    st.dates(),
    st.datetimes(timezones=st.sampled_from([None, UTC])),
    st.lists(st.integers(0, 9) | st.just("a,b"), max_size=2),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    columns = tuple(draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)))
    rows = draw(st.lists(st.fixed_dictionaries(dict.fromkeys(columns, VALUES)), min_size=1, max_size=4))
    return columns, rows


def read_csv(written: str) -> list[list[str | None]]:
    """Read RFC 4180 with `\\n` between records; an unquoted empty field is null, a last break ends the last record."""
    records: list[list[str | None]] = []
    record: list[str | None] = []
    at = 0
    while True:
        if written[at : at + 1] == '"':
            end = at + 1
            while written[end] != '"' or written[end + 1 : end + 2] == '"':
                end += 2 if written[end] == '"' else 1
            record.append(written[at + 1 : end].replace('""', '"'))
            at = end + 1
        else:
            end = min((i for i in (written.find(",", at), written.find("\n", at)) if i >= 0), default=len(written))
            record.append(written[at:end] or None)
            at = end
        if written[at : at + 1] != ",":
            records.append(record)
            record = []
            if at + 1 >= len(written):
                return records
        at += 1


def as_read(value: Any) -> str | None:
    return None if value is None else text(value)


@settings(deadline=None)
@given(tables())
@example((("v",), [{"v": 1}, {"v": None}]))
@example((("v",), [{"v": None}, {"v": ""}]))
def test_csv_gives_every_value_back(table: tuple[tuple[str, ...], list[dict[str, Any]]]) -> None:
    columns, rows = table
    header, *records = read_csv(write(rows, columns, "csv"))
    assert header == list(columns)
    assert records == [[as_read(row[column]) for column in columns] for row in rows]


@settings(deadline=None)
@given(tables())
def test_csv_is_what_the_csv_module_reads(table: tuple[tuple[str, ...], list[dict[str, Any]]]) -> None:
    columns, rows = table
    header, *records = csv_reader.reader(io.StringIO(write(rows, columns, "csv"), newline=""), strict=True)
    assert header == list(columns)
    assert [record or [""] for record in records] == [[text(row[column]) for column in columns] for row in rows]


def as_json_reads(value: Any) -> Any:
    """What a JSON reader gets that keeps the digits of numbers."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float | Decimal):
        return Decimal(text(value))
    return value if isinstance(value, list) else text(value)


def load(written: str) -> Any:
    return json.loads(written, parse_float=Decimal, parse_int=Decimal)


@settings(deadline=None)
@given(tables())
def test_json_gives_every_value_back(table: tuple[tuple[str, ...], list[dict[str, Any]]]) -> None:
    columns, rows = table
    assert load(write(rows, columns, "json")) == [
        {column: as_json_reads(row[column]) for column in columns} for row in rows
    ]


@settings(deadline=None)
@given(tables())
def test_ndjson_gives_every_value_back(table: tuple[tuple[str, ...], list[dict[str, Any]]]) -> None:
    columns, rows = table
    lines = write(rows, columns, "ndjson").split("\n")
    assert [load(line) for line in lines] == [
        {column: as_json_reads(row[column]) for column in columns} for row in rows
    ]


def read_markdown(written: str) -> list[list[str | None]]:
    def unescaped(cell: str) -> str | None:
        if cell in ("", '""', '\\""'):
            return {"": None, '""': "", '\\""': '""'}[cell]
        return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r"}.get(found[1], found[1]), cell)

    lines = [line.removeprefix("| ").removesuffix(" |") for line in written.split("\n")]
    return [[unescaped(cell) for cell in line.split(" | ")] for line in lines]


@settings(deadline=None)
@given(tables())
def test_markdown_gives_every_value_back(table: tuple[tuple[str, ...], list[dict[str, Any]]]) -> None:
    columns, rows = table
    header, rule, *records = read_markdown(write(rows, columns, "markdown"))
    assert header == list(columns)
    assert rule == ["---"] * len(columns)
    assert records == [[as_read(row[column]) for column in columns] for row in rows]

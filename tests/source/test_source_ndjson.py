from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_job import job, kept, refusal, rows

from pipeline.source import open_source


def lines(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def test_columns_are_the_members_of_all_lines_and_an_absent_one_is_null(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.ndjson", {"a": 1}, {"b": "x", "a": None}, {})
    assert kept(job(path)) == [{"a": 1, "b": None}, {"a": None, "b": "x"}, {"a": None, "b": None}]


def test_types_hold_over_all_lines_of_all_files(tmp_path: Path) -> None:
    lines(tmp_path / "1.ndjson", *[{"a": 1}] * 5_000, {"a": 2.5})
    lines(tmp_path / "2.ndjson", {"a": 7, "late": [1]})
    found = kept(job(tmp_path))
    assert {type(row["a"]) for row in found} == {float}
    assert found[-1] == {"a": 7.0, "late": [1]}


def test_nested_objects_and_lists_stay_what_they_are(tmp_path: Path) -> None:
    value = {"s": {"x": 1, "y": {"z": [{"k": "v"}, {"k": None, "l": 2.5}]}}, "l": [[1], []], "n": None, "t": True}
    path = lines(tmp_path / "t.ndjson", value)
    full = {**value, "s": {"x": 1, "y": {"z": [{"k": "v", "l": None}, {"k": None, "l": 2.5}]}}}
    reader = open_source(job(path))
    [batch] = reader.batches()
    assert batch.rows[0].rows[0] == full
    assert pa.types.is_struct(reader.kept_schema.field("s").type)
    assert pa.types.is_list(reader.kept_schema.field("l").type)


def test_an_object_that_is_always_empty_is_kept_as_its_json(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.ndjson", {"m": {}, "d": {"e": [{}]}}, {"m": None})
    assert kept(job(path)) == [{"m": "{}", "d": '{"e":[{}]}'}, {"m": None, "d": None}]


def test_strings_stay_text_also_where_they_look_like_dates_or_numbers(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.ndjson", {"a": "2024-01-01", "b": "12"})
    assert kept(job(path)) == [{"a": "2024-01-01", "b": "12"}]


def test_types_are_taken_from_the_job_where_it_names_them(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "t.ndjson", {"a": 1, "b": "2024-01-01", "c": "7"}, {"a": "x", "b": None, "c": 8}, {"a": [1]}
    )
    found = kept(job(path, types={"a": "string", "b": "date", "c": "integer"}))
    assert found == [
        {"a": "1", "b": date(2024, 1, 1), "c": 7},
        {"a": "x", "b": None, "c": 8},
        {"a": "[1]", "b": None, "c": None},
    ]


def test_row_names_count_rows_and_messages_count_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.ndjson"
    path.write_bytes(b'\xef\xbb\xbf{"a":1}\r\n\n  \n{"a":2}')
    assert rows(job(path)) == [("t.ndjson:1", [{"a": 1}]), ("t.ndjson:2", [{"a": 2}])]
    path.write_text('{"a":1}\n\n{"a":\n')
    assert refusal(job(path)).startswith(f"source.path: {path}:3: the line is not JSON: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[{"a": 1}]\n',
            (
                "source.path: {}:1: the line is a list, expected an object; this looks like one JSON array, "
                "ndjson has one object per line"
            ),
        ),
        ('{"a": 1}\n3\n', "source.path: {}:2: the line is an integer, expected an object"),
        ('{"a": 1}\nnull\n', "source.path: {}:2: the line is null, expected an object"),
        ("\n\n", "source.path: {} has no columns"),
        ("{}\n", "source.path: {} has no columns"),
        (
            '{"a": 1}\n{"a": "x"}\n',
            (
                "source.path: {}:2: column 'a' is a string here, an integer at {}:1; "
                "source.types.a: string would take all of them"
            ),
        ),
        (
            '{"a": {"b": [1]}}\n{"a": {"b": 1}}\n',
            (
                "source.path: {}:2: column 'a.b' is an integer here, a list at {}:1; "
                "source.types.a: string would take all of them"
            ),
        ),
        (
            '{"a": 1}\n{"a": 18446744073709551615}\n',
            (
                "source.path: {}:2: column 'a' holds a value that int64 cannot hold exactly; "
                "source.types.a: string would take it"
            ),
        ),
        (
            '{"a": 0.5}\n{"a": 9007199254740993}\n',
            (
                "source.path: {}:2: column 'a' holds a value that double cannot hold exactly; "
                "source.types.a: string would take it"
            ),
        ),
    ],
)
def test_what_is_no_table_is_one_error_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "t.ndjson"
    path.write_text(text)
    assert refusal(job(path)) == expected.replace("{}", str(path))


@pytest.mark.parametrize("data", [b'{"a": "\xe9"}', b'{"a": NaN}', '{"a":1}'.encode("utf-16"), b'{"a": "\\ud800"}'])
def test_what_is_no_json_is_one_error_with_its_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.ndjson").write_bytes(data)
    assert refusal(job(tmp_path / "t.ndjson")).startswith(f"source.path: {tmp_path}/t.ndjson:1: the line is not JSON: ")


def test_a_line_of_many_megabytes_comes_through(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.ndjson", {"a": "x"}, {"a": "y" * (5 << 20)}, {"a": "z"})
    assert [len(row["a"]) for row in kept(job(path))] == [1, 5 << 20, 1]


scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1), min_size=1, max_size=6))
def test_any_objects_are_read_or_refused_with_words(tmp_path_factory: pytest.TempPathFactory, table: list[Any]) -> None:
    path = lines(tmp_path_factory.mktemp("any") / "t.ndjson", *table)
    columns = dict.fromkeys("abc", "string")
    names = {name for row in table for name in row}
    found = kept(job(path, types={name: kind for name, kind in columns.items() if name in names}))
    assert len(found) == len(table)
    for row, original in zip(found, table, strict=True):
        for name, value in original.items():
            text = row[name]
            assert text == value if value is None or isinstance(value, str) else json.loads(text) == value


def test_of_two_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    (tmp_path / "t.ndjson").write_text('{"a":1,"a":2,"b":{"c":"x","c":"y"}}\n')
    assert kept(job(tmp_path / "t.ndjson")) == [{"a": 2, "b": {"c": "y"}}]

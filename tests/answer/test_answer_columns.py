"""Which Arrow type a schema's property gets, and that values survive the way there and back."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa
import pytest
from answer_schemas import objects
from hypothesis import given
from hypothesis import strategies as st

from pipeline.answer import Columns, Unfit, Validator
from pipeline.errors import JobError

POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": ["number", "null"]}}}
TREE = {
    "type": "object",
    "properties": {"v": {"type": "string"}, "c": {"type": "array", "items": {"$ref": "#/$defs/t"}}},
}
DEFS = {"p": POINT, "t": TREE, "s": {"type": "string"}, "color": {"enum": ["red", "blue"]}}
POINT_TYPE = pa.struct([("x", pa.int64()), ("y", pa.float64())])
TIME = pa.timestamp("us", tz="UTC")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, pa.string()),
        ({"type": "integer"}, pa.int64()),
        ({"type": "number"}, pa.float64()),
        ({"type": "boolean"}, pa.bool_()),
        ({"type": ["integer", "null"]}, pa.int64()),
        ({"type": ["integer", "number"]}, pa.float64()),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, pa.bool_()),
        ({"oneOf": [{"type": "integer"}, {"type": "null"}]}, pa.int64()),
        ({"enum": ["a", "b", None]}, pa.string()),
        ({"enum": [1, 2]}, pa.int64()),
        ({"enum": [1, 2.5]}, pa.float64()),
        ({"enum": [True, False]}, pa.bool_()),
        ({"enum": ["a", 1]}, pa.string()),
        ({"type": "string", "enum": ["a"]}, pa.string()),
        ({"const": 3}, pa.int64()),
        ({"const": "x"}, pa.string()),
        ({"type": "string", "format": "date"}, pa.date32()),
        ({"type": "string", "format": "date-time"}, TIME),
        ({"type": ["string", "null"], "format": "date"}, pa.date32()),
        ({"type": "string", "format": "email"}, pa.string()),
        ({"anyOf": [{"type": "string", "format": "date"}, {"type": "string"}]}, pa.string()),
        ({"type": "array", "items": {"type": "string"}}, pa.list_(pa.string())),
        ({"type": "array", "items": {"type": "array", "items": {"type": "number"}}}, pa.list_(pa.list_(pa.float64()))),
        (POINT, POINT_TYPE),
        ({"$ref": "#/$defs/p"}, POINT_TYPE),
        ({"$ref": "#/$defs/color", "description": "of the car"}, pa.string()),
        ({"allOf": [{"$ref": "#/$defs/p"}], "description": "where"}, POINT_TYPE),
        ({"anyOf": [{"$ref": "#/$defs/p"}, {"type": "null"}]}, POINT_TYPE),
        ({"type": "array", "items": {"$ref": "#/$defs/p"}}, pa.list_(POINT_TYPE)),
        ({"$ref": "#/$defs/t"}, pa.struct([("v", pa.string()), ("c", pa.string())])),
        ({"type": "integer", "allOf": [{"minimum": 0}]}, pa.int64()),
    ],
)
def test_a_property_has_the_type_that_its_schema_promises(schema: dict[str, Any], expected: pa.DataType) -> None:
    (field,) = Columns({"type": "object", "properties": {"a": schema}, "$defs": DEFS}).fields
    assert field.type == expected
    assert field.nullable


@pytest.mark.parametrize(
    ("schema", "value", "cell"),
    [
        ({"type": ["string", "integer"]}, "a", '"a"'),
        ({"type": ["string", "integer"]}, 3, "3"),
        ({"type": "array"}, [1, "a"], '[1,"a"]'),
        ({"type": "array", "items": {"type": ["string", "integer"]}}, [1, "a"], '[1,"a"]'),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, ["a"], '["a"]'),
        ({"type": "object"}, {}, "{}"),
        ({"type": "object", "properties": {}}, {"b": 1}, '{"b":1}'),
        ({"type": "object", "additionalProperties": {"type": "number"}}, {"b": 1}, '{"b":1}'),
        ({**POINT, "additionalProperties": True}, {"x": 1, "z": 2}, '{"x":1,"z":2}'),
        ({"anyOf": [{"type": "string"}, POINT]}, {"x": 1}, '{"x":1}'),
        ({}, [None], "[null]"),
        (True, 1.5, "1.5"),
        ({"type": "string"}, None, None),
        ({}, None, None),
    ],
)
def test_what_has_no_arrow_type_is_json_text(schema: Any, value: Any, cell: str | None) -> None:
    columns = Columns({"type": "object", "properties": {"a": schema}})
    assert columns.fields[0].type == pa.string()
    assert columns.values({"a": value}) == [cell]


def test_a_date_or_any_other_text_is_text_as_it_is() -> None:
    either = {"anyOf": [{"type": "string", "format": "date"}, {"type": "string"}]}
    assert Columns({"type": "object", "properties": {"a": either}}).values({"a": "soon"}) == ["soon"]


def test_columns_stand_in_the_order_of_the_schema_and_missing_properties_are_null() -> None:
    columns = Columns({"type": "object", "properties": {"z": {"type": "string"}, "a": POINT}})
    assert [field.name for field in columns.fields] == ["z", "a"]
    assert columns.values({"a": {"x": 2.0}, "other": 1}) == [None, {"x": 2, "y": None}]


def test_the_root_may_be_a_reference() -> None:
    columns = Columns({"$ref": "#/$defs/p", "$defs": DEFS})
    assert [(field.name, field.type) for field in columns.fields] == [("x", pa.int64()), ("y", pa.float64())]


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"type": "integer"}, 2**63, "integer of more than 64 bits"),
        ({"type": "integer"}, 1e300, "integer of more than 64 bits"),
        ({"type": "string", "format": "date"}, "0000-01-01", 'not a "date"'),
        ({"type": "string", "format": "date-time"}, "2026-01-01T23:59:60Z", 'not a "date-time"'),
        ({"type": "string", "format": "date-time"}, "0001-01-01T00:00:00+14:00", 'not a "date-time"'),
        ({}, orjson.loads("[" * 600 + "]" * 600), "nested too deeply"),
        ({"properties": {"b": {"type": "string"}}}, "free", "is a string, where an object is wanted"),
    ],
)
def test_a_valid_value_that_arrow_cannot_hold_is_unfit(schema: dict[str, Any], value: Any, message: str) -> None:
    whole = {"type": "object", "properties": {"a": schema}}
    assert Validator(whole).is_valid({"a": value})
    with pytest.raises(Unfit, match=message) as caught:
        Columns(whole).values({"a": value})
    assert caught.value.path == ("a",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-04T05:06:07Z", datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)),
        ("2026-03-04t05:06:07.123456789z", datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)),
        ("2026-03-04T01:00:00+02:00", datetime(2026, 3, 3, 23, tzinfo=UTC)),
    ],
)
def test_a_time_of_any_zone_is_kept_in_utc(text: str, expected: datetime) -> None:
    columns = Columns({"type": "object", "properties": {"a": {"type": "string", "format": "date-time"}}})
    assert columns.values({"a": text}) == [expected]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "array"}, "must describe an object"),
        ({"type": "object"}, "must list properties"),
        ({"type": "object", "properties": {}}, "must list properties"),
        ({"type": "object", "properties": {" ": {}}}, "a property without a name"),
        ({"type": "object", "properties": {"a": {"properties": {"": {}}}}}, "a property without a name"),
        ([1], "found an array"),
        ({"type": "object", "properties": {"a": {"const": {1, 2}}}}, "must be JSON"),
    ],
)
def test_what_makes_no_columns_is_a_broken_job(schema: Any, message: str) -> None:
    with pytest.raises(JobError, match=message) as caught:
        Columns(schema)
    assert all(found.path.startswith("answer.schema") for found in caught.value.complaints)


def test_references_that_double_at_each_level_are_refused_instead_of_followed() -> None:
    defs: dict[str, Any] = {"d0": {"type": "string"}}
    for level in range(1, 40):
        inner = {"$ref": f"#/$defs/d{level - 1}"}
        defs[f"d{level}"] = {"type": "object", "properties": {"a": inner, "b": inner}}
    with pytest.raises(JobError, match="more than 5000 parts"):
        Columns({"type": "object", "properties": {"a": {"$ref": "#/$defs/d39"}}, "$defs": defs})


def json_of(cell: Any) -> Any:
    """A cell as JSON had it."""
    match cell:
        case datetime():
            return cell.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
        case date():
            return cell.isoformat()
        case list():
            return [json_of(item) for item in cell]
        case dict():
            return {name: json_of(item) for name, item in cell.items()}
    return cell


@given(st.data())
def test_a_value_of_the_schema_goes_into_arrow_and_back(data: st.DataObject) -> None:
    schema, values = data.draw(objects())
    value = orjson.loads(orjson.dumps(data.draw(values)))
    assert Validator(schema).error(value) is None
    columns = Columns(schema)
    cells = columns.values(value)
    table = pa.table(
        [pa.array([cell, None], field.type) for cell, field in zip(cells, columns.fields, strict=True)],
        schema=pa.schema(columns.fields),
    )
    back = table.to_pylist()
    assert json_of(back[0]) == value
    assert set(back[1].values()) == {None}


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-1439, 1439))
def test_any_time_in_any_zone_is_the_same_moment_in_its_cell(at: datetime, minutes: int) -> None:
    columns = Columns({"type": "object", "properties": {"a": {"type": "string", "format": "date-time"}}})
    sign, ahead = "-" if minutes < 0 else "+", abs(minutes)
    written = f"{at.replace(tzinfo=None).isoformat()}{sign}{ahead // 60:02}:{ahead % 60:02}"
    try:
        expected = at - timedelta(minutes=minutes)
    except OverflowError:
        with pytest.raises(Unfit):
            columns.values({"a": written})
        return
    assert columns.values({"a": written}) == [expected]

"""What is said about an answer that does not satisfy its schema."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.answer import Validator
from pipeline.errors import JobError

SCHEMA = {
    "type": "object",
    "properties": {
        "price": {"type": "number", "minimum": 0},
        "color": {"enum": ["red", "blue"]},
        "at": {"type": "string", "format": "date-time"},
        "parts": {"type": "array", "items": {"type": "object", "properties": {"odd key": {"type": "integer"}}}},
        "size": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
    "required": ["price"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"price": 1, "size": None}, None),
        ({"price": "12 EUR"}, '$.price: "12 EUR" is not of type "number"'),
        ({"price": -1}, "$.price: -1 is less than the minimum of 0"),
        ({}, '$: "price" is a required property'),
        ({"price": 1, "x": 2}, "$: Additional properties are not allowed ('x' was unexpected)"),
        ({"price": 1, "color": "green"}, '$.color: "green" is not one of "red" or "blue"'),
        ({"price": 1, "at": "2026-01-01 10:00"}, '$.at: "2026-01-01 10:00" is not a "date-time"'),
        ({"price": 1, "parts": [{}, {"odd key": "a"}]}, '$.parts[1]["odd key"]: "a" is not of type "integer"'),
        ({"price": 1, "size": "L"}, '$.size: "L" is not of type "integer" and "L" is not of type "null"'),
    ],
)
def test_an_error_says_where_what_was_found_and_what_would_be_right(value: Any, error: str | None) -> None:
    validator = Validator(SCHEMA)
    assert validator.error(value) == error
    assert validator.is_valid(value) is (error is None)


def test_three_errors_are_told_and_more_are_mentioned() -> None:
    error = Validator(SCHEMA).error({"price": "a", "color": "b", "at": "c", "size": "d"})
    assert error is not None
    assert error.count("; ") == 3
    assert error.endswith("; and more")


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text()), max_size=5), st.text(min_size=500))
def test_an_error_is_one_line_of_bounded_length(value: dict[str, Any], long: str) -> None:
    error = Validator(SCHEMA).error({**value, "price": long, "parts": [{long: 1}, {"odd key": long}]})
    assert error is not None
    assert len(error) <= 700
    assert error.isprintable()


@pytest.mark.parametrize(
    ("schema", "path", "message"),
    [
        ({"type": "objekt"}, "answer.schema.type", "is no JSON Schema"),
        (
            {"properties": {"a": {"minLength": -1}}},
            "answer.schema.properties.a.minLength",
            "less than the minimum of 0",
        ),
        ({"properties": {"a": {"pattern": "("}}}, "answer.schema.properties.a.pattern", "regex"),
        ({"$ref": "#/$defs/none"}, "answer.schema", "does not exist"),
        ({"$ref": "https://example.org/schema.json"}, "answer.schema", "Retrieval is disabled"),
        ("object", "answer.schema", "found a string"),
    ],
)
def test_a_broken_schema_is_a_broken_job(schema: Any, path: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        Validator(schema)
    (complaint,) = caught.value.complaints
    assert complaint.path == path
    assert message in complaint.message
    assert complaint.message.isprintable()

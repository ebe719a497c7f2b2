"""Schemas that no answer can meet are refused with their place; all others are taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.answer import Validator
from pipeline.errors import JobError


def holding(part: dict[str, Any]) -> dict[str, Any]:
    """An object that has to have `part` as its property x."""
    return {"type": "object", "properties": {"x": part}, "required": ["x"], "additionalProperties": False}


NO_ANSWER = [
    (
        {**holding({"type": "string"}), "required": ["x", "y"]},
        "required",
        "names y, which is none of the properties (x)",
    ),
    ({"type": "object", "properties": {"x": {}}, "required": ["y"]}, "required", "add it there, or take it out here"),
    (holding({"type": "integer", "minimum": 3, "maximum": 2}), "properties.x.minimum", "minimum 3 and maximum 2"),
    (holding({"type": "number", "exclusiveMinimum": 3, "maximum": 3}), "properties.x.exclusiveMinimum", "maximum 3"),
    (holding({"type": "number", "minimum": 3, "exclusiveMaximum": 3}), "properties.x.minimum", "exclusiveMaximum 3"),
    (holding({"type": "string", "minLength": 5, "maxLength": 4}), "properties.x.minLength", "maxLength 4"),
    (holding({"type": "array", "minItems": 2, "maxItems": 1}), "properties.x.minItems", "maxItems 1"),
    (holding({"enum": []}), "properties.x.enum", "allows no value at all"),
    (holding({"type": "integer", "enum": ["a", "b"]}), "properties.x.enum", 'fits the rest of it (type: "integer")'),
    (holding({"type": "string", "const": "abc", "format": "date"}), "properties.x.const", 'format: "date"'),
    (holding(holding({"type": "string", "const": 1})), "properties.x.properties.x.const", 'type: "string"'),
    (
        holding({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1, "maximum": 0}}),
        "properties.x.items.minimum",
        "minimum 1 and maximum 0",
    ),
]


@pytest.mark.parametrize(("schema", "place", "words"), NO_ANSWER, ids=lambda value: str(value)[:40])
def test_a_schema_that_no_answer_can_meet_is_refused_with_its_place(
    schema: dict[str, Any], place: str, words: str
) -> None:
    with pytest.raises(JobError) as caught:
        Validator(schema)
    (complaint,) = caught.value.complaints
    assert complaint.path == f"answer.schema.{place}"
    assert words in complaint.message


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({**holding({"type": "string"}), "required": ["y"], "additionalProperties": True}, {"y": 1}),
        ({**holding({}), "required": ["y1"], "patternProperties": {"^y": {}}}, {"y1": 1}),
        ({"type": "object", "required": ["y"]}, {"y": 1}),
        # what may be left out, or be something else
        ({**holding({"enum": []}), "required": []}, {}),
        (holding({"type": "array", "items": {"enum": []}}), {"x": []}),
        (holding({"minimum": 3, "maximum": 2}), {"x": "text"}),
        (holding({"type": ["integer", "null"], "minimum": 3, "maximum": 2}), {"x": None}),
        (holding({"anyOf": [{"enum": []}, {"type": "null"}]}), {"x": None}),
        (holding({"type": "number", "minimum": 3, "maximum": 3}), {"x": 3}),
        (holding({"type": ["integer", "string"], "enum": ["a", 1.5]}), {"x": "a"}),
        ({**holding({"$ref": "#/$defs/x", "const": 1}), "$defs": {"x": {"type": "integer"}}}, {"x": 1}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_schema_that_some_answer_meets_is_taken(schema: dict[str, Any], answer: Any) -> None:
    assert Validator(schema).is_valid(answer)


NUMBERS = st.integers(-2, 2)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["integer", "number", "string", "null"])},
    optional={
        "minimum": NUMBERS,
        "maximum": NUMBERS,
        "exclusiveMinimum": NUMBERS,
        "exclusiveMaximum": NUMBERS,
        "minLength": st.integers(0, 3),
        "maxLength": st.integers(0, 3),
        "enum": st.lists(st.sampled_from([None, "", "ab", -1, 0, 1.5]), unique_by=repr),
    },
)


@given(PARTS)
def test_what_is_refused_has_no_answer_among_many(part: dict[str, Any]) -> None:
    candidates = [None, "", "a", "ab", "abc", "abcd", *(n / 4 for n in range(-16, 17)), *range(-4, 5), 10**9, -(10**9)]
    loose = Validator({"type": "object", "properties": {"x": part}})
    met = any(loose.is_valid({"x": value}) for value in candidates)
    try:
        Validator(holding(part))
    except JobError:
        assert not met

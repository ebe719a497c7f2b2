"""Schemas of objects, each with values that satisfy it."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from hypothesis import strategies as st

Described = tuple[dict[str, Any], st.SearchStrategy[Any]]

SCALARS: list[Described] = [
    ({"type": "string"}, st.text()),
    ({"type": "integer"}, st.integers(-(2**63), 2**63 - 1)),
    ({"type": "number"}, st.floats(allow_nan=False, allow_infinity=False)),
    ({"type": "boolean"}, st.booleans()),
    ({"type": "integer", "minimum": 0, "maximum": 9}, st.integers(0, 9)),
    ({"type": "string", "minLength": 1, "maxLength": 3}, st.text(min_size=1, max_size=3)),
    ({"type": "string", "pattern": "^(?!b)a"}, st.just("ab")),
    ({"enum": ["a", "b"]}, st.sampled_from("ab")),
    ({"type": "string", "format": "date"}, st.dates().map(date.isoformat)),
    (
        {"type": "string", "format": "date-time"},
        st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)).map(lambda at: at.isoformat() + "Z"),  # noqa: DTZ001
    ),
]


@st.composite
def described(draw: st.DrawFn, depth: int = 2) -> Described:
    """A schema, and values that satisfy it."""
    form = draw(st.sampled_from(["scalar", "null", "array", "object"] if depth else ["scalar"]))
    if form == "scalar":
        return draw(st.sampled_from(SCALARS))
    if form == "object":
        found: Described = draw(objects(depth - 1))
        return found
    schema, values = draw(described(depth - 1))
    if form == "null":
        return {"anyOf": [schema, {"type": "null"}]}, st.none() | values
    return {"type": "array", "items": schema}, st.lists(values, max_size=3)


@st.composite
def objects(draw: st.DrawFn, depth: int = 2) -> Described:
    parts = draw(st.dictionaries(st.text(min_size=1).filter(str.strip), described(depth), min_size=1, max_size=4))
    schema = {
        "type": "object",
        "properties": {name: part for name, (part, _) in parts.items()},
        "required": list(parts),
        "additionalProperties": False,
    }
    return schema, st.fixed_dictionaries({name: values for name, (_, values) in parts.items()})

"""Schemas that no answer can meet: told before every row is paid for and comes back invalid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import orjson

from pipeline.answer.schema import PATH, Schema, root_object

_NUMBER = ("number", "integer")
_BOUNDS = (
    ("minimum", "maximum", False, _NUMBER),
    ("exclusiveMinimum", "maximum", True, _NUMBER),
    ("minimum", "exclusiveMaximum", True, _NUMBER),
    ("exclusiveMinimum", "exclusiveMaximum", True, _NUMBER),
    ("minLength", "maxLength", False, ("string",)),
    ("minItems", "maxItems", False, ("array",)),
    ("minProperties", "maxProperties", False, ("object",)),
)
"""Lower and upper bound, whether they may not be equal either, and the types that they hold for."""


def contradictions(root: Schema) -> Iterator[tuple[str, str]]:
    """Find what makes a valid schema unanswerable: dotted places in the job with words.

    Only what every answer must have is looked at: the root, properties that are required, and items of which there has
    to be one. What a property may be spared, or another branch of ``anyOf`` allows, is no contradiction.
    """
    yield from _of(root_object(root), PATH)


def _of(part: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(part, dict) or "$ref" in part:
        return
    for low, high, strict, kinds in _BOUNDS:
        if part.get("type") in kinds and low in part and high in part:
            least, most = part[low], part[high]
            if least > most or (strict and least == most):
                yield f"{path}.{low}", f"no answer has {low} {least} and {high} {most}"
    yield from _of_values(part, path)
    properties = part.get("properties")
    if isinstance(properties, dict):
        free = part.get("additionalProperties", False) is not False or "patternProperties" in part
        for name in part.get("required", ()):
            if name in properties:
                yield from _of(properties[name], f"{path}.properties.{name}")
            elif not free:
                known = ", ".join(properties)
                words = f"names {name}, which is none of the properties ({known}), so no answer could have it"
                yield f"{path}.required", f"{words}; add it there, or take it out here"
    if part.get("type") == "array" and part.get("minItems", 0) > 0:
        yield from _of(part.get("items"), f"{path}.items")


def _of_values(part: Schema, path: str) -> Iterator[tuple[str, str]]:
    """Of a closed list of values, whether the rest of the schema allows any of them."""
    word = "const" if "const" in part else "enum"
    values = [part["const"]] if "const" in part else part.get("enum")
    if values is None or b'"$ref"' in orjson.dumps(part):
        return
    validator = jsonschema_rs.Draft202012Validator(dict(part), validate_formats=True, offline=True)
    if not any(map(validator.is_valid, values)):
        rest = ", ".join(f"{name}: {orjson.dumps(part[name]).decode()}" for name in part if name != word)
        yield (
            f"{path}.{word}",
            f"has no value that fits the rest of it ({rest})" if values else "allows no value at all",
        )

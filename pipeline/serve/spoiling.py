"""Answers that break the schema that they should fit, in the ways that models do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from pipeline.serve.fitting import validator_of, with_a_wrong_type, without_a_property

Schema = Mapping[str, Any]

WAYS = ("missing", "type", "prose", "cut")
"""A property is missing; one has a wrong type; there are words and no JSON; a fence is cut off in the middle."""


def way_of(fault: str | None, digest: bytes) -> str | None:
    """Say how an answer is spoiled: as a fault such as ``invalid-type`` says, or as the request decides."""
    if fault is None or not fault.startswith("invalid"):
        return None
    way = fault.rpartition("-")[2]
    return WAYS[digest[-1] % len(WAYS)] if way in {"invalid", "always"} else way


def value(schema: Schema, fitting: Any, fault: str | None, digest: bytes) -> Any:
    """Spoil a value, by the way that the fault says where the schema allows it and by the other one elsewhere.

    It stays as it is without such a fault, and where nothing could be wrong with it.
    """
    way = way_of(fault, digest)
    if way is None:
        return fitting
    ways = (without_a_property, with_a_wrong_type)
    for spoil in ways if way in {"missing", "cut"} else reversed(ways):
        if (spoiled := spoil(schema, fitting)) is not None:
            return spoiled
    return {} if _is_wrong(schema, {}) else fitting


def text(schema: Schema, fitting: Any, fault: str | None, digest: bytes) -> str:
    """Write a value as JSON, or spoiled; what cannot be spoiled in a way is so by prose."""
    way = way_of(fault, digest)
    written = orjson.dumps(fitting).decode()
    if way is None:
        return written
    if way == "fenced":
        return f"Here is the answer:\n\n```json\n{written}\n```\n\nTell me if you need anything else."
    if way == "cut":
        return f"Here is the answer:\n\n```json\n{written[: max(1, len(written) * 2 // 3)]}"
    if way in {"missing", "type"}:
        spoiled = value(schema, fitting, f"invalid-{way}", digest)
        if _is_wrong(schema, spoiled):
            return orjson.dumps(spoiled).decode()
    return "I am sorry, I would rather answer this in my own words."


def _is_wrong(schema: Schema, found: Any) -> bool:
    validator = validator_of(orjson.dumps(schema))
    return validator is not None and not validator.is_valid(found)

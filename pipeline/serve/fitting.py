"""A value that fits a JSON Schema, decided by a seed alone, and ways to spoil one that does."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from random import Random
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import jsonschema_rs
import orjson

from pipeline.serve.patterns import text_for

Schema = Mapping[str, Any]

TRIES = 12
"""So many values are drawn for a schema whose parts hang together in ways that are not followed, such as `if`."""

_DEEP = 6
"""From this depth on nothing is added that need not be there, so that a recursive schema ends."""
_DEEPEST = 24
_MOST_VALUES = 20_000
"""So many values are made for one answer, so that a schema that nothing fits ends too."""
_NULLS = 6
"""One in so many values that may be null is."""
_LEFT_OUT = 8
"""One in so many properties that need not be there is not."""

_WORDS = (
    *("amber", "basin", "calm", "delta", "early", "field", "grain", "harbour", "inner", "joint", "kind", "level"),
    *("minor", "north", "open", "plain", "quiet", "river", "stable", "total", "upper", "valve", "warm", "yield"),
)
_WORD = re.compile(r"([A-Za-z]+): ")
_DECODER = json.JSONDecoder()
_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
_SPAN_SECS = 3 * 365 * 86_400


@lru_cache(maxsize=256)
def validator_of(schema: bytes) -> jsonschema_rs.Validator | None:
    """Compile a schema that is JSON text; None where it is no JSON Schema, or refers to what is not in it."""
    try:
        return jsonschema_rs.validator_for(orjson.loads(schema))
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError):
        return None


def is_schema(schema: Any) -> bool:
    """Whether a value is a JSON Schema whose references lead somewhere."""
    if not isinstance(schema, dict):
        return False
    try:
        return validator_of(orjson.dumps(schema)) is not None
    except orjson.JSONEncodeError:
        return False  # nested too deeply


SAID_IN = "caption"
"""The property that what is to be said goes to, if it can."""


def fitting(schema: Schema, seed: bytes, said: str = "") -> Any:
    """Make a value that fits; where none can be found, one that nearly does.

    The same schema and seed make the same value. Dates are dates, enums come from their list, bounds hold.

    Args:
        schema: one for which `is_schema` holds.
        seed: any bytes.
        said: what one text of the value is to be: that of the property `SAID_IN`, or else the first that may be any
            text of this length; none where there is no such.
    """
    validator = validator_of(orjson.dumps(schema))
    value = None
    for turn in range(TRIES):
        chance = Random(seed + bytes([turn]))  # noqa: S311 - a seeded choice, no secret
        fit = _Fit(schema, chance, said)
        value = fit.value(schema, 0)
        if said and not fit.was_said:
            fit = _Fit(schema, chance, said, anywhere=True)
            value = fit.value(schema, 0)
        if validator is None or fit.left < 0 or validator.is_valid(value):
            return value
    return value


class _Fit:
    def __init__(self, root: Schema, chance: Random, said: str = "", *, anywhere: bool = False) -> None:
        self._root = root
        self._chance = chance
        self._said = said
        self._here = self._anywhere = anywhere
        self.was_said = False
        self.left = _MOST_VALUES

    def value(self, schema: Any, depth: int) -> Any:
        self.left -= 1
        if self.left < 0 or not isinstance(schema, Mapping) or depth > _DEEPEST:
            return None if schema is not True else self._words(1)
        schema = self._resolved(schema, depth)
        if isinstance(description := schema.get("description"), str):
            schema = _merged(schema, told(description))
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._chance.choice(schema["enum"])
        for word in ("anyOf", "oneOf"):
            if branches := schema.get(word):
                rest = {name: value for name, value in schema.items() if name != word}
                return self.value(_merged(rest, self._branch(branches, depth)), depth + 1)
        make: dict[str, Callable[[Schema, int], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda _schema, _depth: self._chance.random() < 0.5,
            "null": lambda _schema, _depth: None,
        }
        return make[self._type(schema)](schema, depth)

    def _resolved(self, schema: Schema, depth: int) -> Schema:
        """Follow references and merge `allOf`, until there is neither."""
        for _ in range(_DEEPEST - depth + 1):
            if isinstance(ref := schema.get("$ref"), str):
                rest = {name: value for name, value in schema.items() if name != "$ref"}
                schema = _merged(rest, _pointed(self._root, ref))
            elif whole := schema.get("allOf"):
                schema = {name: value for name, value in schema.items() if name != "allOf"}
                for part in whole:
                    schema = _merged(schema, part)
            else:
                return schema
        return {"type": "null"}

    def _branch(self, branches: list[Any], depth: int) -> Any:
        nulls = [branch for branch in branches if isinstance(branch, dict) and branch.get("type") == "null"]
        others = [branch for branch in branches if branch not in nulls] or nulls
        if nulls and (depth >= _DEEP or self._chance.randrange(_NULLS) == 0):
            return nulls[0]
        if depth >= _DEEP:
            return min(others, key=lambda branch: orjson.dumps(branch).count(b"$ref"))
        return self._chance.choice(others)

    def _type(self, schema: Schema) -> str:
        said = schema.get("type")
        if isinstance(said, str):
            return said
        if isinstance(said, list) and said:
            others = [name for name in said if name != "null"] or said
            nulls = "null" in said and self._chance.randrange(_NULLS) == 0
            return "null" if nulls else str(self._chance.choice(others))
        for name, words in _TOLD_BY.items():
            if words & schema.keys():
                return name
        return "string"

    # --- by type ----------------------------------------------------------------------------------------------------

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = schema.get("required") or ()
        parts = schema.get("properties") or {}
        made = {}
        for name, part in parts.items():
            left_out = name not in required and (depth >= _DEEP or self._chance.randrange(_LEFT_OUT) == 0)
            wanted_here = bool(self._said) and name == SAID_IN and not self.was_said
            if (not left_out or wanted_here) and part is not False:
                self._here = self._anywhere or wanted_here
                made[name] = self.value(part, depth + 1)
                self._here = self._anywhere
        more = schema.get("additionalProperties", True)
        wanted = [name for name in required if name not in made]
        missing = max(0, int(schema.get("minProperties", 0)) - len(made) - len(wanted))
        free = isinstance(more, dict) and not parts and depth < _DEEP
        wanted += [f"key_{nth}" for nth in range(1, max(missing, 2 if free else 0) + 1)]
        for name in wanted[: max(0, int(schema.get("maxProperties", len(wanted))))]:
            made[name] = self.value(more if isinstance(more, dict) else True, depth + 1)
        return made

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        first = [self.value(part, depth + 1) for part in schema.get("prefixItems") or ()]
        items = schema.get("items", True)
        low = max(int(schema.get("minItems", 0 if depth >= _DEEP else 1)), len(first))
        high = max(low, min(int(schema.get("maxItems", low + 2)), low + 2)) if depth < _DEEP else low
        high = min(high, int(schema.get("maxItems", high)))
        count = self._chance.randint(min(low, high), high)
        made = first[:count]
        seen = {orjson.dumps(value) for value in made}
        for _ in range(TRIES * count):
            if len(made) >= count or items is False or self.left < 0:
                break
            value = self.value(items, depth + 1)
            written = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
            if not schema.get("uniqueItems") or written not in seen:
                seen.add(written)
                made.append(value)
        return made

    def _integer(self, schema: Schema, _depth: int) -> int:
        low, high = _bounds(schema, 1.0)
        step: int = max(1, math.ceil(schema.get("multipleOf", 1)))
        least, most = math.ceil(low / step), math.floor(high / step)
        return step * self._chance.randint(least, max(least, most))

    def _number(self, schema: Schema, _depth: int) -> float:
        low, high = _bounds(schema, 0.01)
        step = schema.get("multipleOf")
        if step:
            least = math.ceil(low / step)
            return float(round(step * self._chance.randint(least, max(least, math.floor(high / step))), 10))
        drawn = low + (high - low) * self._chance.random()
        for digits in (2, 4, 8):
            if low <= (rounded := round(drawn, digits)) <= high:
                return rounded
        return drawn

    def _string(self, schema: Schema, _depth: int) -> str:
        make = _FORMATS.get(schema.get("format", ""))
        if make is not None:
            return make(self._chance)
        if isinstance(pattern := schema.get("pattern"), str) and (found := text_for(pattern, self._chance)) is not None:
            return found
        low, high = int(schema.get("minLength", 0)), int(schema.get("maxLength", 2**31))
        if self._said and self._here and not self.was_said and low <= len(self._said) <= high:
            self.was_said = True
            return self._said
        text = self._words(self._chance.randint(2, 4))
        while len(text) < low:
            text += " " + self._words(1)
        return text[:high].strip().ljust(min(low, high), "x")

    def _words(self, count: int) -> str:
        return " ".join(self._chance.choice(_WORDS) for _ in range(count))


@lru_cache(maxsize=1024)
def told(description: str) -> Schema:
    """Read the bounds that a description ends with, or is: ``keyword: JSON value; …``, as a rule in parentheses.

    Clients tell so what they take out of a schema because structured output does not know it.

    Returns:
        The keywords; none where the description does not end so, or its words make no schema.
    """
    starts = [0]
    if description.endswith(")"):
        starts += [found.end() for found in re.finditer(r"\(", description)]
    for start in starts:
        found = _keywords(description[start:].removesuffix(")" if start else ""))
        if found and is_schema(found):
            return found
    return {}


def _keywords(text: str) -> dict[str, Any]:
    """Read all of a text as keywords with values; none where it is anything else."""
    found: dict[str, Any] = {}
    place = 0
    while word := _WORD.match(text, place):
        try:
            found[word[1]], place = _DECODER.raw_decode(text, word.end())
        except (ValueError, RecursionError):
            return {}
        if place == len(text):
            return found
        if not text.startswith("; ", place):
            return {}
        place += 2
    return {}


_TOLD_BY: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties", "minProperties", "maxProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "string": frozenset({"pattern", "format", "minLength", "maxLength"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
}
"""What a schema without a type is about, by the words in it."""


def _bounds(schema: Schema, step: float) -> tuple[float, float]:
    lows = [schema[name] + more for name, more in (("minimum", 0), ("exclusiveMinimum", step)) if name in schema]
    highs = [schema[name] - less for name, less in (("maximum", 0), ("exclusiveMaximum", step)) if name in schema]
    if not lows:
        lows = [min(0, *highs) if highs and min(highs) >= 0 else min(highs) - 100 if highs else 0]
    low = max(lows)
    high = min(highs) if highs else low + 100
    if high < low:  # the bounds are closer than the step
        low = high = (schema.get("exclusiveMinimum", low) + schema.get("exclusiveMaximum", high)) / 2
    return low, high


def _merged(one: Schema, other: Any) -> Schema:
    """Put two schemas that both hold into one; the tighter bound wins, unlike words are left to the draws."""
    if not isinstance(other, Mapping):
        return one if other is not False else {**one, "type": "null"}
    made = {**one}
    for name, value in other.items():
        mine = made.get(name)
        if mine is None:
            made[name] = value
        elif name == "properties" and isinstance(mine, Mapping):
            made[name] = {
                **mine,
                **{key: _merged(mine[key], part) if key in mine else part for key, part in value.items()},
            }
        elif name == "required":
            made[name] = [*mine, *(key for key in value if key not in mine)]
        elif name in {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}:
            made[name] = max(mine, value)
        elif name in {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}:
            made[name] = min(mine, value)
        elif name == "enum":
            made[name] = [item for item in mine if item in value] or value
        else:
            made[name] = value
    return made


def _pointed(root: Any, ref: str) -> Any:
    """Find what a reference into the same schema means; anything, where it leads out or nowhere."""
    if not ref.startswith("#"):
        return {}
    found = root
    for part in ref[1:].split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            return {}
    return found


def _moment(chance: Random) -> datetime:
    return _EPOCH + timedelta(seconds=chance.randrange(_SPAN_SECS))


_FORMATS: Mapping[str, Callable[[Random], str]] = {
    "date": lambda chance: _moment(chance).strftime("%Y-%m-%d"),
    "date-time": lambda chance: _moment(chance).strftime("%Y-%m-%dT%H:%M:%SZ"),
    "time": lambda chance: _moment(chance).strftime("%H:%M:%SZ"),
    "duration": lambda chance: f"PT{chance.randint(1, 23)}H{chance.randint(0, 59)}M",
    "email": lambda chance: f"{chance.choice(_WORDS)}.{chance.choice(_WORDS)}@example.com",
    "hostname": lambda chance: f"{chance.choice(_WORDS)}.example.com",
    "uri": lambda chance: f"https://example.com/{chance.choice(_WORDS)}",
    "ipv4": lambda chance: f"192.0.2.{chance.randrange(256)}",
    "ipv6": lambda chance: f"2001:db8::{chance.randrange(1, 65_536):x}",
    "uuid": lambda chance: str(UUID(int=chance.getrandbits(128), version=4)),
}


# --- spoiling --------------------------------------------------------------------------------------------------------


def without_a_property(schema: Schema, value: Any) -> Any:
    """Take away a property that must be there; None where no such is."""
    for name in _named(schema, "required"):
        if isinstance(value, dict) and name in value:
            return {key: kept for key, kept in value.items() if key != name}
    return None


def with_a_wrong_type(schema: Schema, value: Any) -> Any:
    """Put a value of a wrong type into the first property that does not allow it; None where all do."""
    validator = validator_of(orjson.dumps(schema))
    if isinstance(value, dict) and validator is not None:
        for name in value:
            for wrong in ({"wrong": True}, "wrong", [1], None):
                spoiled = {**value, name: wrong}
                if not validator.is_valid(spoiled):
                    return spoiled
    return None


def _named(schema: Schema, word: str) -> list[str]:
    """The names under a word of a schema, or of what its reference or `allOf` means."""
    whole = _Fit(schema, Random(0))._resolved(schema, 0)  # noqa: S311, SLF001 - its neighbour in this module
    return list(whole.get(word) or ())

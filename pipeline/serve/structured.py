"""What the API refuses in a schema that it compiles: structured output and strict tools (messages-api §1.7)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

MAX_STRICT_TOOLS = 20
MAX_OPTIONAL = 24
MAX_UNIONS = 16
TOO_COMPLEX = "Schema is too complex for compilation."

_UNSUPPORTED: Mapping[str, tuple[str, ...]] = {
    "integer": ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"),
    "number": ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"),
    "string": ("maxLength", "minLength"),
    "array": ("contains", "maxItems", "uniqueItems"),
    "object": ("maxProperties", "minProperties", "patternProperties", "propertyNames"),
}
"""Keywords that the compiler does not know, by type."""

_REFUSED_REGEX = re.compile(r"\(\?[=!<]|\\[1-9bB]|\\k<")
"""Look-around, back-references and word boundaries."""

_INNER = ("anyOf", "allOf", "oneOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions")


def refusal_of(schema: Mapping[str, Any]) -> str | None:
    """Say why a schema is refused; None where it is compiled."""
    return _refusal(orjson.dumps(schema))


@lru_cache(maxsize=256)
def _refusal(written: bytes) -> str | None:
    schema = orjson.loads(written)
    parts = list(_parts(schema))
    for part in parts:
        if (reason := _refusal_of_part(part)) is not None:
            return reason
    if (ref := _circle(schema)) is not None:
        return f"Circular reference '{ref}' is not supported"
    if sum(map(_optional, parts)) > MAX_OPTIONAL or sum(map(_unions, parts)) > MAX_UNIONS:
        return TOO_COMPLEX
    return None


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    open_ = [schema]
    while open_:
        part = open_.pop()
        if not isinstance(part, dict):
            continue
        yield part
        open_ += [part.get(word) for word in ("items", "additionalProperties", "not")]
        for word in _INNER:
            open_ += part.get(word) or ()
        for word in _NAMED:
            open_ += (part.get(word) or {}).values()


def _refusal_of_part(part: Mapping[str, Any]) -> str | None:
    types = part.get("type")
    kinds = types if isinstance(types, list) else [types] if types else []
    if ("object" in kinds or "properties" in part) and part.get("additionalProperties", True) is not False:
        return "For 'object' type, 'additionalProperties' must be explicitly set to false"
    for kind in kinds:
        found = [word for word in _UNSUPPORTED.get(kind, ()) if word in part]
        if found:
            return f"For '{kind}' type, {'properties' if len(found) > 1 else 'property'} {_listed(found)} not supported"
    if part.get("minItems", 0) not in {0, 1}:
        return "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    ref = part.get("$ref")
    if isinstance(ref, str) and not ref.startswith("#"):
        return f"External $ref '{ref}' is not supported"
    if "pattern" in part and _REFUSED_REGEX.search(part["pattern"]):
        return f"Pattern '{part['pattern']}' is not supported: no look-around, no back-references, no word boundaries"
    return next(
        (f"'{word}' is not supported" for word in ("oneOf", "not", "if", "patternProperties") if word in part), None
    )


def _listed(words: list[str]) -> str:
    named = [f"'{word}'" for word in words]
    return f"{named[0]} is" if len(named) == 1 else f"{', '.join(named)} are"


def _optional(part: Mapping[str, Any]) -> int:
    return len((part.get("properties") or {}).keys() - set(part.get("required") or ()))


def _unions(part: Mapping[str, Any]) -> int:
    types = part.get("type")
    return ("anyOf" in part) + (isinstance(types, list) and len(types) > 1)


def _circle(schema: Mapping[str, Any]) -> str | None:
    """Find a reference that leads back to itself."""
    named = {
        f"#/{word}/{name}": part for word in ("$defs", "definitions") for name, part in (schema.get(word) or {}).items()
    }
    leads = {ref: _references(part) for ref, part in named.items()}
    bare = {word: value for word, value in schema.items() if word not in {"$defs", "definitions"}}
    leads["#"] = _references(bare)
    for ref, first in leads.items():
        seen: set[str] = set()
        open_ = set(first)
        while open_:
            found = open_.pop()
            if found == ref:
                return ref
            if found not in seen:
                seen.add(found)
                open_ |= leads.get(found, set())
    return None


def _references(schema: Any) -> set[str]:
    return {part["$ref"] for part in _parts(schema) if isinstance(part.get("$ref"), str)}

"""What of a JSON Schema can be sent as structured output: the rest is taken out, told in words, and validated here.

Source: messages-api §1.7 and platform.claude.com/docs/en/build-with-claude/structured-outputs, text of 2026-08-22.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.answer.schema import Schema, resolve, root_object

AS_OF = "2026-08-22"

KEPT = frozenset({"title", "description", "default", "required"})
"""Keywords that are sent as they are, beside those that `_Sent` rewrites."""
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
UNTOLD = frozenset({"$schema", "$id", "$comment", "$anchor", "$dynamicAnchor", "$vocabulary", "examples", "deprecated"})
"""Keywords that say nothing to the model; what else is taken out is told in the description."""
REFUSED_REGEX = re.compile(r"\(\?[=!<]|\\[1-9bB]|\\k<")
"""Look-around, back-references and word boundaries."""
MAX_REPEAT = 100
_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
MAX_OPTIONAL = 24
MAX_UNIONS = 16
LOCAL = ("#/$defs/", "#/definitions/")


@dataclass(frozen=True, slots=True)
class Sendable:
    """A schema as it is sent.

    Attributes:
        schema: what the API takes; meaningless where there are obstacles.
        dropped: keywords that were taken out, sorted.
        obstacles: why the API would refuse the schema, or answer less than it allows, whatever is taken out.
    """

    schema: Mapping[str, Any]
    dropped: tuple[str, ...]
    obstacles: tuple[str, ...]


def sendable(schema: Schema) -> Sendable:
    """Make a schema one that the API takes.

    Each object gets ``additionalProperties: false``; bounds the API does not know move into the description, so that
    the model still hears of them.
    """
    sent = _Sent(schema)
    written = sent.root()
    return Sendable(written, tuple(sorted(sent.dropped)), tuple(dict.fromkeys(sent.obstacles)))


class _Sent:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self.dropped: set[str] = set()
        self.obstacles: list[str] = []
        self._optional = self._unions = 0

    def root(self) -> dict[str, Any]:
        found = root_object(self._root)
        if found is not self._root and "$ref" in self._root:
            found = {**found, **{word: self._root[word] for word in ("$defs", "definitions") if word in self._root}}
        if _recursive(self._root):
            # Only said, not walked: a recursive schema is finite as it is written.
            self.obstacles.append("it is recursive")
        written = self._schema({"type": "object", **found})
        for word in ("$defs", "definitions"):
            if isinstance(parts := found.get(word), dict):
                written[word] = {name: self._schema(part) for name, part in parts.items()}
        if self._optional > MAX_OPTIONAL:
            self.obstacles.append(f"it has {self._optional} optional properties, more than {MAX_OPTIONAL}")
        if self._unions > MAX_UNIONS:
            self.obstacles.append(f"it has {self._unions} values of several types, more than {MAX_UNIONS}")
        return written

    def _schema(self, schema: Any) -> dict[str, Any]:
        if not isinstance(schema, dict):
            self.obstacles.append("a part of it allows anything")
            return {}
        if isinstance(ref := schema.get("$ref"), str):
            return self._reference(ref, schema)
        whole = schema.get("allOf")
        if isinstance(whole, list) and len(whole) == 1 and isinstance(whole[0], dict):
            # The usual way to put a description beside a reference, which the API refuses.
            return self._schema({**{word: value for word, value in schema.items() if word != "allOf"}, **whole[0]})
        written = {word: value for word, value in schema.items() if word in KEPT}
        told: dict[str, Any] = {}
        for word, value in schema.items():
            if word in KEPT or word in {"$defs", "definitions", "items", "properties", "additionalProperties"}:
                continue
            if word in {"anyOf", "oneOf", "allOf"}:
                self._combined(word, value, written)
            elif self._taken(word, value):
                written[word] = value
            else:
                self.dropped.add(word)
                if word not in UNTOLD:
                    told[word] = value
        self._within(schema, written)
        if told:
            said = "; ".join(f"{word}: {orjson.dumps(value).decode()}" for word, value in told.items())
            written["description"] = f"{schema['description']} ({said})" if schema.get("description") else said
        return written

    def _reference(self, ref: str, schema: Schema) -> dict[str, Any]:
        if not ref.startswith(LOCAL):
            self.obstacles.append(f"it refers to {ref}, and not to its own $defs")
        # Beside a reference the API takes nothing; what stands there is validated here.
        self.dropped |= schema.keys() - {"$ref", "$defs", "definitions", "title", "description"}
        return {"$ref": ref}

    def _combined(self, word: str, branches: Any, written: dict[str, Any]) -> None:
        if word == "allOf":
            if any(isinstance(branch, dict) and "$ref" in branch for branch in branches):
                self.obstacles.append("allOf has a $ref")
        else:
            self._unions += 1
        # oneOf is not known to the API, and "exactly one" is validated here.
        name = "anyOf" if word == "oneOf" else word
        if word == "oneOf":
            self.dropped.add(word)
        written[name] = [*written.get(name, []), *(self._schema(branch) for branch in branches)]

    def _taken(self, word: str, value: Any) -> bool:
        """Whether the API takes a keyword with this value."""
        match word:
            case "type":
                self._unions += isinstance(value, list) and len(value) > 1
                return True
            case "enum":
                return not any(isinstance(item, dict | list) for item in value)
            case "const":
                return not isinstance(value, dict | list)
            case "format":
                return value in FORMATS
            case "minItems":
                return bool(value in {0, 1})
            case "pattern":
                return not REFUSED_REGEX.search(value) and all(
                    int(bound) <= MAX_REPEAT for pair in _REPEAT.findall(value) for bound in pair if bound
                )
        return False

    def _within(self, schema: Schema, written: dict[str, Any]) -> None:
        """What is inside of an object or an array."""
        said = schema.get("type")
        words = said if isinstance(said, list) else [said]
        properties = schema.get("properties")
        if "object" in words or properties:
            written["additionalProperties"] = False
            if schema.get("additionalProperties", False) is not False:
                self.dropped.add("additionalProperties")
            if properties:
                written["properties"] = {name: self._schema(part) for name, part in properties.items()}
                self._optional += len(properties.keys() - set(schema.get("required", ())))
            else:
                self.obstacles.append("an object in it has free keys")
        if "array" in words or "items" in schema:
            if isinstance(schema.get("items"), dict):
                written["items"] = self._schema(schema["items"])
            else:
                self.obstacles.append("an array in it holds anything")
        if not {"type", "enum", "const", "anyOf", "allOf", "properties", "items"} & written.keys():
            self.obstacles.append("a part of it allows anything")


def _recursive(root: Schema) -> bool:
    """Whether a reference leads back to itself; what points at nothing leads nowhere."""
    leads: dict[str, set[str]] = {}
    open_ = _references(root)
    while open_:
        ref = open_.pop()
        if ref not in leads:
            try:
                leads[ref] = _references(resolve(root, ref))
            except LookupError:
                leads[ref] = set()
            open_ |= leads[ref]
    while leaves := {ref for ref, to in leads.items() if not to & leads.keys()}:
        leads = {ref: to for ref, to in leads.items() if ref not in leaves}
    return bool(leads)


def _references(part: Any) -> set[str]:
    if isinstance(part, list):
        return set().union(*map(_references, part))
    if not isinstance(part, dict):
        return set()
    ref = part.get("$ref")
    # What $defs hold counts where something refers to it.
    inner = (value for word, value in part.items() if word not in {"$defs", "definitions", "enum", "const", "default"})
    return set().union({ref} if isinstance(ref, str) else set(), *map(_references, inner))

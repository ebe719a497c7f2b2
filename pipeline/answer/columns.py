"""A JSON Schema as Arrow columns: one per property, with the types that the schema promises.

| schema | column |
|---|---|
| string, integer, number, boolean | string, int64, float64, bool |
| string with format date, date-time | date32, timestamp[us, UTC] |
| enum, const without a type | the type that their values share |
| array whose items have a type | list |
| object with properties | struct |
| integer or number | float64 |
| all else: unions of these, arrays of anything, objects with free keys, recursion | string, holding JSON |

Null, by `type: [x, "null"]` or a branch of anyOf, and a property that is not there, are null cells. Every column is
nullable, since a row without a valid answer has none of them. Keys of the answer that the schema does not list have
no column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import reduce
from typing import Any, Literal

import orjson
import pyarrow as pa

from pipeline.answer.schema import (
    PATH,
    Complain,
    Schema,
    kind_of,
    nowhere,
    one_line,
    place,
    plain,
    resolve,
    root_object,
)
from pipeline.errors import Complaint, JobError

Word = Literal["string", "integer", "number", "boolean", "date", "date-time", "json", "null", "any"]

MAX_NODES = 5_000
"""Schemas that come to more, references followed, are refused: nested references can double at each level."""
INT64 = range(-(2**63), 2**63)


class Unfit(Exception):
    """A value that the schema allowed and the column cannot hold; `path` says where, the message why."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        self.path = path
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value without parts."""

    word: Word


@dataclass(frozen=True, slots=True)
class ListOf:
    """An array of equal things."""

    item: Kind


@dataclass(frozen=True, slots=True)
class Struct:
    """An object with known keys."""

    fields: tuple[tuple[str, Kind], ...]


Kind = Scalar | ListOf | Struct

JSON, ANY, NULL = Scalar("json"), Scalar("any"), Scalar("null")
NUMBER, INTEGER, STRING = Scalar("number"), Scalar("integer"), Scalar("string")
DATED: Mapping[str, Kind] = {"date": Scalar("date"), "date-time": Scalar("date-time")}

ARROW: Mapping[Word, Any] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "date-time": pa.timestamp("us", tz="UTC"),
    "json": pa.string(),
    "null": pa.string(),
    "any": pa.string(),
}


class Columns:
    """The columns of a schema.

    Attributes:
        fields: one per property of the object, in order.

    Raises:
        JobError: it is no schema of an object with properties, or a property has no name.
    """

    def __init__(self, schema: Schema, complain: Complain = nowhere) -> None:
        kinds = _Kinds(plain(schema, complain))
        columns = kinds.of_columns()
        if kinds.complaints:
            raise JobError(*(complain(found.path, found.message) for found in kinds.complaints))
        self.fields: tuple[pa.Field, ...] = tuple(pa.field(name, arrow(kind)) for name, kind in columns)
        self._readers = tuple((name, reader(kind)) for name, kind in columns)

    def values(self, parsed: Mapping[str, Any]) -> list[Any]:
        """The cells of an answer, in the order of `fields`, as pyarrow takes them.

        Raises:
            Unfit: a value that the schema allows and the column cannot hold, such as the year 0.
        """
        cells: list[Any] = []
        for name, read in self._readers:
            value = parsed.get(name)
            try:
                cells.append(None if value is None else read(value))
            except Unfit as error:
                raise Unfit((name, *error.path), str(error)) from error
        return cells


class _Kinds:
    """The kinds of values that the parts of one schema describe."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._nodes = 0
        self.complaints: list[Complaint] = []

    def of_columns(self) -> list[tuple[str, Kind]]:
        """The columns' names and kinds."""
        found = root_object(self._root)
        properties = found.get("properties")
        if found.get("type", "object") != "object":
            self._complain(f"must describe an object (type: object); found type: {_said(found['type'])}")
        elif not isinstance(properties, dict) or not properties:
            self._complain("must list properties: each becomes a column")
        else:
            return list(self._fields(properties, ()).fields)
        return []

    def _complain(self, message: str, path: str = PATH) -> None:
        complaint = Complaint("", path, message)
        if complaint not in self.complaints:
            self.complaints.append(complaint)

    def _fields(self, properties: Mapping[str, Any], within: tuple[str, ...]) -> Struct:
        for name in properties:
            if not name.strip():
                self._complain("has a property without a name; a column needs one", f"{PATH}.properties")
        return Struct(tuple((name, self._kind(schema, within)) for name, schema in properties.items()))

    def _kind(self, schema: Any, within: tuple[str, ...]) -> Kind:
        """The kind of values that pass; `within` are the references that we are inside of."""
        if not isinstance(schema, dict):
            return ANY
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._complain(f"comes to more than {MAX_NODES} parts, references followed; make it smaller")
            return JSON
        parts = [self._typed(schema, within)]
        if isinstance(ref := schema.get("$ref"), str):
            parts.append(self._referred(ref, within))
        if isinstance(allowed := schema.get("enum"), list):
            parts.append(union(map(_of_value, allowed)))
        if "const" in schema:
            parts.append(_of_value(schema["const"]))
        parts += [
            union(self._kind(branch, within) for branch in schema[word])
            for word in ("anyOf", "oneOf")
            if word in schema
        ]
        parts += [self._kind(part, within) for part in schema.get("allOf") or ()]
        return reduce(_both, parts)

    def _referred(self, ref: str, within: tuple[str, ...]) -> Kind:
        if ref in within:
            return JSON
        try:
            return self._kind(resolve(self._root, ref), (*within, ref))
        except LookupError:
            return JSON

    def _typed(self, schema: Schema, within: tuple[str, ...]) -> Kind:
        said = schema.get("type")
        if isinstance(said, list):
            return union(self._of_type(word, schema, within) for word in said)
        if said is None and "properties" in schema:
            said = "object"
        if said is None and "items" in schema:
            said = "array"
        return ANY if said is None else self._of_type(said, schema, within)

    def _of_type(self, word: Any, schema: Schema, within: tuple[str, ...]) -> Kind:
        match word:
            case "string":
                return DATED.get(str(schema.get("format")), STRING)
            case "integer" | "number" | "boolean" | "null":
                return Scalar(word)
            case "array":
                item = ANY if "prefixItems" in schema else self._kind(schema.get("items"), within)
                return JSON if item in {JSON, ANY, NULL} else ListOf(item)
            case "object":
                properties = schema.get("properties")
                free = schema.get("additionalProperties", False) is not False or "patternProperties" in schema
                if free or not isinstance(properties, dict) or not properties:
                    return JSON
                return self._fields(properties, within)
        return JSON


def _of_value(value: Any) -> Kind:
    match value:
        case None:
            return NULL
        case bool():
            return Scalar("boolean")
        case int():
            return INTEGER
        case float():
            return NUMBER
        case str():
            return STRING
    return JSON


def union(kinds: Iterable[Kind]) -> Kind:
    """The kind that holds values of each of these; null is no kind of its own."""
    found = set(kinds) - {NULL}
    if not found:
        return NULL
    if len(found) == 1:
        return found.pop()
    if ANY in found:
        return ANY
    if found == {INTEGER, NUMBER}:
        return NUMBER
    if STRING in found and found <= {STRING, *DATED.values()}:
        return STRING
    return JSON


def _both(one: Kind, other: Kind) -> Kind:
    """The kind of values that are of both kinds."""
    for narrow, wide in ((one, other), (other, one)):
        if wide in {ANY, narrow} or (narrow == INTEGER and wide == NUMBER):
            return narrow
        if wide == STRING and narrow in DATED.values():
            return narrow
        if wide == JSON and isinstance(narrow, Scalar) and narrow != ANY:
            return narrow
    return JSON


def arrow(kind: Kind) -> pa.DataType:
    """The Arrow type of a kind."""
    match kind:
        case Scalar(word):
            return ARROW[word]
        case ListOf(item):
            return pa.list_(arrow(item))
        case Struct(fields):
            return pa.struct([pa.field(name, arrow(inner)) for name, inner in fields])


def reader(kind: Kind) -> Callable[[Any], Any]:
    """A function from a JSON value that is not null to what pyarrow takes; it raises Unfit."""
    match kind:
        case Scalar(word):
            return _READERS[word]
        case ListOf(item):
            return _list_reader(reader(item))
        case Struct(fields):
            return _struct_reader([(name, reader(inner)) for name, inner in fields])


def _list_reader(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read_list(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _misplaced(value, "an array")
        cells: list[Any] = []
        for nth, item in enumerate(value):
            try:
                cells.append(None if item is None else read(item))
            except Unfit as error:
                raise Unfit((nth, *error.path), str(error)) from error
        return cells

    return read_list


def _struct_reader(readers: list[tuple[str, Callable[[Any], Any]]]) -> Callable[[Any], Any]:
    def read_struct(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _misplaced(value, "an object")
        cells: dict[str, Any] = {}
        for name, read in readers:
            found = value.get(name)
            try:
                cells[name] = None if found is None else read(found)
            except Unfit as error:
                raise Unfit((name, *error.path), str(error)) from error
        return cells

    return read_struct


def read_string(value: Any) -> str:
    """A string as it is."""
    if not isinstance(value, str):
        raise _misplaced(value, "a string")
    return value


def read_boolean(value: Any) -> bool:
    """A boolean as it is."""
    if not isinstance(value, bool):
        raise _misplaced(value, "a boolean")
    return value


def read_integer(value: Any) -> int:
    """A whole number, also if written 3.0, of 64 bits."""
    if type(value) is not int:
        if not isinstance(value, float) or not value.is_integer():
            raise _misplaced(value, "an integer")
        value = int(value)
    if value not in INT64:
        raise Unfit((), "is an integer of more than 64 bits")
    return int(value)


def read_number(value: Any) -> float:
    """A number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _misplaced(value, "a number")
    return float(value)


def read_date(value: Any) -> date:
    """A date as JSON Schema writes it: 2026-11-22."""
    text = read_string(value)
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise Unfit((), f'"{one_line(text, 40)}" is not a "date"') from error


def read_datetime(value: Any) -> datetime:
    """A time with its zone, in UTC; a leap second has no place in Arrow."""
    text = read_string(value)
    try:
        found = datetime.fromisoformat(text.upper())
        if found.tzinfo is None:
            raise Unfit((), f'"{one_line(text, 40)}" is not a "date-time": it has no zone')
        return found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Unfit((), f'"{one_line(text, 40)}" is not a "date-time"') from error


def read_json(value: Any) -> str:
    """Any value, as JSON text."""
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        # It reads 1,024 levels and writes 254.
        raise Unfit((), "is nested too deeply") from error


_READERS: Mapping[Word, Callable[[Any], Any]] = {
    "string": read_string,
    "integer": read_integer,
    "number": read_number,
    "boolean": read_boolean,
    "date": read_date,
    "date-time": read_datetime,
    "json": read_json,
    "null": read_json,
    "any": read_json,
}


def _misplaced(value: Any, wanted: str) -> Unfit:
    return Unfit((), f"is {kind_of(value)}, where {wanted} is wanted")


def _said(value: Any) -> str:
    return one_line(orjson.dumps(value).decode(), 60)


def unfit_text(error: Unfit) -> str:
    """Say where and why a value does not fit, as validation errors are said."""
    return f"{place(error.path)}: {error}"

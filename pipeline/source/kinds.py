"""Kinds of values: what text may stand for, narrowed block by block, and which Arrow types go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["string", "integer", "number", "boolean", "date", "datetime", "instant"]
"""`instant` is a datetime with an offset from UTC; people write `datetime` for both."""

ARROW: dict[Kind, Any] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "datetime": pa.timestamp("us"),
    "instant": pa.timestamp("us", "UTC"),
}
KINDS = {arrow: kind for kind, arrow in ARROW.items()}
EXAMPLES: dict[Kind, str] = {
    "string": "text",
    "integer": "a whole number such as 12",
    "number": "a number such as 1.5",
    "boolean": "true or false",
    "date": "a date such as 2026-11-22",
    "datetime": "a time such as 2026-11-22T10:00:00",
    "instant": "a time such as 2026-11-22T10:00:00Z",
}
# Which kinds a column may still turn out to be, given what it has been so far. The chains do not overlap, so the
# outcome does not depend on where one block ends and the next begins.
CHAINS: dict[Kind | None, tuple[Kind, ...]] = {
    None: ("integer", "number", "boolean", "date", "datetime", "instant"),
    "integer": ("integer", "number"),
    "number": ("number",),
    "boolean": ("boolean",),
    "date": ("date", "datetime"),
    "datetime": ("datetime",),
    "instant": ("instant",),
    "string": (),
}
WIDE = 10**15  # whole numbers from here on are not all exact as floats, and are often names (card, account, object id)
# A leading zero or plus is part of a name (007, +49151…); letters other than the exponent's are nan, inf or hex.
NAMES = r"^[+-]?0[0-9]|^\+|[a-df-zA-DF-Z]|^-?[0-9]{16,}$"


@dataclass(slots=True)
class Inference:
    """What a text column turns out to be, over all its blocks.

    Attributes:
        kind: the narrowest kind that fits all values so far; None while all were null.
        wide: some whole number has 16 digits or more, so that the column cannot become `number` without loss.
        times_only: the column is said to hold times; find out which.
    """

    kind: Kind | None = None
    wide: bool = False
    times_only: bool = False

    def see(self, text: Any) -> None:
        """Take one more block of text into account."""
        if self.kind == "string":
            return
        chain = ("datetime", "instant") if self.times_only and self.kind is None else CHAINS[self.kind]
        found = next((kind for kind in chain if not (kind == "number" and self.wide) and self._fits(text, kind)), None)
        if found or not pc.all(pc.equal(text, ""), min_count=0).as_py():  # a block without any value says nothing
            self.kind = found or "string"

    def _fits(self, text: Any, kind: Kind) -> bool:
        try:
            values = cast_text(text, kind)
        except pa.ArrowInvalid:
            return False
        if values.null_count == len(values):
            return False
        if kind == "integer":
            span = pc.min_max(values)
            self.wide = self.wide or max(abs(span["min"].as_py()), abs(span["max"].as_py())) >= WIDE
        return STRICT[kind](text, values)

    def settled(self) -> Kind:
        """The kind of the column; a column of nulls is text."""
        return self.kind or "string"


def _spelled_out(text: Any, values: Any) -> bool:
    return bool(pc.all(pc.equal(pc.cast(values, pa.string()), text)).as_py() is not False)


def _numeric(text: Any, values: Any) -> bool:
    return not pc.any(pc.match_substring_regex(text, NAMES)).as_py() and bool(pc.all(pc.is_finite(values)).as_py())


def _true_or_false(text: Any, values: Any) -> bool:
    del values
    words = pc.is_in(pc.utf8_lower(text), pa.array(["true", "false", "", None]))
    return bool(pc.all(words).as_py())


def _in_calendar(first: Any) -> Callable[[Any, Any], bool]:
    def check(text: Any, values: Any) -> bool:
        del text
        return bool(pc.greater_equal(pc.min(values), pa.scalar(first, values.type)).as_py())

    return check


STRICT: dict[Kind, Callable[[Any, Any], bool]] = {
    "integer": _spelled_out,  # 007, 0x1F and -0 do not come out as they went in
    "number": _numeric,
    "boolean": _true_or_false,
    "date": _in_calendar(date(1, 1, 1)),
    "datetime": _in_calendar(datetime(1, 1, 1)),  # noqa: DTZ001 - a local time has no zone
    "instant": _in_calendar(datetime(1, 1, 2)),  # noqa: DTZ001 - Arrow takes it as UTC
}


def cast_text(text: Any, kind: Kind) -> Any:
    """Text as values of a kind; an empty text is null, except as text.

    Raises:
        pa.ArrowInvalid: some value is not of that kind.
    """
    if kind == "string":
        return text
    try:
        return pc.cast(text, ARROW[kind])
    except pa.ArrowInvalid:
        blank = pc.equal(text, "")
        if not pc.any(blank).as_py():
            raise
        return pc.cast(pc.if_else(blank, pa.scalar(None, text.type), text), ARROW[kind])


def cast_values(values: Any, kind: Kind) -> Any:
    """Typed values as values of a kind; times with a zone stay so where `datetime` is asked for.

    Raises:
        pa.ArrowInvalid: some value does not fit without loss.
        pa.ArrowNotImplementedError: values of this type never become that kind.
    """
    if values.type in TEXTS:
        text = pc.cast(values, pa.string())
        if kind != "datetime":
            return cast_text(text, kind)
        try:
            return cast_text(text, "datetime")
        except pa.ArrowInvalid:
            return cast_text(text, "instant")
    if kind == "datetime" and pa.types.is_timestamp(values.type):
        return values
    return pc.cast(values, ARROW[kind])


def first_misfit(array: Any, cast: Callable[[Any], Any]) -> int:
    """Index of the first value that `cast` refuses, found by halving."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            cast(array.slice(low, middle - low))
            low = middle
        except pa.ArrowException:
            high = middle
    return low


INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
TEXTS = (pa.string(), pa.large_string(), pa.string_view())
BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())
VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
UNITS = ("s", "ms", "us", "ns")


def common_type(one: Any, other: Any) -> Any | None:
    """The type that holds every value of both without loss; None where there is none, or where it would change meaning.

    Promoted are: all-null columns to anything, integers to wider ones, float to double, the three layouts of text and
    of bytes, and times to the finer unit in the same zone. All else differs.
    """
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_integer(one) and pa.types.is_integer(other):
        return _common_integer(one, other)
    if pa.types.is_floating(one) and pa.types.is_floating(other):
        return max(one, other, key=lambda kind: kind.bit_width)
    for family, result in ((TEXTS, pa.large_string()), (BYTES, pa.large_binary())):
        if one in family and other in family:
            return result
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other) and one.tz == other.tz:
        return pa.timestamp(max(one.unit, other.unit, key=UNITS.index), one.tz)
    return None


def _common_integer(one: Any, other: Any) -> Any | None:
    signs = {pa.types.is_signed_integer(one), pa.types.is_signed_integer(other)}
    if len(signs) == 1:
        return max(one, other, key=lambda kind: kind.bit_width)
    signed, unsigned = (one, other) if pa.types.is_signed_integer(one) else (other, one)
    bits = max(signed.bit_width, unsigned.bit_width * 2)
    return {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)


def settled_type(kind: Any) -> Any:
    """The type a column is read as, also inside.

    Dictionaries become their values, extension types their storage, views of text and bytes (which Arrow cannot filter)
    the real thing.
    """
    if kind in VIEWS:
        return VIEWS[kind]
    if pa.types.is_dictionary(kind):
        return settled_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return settled_type(kind.storage_type)
    if pa.types.is_list(kind):
        return pa.list_(settled_type(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(settled_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, settled_type(field.type)) for field in kind])
    return kind


def is_binary(kind: Any) -> bool:
    """Whether values of this type are bytes, or hold bytes."""
    if pa.types.is_fixed_size_binary(kind) or kind in BYTES:
        return True
    return any(is_binary(kind.field(i).type) for i in range(kind.num_fields))


def is_key(kind: Any) -> bool:
    """Whether rows can be sorted, grouped and told apart by values of this type."""
    checks = (
        pa.types.is_null,
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_float32,
        pa.types.is_float64,
        pa.types.is_decimal128,
        pa.types.is_date32,
        pa.types.is_time,
        pa.types.is_timestamp,
        pa.types.is_duration,
    )
    return kind in TEXTS or kind in BYTES or any(check(kind) for check in checks)

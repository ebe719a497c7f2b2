"""Values as text: one spelling of each value, in a sentence, in a table and in JSON.

Null is empty in text and `null` in JSON. Booleans are `true` and `false`. A float is its shortest decimal that reads
back as the same float; one that is not a number is `NaN`, `inf` or `-inf` in text and `null` in JSON, which has no word
for it. Decimals keep their digits and never an exponent. Dates and times are ISO 8601, durations as `PT90.5S`. Lists
and mappings are JSON. Bytes have no text form, and neither has a set or a generator, whose order or content a reader
could not trust.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from jinja2 import Undefined


class NoTextError(TypeError):
    """A value has no text form. The message names its type, never its content."""


def text(value: Any) -> str:
    """Write a value as a prompt shows it.

    Raises:
        NoTextError: it has no text form.
        jinja2.UndefinedError: it stands for something that is missing.
    """
    write = _WRITERS.get(type(value))
    return write(value) if write else _unusual(value)


def json_bytes(value: Any, *, indent: bool = False) -> bytes:
    """Write a value as JSON in UTF-8, on one line unless indented by two spaces.

    Raises:
        NoTextError: something in it has no text form, or is text that is not valid Unicode.
    """
    try:
        return orjson.dumps(value, _foreign_to_json, _OPTIONS | orjson.OPT_INDENT_2 if indent else _OPTIONS)
    except orjson.JSONEncodeError as error:
        raise _refused(error) from error


def json_lines(values: Iterable[Any]) -> bytes:
    """Write values as JSON, one a line.

    Raises:
        NoTextError: as `json_bytes`.
    """
    dumps, options = orjson.dumps, _OPTIONS
    try:
        return b"\n".join([dumps(value, _foreign_to_json, options) for value in values])
    except orjson.JSONEncodeError as error:
        raise _refused(error) from error


def _refused(error: orjson.JSONEncodeError) -> NoTextError:
    message = str(error.__cause__ or error)
    return NoTextError(message[:1].lower() + message[1:])


_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME
"""Times are ours to write: orjson 3.13 writes 10 ms as ``00:00:00.10000``."""


def _float(value: float) -> str:
    if math.isfinite(value):
        return float.__repr__(value)
    return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _decimal(value: Decimal) -> str:
    return f"{value:f}" if value.is_finite() else _float(float(value))


def _duration(value: timedelta) -> str:
    micros = value // timedelta(microseconds=1)
    whole, part = divmod(abs(micros), 1_000_000)
    fraction = f".{part:06d}".rstrip("0") if part else ""
    return f"{'-' if micros < 0 else ''}PT{whole}{fraction}S"


def _json(value: Any) -> str:
    return json_bytes(value).decode()


_WRITERS: Mapping[type, Callable[[Any], str]] = {
    str: str,
    type(None): lambda _: "",
    bool: lambda value: "true" if value else "false",
    int: str,
    float: _float,
    Decimal: _decimal,
    date: date.isoformat,
    datetime: datetime.isoformat,
    time: time.isoformat,
    timedelta: _duration,
    UUID: str,
    list: _json,
    tuple: _json,
    dict: _json,
}
_FAMILIES = (str, bool, int, float, Decimal, datetime, date, time, timedelta, UUID)


def _unusual(value: Any) -> str:
    if isinstance(value, Undefined):
        return str(value)  # strict: says what is missing
    for family in _FAMILIES:
        if isinstance(value, family):
            return _WRITERS[family](value)
    if isinstance(value, (Mapping, list, tuple)):
        return _json(value)
    raise _no_text(value)


def _foreign_to_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(f"{value:f}") if value.is_finite() else None
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (datetime, date, time, timedelta)):
        return text(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Undefined):
        return str(value)
    raise _no_text(value)


def _no_text(value: Any) -> NoTextError:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return NoTextError(f"{len(value)} bytes of binary data have no text form")
    kind = type(value).__name__
    return NoTextError(f"a value of type {kind} has no text form; a list, a number or text would have")

"""Arrow values as plain Python: int, float, str, bool, date, datetime, Decimal, list, dict, bytes, None."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.source.contract import first_line

BEYOND_PYTHON = (OverflowError, ValueError, KeyError)  # ArrowInvalid is a ValueError
MICROS_IN_CALENDAR = (-62_135_596_800_000_000, 253_402_300_799_999_999)  # years 1 to 9999


class UnplainError(Exception):
    """A value has no counterpart in Python, such as a date in the year 20000; says which column.

    Attributes:
        row: index of the row.
    """

    def __init__(self, column: str, row: int, kind: Any, error: Exception) -> None:
        self.row = row
        # Keys are those of a map, of which one is there twice, and those of the zones that are known here.
        why = first_line(error) if isinstance(error, KeyError) else "outside the years 1 to 9999"
        super().__init__(f"column {column!r} holds a {kind} that Python cannot hold: {why}")


def dicts(batch: pa.RecordBatch, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a batch as dictionaries of these columns, in order.

    Raises:
        UnplainError: a value has no counterpart in Python.
    """
    if not columns:
        return [{} for _ in range(len(batch))]
    lists = [column_values(batch.column(name), name) for name in columns]
    return [dict(zip(columns, values, strict=False)) for values in zip(*lists, strict=True)]  # as many by construction


def column_values(array: Any, name: str) -> list[Any]:
    """The values of one column; times finer than a microsecond lose what Python cannot hold.

    Raises:
        UnplainError: a value has no counterpart in Python.
    """
    try:
        return _values(array)
    except BEYOND_PYTHON as error:
        raise UnplainError(name, _first_bad(array), array.type, error) from error


def _values(array: Any) -> list[Any]:
    kind = array.type
    if pa.types.is_timestamp(kind):
        return _times(array)
    if (texts := _within(kind, _as_text)) != kind:
        # 0.1 of 32 bits is 0.10000000149011612 as Python's float; by way of its text it stays 0.1.
        array = array.cast(texts).cast(_within(kind, _as_double))
        kind = array.type
    coarse = _within(kind, _coarse)
    if coarse != kind:
        array = array.cast(coarse, safe=False)
    values: list[Any] = array.to_pylist(maps_as_pydicts="strict") if kind.num_fields else array.to_pylist()
    return values


def _times(array: Any) -> list[Any]:
    zone = array.type.tz
    micros = array.cast(pa.timestamp("us", zone), safe=array.type.unit != "ns")
    span = pc.min_max(micros.cast(pa.int64()))
    first, last = MICROS_IN_CALENDAR
    if span["min"].is_valid and not first <= span["min"].as_py() <= span["max"].as_py() <= last:
        raise OverflowError
    # Polars makes datetimes four times faster, but knows no zones that are written as an offset.
    values: list[Any] = pl.Series(micros).to_list() if zone in (None, "UTC") else micros.to_pylist()
    return values


def _as_text(kind: Any) -> Any:
    return pa.string() if pa.types.is_float32(kind) else kind


def _as_double(kind: Any) -> Any:
    return pa.float64() if pa.types.is_float32(kind) else kind


def _coarse(kind: Any) -> Any:
    """The same type with nanoseconds cut to what Python holds."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    return kind


def _within(kind: Any, other: Callable[[Any], Any]) -> Any:
    """The type with each part of it that holds no others put in another's place."""
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_within(kind.value_type, other)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_within(kind.value_type, other)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_within(field.type, other)) for field in kind])
    return other(kind)


def _first_bad(array: Any) -> int:
    for row in range(len(array)):
        try:
            _values(array.slice(row, 1))
        except BEYOND_PYTHON:
            return row
    return 0

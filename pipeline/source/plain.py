"""Arrow values as plain Python: int, float, str, bool, date, datetime, Decimal, list, dict, bytes, None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

MICROS_IN_CALENDAR = (-62_135_596_800_000_000, 253_402_300_799_999_999)  # years 1 to 9999
DAY_MICROS = 86_400_000_000


class UnplainError(Exception):
    """A value has no counterpart in Python, such as a date in the year 20000; says which column and row.

    Attributes:
        row: index of the row.
    """

    def __init__(self, column: str, row: int, kind: Any) -> None:
        self.row = row
        super().__init__(f"column {column!r} holds a {kind} outside the years 1 to 9999")


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
    except (OverflowError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise UnplainError(name, _first_bad(array), array.type) from error


def _values(array: Any) -> list[Any]:
    kind = array.type
    if pa.types.is_timestamp(kind):
        return _times(array)
    coarse = _coarse(kind)
    if coarse != kind:
        array = array.cast(coarse, safe=False)
    values: list[Any] = array.to_pylist(maps_as_pydicts="strict") if kind.num_fields else array.to_pylist()
    return values


def _times(array: Any) -> list[Any]:
    zone = array.type.tz
    micros = array.cast(pa.timestamp("us", zone), safe=array.type.unit != "ns")
    span = pc.min_max(micros.cast(pa.int64()))
    margin = DAY_MICROS if zone else 0
    if span["min"].is_valid and not (
        MICROS_IN_CALENDAR[0] + margin <= span["min"].as_py() <= span["max"].as_py() <= MICROS_IN_CALENDAR[1] - margin
    ):
        raise OverflowError
    # Polars makes datetimes four times faster, but knows no zones that are written as an offset.
    values: list[Any] = pl.Series(micros).to_list() if zone in (None, "UTC") else micros.to_pylist()
    return values


def _coarse(kind: Any) -> Any:
    """The same type with nanoseconds cut to what Python holds, also inside."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_coarse(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_coarse(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_coarse(field.type)) for field in kind])
    return kind


def _first_bad(array: Any) -> int:
    for row in range(len(array)):
        try:
            _values(array.slice(row, 1))
        except (OverflowError, ValueError):
            return row
    return 0

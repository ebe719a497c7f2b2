"""Groups and chunks: cutting a stream of rows into what one request is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from pipeline.source.order import changes, key_frame

# What a row costs as Python objects, on top of its bytes in Arrow: a dictionary, and an object for each value.
ROW_BYTES = 200
VALUE_BYTES = 50


class Unit(NamedTuple):
    """One request's rows within a batch: from `start` up to `stop`, the `chunk`-th of its group from 0."""

    start: int
    stop: int
    chunk: int


class Cut(NamedTuple):
    """A batch and the units that make it up, in order, without gaps."""

    batch: pa.RecordBatch
    units: list[Unit]


class TooLargeError(Exception):
    """One unit does not fit in memory.

    Attributes:
        row: its first row, as a batch of one.
        rows: how many rows it has.
        size: bytes that it would take.
    """

    def __init__(self, row: pa.RecordBatch, rows: int, size: int) -> None:
        self.row, self.rows, self.size = row, rows, size
        super().__init__(f"{rows} rows of {size} bytes")


@dataclass(slots=True)
class Cutter:
    """Cuts a stream of batches wherever a key changes, and after every `per_request` rows of equal keys.

    Attributes:
        keys: the columns whose change begins a new group; none for one group of all.
        per_request: rows in a chunk; None for whole groups.
        most: bytes that one unit may take in memory, as Python objects (an estimate).
    """

    keys: Sequence[str]
    per_request: int | None
    most: int
    _held: list[pa.RecordBatch] = field(default_factory=list)
    _held_rows: int = 0
    _held_bytes: int = 0
    _chunk: int = 0
    _last: pl.DataFrame | None = None

    def cut(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Cut]:
        """The units in order; rows of different input batches may be joined into one.

        Raises:
            TooLargeError: a unit does not fit in memory; raised when it has been read to its end, to tell its size.
        """
        for batch in batches:
            if not len(batch):
                continue
            starts = self._starts(batch)
            full = self.per_request is not None and self._held_rows + len(batch) >= self.per_request
            if not starts and not full:
                self._hold(batch)
                continue
            self._check(batch.slice(0, starts[0] if starts else len(batch)))
            joined, starts = self._join(batch, starts)
            units, rest = self._units(starts, len(joined))
            self._held, self._held_rows, self._held_bytes = [], 0, 0
            if rest < len(joined):
                self._hold(joined.slice(rest))
            if units:
                yield Cut(joined.slice(0, rest), units)
        if self._held:
            self._check(self._held[0].slice(0, 0))
            joined = pa.concat_batches(self._held)
            yield Cut(joined, [Unit(0, len(joined), self._chunk)])

    def _starts(self, batch: pa.RecordBatch) -> list[int]:
        """Rows of the batch at which another group begins, apart from the very first group."""
        keys = key_frame(batch, self.keys)
        if not keys.width:
            return []
        both = keys if self._last is None else pl.concat([self._last, keys])
        self._last = keys.tail(1)
        starts: list[int] = changes(both).arg_true().to_list()
        return [start - (both.height - keys.height) for start in starts[1:]]

    def _join(self, batch: pa.RecordBatch, starts: list[int]) -> tuple[pa.RecordBatch, list[int]]:
        joined = pa.concat_batches([*self._held, batch]) if self._held else batch
        return joined, [start + len(joined) - len(batch) for start in starts]

    def _units(self, starts: list[int], rows: int) -> tuple[list[Unit], int]:
        """The complete units, and the row at which the incomplete one begins; keeps count of its chunk."""
        units: list[Unit] = []
        start = 0
        for stop in [*starts, rows]:
            finished = stop < rows
            step = self.per_request or max(1, stop - start)
            while start + step <= stop and (finished or self.per_request):
                units.append(Unit(start, start + step, self._chunk))
                start += step
                self._chunk += 1
            if finished:
                if start < stop:
                    units.append(Unit(start, stop, self._chunk))
                start, self._chunk = stop, 0
        return units, start

    def _hold(self, batch: pa.RecordBatch) -> None:
        self._held_rows += len(batch)
        self._held_bytes += _as_objects(batch)
        if self._held_bytes <= self.most or not self._held:
            self._held.append(batch)
        else:  # from here on only counted
            del self._held[1:]

    def _check(self, more: pa.RecordBatch) -> None:
        if self._held_bytes > self.most:
            raise TooLargeError(
                self._held[0].slice(0, 1), self._held_rows + len(more), self._held_bytes + _as_objects(more)
            )


def _as_objects(batch: pa.RecordBatch) -> int:
    """About how many bytes the rows take as Python objects."""
    return int(batch.nbytes + len(batch) * (ROW_BYTES + VALUE_BYTES * batch.num_columns))


def kept_of_units(cut: Cut, columns: Sequence[tuple[str, Callable[[Cut], Any]]], schema: pa.Schema) -> pa.RecordBatch:
    """One row per unit.

    Args:
        cut: the units.
        columns: names and what makes them.
        schema: of the result.
    """
    if not columns:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(cut.units), pa.struct([])))
    return pa.RecordBatch.from_arrays([make(cut) for _, make in columns], schema=schema)


def first_of(name: str) -> Callable[[Cut], Any]:
    """A column's value in each unit's first row."""
    return lambda cut: cut.batch.column(name).take(pa.array([unit.start for unit in cut.units], pa.int64()))


def last_of(name: str) -> Callable[[Cut], Any]:
    """A column's value in each unit's last row."""
    return lambda cut: cut.batch.column(name).take(pa.array([unit.stop - 1 for unit in cut.units], pa.int64()))


def row_counts(cut: Cut) -> Any:
    """How many rows each unit has."""
    return pa.array([unit.stop - unit.start for unit in cut.units], pa.int64())


def chunk_numbers(cut: Cut) -> Any:
    """Which chunk of its group each unit is, from 0."""
    return pa.array([unit.chunk for unit in cut.units], pa.int64())

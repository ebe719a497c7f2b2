"""Sorting what may be larger than memory: range partitions by sampled keys, spilled, each sorted in memory."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from pipeline.errors import StorageError

SAMPLED_ROWS = 20_000
MOST_PARTS = 128
OUT_ROWS = 4_096
PARTS_OF_MEMORY = 16  # a part is read, its keys and their order are made, and it is copied: a few times its size
CHUNKS_OF_MEMORY = 64


@dataclass(frozen=True, slots=True)
class SortKey:
    """A column to sort by. Ascending, nulls come first; descending, they come last. NaN is the largest number."""

    name: str
    descending: bool = False

    @classmethod
    def parse(cls, text: str) -> SortKey:
        """``ts`` ascends, ``-ts`` descends."""
        return cls(text[1:], descending=True) if text.startswith("-") else cls(text)


def key_frame(batch: pa.RecordBatch | pa.Table, names: Sequence[str]) -> pl.DataFrame:
    """The key columns by place, in a form that Polars compares as we promise.

    Times become numbers, as it does not know every zone; NaN equals NaN, and -0.0 equals 0.0, as it has them anyway.
    """
    return pl.DataFrame({str(place): _comparable(batch.column(name)) for place, name in enumerate(names)})


def changes(keys: pl.DataFrame) -> pl.Series:
    """For each row of keys whether it differs from the row before it; true for the first. Nulls are equal, NaNs too."""
    if not keys.width:
        return pl.Series([place == 0 for place in range(keys.height)], dtype=pl.Boolean)
    differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(1)) for name in keys.columns)
    return keys.select(differs | (pl.int_range(pl.len()) == 0)).to_series()


def _comparable(column: Any) -> pl.Series:
    kind = column.type
    if pa.types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        return pl.Series(column.cast(width))
    return pl.Series(column)


@dataclass(frozen=True, slots=True)
class Spilled:
    """Batches in a file, in source order.

    Attributes:
        size: bytes in memory.
    """

    path: Path
    size: int


@dataclass(slots=True)
class Sorter:
    """Sorts a stream of batches by keys; equal rows stay in the order they came in.

    What is larger than a part of the memory is spilled into a temporary folder, which is gone when the iterator
    ends, is closed or fails. Rows that are all equal are not held in memory, however many they are.

    Attributes:
        keys: columns, the most significant one first.
        memory: bytes to get by with.
        spill: where the temporary folder is made; None for the system's own place.
    """

    keys: Sequence[SortKey]
    memory: int
    spill: Path | None = None
    _count: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - a sample, not a secret

    def sort(self, batches: Iterable[pa.RecordBatch]) -> Generator[pa.RecordBatch, None, None]:
        """The rows in order.

        Raises:
            StorageError: the spilled rows cannot be kept.
        """
        stream = iter(batches)
        held, size = [], 0
        for batch in stream:
            held.append(batch)
            size += batch.nbytes
            if size > self._part_bytes:
                break
        else:
            yield from self._in_memory(held)
            return
        with _keeping(self.spill or tempfile.gettempdir()):
            made = tempfile.TemporaryDirectory(prefix="sort-", dir=self.spill)
        with made as folder:
            [whole] = self._write(folder, ([batch] for batch in _emptying(held, stream)), 1)
            yield from self._ordered(folder, whole)

    @property
    def _part_bytes(self) -> int:
        return self.memory // PARTS_OF_MEMORY

    def _names(self) -> list[str]:
        return [key.name for key in self.keys]

    def _ordered(self, folder: str, spilled: Spilled) -> Iterator[pa.RecordBatch]:
        if spilled.size <= self._part_bytes:
            held = list(_read(spilled))
            spilled.path.unlink()
            yield from self._in_memory(held)
            return
        fences = self._fences(spilled)
        if not fences.height:
            yield from _read(spilled)
            spilled.path.unlink()
            return
        parts = self._write(folder, self._divided(spilled, fences), fences.height + 1)
        spilled.path.unlink()
        for part in parts:
            yield from self._ordered(folder, part)

    def _in_memory(self, batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        if not batches:
            return
        table = pa.Table.from_batches(batches).combine_chunks()
        batches.clear()
        places = self._arranged(key_frame(table, self._names()))
        for start in range(0, len(places), OUT_ROWS):
            yield from table.take(places.slice(start, OUT_ROWS).to_arrow()).combine_chunks().to_batches()

    def _arranged(self, keys: pl.DataFrame) -> pl.Series:
        """Places of the rows, in order."""
        down = [key.descending for key in self.keys]
        by = [pl.col(name) for name in keys.columns]
        return keys.select(pl.arg_sort_by(by, descending=down, nulls_last=down, maintain_order=True)).to_series()

    def _fences(self, spilled: Spilled) -> pl.DataFrame:
        """Keys at which to divide, ascending in this order; each is above the lowest key there is.

        So every part has fewer different keys than the whole, and dividing comes to an end. None where all are equal.
        """
        sample: list[pl.DataFrame] = []
        extremes: pl.DataFrame | None = None
        share, taken = 1.0, 0
        for batch in _read(spilled, self._names()):
            keys = key_frame(batch, self._names())
            chosen = keys[[row for row in range(keys.height) if self._random.random() < share]]
            sample.append(chosen)
            taken += chosen.height
            if taken > 2 * SAMPLED_ROWS:
                everything = pl.concat(sample)
                sample = [everything[self._random.sample(range(taken), taken // 2)]]
                share, taken = share / 2, taken // 2
            seen = keys if extremes is None else pl.concat([extremes, keys])
            seen = seen[self._arranged(seen)]
            extremes = pl.concat([seen.head(1), seen.tail(1)])
        assert extremes is not None
        lowest, highest = extremes.head(1), extremes.tail(1)
        drawn = pl.concat(sample)
        drawn = drawn[self._arranged(drawn)]
        parts = max(2, min(MOST_PARTS, 2 * spilled.size // max(1, self._part_bytes)))
        places = sorted({drawn.height * part // parts for part in range(1, parts)}) if drawn.height else []
        choices = (drawn[places], drawn, highest)
        fences = [self._above(lowest, keys) for keys in choices]
        return next((found if found is fences[0] else found.head(1) for found in fences if found.height), fences[0])

    @staticmethod
    def _above(lowest: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
        """Different keys above the lowest one; the given ones are in order."""
        both = pl.concat([lowest, keys])
        return both.filter(changes(both))[1:]

    def _divided(self, spilled: Spilled, fences: pl.DataFrame) -> Iterator[list[pa.Table | pa.RecordBatch]]:
        for chunk in _chunks(_read(spilled), self.memory // CHUNKS_OF_MEMORY):
            table = chunk.combine_chunks()
            part = self._parts(key_frame(table, self._names()), fences)
            arranged = pl.DataFrame({"part": part}).with_row_index("row").sort("part", "row")
            moved = table.take(arranged["row"].to_arrow())
            sizes = dict(arranged.group_by("part").len().iter_rows())
            slices, start = [], 0
            for number in range(fences.height + 1):
                slices.append(moved.slice(start, sizes.get(number, 0)))
                start += sizes.get(number, 0)
            yield slices

    def _parts(self, keys: pl.DataFrame, fences: pl.DataFrame) -> pl.Series:
        """The part each row belongs to: how many fences are at or below it.

        Fences and rows are sorted together, fences before equal rows, so that one comparison rules everywhere.
        """
        rows = pl.Series("row", range(-fences.height, keys.height), dtype=pl.Int64)
        both = pl.concat([fences, keys]).with_columns(rows)
        both = both[self._arranged(both.drop("row"))]
        return both.with_columns(part=(pl.col("row") < 0).cum_sum()).filter(pl.col("row") >= 0).sort("row")["part"]

    def _write(self, folder: str, rounds: Iterator[list[Any]], parts: int) -> list[Spilled]:
        """Append every round's slices to the files of their parts; the empty ones leave no file."""
        files: list[Any] = [None] * parts
        sizes = [0] * parts
        paths = [Path(folder) / f"{self._count + part}.arrow" for part in range(parts)]
        self._count += parts
        try:
            for slices in rounds:
                for part, rows in enumerate(slices):
                    if not len(rows):
                        continue
                    sizes[part] += rows.nbytes
                    with _keeping(folder):
                        if files[part] is None:
                            options = pa.ipc.IpcWriteOptions(compression="lz4")
                            files[part] = pa.ipc.new_stream(str(paths[part]), rows.schema, options=options)
                        files[part].write(rows)
        finally:
            for file in files:
                if file is not None:
                    with _keeping(folder):
                        file.close()
        return [Spilled(path, size) for path, size, file in zip(paths, sizes, files, strict=True) if file is not None]


@contextmanager
def _keeping(folder: Path | str) -> Iterator[None]:
    """Turn a failure to write, or to read what was written, into ours."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{folder}: rows to sort cannot be kept there: {error}") from error


def _emptying(held: list[pa.RecordBatch], rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    held.reverse()
    while held:
        yield held.pop()
    yield from rest


def _read(spilled: Spilled, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    columns = None if names is None else list(dict.fromkeys(names))
    with _keeping(spilled.path.parent), pa.OSFile(str(spilled.path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield batch if columns is None else batch.select(columns)


def _chunks(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    total = 0
    for batch in batches:
        held.append(batch)
        total += batch.nbytes
        if total >= size:
            yield pa.Table.from_batches(held)
            held, total = [], 0
    if held:
        yield pa.Table.from_batches(held)

"""Whether row names are unique, found out in little memory: hashes first, then the few suspects themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.source.order import key_frame

HELD_HASHES = 2_000_000  # 16 MB
BUCKETS = 64
SUSPECTS = 1_000
WORD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Twice:
    """Two rows of one name: both as batches of one row, the earlier one first."""

    first: pa.RecordBatch
    second: pa.RecordBatch


def find_twice(
    read: Callable[[], Generator[pa.RecordBatch, None, None]],
    names: Sequence[str],
    spill: Path | None,
    *,
    held: int = HELD_HASHES,
) -> Twice | None:
    """Two rows that agree in all these columns (nulls agree too), or None where all rows differ.

    Args:
        read: gives the rows, and the same ones when called again.
        names: the columns.
        spill: where hashes go that are too many to hold; None for the system's own place.
        held: how many are not.

    Raises:
        StorageError: the hashes cannot be kept.
    """
    with closing(read()) as batches:
        suspects = _repeated((key_frame(batch, names).hash_rows() for batch in batches if len(batch)), spill, held)
    if not len(suspects):
        return None
    with closing(read()) as batches:
        return _first_twice(batches, names, suspects)


def _first_twice(batches: Iterable[pa.RecordBatch], names: Sequence[str], suspects: pl.Series) -> Twice | None:
    seen: dict[tuple[Any, ...], pa.RecordBatch] = {}
    for batch in batches:
        if not len(batch):
            continue
        keys = key_frame(batch, names)
        for row in keys.hash_rows().is_in(suspects).arg_true():
            values = tuple(map(_told_apart, keys.row(row)))
            if values in seen:
                return Twice(seen[values], batch.slice(row, 1))
            seen[values] = batch.slice(row, 1)
    return None


def _told_apart(value: Any) -> Any:
    return "nan" if value != value else value  # noqa: PLR0124 - only NaN differs from itself


def _repeated(hashes: Iterator[pl.Series], spill: Path | None, held: int) -> pl.Series:
    """Some of the hashes that occur more than once."""
    some: list[pl.Series] = []
    count = 0
    for more in hashes:
        some.append(more)
        count += len(more)
        if count > held:
            break
    else:
        return _doubles(pl.concat(some)) if some else pl.Series(dtype=pl.UInt64)
    try:
        with tempfile.TemporaryDirectory(prefix="unique-", dir=spill) as folder:
            return _repeated_on_disk(_after(some, hashes), Path(folder), held)
    except OSError as error:
        raise StorageError(f"{spill or tempfile.gettempdir()}: row names cannot be checked there: {error}") from error


def _repeated_on_disk(hashes: Iterator[pl.Series], folder: Path, held: int) -> pl.Series:
    paths = [folder / f"{bucket}" for bucket in range(BUCKETS)]
    files: list[BinaryIO] = [path.open("ab") for path in paths]
    try:
        for some in _joined(hashes, held):
            frame = pl.DataFrame({"hash": some}).with_columns(bucket=pl.col("hash") % BUCKETS).sort("bucket")
            for (bucket,), part in frame.partition_by("bucket", as_dict=True).items():
                words = pa.array(part["hash"].to_arrow())
                start = words.offset * WORD_BYTES
                files[bucket].write(memoryview(words.buffers()[1])[start : start + len(words) * WORD_BYTES])
    finally:
        for file in files:
            file.close()
    for path in paths:
        words = pa.Array.from_buffers(
            pa.uint64(), path.stat().st_size // WORD_BYTES, [None, pa.py_buffer(path.read_bytes())]
        )
        doubles = _doubles(pl.Series(words))
        if len(doubles):
            return doubles
    return pl.Series(dtype=pl.UInt64)


def _joined(hashes: Iterator[pl.Series], count: int) -> Iterator[pl.Series]:
    some: list[pl.Series] = []
    for more in hashes:
        some.append(more)
        if sum(map(len, some)) >= count:
            yield pl.concat(some)
            some = []
    if some:
        yield pl.concat(some)


def _after(some: list[pl.Series], rest: Iterator[pl.Series]) -> Iterator[pl.Series]:
    yield pl.concat(some)
    some.clear()
    yield from rest


def _doubles(hashes: pl.Series) -> pl.Series:
    """Some of those that occur more than once; sorting them takes less memory than counting them."""
    arranged = hashes.sort()
    return arranged.filter(arranged == arranged.shift(1)).unique(maintain_order=True).head(SUSPECTS)

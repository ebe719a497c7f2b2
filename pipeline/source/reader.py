"""The source as requests: files, filter, order, groups and names put together behind `open_source`."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from pipeline.errors import JobError
from pipeline.records import Row
from pipeline.source import groups, plain
from pipeline.source.columns import Plan, Planner, type_complaints, unit_columns, without_binary
from pipeline.source.contract import (
    Complain,
    NothingThereError,
    SourceJob,
    SourceOptions,
    broken,
    first_line,
    in_file_order,
    short,
)
from pipeline.source.delimited import Delimited
from pipeline.source.files import SourceFile, find_files, fingerprint
from pipeline.source.groups import Cut, Cutter, TooLargeError
from pipeline.source.inferred import Inferred, mark_of
from pipeline.source.kinds import is_binary
from pipeline.source.ndjson import Ndjson
from pipeline.source.order import Sorter, SortKey
from pipeline.source.parquet import Parquet
from pipeline.source.pictures import PictureTable, find_pictures, is_pictures
from pipeline.source.table import Table
from pipeline.source.unique import find_twice

BATCH_REQUESTS = 2_000
BATCH_BYTES = 8 << 20
MEMORY_BYTES = 512 << 20
INFERRED = ("csv", "ndjson")


class Batch(NamedTuple):
    """Some requests, in order.

    Attributes:
        kept: the kept input columns, one row per request.
        rows: what the templates see, same order and length.
    """

    kept: pa.RecordBatch
    rows: list[Row]


def open_source(
    job: SourceJob,
    needed: frozenset[str] | None = None,
    *,
    known: Inferred | None = None,
    spill: Path | None = None,
    memory: int = MEMORY_BYTES,
) -> Reader:
    """Find the files, settle columns and types, and check all that the job says about them.

    For CSV and NDJSON this reads every file once where types must be inferred, since a type holds for all values.

    Args:
        job: its `source` and `output.keep` are read.
        needed: the columns that the templates read; None for all. Unknown ones are the templates' own affair.
        known: what an earlier reader inferred, which holds as long as no file has changed.
        spill: an existing folder for temporary files; None for the system's own.
        memory: bytes to get by with in sorting, and the most that one group may take.

    Raises:
        JobError: a file that cannot be read, files that do not go together, a column that is not there, a condition
            that cannot be applied; where they are independent of each other, all at once.
    """
    source = job.source
    pictures = None
    try:
        if is_pictures(source.path, source.format):
            pictures = PictureTable(find_pictures(source.path, job.complain))
            files = [pictures.file]
            table: Table = pictures
        else:
            files = find_files(source.path, source.format, job.complain)
            if known is not None and known.mark != mark_of(files, source):
                known = None
            table = _table(files, source, job.complain, known, spill)
    except NothingThereError:
        if job.expect.min_rows > 0:
            raise
        return EmptyReader(needed or frozenset())
    plan, complaints = Planner(job, table.names, needed).plan()
    if complaints:
        raise JobError(*in_file_order(complaints))
    if pictures is not None and "path" not in plan.read:
        plan = replace(plan, read=("path", *plan.read))
    schema = table.settle(plan.read)
    plan = without_binary(plan, schema, job)
    if complaints := list(type_complaints(plan, schema, source, job.complain)):
        raise JobError(*in_file_order(complaints))
    reader = Reader(job, files, table, plan, schema, spill, memory)
    if files[0].format in INFERRED:
        reader.inferred = Inferred(mark_of(files, source), table.names, schema)
    if pictures is not None:
        reader.fingerprint = pictures.listing.fingerprint
        reader.skipped = pictures.listing.skipped
        reader.named_by = ("path",)
    return reader


def _table(
    files: Sequence[SourceFile], source: SourceOptions, complain: Complain, known: Inferred | None, spill: Path | None
) -> Table:
    kind = files[0].format
    if kind == "csv":
        return Delimited(files, source.csv, source.types, complain, known)
    if kind == "ndjson":
        return Ndjson(files, source.types, complain, known)
    return Parquet(files, source.types, complain, spill)


class Reader:
    """A source that is there and fits its job.

    Attributes:
        columns: the source's real columns that templates may name.
        binary: those of the columns read that hold bytes, and so have no text form.
        kept_schema: of `Batch.kept`.
        fingerprint: hex hash over path, size and mtime of every file, in order.
        skipped: files that a source of pictures left out, since they are none.
        named_by: columns that name a row in messages, where `source.id` names none.
        inferred: the columns of CSV and NDJSON, which `open_source` takes again; None where a file tells them itself.
    """

    skipped = 0
    inferred: Inferred | None = None
    named_by: tuple[str, ...] = ()

    def __init__(
        self,
        job: SourceJob,
        files: Sequence[SourceFile],
        table: Table,
        plan: Plan,
        schema: pa.Schema,
        spill: Path | None,
        memory: int,
    ) -> None:
        self._complain: Complain = job.complain
        self._limit = job.source.limit
        self._files, self._table, self._plan = files, table, plan
        self._spill, self._memory = spill, memory
        self.columns = plan.shown
        self.binary = frozenset(field.name for field in schema if is_binary(field.type))
        self.fingerprint = fingerprint(files)
        self._unit_columns = [
            column for column in unit_columns(plan.group, plan.per_request, plan.sort) if column[0] in plan.keep
        ]
        self._unit_columns.sort(key=lambda column: plan.keep.index(column[0]))
        self.kept_schema = self._kept_schema(schema)

    def _kept_schema(self, schema: pa.Schema) -> pa.Schema:
        if not self._plan.units:
            return pa.schema([(name, schema.field(name).type) for name in self._plan.keep])
        return pa.schema(
            [(name, schema.field(typed).type if typed else pa.int64()) for name, typed, _ in self._unit_columns]
        )

    def batches(self) -> Iterator[Batch]:
        """All requests in order, about 2,000 at a time, fewer where rows are large.

        Raises:
            JobError: a row or file that cannot be read, two rows of one `source.id`, a group that does not fit in
                memory. Row names are checked before the first batch comes.
            StorageError: rows to sort, or names to check, cannot be spilled.
        """
        if self._plan.id:
            self._check_names()
        with closing(self._selected()) as selected, closing(self._ordered(selected)) as rows:
            yield from self._units(rows) if self._plan.units else map(self._of_rows, rebatched(rows))

    def _ordered(self, rows: Generator[pa.RecordBatch, None, None]) -> Generator[pa.RecordBatch, None, None]:
        return Sorter(self._order, self._memory, self._spill).sort(rows) if self._order else rows

    @property
    def _order(self) -> list[SortKey]:
        return [*map(SortKey, self._plan.group or ()), *self._plan.sort]

    def _selected(self) -> Generator[pa.RecordBatch, None, None]:
        """Rows of all files that `where` wants, as many as `limit` allows, each with its place."""
        left = self._limit
        for number, file in enumerate(self._files):
            row = 1
            with closing(self._table.read(file)) as batches:
                for batch in batches:
                    placed = self._placed(batch, number, row)
                    row += len(batch)
                    wanted = self._wanted(placed) if self._plan.where else placed
                    if left is not None:
                        wanted = wanted.slice(0, left)
                        left -= len(wanted)
                    if len(wanted):
                        yield wanted
                    if left == 0:
                        return

    def _placed(self, batch: pa.RecordBatch, file: int, row: int) -> pa.RecordBatch:
        files = pa.repeat(pa.scalar(file, pa.int32()), len(batch))
        rows = pl.int_range(row, row + len(batch), eager=True).to_arrow()
        names = [*batch.schema.names, *self._plan.place]
        return pa.RecordBatch.from_arrays([*batch.columns, files, rows], names=names)

    def _wanted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        where = self._plan.where
        assert where is not None
        try:
            # With a column of places, so that there are rows even where the condition names no column.
            return batch.filter(where.mask(batch.select([*where.columns, self._plan.place[1]])))
        except pl.exceptions.PolarsError as error:
            first, last = self._place(batch, 0), self._place(batch, len(batch) - 1)
            message = f"cannot be applied to a row from {first} to {last}: {first_line(error)}"
            raise broken(self._complain, "source.where", message) from error

    def _place(self, batch: pa.RecordBatch, index: int) -> str:
        file, row = (batch.column(name)[index].as_py() for name in self._plan.place)
        return f"{self._files[file].label}:{row}"

    def _check_names(self) -> None:
        twice = find_twice(self._selected, self._plan.id, self._spill)
        if twice:
            name = self._names(twice.first)[0]
            places = f"{self._place(twice.first, 0)} and {self._place(twice.second, 0)}"
            raise broken(self._complain, "source.id", f"two rows are named {name}: {places}; a name must be unique")

    def _names(self, batch: pa.RecordBatch) -> list[str]:
        """What messages call these rows."""
        if by := self._plan.id or self.named_by:
            return named(by, self._plain_columns(batch, by))
        files, rows = (batch.column(name).to_pylist() for name in self._plan.place)
        if files and files[0] == files[-1] and len(set(files)) == 1:
            label = self._files[files[0]].label
            return [f"{label}:{row}" for row in rows]
        return [f"{self._files[file].label}:{row}" for file, row in zip(files, rows, strict=True)]

    def _plain_columns(self, batch: pa.RecordBatch, names: Sequence[str]) -> list[list[Any]]:
        try:
            return [plain.column_values(batch.column(name), name) for name in names]
        except plain.UnplainError as error:
            raise broken(self._complain, "source.path", f"{self._place(batch, error.row)}: {error}") from error

    def _plain(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        try:
            return plain.dicts(batch, self._plan.given)
        except plain.UnplainError as error:
            raise broken(self._complain, "source.path", f"{self._place(batch, error.row)}: {error}") from error

    def _of_rows(self, batch: pa.RecordBatch) -> Batch:
        values = self._plain(batch)
        rows = [Row(name, (value,)) for name, value in zip(self._names(batch), values, strict=True)]
        return Batch(batch.select(list(self._plan.keep)), rows)

    def _units(self, rows: Iterable[pa.RecordBatch]) -> Iterator[Batch]:
        plan = self._plan
        keys = plan.group or (() if plan.sort else plan.place[:1])
        try:
            for cut in Cutter(keys, plan.per_request, self._memory).cut(rows):
                for part in parted(cut):
                    yield self._of_units(part)
        except TooLargeError as error:
            raise self._too_large(error) from error

    def _of_units(self, cut: Cut) -> Batch:
        columns = [(name, make) for name, _, make in self._unit_columns]
        kept = groups.kept_of_units(cut, columns, self.kept_schema)
        values = self._plain(cut.batch)
        names = self._unit_names(cut)
        rows = [Row(name, values[unit.start : unit.stop]) for name, unit in zip(names, cut.units, strict=True)]
        return Batch(kept, rows)

    def _unit_names(self, cut: Cut) -> list[str]:
        firsts = cut.batch.take(pa.array([unit.start for unit in cut.units], pa.int64()))
        if self._plan.group:
            names = labelled(self._plan.group, self._plain_columns(firsts, self._plan.group))
        elif self._plan.sort:
            names = [""] * len(cut.units)
        else:
            names = [self._files[file].label for file in firsts.column(self._plan.place[0]).to_pylist()]
        if self._plan.per_request is None:
            return names
        return [f"{name} chunk {unit.chunk}".lstrip() for name, unit in zip(names, cut.units, strict=True)]

    def _too_large(self, error: TooLargeError) -> JobError:
        group = self._plan.group
        name = labelled(group, self._plain_columns(error.row, group))[0] if group else "a chunk"
        path = "source.group_by" if self._plan.per_request is None else "source.rows_per_request"
        message = (
            f"{name} has {error.rows:,} rows that take about {error.size / (1 << 20):,.1f} MiB in memory, the most is "
            f"{self._memory / (1 << 20):,.1f} MiB; rows_per_request makes smaller requests of it"
        )
        return broken(self._complain, path, message)


def named(columns: Sequence[str], values: Sequence[Sequence[Any]]) -> list[str]:
    """Row names: the value alone where one column tells rows apart, else ``a=1, b=2``."""
    return list(map(short, values[0])) if len(columns) == 1 else labelled(columns, values)


def labelled(columns: Sequence[str], values: Sequence[Sequence[Any]]) -> list[str]:
    """For each row ``a=1, b=2``."""
    return [
        ", ".join(f"{name}={short(value)}" for name, value in zip(columns, row, strict=True))
        for row in zip(*values, strict=True)
    ]


def rebatched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of about 2,000, or fewer where they come to more than 8 MiB."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        for part in halved(batch):
            if held and (rows + len(part) > BATCH_REQUESTS or size + part.nbytes > BATCH_BYTES):
                yield pa.concat_batches(held) if len(held) > 1 else held[0]
                held, rows, size = [], 0, 0
            held.append(part)
            rows += len(part)
            size += part.nbytes
    if held:
        yield pa.concat_batches(held) if len(held) > 1 else held[0]


def halved(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Parts of a batch, none of them above either bound unless it is one row."""
    for start in range(0, len(batch), BATCH_REQUESTS):
        part = batch.slice(start, BATCH_REQUESTS)
        if part.nbytes <= BATCH_BYTES or len(part) == 1:
            yield part
        else:
            middle = len(part) // 2
            yield from halved(part.slice(0, middle))
            yield from halved(part.slice(middle))


def parted(cut: Cut) -> Iterator[Cut]:
    """The same units in cuts of at most 2,000 units and about 8 MiB, at least one unit each."""
    row_bytes = cut.batch.nbytes / max(1, len(cut.batch))
    most_rows = max(1, int(BATCH_BYTES / max(1.0, row_bytes)))
    units: list[groups.Unit] = []
    for unit in cut.units:
        if units and (len(units) >= BATCH_REQUESTS or unit.stop - units[0].start > most_rows):
            yield _rebased(cut, units)
            units = []
        units.append(unit)
    if units:
        yield _rebased(cut, units)


def _rebased(cut: Cut, units: Sequence[groups.Unit]) -> Cut:
    start = units[0].start
    moved = [groups.Unit(unit.start - start, unit.stop - start, unit.chunk) for unit in units]
    return Cut(cut.batch.slice(start, units[-1].stop - start), moved)


class EmptyReader(Reader):
    """A source without files, which `expect.min_rows: 0` accepts: it has whatever columns are named, and no row."""

    def __init__(self, named: frozenset[str]) -> None:
        self.columns = tuple(sorted(named))
        self.binary = frozenset()
        self.kept_schema = pa.schema([])
        self.fingerprint = fingerprint([])

    def batches(self) -> Iterator[Batch]:
        """None."""
        return iter(())

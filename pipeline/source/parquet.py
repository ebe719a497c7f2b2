"""Parquet: batches of a few columns at a time, never a whole row group."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.source.contract import Complain, broken, first_line
from pipeline.source.files import SourceFile
from pipeline.source.kinds import ARROW, TEXTS, Kind, cast_text, cast_values, common_type, settled_type
from pipeline.source.streams import BUFFER_BYTES, open_seekable, reading
from pipeline.source.table import cast_column, check_names, check_same, kind_of

BATCH_ROWS = 2_000
BATCH_BYTES = 8 << 20
GROUPS_LOOKED_AT = 16


@dataclass(slots=True)
class Parquet:
    """Parquet files as one table.

    Files may differ in the order of their columns, and in types where nothing is lost: a wider integer or float, text
    layouts, finer times, a column that is all null. Dictionaries are read as their values.

    Raises:
        JobError: from every method; a file that is no Parquet, columns or types that differ between files.
    """

    files: Sequence[SourceFile]
    types: Mapping[str, str]
    complain: Complain
    spill: Path | None = None
    names: tuple[str, ...] = ()
    _stored: dict[str, Any] = field(default_factory=dict)
    _schema: Any = None

    def __post_init__(self) -> None:
        for file in self.files:
            with self._open(file) as opened:
                schema = opened.schema_arrow
            check_names(file, schema.names, self.complain)
            if self._stored:
                check_same(self.files[0], list(self._stored), file, schema.names, self.complain)
            for column in schema:
                self._merge(file, column)
        self.names = tuple(self._stored)

    def _merge(self, file: SourceFile, column: Any) -> None:
        found = settled_type(column.type)
        known = self._stored.get(column.name, found)
        common = common_type(known, found)
        if common is None and column.name not in self.types:
            message = (
                f"{file.path}: column {column.name!r} is {found}, the files before it have {known}; "
                f"source.types.{column.name} can name one type for all"
            )
            raise broken(self.complain, "source.path", message)
        self._stored[column.name] = known if common is None else common

    def settle(self, columns: Sequence[str]) -> pa.Schema:
        """Types of these columns: as the job says, else as stored."""
        self._schema = pa.schema([(name, self._type(name)) for name in columns])
        return self._schema

    def _type(self, name: str) -> Any:
        kind = kind_of(self.types, name)
        stored = self._stored[name]
        if kind == "datetime" and (pa.types.is_timestamp(stored) or stored in TEXTS):
            return stored if pa.types.is_timestamp(stored) else self._written_times(name)
        return ARROW[kind] if kind else stored

    def _written_times(self, name: str) -> Any:
        """Whether times written as text have an offset; the first one speaks for all."""
        for file in self.files:
            with closing(self._raw(file, [name])) as batches:
                text = next((text for batch in batches if len(text := batch.column(0).drop_null())), None)
            if text is not None:
                try:
                    cast_text(text.slice(0, 1).cast(pa.string()), "instant")
                except pa.ArrowException:
                    return ARROW["datetime"]
                return ARROW["instant"]
        return ARROW["datetime"]

    def read(self, file: SourceFile) -> Generator[pa.RecordBatch, None, None]:
        """The rows of one file, in batches of some 2,000 rows and 8 MiB."""
        done = 0
        with closing(self._raw(file, self._schema.names)) as batches:
            for batch in batches:
                place = partial(_row_of, file, done)
                arrays = [self._typed(batch.column(column.name), column, place) for column in self._schema]
                done += len(batch)
                yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _raw(self, file: SourceFile, columns: Sequence[str]) -> Generator[pa.RecordBatch, None, None]:
        with self._open(file) as opened:
            rows = _batch_rows(opened.metadata, set(columns))
            for batch in opened.iter_batches(batch_size=rows, columns=list(columns), use_threads=False):
                batch.validate(full=True)  # text may be no UTF-8
                # Dots in names also select what is nested below a column of that name, so some may be too many.
                yield batch.select([batch.schema.get_field_index(name) for name in columns])

    def _typed(self, values: Any, column: Any, place: Any) -> Any:
        if values.type == column.type:
            return values
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if isinstance(values.type, pa.BaseExtensionType):
            values = values.storage
        kind = kind_of(self.types, column.name)
        if kind:
            wanted: Kind = "instant" if column.type == ARROW["instant"] else kind
            path = f"source.types.{column.name}"
            return cast_column(
                values, partial(cast_values, kind=wanted), wanted, column.name, place, self.complain, path
            )
        try:
            return values.cast(column.type)
        except pa.ArrowException as error:
            message = f"{place(0)}: column {column.name!r} is {values.type}, not {column.type}: {first_line(error)}"
            raise broken(self.complain, "source.path", message) from error

    @contextmanager
    def _open(self, file: SourceFile) -> Iterator[Any]:
        with (
            reading(file, self.complain),
            open_seekable(file, self.spill) as stream,
            pq.ParquetFile(stream, pre_buffer=False, buffer_size=BUFFER_BYTES) as opened,
        ):
            yield opened


def _batch_rows(metadata: Any, columns: set[str]) -> int:
    """So many rows of these columns as make about 8 MiB, judged by the largest of the first row groups."""
    most = 1.0
    indices = [i for i in range(metadata.num_columns) if _top(metadata.schema.column(i).path, columns)]
    for number in range(min(metadata.num_row_groups, GROUPS_LOOKED_AT)):
        group = metadata.row_group(number)
        if group.num_rows:
            most = max(most, sum(group.column(i).total_uncompressed_size for i in indices) / group.num_rows)
    return max(1, min(BATCH_ROWS, int(BATCH_BYTES / most)))


def _top(path: str, columns: set[str]) -> bool:
    return path in columns or path.split(".", 1)[0] in columns


def _row_of(file: SourceFile, done: int, index: int) -> str:
    return f"{file.path}: row {done + index + 1}"

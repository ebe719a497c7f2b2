"""CSV and TSV: read as text by Arrow in blocks, then cast to types that hold over all files."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
from pyarrow import csv as arrow_csv

from pipeline.source.contract import Complain, CsvOptions, broken, first_line
from pipeline.source.files import SourceFile
from pipeline.source.kinds import ARROW, Inference, Kind, cast_text
from pipeline.source.streams import open_bytes, reading
from pipeline.source.table import cast_column, check_names, check_same, kind_of

BLOCK_BYTES = 1 << 20
LARGEST_BLOCK_BYTES = 1 << 26  # a row must fit into one block
BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(slots=True)
class Ragged:
    """What Arrow said of a row with too few or too many cells."""

    number: int | None = None
    found: int = 0
    expected: int = 0

    def __call__(self, row: Any) -> str:
        """Remember the row and refuse it."""
        self.number, self.found, self.expected = row.number, row.actual_columns, row.expected_columns
        return "error"


@dataclass(slots=True)
class Delimited:
    """Delimited text files as one table.

    The first record names the columns. Blank lines are no rows. An empty unquoted cell is null, and so is one that
    stands in `null_values`; a quoted empty cell is empty text, or null where the column is not text. Types are the
    narrowest that hold every value of all files.

    Raises:
        JobError: from every method; a file that is no such text, a ragged row, columns that differ between files.
    """

    files: Sequence[SourceFile]
    options: CsvOptions
    types: Mapping[str, str]
    complain: Complain
    names: tuple[str, ...] = ()
    _kinds: dict[str, Kind] = field(default_factory=dict)
    _blocks: dict[str, int] = field(default_factory=dict)
    _bare: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._check_encoding()
        for file in self.files:
            names = self._header(file)
            check_names(file, names, self.complain)
            if self.names:
                check_same(self.files[0], self.names, file, names, self.complain)
            else:
                self.names = tuple(names)

    def settle(self, columns: Sequence[str]) -> pa.Schema:
        """Types of these columns: as the job says, else inferred from every value of every file."""
        said = {name: kind_of(self.types, name) for name in columns}
        open_questions = {
            name: Inference(times_only=kind == "datetime") for name, kind in said.items() if kind in (None, "datetime")
        }
        for file in self.files if open_questions else ():
            for batch in self._text(file, list(open_questions)):
                for name, values in zip(open_questions, batch.columns, strict=True):
                    open_questions[name].see(values)
        for name, kind in said.items():
            question = open_questions.get(name)
            settled = question.settled() if question else kind or "string"
            self._kinds[name] = "datetime" if kind == "datetime" and settled == "string" else settled
        return pa.schema([(name, ARROW[self._kinds[name]]) for name in columns])

    def read(self, file: SourceFile) -> Iterator[pa.RecordBatch]:
        """The rows of one file, typed."""
        schema = pa.schema([(name, ARROW[kind]) for name, kind in self._kinds.items()])
        done = 0
        for batch in self._text(file, schema.names):
            place = partial(_row_of, file, done)
            arrays = [
                self._typed(values, name, place) for name, values in zip(schema.names, batch.columns, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            done += len(batch)

    def _typed(self, text: Any, name: str, place: Callable[[int], str]) -> Any:
        kind = self._kinds[name]
        cast = partial(cast_text, kind=kind)
        path = f"source.types.{name}" if name in self.types else "source.path"
        return cast_column(text, cast, kind, name, place, self.complain, path)

    def _check_encoding(self) -> None:
        try:
            codecs.lookup(self.options.encoding)
        except LookupError as error:
            message = f"unknown encoding {self.options.encoding!r}, expected one such as utf-8, utf-16 or cp1252"
            raise broken(self.complain, "source.csv.encoding", message) from error

    def _encoding(self) -> str:
        name = codecs.lookup(self.options.encoding).name
        return "utf8" if name in ("utf-8", "utf-8-sig", "ascii") else self.options.encoding

    def _separator(self, file: SourceFile) -> str:
        return self.options.separator or ("\t" if file.tabbed else ",")

    def _header(self, file: SourceFile) -> list[str]:
        with reading(file, self.complain), open_bytes(file) as stream:
            if stream.read(2) in BYTE_ORDER_MARKS and self._encoding() == "utf8":
                message = f"{file.path} looks like UTF-16, not UTF-8; set source.csv.encoding to utf-16"
                raise broken(self.complain, "source.csv.encoding", message)
        while True:
            ragged = Ragged()
            try:
                with open_bytes(file) as stream:
                    return list(self._open(stream, file, (), ragged).schema.names)
            except (pa.ArrowException, OSError, UnicodeError) as error:
                if "Empty CSV file" in str(error) and (cells := self._bare_header(file)):
                    self._bare.add(file.path)
                    return cells
                self._recover(file, ragged, error)

    def _bare_header(self, file: SourceFile) -> list[str]:
        """The cells of a header that no line break follows, which Arrow takes for an empty file."""
        with open_bytes(file) as stream, io.TextIOWrapper(stream, self.options.encoding, newline="") as text:
            return next(csv.reader(text, delimiter=self._separator(file)), [])

    def _text(self, file: SourceFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of one file as text; begun again in larger blocks, past what is done, where a row does not fit."""
        done, finished = 0, file.path in self._bare
        while not finished:
            ragged = Ragged()
            skip = done
            try:
                # The reader reads ahead in a thread of its own, which must not outlive the stream.
                with open_bytes(file) as stream, self._open(stream, file, columns, ragged) as reader:
                    for batch in reader:
                        fresh = batch.slice(min(skip, len(batch)))
                        skip -= len(batch) - len(fresh)
                        done += len(fresh)
                        if len(fresh):
                            yield fresh
                finished = True
            except (pa.ArrowException, OSError, UnicodeError) as error:
                self._recover(file, ragged, error)

    def _open(self, stream: Any, file: SourceFile, columns: Sequence[str], ragged: Ragged) -> Any:
        return arrow_csv.open_csv(
            stream,
            read_options=arrow_csv.ReadOptions(
                block_size=self._blocks.get(file.path, BLOCK_BYTES), use_threads=False, encoding=self._encoding()
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=self._separator(file), newlines_in_values=True, invalid_row_handler=ragged
            ),
            convert_options=arrow_csv.ConvertOptions(
                default_column_type=pa.string(),
                include_columns=list(columns),
                null_values=["", *self.options.null_values],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def _recover(self, file: SourceFile, ragged: Ragged, error: Exception) -> None:
        """Enlarge the blocks where a row was larger than one, else raise what is wrong."""
        block = self._blocks.get(file.path, BLOCK_BYTES)
        if "straddling" in str(error) and block < LARGEST_BLOCK_BYTES:
            self._blocks[file.path] = block * 8
            return
        with reading(file, self.complain):
            raise self._meaning(file, ragged, error) from error

    def _meaning(self, file: SourceFile, ragged: Ragged, error: Exception) -> Exception:
        """Arrow's error in words that help; never with the text of the row."""
        text = first_line(error)
        if ragged.number is not None:
            line = line_of(file, ragged.number, self._encoding(), self._separator(file))
            where = f"line {line}" if line else f"record {ragged.number} (the header is 1)"
            message = f"{file.path}: {where} has {_cells(ragged.found)}, the header has {ragged.expected}"
            return broken(self.complain, "source.path", message)
        if "straddling" in text:
            most = LARGEST_BLOCK_BYTES >> 20
            message = f"{file.path}: a row is larger than {most} MiB; perhaps a quote is opened and never closed"
            return broken(self.complain, "source.path", message)
        if isinstance(error, UnicodeError) or "invalid UTF8" in text:
            row = re.search(r"Row #(\d+)", text)
            line = line_of(file, int(row[1]), "latin-1", self._separator(file)) if row else None
            place = f": line {line}" if line else ""
            message = (
                f"{file.path}{place} is not {self.options.encoding}; set another source.csv.encoding, such as cp1252"
            )
            return broken(self.complain, "source.csv.encoding", message)
        if "Empty CSV file" in text:
            return broken(self.complain, "source.path", f"{file.path} is empty: not even a header")
        return error


def line_of(file: SourceFile, record: int, encoding: str, separator: str) -> int | None:
    """The line on which a record starts, both from 1 and the header being one; None where that cannot be told."""
    last = 0
    try:
        with (
            open_bytes(file) as stream,
            io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="") as text,
        ):
            records = csv.reader(text, delimiter=separator)
            for cells in records:
                last += bool(cells)
                if last == record:
                    return records.line_num - sum(cell.count("\n") for cell in cells)
    except (csv.Error, OSError, UnicodeError):
        return None
    return None


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"


def _row_of(file: SourceFile, done: int, index: int) -> str:
    return f"{file.path}: row {done + index + 1}"

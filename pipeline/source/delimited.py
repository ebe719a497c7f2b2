"""CSV and TSV: read as text by Arrow in blocks, then cast to types that hold over all files."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
from pyarrow import csv as arrow_csv

from pipeline.source.contract import Complain, CsvOptions, broken, first_line
from pipeline.source.files import SourceFile
from pipeline.source.inferred import Inferred
from pipeline.source.kinds import ARROW, KINDS, Inference, Kind, cast_text
from pipeline.source.quotes import Quotes, find_fault
from pipeline.source.separators import unseen_separator
from pipeline.source.streams import Extended, open_bytes, open_utf8, reading
from pipeline.source.table import cast_column, check_names, check_same, kind_of

BLOCK_BYTES = 1 << 19  # Arrow reads up to 32 of them ahead of us
LARGEST_BLOCK_BYTES = 1 << 26  # a row must fit into one block
BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
END = "\x17\x03\x04\x19"  # of block, text, transmission and medium; no separator is among them


class UnclosedError(Exception):
    """The file ends inside of quotes, or a cell goes on after its closing quote, where nothing more is read."""


@dataclass(slots=True)
class Ragged:
    """What Arrow said of a row with too few or too many cells.

    Arrow takes the end of a file for the end of a quoted cell. So every file is followed by a row of ours, whose cells
    are too many or too few: a file that ends inside of quotes swallows it, of any other Arrow tells us here.

    Attributes:
        end: our row.
        ended: it was seen.
        unclosed: it was seen as the end of a quoted cell.
    """

    end: str
    number: int | None = None
    found: int = 0
    expected: int = 0
    ended: bool = False
    unclosed: bool = False

    @classmethod
    def of(cls, columns: int, separator: str) -> Ragged:
        """For a file of so many columns, 0 if that is not known; then our row may be one like any other."""
        return cls(END if columns != 1 else f"{END}{separator}{END}")

    @property
    def tail(self) -> str:
        """What follows the file."""
        return f"\n{self.end}\n"

    def __call__(self, row: Any) -> str:
        """Remember the row and refuse it; ours is skipped."""
        if row.text == self.end:
            self.ended = True
            return "skip"
        self.unclosed = row.text.endswith(self.end)
        self.number, self.found, self.expected = row.number, row.actual_columns, row.expected_columns
        return "error"


@dataclass(slots=True)
class Delimited:
    """Delimited text files as one table.

    The first record names the columns. Blank lines are no rows. An empty unquoted cell is null, and so is one that
    stands in `null_values`; a quoted empty cell is empty text, or null where the column is not text. Types are the
    narrowest that hold every value of all files; what `known` has of an earlier pass over the same files is taken.
    Where quotes open and close is followed in the first pass that this object makes over a file.

    Raises:
        JobError: from every method; a file that is no such text, a ragged row, a cell that goes on after its closing
            quote, columns that differ between files.
    """

    files: Sequence[SourceFile]
    options: CsvOptions
    types: Mapping[str, str]
    complain: Complain
    known: Inferred | None = None
    names: tuple[str, ...] = ()
    _kinds: dict[str, Kind] = field(default_factory=dict)
    _blocks: dict[str, int] = field(default_factory=dict)
    _followed: set[str] = field(default_factory=set)

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
        """Types of these columns: as the job says, else inferred from every value of every file, where not `known`."""
        if self.known is not None and self.known.covers(columns):
            self._kinds = {name: KINDS[self.known.schema.field(name).type] for name in columns}
        else:
            self._infer(columns)
        return pa.schema([(name, ARROW[self._kinds[name]]) for name in columns])

    def _infer(self, columns: Sequence[str]) -> None:
        said = {name: kind_of(self.types, name) for name in columns}
        open_questions = {
            name: Inference(times_only=kind == "datetime") for name, kind in said.items() if kind in (None, "datetime")
        }
        for file in self.files if open_questions else ():
            with closing(self._text(file, list(open_questions))) as batches:
                for batch in batches:
                    for name, values in zip(open_questions, batch.columns, strict=True):
                        open_questions[name].see(values)
        for name, kind in said.items():
            question = open_questions.get(name)
            settled = question.settled() if question else kind or "string"
            self._kinds[name] = "datetime" if kind == "datetime" and settled == "string" else settled

    def read(self, file: SourceFile) -> Generator[pa.RecordBatch, None, None]:
        """The rows of one file, typed."""
        schema = pa.schema([(name, ARROW[kind]) for name, kind in self._kinds.items()])
        done = 0
        with closing(self._text(file, schema.names)) as batches:
            for batch in batches:
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
            ragged = Ragged.of(len(self.names), self._separator(file))
            quotes = Quotes(self._separator(file), most=BLOCK_BYTES)
            try:
                with self._open(file, (), ragged, quotes) as reader:
                    names: list[str] = reader.schema.names
            except (pa.ArrowException, OSError, UnicodeError, UnclosedError) as error:
                self._recover(file, ragged, error)
                continue
            if names == [ragged.end]:
                raise broken(self.complain, "source.path", f"{file.path} is empty: not even a header")
            return names

    def _text(self, file: SourceFile, columns: Sequence[str]) -> Generator[pa.RecordBatch, None, None]:
        """The rows of one file as text; begun again in larger blocks, past what is done, where a row does not fit.

        A batch is given away when the one after it is there, so that the last row is known to be whole.
        """
        done, finished = 0, False
        while not finished:
            ragged = Ragged.of(len(self.names), self._separator(file))
            quotes = None if file.path in self._followed else Quotes(self._separator(file))
            skip, held = done, None
            try:
                with self._open(file, columns, ragged, quotes) as reader:
                    for batch in reader:
                        fresh = batch.slice(min(skip, len(batch)))
                        skip -= len(batch) - len(fresh)
                        if not len(fresh):
                            continue
                        if held is not None:
                            done += len(held)
                            yield held
                        held = fresh
                if not ragged.ended:
                    self._recover(file, ragged, UnclosedError())
                finished = True
                self._followed.add(file.path)
            except (pa.ArrowException, OSError, UnicodeError, UnclosedError) as error:
                self._recover(file, ragged, error)
        if held is not None:
            yield held

    @contextmanager
    def _open(self, file: SourceFile, columns: Sequence[str], ragged: Ragged, quotes: Quotes | None) -> Iterator[Any]:
        """A reader of the file and our row; nobody reads the file once this is left.

        Raises:
            UnclosedError: the reader stumbled over the end that it was given in place of a cell that goes on.
        """
        try:
            with (
                open_utf8(file, self._encoding()) as text,
                closing(Extended(text, ragged.tail.encode(), quotes.see if quotes else None)) as stream,
                self._reader(stream, file, columns, ragged) as reader,
            ):
                yield reader
        except (pa.ArrowException, OSError, UnicodeError) as error:
            if quotes and quotes.goes_on is not None:
                raise UnclosedError from error
            raise

    def _reader(self, stream: Extended, file: SourceFile, columns: Sequence[str], ragged: Ragged) -> Any:
        return arrow_csv.open_csv(
            stream,
            read_options=arrow_csv.ReadOptions(block_size=self._blocks.get(file.path, BLOCK_BYTES), use_threads=False),
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
        if _outgrown(error) and block < LARGEST_BLOCK_BYTES:
            self._blocks[file.path] = min(block * 8, LARGEST_BLOCK_BYTES)
            return
        with reading(file, self.complain):
            raise self._meaning(file, ragged, error) from error

    def _meaning(self, file: SourceFile, ragged: Ragged, error: Exception) -> Exception:
        """Arrow's error in words that help; never with the text of the row."""
        text = first_line(error)
        if isinstance(error, UnclosedError) or ragged.unclosed or _outgrown(error):
            fault = find_fault(file, self._encoding(), self._separator(file))
            most = LARGEST_BLOCK_BYTES >> 20
            other = f"a row is larger than {most} MiB" if _outgrown(error) else "its quotes do not close as they open"
            return broken(self.complain, "source.path", f"{file.path}: {fault or other}")
        if ragged.number is not None:
            line = line_of(file, ragged.number, self._encoding(), self._separator(file))
            where = f"line {line}" if line else f"record {ragged.number} (the header is 1)"
            message = f"{file.path}: {where} has {_cells(ragged.found)}, the header has {ragged.expected}"
            if hint := unseen_separator(first_record(file, self._encoding(), self._separator(file))):
                message += f"; {hint}"
            return broken(self.complain, "source.path", message)
        if isinstance(error, UnicodeError) or "invalid UTF8" in text:
            row = re.search(r"Row #(\d+)", text)
            line = line_of(file, int(row[1]), "latin-1", self._separator(file)) if row else None
            place = f": line {line}" if line else ""
            message = (
                f"{file.path}{place} is not {self.options.encoding}; set another source.csv.encoding, such as cp1252"
            )
            return broken(self.complain, "source.csv.encoding", message)
        return error


def line_of(file: SourceFile, record: int, encoding: str, separator: str) -> int | None:
    """The line on which a record starts, both from 1 and the header being one; None where that cannot be told."""
    found = _record(file, record, encoding, separator)
    return found[0] if found else None


def first_record(file: SourceFile, encoding: str, separator: str) -> list[str]:
    """The header; empty where it cannot be told."""
    found = _record(file, 1, encoding, separator)
    return found[1] if found else []


def _record(file: SourceFile, record: int, encoding: str, separator: str) -> tuple[int, list[str]] | None:
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
                    cells[0] = cells[0].removeprefix("\ufeff") if record == 1 else cells[0]
                    return records.line_num - sum(cell.count("\n") for cell in cells), cells
    except (csv.Error, OSError, UnicodeError):
        return None
    return None


def _outgrown(error: Exception) -> bool:
    """Whether a row, or the header, is larger than a block; our row makes a header of an empty file."""
    return any(words in str(error) for words in ("straddling", "Empty CSV file"))


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"


def _row_of(file: SourceFile, done: int, index: int) -> str:
    return f"{file.path}: row {done + index + 1}"

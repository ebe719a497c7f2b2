"""What this room reads of a job, as structural types: any object of this shape will do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from pipeline.errors import Complaint, JobError

PLACE = re.compile(r":(\d+)(?=:\d+$|$)")
"""The line and the column at the end of ``file:line:column``."""

Complain = Callable[[str, str], Complaint]
"""``complain(path, message)``: a complaint at that place of the job file."""


class CsvOptions(Protocol):
    """`source.csv`."""

    @property
    def separator(self) -> str | None:
        """One character; None takes a tab for .tsv and .tab, a comma for all else."""

    @property
    def encoding(self) -> str:
        """Any encoding that Python knows; utf-8 needs no conversion."""

    @property
    def null_values(self) -> Sequence[str]:
        """Cells that are null, besides empty unquoted ones."""


class SourceOptions(Protocol):
    """`source`."""

    @property
    def path(self) -> Sequence[str]:
        """Absolute patterns: a file, a glob or a directory each."""

    @property
    def format(self) -> str:
        """auto, parquet, csv or ndjson."""

    @property
    def csv(self) -> CsvOptions:
        """How delimited text is read."""

    @property
    def types(self) -> Mapping[str, str]:
        """Column to string, integer, number, boolean, date or datetime, instead of what would be inferred."""

    @property
    def where(self) -> str | None:
        """Polars SQL over one row."""

    @property
    def columns(self) -> Sequence[str] | None:
        """Columns that templates may name; None for all."""

    @property
    def id(self) -> Sequence[str] | None:
        """Columns that name a row and are unique together."""

    @property
    def limit(self) -> int | None:
        """Input rows, after `where`."""

    @property
    def sort_by(self) -> Sequence[str] | None:
        """Columns; a leading ``-`` descends."""

    @property
    def group_by(self) -> Sequence[str] | None:
        """Columns; one request per group."""

    @property
    def rows_per_request(self) -> int | None:
        """One request per chunk of so many rows."""


class OutputOptions(Protocol):
    """`output`."""

    @property
    def keep(self) -> str | Sequence[str]:
        """``all``, ``none`` or a list of input columns."""


class ExpectOptions(Protocol):
    """The section `expect`, as far as it is about what comes in."""

    @property
    def min_rows(self) -> int:
        """So many rows at least; 0 accepts a source without files too."""


class SourceJob(Protocol):
    """A job, as far as its source is concerned."""

    @property
    def source(self) -> SourceOptions:
        """Where rows come from."""

    @property
    def output(self) -> OutputOptions:
        """Which columns are kept."""

    @property
    def expect(self) -> ExpectOptions:
        """How few rows are accepted."""

    def complain(self, path: str, message: str, /) -> Complaint:
        """Say what is wrong at a place of the job file."""


class NothingThereError(JobError):
    """The source names no file at all, which `expect.min_rows: 0` accepts."""


def nothing_there(complain: Complain, message: str) -> NothingThereError:
    """The same as an error to raise, with the way to accept it."""
    return NothingThereError(complain("source.path", f"{message}; to accept an empty night set expect.min_rows: 0"))


def broken(complain: Complain, path: str, message: str) -> JobError:
    """One complaint as an error to raise."""
    return JobError(complain(path, message))


def in_file_order(complaints: Iterable[Complaint]) -> list[Complaint]:
    """Sort complaints about one file by line and column; those without a place come first, in the order they have."""
    return sorted(complaints, key=lambda complaint: [int(number) for number in PLACE.findall(complaint.where)])


def first_line(error: BaseException) -> str:
    """A foreign error in one line, of at most 200 characters."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def short(value: object) -> str:
    """A value for a message: one line of at most 80 characters; null where there is none."""
    text = "null" if value is None else str(value)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 80 else f"{text[:77]}..."

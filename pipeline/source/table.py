"""What the three formats have in common: names first, then types of the columns wanted, then rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from pipeline.source.contract import Complain, broken, short
from pipeline.source.files import SourceFile
from pipeline.source.kinds import EXAMPLES, Kind, first_misfit


class Table(Protocol):
    """All files of a source as one table."""

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in the order of the first file."""

    def settle(self, columns: Sequence[str]) -> pa.Schema:
        """The types of these columns over all files; called once, before `read`."""

    def read(self, file: SourceFile) -> Generator[pa.RecordBatch, None, None]:
        """One file's rows, in order, with the settled columns and types; closing it lets go of the file."""


def check_names(file: SourceFile, names: Sequence[str], complain: Complain) -> None:
    """Refuse a table whose columns cannot be told apart, or that has none.

    Raises:
        JobError: so it is.
    """
    if not names:
        raise broken(complain, "source.path", f"{file.path} has no columns")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        message = f"{file.path} has {names.count(twice[0])} columns named {twice[0]!r}; each needs a name of its own"
        raise broken(complain, "source.path", message)


def check_same(
    first: SourceFile, names: Sequence[str], file: SourceFile, others: Sequence[str], complain: Complain
) -> None:
    """Refuse a file whose columns are not those of the first one; their order may differ.

    Raises:
        JobError: a column is missing, or is one too many.
    """
    if missing := [name for name in names if name not in set(others)]:
        raise broken(complain, "source.path", f"{file.path} lacks column {missing[0]!r}, which {first.path} has")
    if extra := [name for name in others if name not in set(names)]:
        raise broken(complain, "source.path", f"{file.path} has column {extra[0]!r}, which {first.path} lacks")


def cast_column(
    values: Any,
    cast: Callable[[Any], Any],
    kind: Kind,
    name: str,
    place: Callable[[int], str],
    complain: Complain,
    path: str,
) -> Any:
    """Cast a column, or name the value that does not fit.

    Args:
        values: the column.
        cast: does it, or raises Arrow's errors.
        kind: what the values should become, for the message.
        name: the column's.
        place: names a row of the column, given its index.
        complain: makes a complaint.
        path: the place in the job file to complain at.

    Raises:
        JobError: a value does not fit.
    """
    try:
        return cast(values)
    except pa.ArrowNotImplementedError as error:
        message = f"{place(0)}: column {name!r} is {values.type}, which cannot become {EXAMPLES[kind]}"
        raise broken(complain, path, message) from error
    except pa.ArrowInvalid as error:
        bad = first_misfit(values, cast)
        message = f"{place(bad)}: column {name!r} is {short(values[bad].as_py())!r}, expected {EXAMPLES[kind]}"
        raise broken(complain, path, message) from error


def kind_of(types: Mapping[str, str], name: str) -> Kind | None:
    """The kind that the job says a column has; None where it is silent."""
    said = types.get(name)
    return next((kind for kind in EXAMPLES if kind == said), None)

"""Names: what a template may name, and what each name stands for in a row or a group of rows.

A column comes before a built-in name of the same spelling. In a group or chunk a column stands for its value where it
is the same in all rows; where it varies, using it is that row's error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from jinja2 import StrictUndefined

from pipeline.prompt import dataset
from pipeline.prompt.language import HELPERS, Delimiters
from pipeline.prompt.nearest import listed, nearest
from pipeline.prompt.shape import PromptJob
from pipeline.prompt.template import Provide, Reads, Template
from pipeline.records import Row
from pipeline.source.separators import unseen_separator

BUILT_IN = ("DATASET", "params", "row", "row_count", "rows", "run_date")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one job over one set of columns.

    Attributes:
        columns: the source's columns, in order.
        dataset_columns: those that DATASET shows.
        owner: what has these columns, in messages: ``the source``, or ``this example``.
        source: the source's columns where they are others and known; only such are suggested.
    """

    columns: tuple[str, ...]
    params: Mapping[str, Any]
    run_date: date | None
    dataset_format: str
    dataset_columns: tuple[str, ...]
    delimiters: Delimiters
    owner: str = "the source"
    source: tuple[str, ...] | None = None
    _known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", frozenset(self.columns))

    @classmethod
    def of(
        cls,
        job: PromptJob,
        columns: Sequence[str],
        delimiters: Delimiters,
        owner: str = "the source",
        source: Sequence[str] | None = None,
        binary: Collection[str] = (),
    ) -> Names:
        """Take from a job what names are about; DATASET shows no `binary` columns unless it names them."""
        shown = job.prompt.dataset.columns
        return cls(
            columns=tuple(columns),
            params=job.params,
            run_date=job.run_date,
            dataset_format=job.prompt.dataset.format,
            dataset_columns=tuple(name for name in columns if name not in binary) if shown is None else tuple(shown),
            delimiters=delimiters,
            owner=owner,
            source=None if source is None else tuple(source),
        )

    def provider(self, name: str) -> Provide:
        """Give what provides a name that `complaints` has nothing against."""
        if name in self._known:
            return column(name)
        return self._built_in(name)

    @property
    def constants(self) -> frozenset[str]:
        """The names that stand for the same value in every row."""
        return frozenset({"params", "run_date", *HELPERS}) - self._known

    @property
    def item(self) -> Callable[[str], Provide] | None:
        """What provides ``row["name"]``; None where `row` is a column."""
        return None if "row" in self._known else column

    def needed(self, reads: Reads) -> frozenset[str] | None:
        """Give the columns that a template reads; None for all."""
        needed = set(reads.names & self._known)
        for name in reads.names - self._known:
            if name == "rows" or (name == "row" and reads.whole_row):
                return None
            if name == "row":
                needed |= reads.row
            elif name == "DATASET":
                needed.update(self.dataset_columns)
        return frozenset(needed)

    def complaints(self, reads: Reads, besides: AbstractSet[str] = frozenset()) -> Iterator[str]:
        """Yield what is wrong with the names of a template but those `besides`, a message a name, sorted by name."""
        for name in sorted(reads.names - self._known - besides):
            if name == "run_date" and self.run_date is None:
                yield (
                    f"names {self.delimiters.value(name)}, but this run has no date; start it with --date, "
                    "or name ${date} in source.path or output.path"
                )
            elif name == "row":
                yield from (self._missing(item, f'row["{item}"]') for item in sorted(reads.row - self._known))
            elif name == "params":
                yield from (self._missing_param(param) for param in sorted(reads.params - self.params.keys()))
            elif name not in BUILT_IN and name not in HELPERS:
                yield self._missing(name, name)

    def unquoted(self, template: Template, parsed: Callable[[str], Template]) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield what is wrong with values that are columns to the letter, and to the language something else.

        ``<<E-Mail>>`` is one number less another, ``<<2024>>`` is a number.

        Args:
            template: whose values are looked at.
            parsed: parses a template in the same language.

        Returns:
            The message, and the names that it is about.
        """
        for value in dict.fromkeys(template.values):
            if value in self._known and not value.isidentifier():
                shown = self.delimiters.value(value)
                names = parsed(shown).reads.names
                if not names or names - self._known:
                    right = self.delimiters.value(expression_of(value))
                    yield f"{shown} is read as an expression; the column {value} is written {right}", names

    def unknown(self, columns: Sequence[str]) -> Iterator[str]:
        """Yield for each column what is wrong with its name; nothing where it is right."""
        for name in columns:
            near = nearest(name, self.columns)
            hint = "" if near is None else f"; did you mean {near}?"
            yield "" if name in self._known else f"names {name}, but {self._has()}{hint}"

    def dataset_complaints(self) -> Iterator[str]:
        """Yield what is wrong with `prompt.dataset.columns`."""
        for name in self.dataset_columns:
            if name not in self._known:
                yield f"names {name}, but {self._has()}"

    def _missing(self, name: str, shown: str) -> str:
        message = f"names {self.delimiters.value(shown)}, but {self._has()}"
        suggested = self.columns if self.source is None else self.source
        if name in suggested:  # the template is right, and these columns are not
            return message
        if separator := unseen_separator(self.columns):
            return f"{message}; {separator}"
        near = nearest(name, (*suggested, *BUILT_IN))
        if near is None:
            opening = self.delimiters.opening
            return f"{message}; if {opening} is meant as text, choose other prompt.delimiters or use " + (
                self.delimiters.block("raw")
            )
        return f"{message}; did you mean {self.delimiters.value(expression_of(near))}?"

    def _missing_param(self, name: str) -> str:
        has = f"params has {listed(list(self.params))}" if self.params else "the job has no params"
        return f"names {self.delimiters.value(f'params.{name}')}, but {has}"

    def _has(self) -> str:
        return f"{self.owner} has {listed(self.columns)}" if self.columns else f"{self.owner} has no columns"

    def _built_in(self, name: str) -> Provide:
        if name == "rows":
            return lambda row: row.rows
        if name == "row":
            return lambda row: row.rows[0] if len(row.rows) == 1 else Group(row.rows)
        if name == "row_count":
            return lambda row: len(row.rows)
        if name == "DATASET":
            return lambda row: dataset.write(row.rows, self.dataset_columns, self.dataset_format)
        value = HELPERS.get(name)
        if name == "params":
            value = dict(self.params)
        elif name == "run_date" and self.run_date is not None:
            value = self.run_date.isoformat()
        assert value is not None, f"complaints() lets {name} pass"
        return lambda _: value


def expression_of(name: str) -> str:
    """Give the expression that stands for a column, or for a built-in name."""
    if name.isidentifier():
        return name
    return f"row[{json.dumps(name, ensure_ascii=False)}]"


def column(name: str) -> Provide:
    """Give what provides a column: its value in the row, or the one that it has in all rows of the group."""

    def provide(row: Row) -> Any:
        rows = row.rows
        return rows[0][name] if len(rows) == 1 else shared(rows, name)

    return provide


def shared(rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Give the value that a column has in all rows, or a stand-in that says on use that it varies."""
    first = rows[0][name]
    for row in rows:
        value = row[name]
        if value is not first and value != first and not (_is_nan(value) and _is_nan(first)):
            return StrictUndefined(
                f"column {name} varies within the group: loop over rows, use DATASET, or name a column that is constant"
            )
    return first


def _is_nan(value: Any) -> bool:
    return bool(value != value)  # noqa: PLR0124 - nothing but NaN is unlike itself


class Group(Mapping[str, Any]):
    """`row` in a group: each column's shared value."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = rows

    def __getitem__(self, name: str) -> Any:
        return shared(self._rows, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows[0])

    def __len__(self) -> int:
        return len(self._rows[0])

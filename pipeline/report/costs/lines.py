"""Bill lines: the one table that outputs and journals are both read into, and that every cost report is made of.

A line is a row of an output, an attempt of a journal, or what a run paid for answers that no row holds any more. Money
is in whole nano-dollars, so that sums are exact; time is UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import polars as pl

from pipeline.errors import JobError

REHEARSALS = ("embedded", "simulator", "local")
"""Endpoint scopes whose calls no provider bills."""

MOMENT = pl.Datetime("us", "UTC")

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "job": pl.String,
    "run": pl.String,
    "run_date": pl.Date,
    "endpoint": pl.String,
    "model": pl.String,
    "status": pl.String,
    "completed_at": MOMENT,
    "request_key": pl.String,
    "recipe": pl.String,
    "rows": pl.Int64,
    "ok_rows": pl.Int64,
    "requests": pl.Int64,
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "cache_write_tokens": pl.Int64,
    "cache_write_1h_tokens": pl.Int64,  # of cache_write_tokens; outputs do not tell them apart, and have 0
    "cache_read_tokens": pl.Int64,
    "cost_nanos": pl.Int64,  # null: unknown
    "reuse_saved_nanos": pl.Int64,
    "superseded_nanos": pl.Int64,
    "unpriced_requests": pl.Int64,
    "maybe_requests": pl.Int64,  # ended without an answer after they were sent; outputs do not tell, and have 0
    "maybe_nanos": pl.Int64,  # what those may have cost at worst, as far as the journal knows
    "asked": pl.String,  # the model that was asked, where another one answered; outputs do not tell, and have null
    "terms": pl.String,  # as a journal has them (pipeline.journal.terms); outputs do not tell, and have null
    "unbilled": pl.Boolean,  # it has tokens and costs nothing at whatever prices: it was refused before any output
}
"""Columns of a bill line; tags follow as ``tag.NAME``, input columns as ``in:NAME``."""

TAG = "tag."
INPUT = "in:"

RowNames = Callable[[Collection[tuple[str, str]]], Mapping[tuple[str, str], str]]
"""Gives the ids of rows, as far as they are known, by run and request key."""

OWN_KEYS = ("day", "week", "month", "run_date", "job", "model", "endpoint", "status", "run", "recipe")
"""What a report can be grouped by beside tags and input columns."""


def nameless(_: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
    """No row's id is known."""
    return {}


@dataclass(frozen=True, slots=True)
class Lines:
    """Bill lines, and what a reader of the report must be told.

    Attributes:
        frame: the lines.
        notes: sentences, such as that a row was seen twice.
        maybe_nanos: what calls without an answer may have cost at worst, of all days, where the lines do not tell.
        budgets: what a month may cost, USD by job, by the latest word of each job that states its budget.
        source: where the lines come from, in words.
        attempts: a line is an attempt, so a row may have several; otherwise it is a row.
        names: gives the ids of a few rows.
    """

    frame: pl.LazyFrame
    notes: Sequence[str]
    source: str
    maybe_nanos: int | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)
    attempts: bool = False
    names: RowNames = nameless


def empty(columns: Sequence[str] = ()) -> pl.LazyFrame:
    """Give no lines, with further text columns."""
    return pl.LazyFrame(schema={**SCHEMA, **dict.fromkeys(columns, pl.String)})


@contextmanager
def reading() -> Iterator[None]:
    """Turn what a damaged or strange file makes polars say into words; around every look at lazy lines."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        words = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise JobError(f"an output cannot be read: {words.strip().rstrip('.').lower()}") from error

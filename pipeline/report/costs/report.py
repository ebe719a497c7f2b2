"""The cost report: bill lines selected, grouped and added up, in whole nano-dollars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import polars as pl

from pipeline.cost import Pricer, usd_text
from pipeline.records import NANOS_PER_USD
from pipeline.report.costs.lines import INPUT, OWN_KEYS, TAG, Lines, RowNames, nameless, reading
from pipeline.report.costs.priced import with_list_prices

SUMS = (
    *("rows", "ok_rows", "requests", "input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens"),
    *("cost_nanos", "cache_saved_nanos", "reuse_saved_nanos", "superseded_nanos", "unpriced_requests"),
)
COLUMNS = (
    *("rows", "ok_rows", "requests", "input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens"),
    *("cost_usd", "usd_per_1000_rows", "usd_per_ok_row", "cache_saved_usd", "reuse_saved_usd", "superseded_usd"),
    "unpriced_requests",
)
"""Columns of a report after its keys."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to report.

    Attributes:
        by: keys, in order: words of `OWN_KEYS`, ``tag.NAME``, or input columns.
        since: the first UTC day, by `completed_at`; None for all before `until`.
        until: the last one; None for all from `since` on.
    """

    by: Sequence[str] = ("job", "model")
    since: date | None = None
    until: date | None = None

    @property
    def tags(self) -> list[str]:
        """Names of tags among the keys."""
        return [key.removeprefix(TAG) for key in self.by if key.startswith(TAG)]

    @property
    def columns(self) -> list[str]:
        """Input columns among the keys."""
        return [key for key in self.by if key not in OWN_KEYS and not key.startswith(TAG)]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over lines; money in nano-dollars."""

    rows: int = 0
    ok_rows: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    cost_nanos: int = 0
    cache_saved_nanos: int = 0
    reuse_saved_nanos: int = 0
    superseded_nanos: int = 0
    unpriced_requests: int = 0

    @property
    def unknown(self) -> bool:
        """Whether no price is known at all: nothing is known of the cost, rather than that it is at least 0."""
        return self.unpriced_requests > 0 and self.cost_nanos == 0

    def record(self) -> dict[str, Any]:
        """The columns of the report, USD as numbers; what is unknown and a ratio to nothing are None."""
        cost = None if self.unknown else self.cost_nanos
        return {
            **{name: getattr(self, name) for name in COLUMNS[:7]},
            "cost_usd": None if cost is None else cost / NANOS_PER_USD,
            "usd_per_1000_rows": None if cost is None or not self.rows else cost * 1000 / self.rows / NANOS_PER_USD,
            "usd_per_ok_row": None if cost is None or not self.ok_rows else cost / self.ok_rows / NANOS_PER_USD,
            "cache_saved_usd": self.cache_saved_nanos / NANOS_PER_USD,
            "reuse_saved_usd": self.reuse_saved_nanos / NANOS_PER_USD,
            "superseded_usd": self.superseded_nanos / NANOS_PER_USD,
            "unpriced_requests": self.unpriced_requests,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """A cost report.

    Attributes:
        query: what was asked.
        groups: key values and sums, in the order of the keys.
        total: over all groups.
        notes: sentences that its reader must know.
        source: what it was made of, in words.
        schema: types of the keys.
        maybe_requests: calls without an answer that may have been billed; None where the source does not tell.
        maybe_nanos: what those may have cost at worst; None likewise.
        lines: what it was made of, priced.
        attempts: those are attempts, so a row may have several.
        budgets: what a month may cost, USD by job, of jobs that say.
        names: gives the ids of a few rows.
    """

    query: Query
    groups: Sequence[tuple[tuple[Any, ...], Totals]]
    total: Totals
    notes: Sequence[str]
    source: str
    schema: Mapping[str, pl.DataType]
    maybe_requests: int | None = None
    maybe_nanos: int | None = None
    lines: pl.LazyFrame = field(default_factory=pl.LazyFrame)
    attempts: bool = False
    budgets: Mapping[str, float] = field(default_factory=dict)
    names: RowNames = nameless

    @property
    def records(self) -> list[dict[str, Any]]:
        """The groups as rows of the report's columns."""
        return [{**dict(zip(self.query.by, keys, strict=True)), **sums.record()} for keys, sums in self.groups]

    def frame(self) -> pl.DataFrame:
        """The groups as a table, with honest types."""
        usd = {name: pl.Float64() for name in COLUMNS if "usd" in name}
        types = {**self.schema, **{name: usd.get(name, pl.Int64()) for name in COLUMNS}}
        return pl.DataFrame(self.records, schema=types)


@reading()
def make_report(lines: Lines, query: Query, pricer: Pricer, *, reprice: bool = False) -> Report:
    """Select, group and add up.

    Args:
        lines: of outputs or journals.
        query: which days, and by what.
        pricer: knows the list prices.
        reprice: replace what each line cost by its list price.
    """
    selected = within(lines.frame, query)
    notes = list(lines.notes)
    if reprice:
        before = _totals(selected.with_columns(pl.lit(0, pl.Int64).alias("cache_saved_nanos")))
        how = (
            ""
            if lines.attempts
            else (
                "; outputs do not tell calls apart, so a row is priced as one call at list terms, its cache writes as "
                "5-minute ones, and superseded spend stays as billed: the journals know better"
            )
        )
        billed = "unknown" if before.unknown else f"{_lower_bound(before)}{usd_text(before.cost_nanos)}"
        notes.append(f"repriced: {billed} as it was billed{how}")
    priced = with_list_prices(selected, pricer, reprice=reprice)
    keyed = priced.with_columns(**{f"key:{key}": key_expr(key) for key in query.by})
    names = [f"key:{key}" for key in query.by]
    sums = [pl.col(name).sum() for name in SUMS]
    grouped = (keyed.group_by(names).agg(sums) if names else keyed.select(sums)).collect(engine="streaming")
    if names:
        grouped = grouped.sort(names, nulls_last=True)
    width = len(names)
    groups = [(row[:width], Totals(*row[width:])) for row in grouped.select(*names, *SUMS).iter_rows()]
    total = add(sums for _, sums in groups)
    maybe_requests, maybe_nanos = None, lines.maybe_nanos
    if lines.attempts:
        lost = selected.select(pl.col("maybe_requests").sum(), pl.col("maybe_nanos").sum())
        maybe_requests, maybe_nanos = lost.collect().row(0)
    return Report(
        query=query,
        groups=groups,
        total=total,
        notes=[*notes, *_warnings(total, maybe_requests, maybe_nanos)],
        source=lines.source,
        schema={key: grouped.schema[f"key:{key}"] for key in query.by},
        maybe_requests=maybe_requests,
        maybe_nanos=maybe_nanos,
        lines=priced,
        attempts=lines.attempts,
        budgets=lines.budgets,
        names=lines.names,
    )


def within(frame: pl.LazyFrame, query: Query) -> pl.LazyFrame:
    """Keep the lines of the asked UTC days; a line without a time (a row that was never sent) is of no day."""
    at = pl.col("completed_at")
    if query.since is not None:
        frame = frame.filter(at >= _midnight(query.since))
    if query.until is not None:
        frame = frame.filter(at < _midnight(query.until + timedelta(days=1)))
    return frame


def add(sums: Iterable[Totals]) -> Totals:
    """Add totals up."""
    columns = [[getattr(each, name) for name in SUMS] for each in sums]
    return Totals(*(sum(column) for column in zip(*columns, strict=True))) if columns else Totals()


def _totals(frame: pl.LazyFrame) -> Totals:
    return Totals(*frame.select([pl.col(name).sum() for name in SUMS]).collect(engine="streaming").row(0))


def _warnings(total: Totals, maybe_requests: int | None, maybe_nanos: int | None) -> list[str]:
    words: list[str] = []
    if total.unpriced_requests:
        words.append(
            f"requests without a known price: {total.unpriced_requests:,}, so totals with ≥ are lower bounds; "
            "--reprice --prices FILE shows what they come to at the prices in FILE (docs/costs.md)"
        )
    if maybe_requests:
        words.append(
            f"calls that ended without an answer after they were sent: {maybe_requests:,}; they may have been "
            "billed, and are in no total"
        )
    if maybe_nanos:
        words.append(
            f"up to {usd_text(maybe_nanos)} more may have been billed for calls without an answer; it is in no total"
        )
    return words


def _lower_bound(total: Totals) -> str:
    return "≥ " if total.unpriced_requests else ""


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def key_expr(key: str) -> pl.Expr:
    """What lines are grouped by for a key."""
    at = pl.col("completed_at")
    if key == "day":
        return at.dt.date()
    if key == "week":
        return at.dt.truncate("1w").dt.date()
    if key == "month":
        return at.dt.strftime("%Y-%m")
    if key in OWN_KEYS or key.startswith(TAG):
        return pl.col(key)
    return pl.col(INPUT + key)

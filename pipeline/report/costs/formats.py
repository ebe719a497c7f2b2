"""A cost report as text, data or a page."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

import polars as pl

from pipeline.records import NANOS_PER_USD
from pipeline.report.costs.bills import Comparison
from pipeline.report.costs.report import COLUMNS, Report, Totals

FORMATS = ("table", "csv", "parquet", "json", "html")
VERSION = 1

QUIET = frozenset(
    {"cache_write_tokens", "cache_read_tokens", "cache_saved_usd", "reuse_saved_usd", "superseded_usd"}
) | {"unpriced_requests"}
"""Columns that a printed table leaves out where they are 0 throughout."""

SHORT = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_write_tokens": "cache\nwrite",
    "cache_read_tokens": "cache\nread",
    "cost_usd": "cost\nUSD",
    "ok_rows": "ok\nrows",
    "usd_per_1000_rows": "USD per\n1000 rows",
    "usd_per_ok_row": "USD per\nok row",
    "cache_saved_usd": "cache\nsaved",
    "reuse_saved_usd": "reuse\nsaved",
    "superseded_usd": "super-\nseded",
    "unpriced_requests": "un-\npriced",
}
"""Headings of a printed table, where the column's name is too long for one."""


def write_report(report: Report, form: str, *, now: date, month_usd: float | None = None) -> bytes:
    """Write the report in a format.

    Args:
        report: what to write.
        form: one of `FORMATS`.
        now: today, UTC: the forecast on the page goes to the end of its month.
        month_usd: what a month may cost, for the page.
    """
    if form == "html":
        from pipeline.report.costs.page import page

        return page(report, now=now, month_usd=month_usd).encode()
    if form == "table":
        return (_table(report) + "\n").encode()
    if form == "json":
        return (_json(report) + "\n").encode()
    return write_frame(report.frame(), form)


def write_frame(frame: pl.DataFrame, form: str) -> bytes:
    """Write a table as CSV or Parquet. Cells of text that a spreadsheet would run as a formula get a ' before them."""
    sink = io.BytesIO()
    if form == "parquet":
        frame.write_parquet(sink)
        return sink.getvalue()
    texts = [pl.col(name) for name, kind in frame.schema.items() if kind == pl.String]
    frame = frame.with_columns(
        pl.when(text.str.contains(r"^[=+\-@\t\r]")).then(pl.lit("'") + text).otherwise(text).name.keep()
        for text in texts
    )
    frame.write_csv(sink, float_scientific=False)
    return sink.getvalue()


def comparison_text(comparison: Comparison) -> str:
    """Write a comparison with a bill as a table, its total last."""
    money = comparison.measure == "usd"
    show: Callable[[int], str] = (lambda amount: _usd(amount / 1e9)) if money else (lambda amount: f"{amount:,}")
    heads = ["day", "model", "ours", "bill", "gap", "gap %", "only in", ""]
    rows = []
    for gap in (*comparison.gaps, comparison.total):
        percent = f"{100 * gap.gap / gap.bill:,.2f}" if gap.bill else ""
        day = "total" if gap is comparison.total else str(gap.day)
        mark = "off" if gap.off else ""
        model = "" if gap is comparison.total else clean(gap.model) or "(beside tokens)"
        # As in the report: what has no price makes ours a lower bound.
        ours = ("≥ " if gap.unpriced else "") + show(gap.ours)
        rows.append([day, model, ours, show(gap.bill), show(gap.gap), percent, gap.only, mark])
    return grid(heads, rows, numeric=range(2, 6), footer=True)


def write_comparison(comparison: Comparison, form: str) -> bytes:
    """Write a comparison as table, csv, parquet or json."""
    if form == "table":
        return (comparison_text(comparison) + "\n").encode()
    if form == "json":
        found = {
            "version": VERSION,
            "measure": comparison.measure,
            "tolerance": float(comparison.tolerance),
            "within": comparison.within,
            "gaps": comparison.records,
            "total": comparison.total_record,
        }
        return (json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n").encode()
    return write_frame(pl.DataFrame(comparison.records, infer_schema_length=None), form)


def cells(record: Mapping[str, Any], totals: Totals, columns: Sequence[str], digits: int = 4) -> list[str]:
    """Write some columns of a record for people.

    A cost without all its prices is a lower bound, and one without any is unknown; both say so.

    Args:
        record: of the totals.
        totals: what the record was made of.
        columns: names in it.
        digits: of USD after the point, as `digits_of` gives them.
    """
    bound = "≥ " if totals.unpriced_requests else ""

    def cell(name: str, value: Any) -> str:
        if value is None:
            return "unknown" if name == "cost_usd" else ""
        return (bound if name in BOUNDED else "") + _number(name, value, digits)

    return [cell(name, record[name]) for name in columns]


def digits_of(report: Report) -> int:
    """Digits after the point for the report's USD: more where all of it is less than a few cents."""
    total = abs(report.total.cost_nanos) or abs(report.total.superseded_nanos)
    return 4 if total == 0 or total >= NANOS_PER_USD // 10 else 6 if total >= NANOS_PER_USD // 1000 else 9


BOUNDED = frozenset({"cost_usd", "usd_per_1000_rows", "usd_per_ok_row"})


def shown_columns(report: Report) -> list[str]:
    """Columns that are not 0 throughout, and those that are always of interest."""
    total = report.total.record()
    return [name for name in COLUMNS if name not in QUIET or total[name]]


def key_text(value: Any) -> str:
    """Write a key for people; what has none is a hyphen."""
    return "-" if value is None else clean(str(value))


def clean(text: str) -> str:
    """Show control characters of foreign text instead of obeying them."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Any, footer: bool) -> str:
    """Lay text out in columns; numeric ones flush right."""
    from tabulate import tabulate

    aligned = ["right" if nth in numeric else "left" for nth in range(len(heads))]
    lines = tabulate(
        rows, heads, tablefmt="simple", disable_numparse=True, colalign=aligned, preserve_whitespace=False
    ).splitlines()
    if footer and rows:
        rule = next(line for line in lines if line and not line.strip("- "))
        lines.insert(len(lines) - 1, rule)
    return "\n".join(line.rstrip() for line in lines)


def _table(report: Report) -> str:
    columns, by, digits = shown_columns(report), list(report.query.by), digits_of(report)
    rows = [
        [*map(key_text, keys), *cells(record, sums, columns, digits)]
        for (keys, sums), record in zip(report.groups, report.records, strict=True)
    ]
    last = ["total", *[""] * (len(by) - 1)] if by else []
    rows.append([*last, *cells(report.total.record(), report.total, columns, digits)])
    heads = [*map(clean, by), *(SHORT.get(name, name) for name in columns)]
    return grid(heads, rows, numeric=range(len(by), len(heads)), footer=bool(by))


def _json(report: Report) -> str:
    found = {
        "version": VERSION,
        "source": report.source,
        "by": list(report.query.by),
        "since": report.query.since,
        "until": report.query.until,
        "groups": report.records,
        "total": report.total.record(),
        "maybe_billed_requests": report.maybe_requests,
        "maybe_billed_usd": None if report.maybe_nanos is None else report.maybe_nanos / 1e9,
        "notes": list(report.notes),
    }
    return json.dumps(found, indent=1, ensure_ascii=False, default=str)


def _number(name: str, value: Any, digits: int) -> str:
    if "usd" not in name:
        return f"{value:,}"
    return f"{value:,.{max(digits, 6) if name == 'usd_per_ok_row' else digits}f}"


def _usd(value: float) -> str:
    return f"{value:,.4f}"

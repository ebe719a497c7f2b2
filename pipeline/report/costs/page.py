"""The cost report as a page: spend by day, the month and where it goes, tokens by kind, the most expensive rows."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from pipeline import __version__
from pipeline.cost import nanos, usd_text
from pipeline.records import NANOS_PER_USD
from pipeline.report.costs.formats import cells, clean, digits_of, key_text, shown_columns
from pipeline.report.costs.lines import reading
from pipeline.report.costs.report import Report, key_expr
from pipeline.report.page import Figure, Table, Tile, bars, line, render, stacked_days
from pipeline.report.page.charts import OTHERS, SERIES

KINDS = (
    ("input_tokens", "input"),
    ("output_tokens", "output"),
    ("cache_write_tokens", "cache write"),
    ("cache_read_tokens", "cache read"),
)
DAY = "\0day"
"""The column of days beside those of series, which may have any name."""
DEAREST = 20
FORECAST_DAYS = 14
"""A forecast goes on at the mean of the last so many days, days without spend counted."""
LONGEST_NAME = 48
TIMES = ("day", "week", "month", "run_date")
"""Keys that the chart over days tells already."""
MOST_GROUPS = 1_000


@reading()
def page(report: Report, *, now: date, month_usd: float | None = None) -> str:
    """Give the report as one HTML file.

    Args:
        report: what to show.
        now: today, UTC.
        month_usd: what a month may cost, drawn into the month's chart; by default what its jobs say together.
    """
    cube = _cube(report)
    word, days = _days(report, cube)
    month = _month(days, now, _budget(report, cube) if month_usd is None else month_usd)
    figures = [_by_day(report, word, days), month, _tokens(cube), _dearest(report), _all(report)]
    return render(
        title="Costs",
        subtitle=f"{report.source}; {_period(report, days)}",
        tiles=_tiles(report),
        figures=[figure for figure in figures if figure is not None],
        notes=[clean(note) for note in report.notes],
        made=f"Days are UTC, by the time an answer was complete. Made {now.isoformat()} by pipeline {__version__}.",
    )


def _cube(report: Report) -> pl.DataFrame:
    """Tokens and nano-dollars, superseded ones included, by day, job and model: what the charts are drawn from."""
    day = pl.col("completed_at").dt.date().alias("day")
    by = (day, pl.col("job").fill_null("?"), pl.col("model").fill_null("?"))
    return (
        report.lines.group_by(*by).agg(_spent(), *(pl.col(name).sum() for name, _ in KINDS)).collect(engine="streaming")
    )


def _days(report: Report, cube: pl.DataFrame) -> tuple[str, pl.DataFrame]:
    """Nano-dollars by day and by the first key asked for that tells any apart; job or model where only days are."""
    asked = [key for key in dict.fromkeys(report.query.by) if key not in TIMES]
    for word in asked or ["job", "model"]:
        days = _by(report, cube, word)
        if days["series"].n_unique() > 1:
            return word, days
    word = asked[0] if asked else "model"
    return word, _by(report, cube, word)


def _by(report: Report, cube: pl.DataFrame, word: str) -> pl.DataFrame:
    series = pl.col("series").cast(pl.String).fill_null("-")
    if word in cube.columns:
        spent = cube.with_columns(pl.col(word).alias("series"))
    else:
        day = pl.col("completed_at").dt.date().alias("day")
        grouped = report.lines.group_by(day, key_expr(word).alias("series")).agg(_spent())
        spent = grouped.collect(engine="streaming")
    dated = spent.filter(pl.col("day").is_not_null()).with_columns(series)
    return dated.group_by("day", "series").agg(pl.col("nanos").sum()).sort("day", "series")


def _spent() -> pl.Expr:
    return (pl.col("cost_nanos").fill_null(0) + pl.col("superseded_nanos")).sum().alias("nanos")


def _by_day(report: Report, word: str, days: pl.DataFrame) -> Figure | None:
    if days.is_empty():
        return None
    first, last = _axis(report, days)
    totals = days.group_by("series").agg(pl.col("nanos").sum()).sort("nanos", "series", descending=[True, False])
    names = totals["series"].to_list()
    kept = names if len(names) <= SERIES else names[: SERIES - 1]
    labels = _labels(kept)
    order = [labels[name] for name in kept] + ([OTHERS] if len(kept) < len(names) else [])
    records = [
        {
            "day": day.isoformat(),
            "series": labels.get(name, OTHERS),
            "rank": order.index(labels.get(name, OTHERS)),
            "amount": nanos / NANOS_PER_USD,
        }
        for day, name, nanos in days.iter_rows()
    ]
    by_day = days.group_by("day").agg(pl.col("nanos").sum()).sort("day")
    top = by_day.row(by_day["nanos"].arg_max() or 0)
    text = f"USD by {clean(word)}, superseded spend included. The most on a day: {usd_text(top[1])} on {top[0]}."
    digits = digits_of(report)
    wide = days.rename({"day": DAY}).pivot("series", index=DAY, values="nanos").sort(DAY)
    table = Table(
        ["day", *(clean(name) for name in names), "total"],
        [
            [str(row[DAY]), *(_amount(each, digits) for each in [*map(row.get, names), _sum(row, names)])]
            for row in wide.iter_rows(named=True)
        ],
        range(1, len(names) + 2),
        total=["total", *(_amount(each, digits) for each in [*totals["nanos"], totals["nanos"].sum()])],
    )
    chart = stacked_days(
        records, order, first=first, last=last, title=f"Spend per day by {clean(word)}, {first} to {last}"
    )
    return Figure("Spend per day", text, chart, table, folded=True)


def _budget(report: Report, cube: pl.DataFrame) -> float | None:
    """What the jobs of the last month may cost together; None where one of them does not say."""
    day = pl.col("day")
    last = cube.filter(day.is_not_null(), day.dt.truncate("1mo") == day.max().dt.truncate("1mo"))
    jobs = last.filter(pl.col("nanos") > 0)["job"].unique().to_list()
    if not jobs or not all(job in report.budgets for job in jobs):
        return None
    return sum(report.budgets[job] for job in jobs)


def _month(days: pl.DataFrame, now: date, month_usd: float | None) -> Figure | None:
    """The last month that has spend: its sum by day, and how it goes on where it is this month."""
    if days.is_empty():
        return None
    latest = days["day"].max()
    assert isinstance(latest, date)
    first = latest.replace(day=1)
    last = first.replace(day=monthrange(first.year, first.month)[1])
    by_day = {day: int(nanos) for day, nanos in days.group_by("day").agg(pl.col("nanos").sum()).iter_rows()}
    running = now.replace(day=1) == first
    so_far = min(max(now, latest), last) if running else last
    records, spent = [], 0
    for day in _walk(first, so_far):
        spent += by_day.get(day, 0)
        records.append({"day": day.isoformat(), "amount": spent / NANOS_PER_USD, "kind": "spent"})
    of = "" if month_usd is None else f" of a budget of {_dollars(month_usd)}"
    so_far_words = f" up to {so_far}." if running and so_far < last else "."
    text = f"{usd_text(spent)}{of} in {first:%B %Y}{so_far_words}"
    if running and so_far < last:
        rate = _rate(by_day, so_far)
        expected = spent + rate * (last - so_far).days
        records += [
            {"day": day.isoformat(), "amount": (spent + rate * ahead) / NANOS_PER_USD, "kind": "forecast"}
            for ahead, day in enumerate(_walk(so_far, last))
        ]
        number = _window(by_day, so_far)
        pace = "the last day's pace" if number == 1 else f"the mean of the last {number} days"
        text += f" At {pace} it comes to about {usd_text(expected)}"
        text += ", more than the budget." if month_usd and expected > month_usd * NANOS_PER_USD else "."
    chart = line(records, first=first, last=last, limit=month_usd, title=f"Spend in {first:%B %Y}, added up")
    return Figure("Month to date" if running else f"The month, {first:%B %Y}", text, chart)


def _window(by_day: dict[date, int], end: date) -> int:
    """How many days the mean is taken over: not more than there has been spend for."""
    return min(FORECAST_DAYS, (end - min(by_day)).days + 1)


def _rate(by_day: dict[date, int], end: date) -> int:
    days = _window(by_day, end)
    return sum(by_day.get(end - timedelta(days=nth), 0) for nth in range(days)) // days


def _tokens(cube: pl.DataFrame) -> Figure | None:
    found = (
        cube.group_by("model")
        .agg([pl.col(name).sum() for name, _ in KINDS])
        .with_columns(pl.sum_horizontal([name for name, _ in KINDS]).alias("all"))
        .filter(pl.col("all") > 0)
        .sort("all", "model", descending=[True, False])
    )
    if found.is_empty():
        return None
    models = found["model"].to_list()
    labels = _labels(models[:12])
    records = [
        {"name": labels[row["model"]], "series": kind, "rank": rank, "amount": row[name]}
        for row in found.head(12).iter_rows(named=True)
        for rank, (name, kind) in enumerate(KINDS)
    ]
    kinds = [kind for _, kind in KINDS]
    table = Table(
        ["model", *kinds, "all"],
        [[clean(row[0]), *(f"{count:,}" for count in row[1:])] for row in found.iter_rows()],
        range(1, len(KINDS) + 2),
        total=["total", *(f"{found[name].sum():,}" for name in (*(name for name, _ in KINDS), "all"))],
    )
    chart = bars(records, kinds, list(labels.values()), title="Tokens by kind and model")
    return Figure("Tokens by kind", "Input is what no cache was involved in.", chart, table, folded=True)


def _dearest(report: Report) -> Figure | None:
    costs = report.lines.filter(pl.col("cost_nanos") > 0)
    if report.attempts:
        sums = [pl.col(name).sum() for name in ("requests", "input_tokens", "output_tokens", "cost_nanos")]
        told = [pl.col("completed_at").max(), pl.col("model").last(), pl.col("status").last()]
        costs = costs.group_by("run", "request_key").agg(*told, *sums)
    columns = ("run", "request_key", "completed_at", "model", "status", "requests", "input_tokens", "output_tokens")
    found = (
        costs.select(*columns, "cost_nanos")
        .top_k(DEAREST, by="cost_nanos")
        .collect(engine="streaming")
        .sort("cost_nanos", "request_key", descending=[True, False])
    )
    if found.is_empty():
        return None
    names = report.names({(each["run"], each["request_key"]) for each in found.iter_rows(named=True)})
    share = found["cost_nanos"].sum() / max(1, report.total.cost_nanos)
    digits = digits_of(report)
    rows = [
        [
            _amount(each["cost_nanos"], digits),
            key_text(names.get((each["run"], each["request_key"]))),
            key_text(each["run"]),
            f"{each['completed_at']:%Y-%m-%d %H:%M}" if each["completed_at"] else "-",
            *(key_text(each[name]) for name in ("model", "status")),
            *(f"{each[name]:,}" for name in ("requests", "input_tokens", "output_tokens")),
            key_text(each["request_key"]),
        ]
        for each in found.iter_rows(named=True)
    ]
    heads = ["USD", "row", "run", "completed", "model", "status", "requests", "input", "output", "request key"]
    text = f"The {len(rows)} dearest rows are {100 * share:.1f} % of the spend."
    return Figure("Most expensive rows", text, table=Table(heads, rows, {0, 6, 7, 8}))


def _all(report: Report) -> Figure:
    # The amount first: on a phone the rest is a swipe away.
    columns = sorted(shown_columns(report), key=lambda name: name != "cost_usd")
    by, digits = list(report.query.by), digits_of(report)
    rows = [
        [*map(key_text, keys), *cells(record, sums, columns, digits)]
        for (keys, sums), record in zip(report.groups, report.records, strict=True)
    ]
    last = ["total", *[""] * (len(by) - 1)] if by else []
    total = [*last, *cells(report.total.record(), report.total, columns, digits)]
    heads = [*map(clean, by), *(name.replace("_", " ").replace("usd", "USD") for name in columns)]
    left = len(rows) - MOST_GROUPS
    caption = (
        f"{left:,} more groups are not shown, but are in the total; --format csv has them all." if left > 0 else ""
    )
    table = Table(heads, rows[:MOST_GROUPS], range(len(by), len(heads)), total, caption)
    return Figure(f"By {', '.join(map(clean, by))}" if by else "Total", table=table)


def _tiles(report: Report) -> list[Tile]:
    total = report.total
    bound = "≥\u00a0" if total.unpriced_requests else ""
    record = total.record()
    per = record["usd_per_1000_rows"]
    tiles = [
        Tile(
            "spent", "unknown" if total.unknown else bound + usd_text(total.cost_nanos), f"{total.requests:,} requests"
        ),
        Tile("rows", f"{total.rows:,}", f"{total.ok_rows:,} ok"),
        Tile("per 1,000 rows", "-" if per is None else bound + usd_text(round(per * NANOS_PER_USD))),
    ]
    if total.cache_saved_nanos:
        tiles.append(Tile("saved by the cache", usd_text(total.cache_saved_nanos), "against list prices uncached"))
    if total.reuse_saved_nanos:
        tiles.append(Tile("saved by reuse", usd_text(total.reuse_saved_nanos), "answers taken, not asked"))
    if total.superseded_nanos:
        tiles.append(Tile("superseded", usd_text(total.superseded_nanos), "paid, wanted no more; not in spent"))
    if total.unpriced_requests:
        tiles.append(Tile("without a price", f"{total.unpriced_requests:,}", "requests"))
    return tiles


def _period(report: Report, days: pl.DataFrame) -> str:
    if days.is_empty():
        return "no day with an answer"
    first, last = _axis(report, days)
    return f"{first} to {last}" if first != last else str(first)


def _axis(report: Report, days: pl.DataFrame) -> tuple[date, date]:
    low, high = days["day"].min(), days["day"].max()
    assert isinstance(low, date)
    assert isinstance(high, date)
    return report.query.since or low, report.query.until or high


def _walk(first: date, last: date) -> list[date]:
    return [first + timedelta(days=nth) for nth in range((last - first).days + 1)]


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Short names that a legend has room for, still different from each other."""
    labels: dict[str, str] = {}
    for name in names:
        short = clean(name)
        short = short if len(short) <= LONGEST_NAME else short[: LONGEST_NAME - 1] + "…"
        while short in labels.values() or short == OTHERS:
            short += "'"
        labels[name] = short
    return labels


def _sum(row: Mapping[str, Any], names: Sequence[str]) -> int:
    return sum(row[name] or 0 for name in names)


def _amount(nanos: Any, digits: int = 4) -> str:
    return "" if nanos is None else f"{nanos / NANOS_PER_USD:,.{digits}f}"


def _dollars(usd: float) -> str:
    """A budget as it is written, with cents at least."""
    return f"${usd:,.2f}" if usd >= 1 else usd_text(nanos(Decimal(str(usd))))

"""Pace: calls over time, what bound them, and how long answers took."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.page import Figure, Span, Table, lines, steps
from pipeline.report.page.charts import OTHERS, SERIES
from pipeline.report.page.text import line
from pipeline.report.run.figures import duration, mean, millis, percentiles, round_rate, share
from pipeline.report.run.view import View

BOUND = {
    "server": "the server's own pace, as its refusals and headers told it",
    "requests_per_minute": "limits.requests_per_minute",
    "input_tokens_per_minute": "limits.input_tokens_per_minute",
    "output_tokens_per_minute": "limits.output_tokens_per_minute",
    "tokens_per_minute": "limits.tokens_per_minute",
    "concurrency": "the number of calls in flight",
    "source": "reading the source",
    "preparation": "the preparation of rows on this machine",
}
ANSWERED = "answered"
CHARTED = ("p50", "p90", "p99")
SHORTEST_RATE = 60.0
"""Seconds of work from which a busiest minute says something."""


def throughput(view: View) -> Figure | None:
    """Calls over time, by what they ended with, and the rates that were reached beside the limits."""
    ended, answered = view.calls
    if not ended:
        return None
    clock = view.clock
    found = view.ledger.ended(clock)
    totals: dict[str, int] = {}
    for _, kind, number in found:
        totals[kind] = totals.get(kind, 0) + number
    errors = sorted((kind for kind in totals if kind != ANSWERED), key=lambda kind: (-totals[kind], kind))
    kept = errors if len(errors) < SERIES else errors[: SERIES - 2]
    series = [ANSWERED, *kept, *([OTHERS] if len(kept) < len(errors) else [])]
    words, per = clock.rate
    scale = per / clock.step_secs
    sums: dict[tuple[int, str], int] = {}
    for step, kind, number in found:
        name = kind if kind in series else OTHERS
        sums[step, name] = sums.get((step, name), 0) + number
    records = []
    for (step, name), number in sums.items():
        start, end = clock.edges(step)
        records.append(
            {"start": start, "end": end, "series": name, "rank": series.index(name), "amount": number * scale}
        )
    chart = steps(records, series, _span(view), title=f"Calls a {words} over time", limit=_limit(view, records))
    text = f"Calls that ended, a {words}: {round_rate(answered / clock.secs * per)} answered on the mean"
    text += f" over {duration(clock.secs)} of work."
    return Figure("Throughput", f"{text} {_bound(view)}".strip(), chart, _rates(view))


def _limit(view: View, records: Sequence[dict[str, object]]) -> tuple[float, str] | None:
    """The limit on requests, where it is near enough to what was reached to be in the picture."""
    amount = next((each.amount for each in view.asked.limits if each.name == "requests_per_minute"), None)
    if amount is None:
        return None
    per = amount / 60 * view.clock.rate[1]
    tops: dict[object, float] = {}
    for record in records:
        value = record["amount"]
        assert isinstance(value, float)
        tops[record["start"]] = tops.get(record["start"], 0.0) + value
    return (per, f"limit {round_rate(per)}") if per < 2 * max(tops.values()) else None


def _span(view: View) -> Span:
    clock = view.clock
    return Span(clock.secs / clock.unit[1], clock.words, clock.breaks)


def _bound(view: View) -> str:
    cause = view.asked.summary.get("bound_by")
    if not isinstance(cause, str):
        return ""
    return f"Bound by {BOUND.get(cause, line(cause))}, says the last start's summary."


def _rates(view: View) -> Table:
    """Rates reached, beside the limits."""
    clock, (requests, tokens_in, tokens_out) = view.clock, view.ledger.busiest()
    ended, _ = view.calls
    billed = [paid for by in view.paid.values() for paid in by.values()]
    inputs = sum(paid.tokens[0] + paid.tokens[2] for paid in billed)
    outputs = sum(paid.tokens[1] for paid in billed)
    flight = view.ledger.in_flight() / 1000 / clock.secs
    minutes = clock.secs / 60
    enough = clock.secs >= SHORTEST_RATE
    measured: list[tuple[str, str, float, float | None]] = [
        ("requests_per_minute", "requests a minute", ended / minutes, requests),
        ("input_tokens_per_minute", "input tokens a minute", inputs / minutes, tokens_in),
        ("output_tokens_per_minute", "output tokens a minute", outputs / minutes, tokens_out),
        ("concurrency", "calls in flight", flight, None),
    ]
    limits = {each.name: each.amount for each in view.asked.limits}
    rows = []
    for name, words, average, peak in measured:
        limit = limits.get(name)
        rows.append(
            [
                words,
                round_rate(average),
                f"{peak:,.0f}" if peak is not None and enough else "-",
                "-" if limit is None else f"{limit:,.10g}",
                "-" if limit is None else share(average, limit),
            ]
        )
    caption = "Tokens read from the cache do not count as input here. The busiest minute is one of the wall clock."
    return Table(["", "mean", "busiest minute", "limit", "mean of limit"], rows, {1, 2, 3, 4}, caption=caption)


def latency(view: View) -> Figure | None:
    """How long answers took: over time, and by model."""
    if not view.latencies:
        return None
    whole: dict[int, int] = {}
    for found in view.latencies.values():
        for value, number in found:
            whole[value] = whole.get(value, 0) + number
    everything = sorted(whole.items())
    clock, records = view.clock, []
    for step, found in view.ledger.latencies_by_step(clock):
        middle = sum(clock.edges(step)) / 2
        for name, value in zip(CHARTED, percentiles(found, (0.5, 0.9, 0.99)), strict=True):
            records.append({"at": middle, "series": name, "amount": value / 1000})
    chart = lines(records, CHARTED, _span(view), title="Latency over time: median, 90th and 99th percentile")
    heads = ["model", "answers", "p50", "p90", "p95", "p99", "slowest", "mean"]
    several = len(view.latencies) > 1
    rows = [_latencies(line(model), found) for model, found in view.latencies.items()] if several else []
    total = _latencies("all" if several else line(next(iter(view.latencies))), everything)
    table = Table(heads, rows or [total], range(1, 8), total if rows else ())
    p50, _, p95, _ = percentiles(everything)
    text = f"Seconds from sending to the whole answer, answered calls alone: half took up to {millis(p50)}, "
    return Figure("Latency", f"{text}95 % up to {millis(p95)}.", chart, table)


def _latencies(words: str, found: Sequence[tuple[int, int]]) -> list[str]:
    calls = sum(number for _, number in found)
    cells = (*percentiles(found), found[-1][0], mean(found))
    return [words, f"{calls:,}", *map(millis, cells)]

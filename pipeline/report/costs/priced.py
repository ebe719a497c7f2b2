"""Bill lines at list prices: what the cache saved, and what old runs would cost at other prices; no calls are made."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import polars as pl

from pipeline.cost import Pricer
from pipeline.cost.rates import Bands

RATES = ("input", "output", "write_5m", "write_1h", "read", "call", "scale")
STEP = "15m"
"""Prices are looked up once for a model and a quarter of an hour: some tables change them within a day."""


def with_list_prices(frame: pl.LazyFrame, pricer: Pricer, *, reprice: bool) -> pl.LazyFrame:
    """Add `cache_saved_nanos`; with `reprice`, replace what each line cost by its price in the pricer's books.

    What the cache saved is the line's cost times what its tokens would have cost uncached at the list price, over what
    they cost with it: so discounts and surcharges are in it. It is less than 0 where writes were never read.
    A line is priced as one call: exact for a journal's attempts and for rows that took one.
    """
    cached = (pl.col("cache_write_tokens") > 0) | (pl.col("cache_read_tokens") > 0)
    needed = frame if reprice else frame.filter(cached)
    times = needed.select(
        "model", pl.col("completed_at").dt.truncate(STEP).alias("at"), _prompt().alias("prompt")
    ).group_by("model", "at")
    asked = times.agg(pl.col("prompt").max()).filter(pl.col("model").is_not_null() & pl.col("at").is_not_null())
    rates, bounds = _rates(asked.collect(engine="streaming"), pricer)
    band = sum(((_prompt() > bound).cast(pl.Int32) for bound in bounds), start=pl.lit(0, pl.Int32))
    joined = frame.with_columns(pl.col("completed_at").dt.truncate(STEP).alias("at"), band.alias("band")).join(
        rates.lazy(), on=["model", "at", "band"], how="left"
    )
    if reprice:
        joined = _repriced(joined)
    return joined.with_columns(
        pl.when(cached).then(_saved()).otherwise(0).fill_null(0).alias("cache_saved_nanos")
    ).drop("at", "band", *(f"rate.{name}" for name in RATES))


def _prompt() -> pl.Expr:
    return pl.col("input_tokens") + pl.col("cache_write_tokens") + pl.col("cache_read_tokens")


def _rates(asked: pl.DataFrame, pricer: Pricer) -> tuple[pl.DataFrame, list[int]]:
    """Look up the rates of every model at every time, for every band of prompt lengths that any model has."""
    quotes: dict[tuple[str, datetime], Bands] = {}
    for model, at in asked.select("model", "at").iter_rows():
        quote = pricer.quote(answered=model, asked=model, at=at)
        if quote is not None:
            quotes[model, at] = quote.bands
    bounds = sorted({bound for bands in quotes.values() for bound, _ in bands.above})
    lines = [
        (model, at, nth, *(getattr(bands.rates(least), name) for name in RATES))
        for (model, at), bands in quotes.items()
        for nth, least in enumerate([0, *(bound + 1 for bound in bounds)])
    ]
    schema = {
        "model": pl.String(),
        "at": pl.Datetime("us", "UTC"),
        "band": pl.Int32(),
        **{f"rate.{name}": pl.Int64() for name in RATES},
    }
    assert all(low < high for low, high in pairwise(bounds))
    return pl.DataFrame(lines, schema=schema, orient="row"), bounds


def _rate(name: str) -> pl.Expr:
    return pl.col(f"rate.{name}")


def _list_price() -> pl.Expr:
    """What the line's tokens cost at its rates, times `scale`; the arithmetic of `Rates.nanos`."""
    brief = pl.col("cache_write_tokens") - pl.col("cache_write_1h_tokens")
    return (
        _rate("input") * pl.col("input_tokens")
        + _rate("output") * pl.col("output_tokens")
        + _rate("write_5m") * brief
        + _rate("write_1h") * pl.col("cache_write_1h_tokens")
        + _rate("read") * pl.col("cache_read_tokens")
    )


def _saved() -> pl.Expr:
    uncached = _rate("input") * _prompt() + _rate("output") * pl.col("output_tokens")
    with_cache = _list_price()
    return (pl.col("cost_nanos") * ((uncached - with_cache) / with_cache)).round().cast(pl.Int64)


def _repriced(frame: pl.LazyFrame) -> pl.LazyFrame:
    tokens = _prompt() + pl.col("output_tokens")
    # Without a count of tokens, or without a price, the cost is unknown; it is never 0.
    uncounted = pl.col("cost_nanos").is_null() & (tokens == 0)
    total = _list_price() + _rate("call")
    nanos = (2 * total + _rate("scale")) // (2 * _rate("scale"))
    billed = tokens > 0
    gone = pl.col("superseded_nanos") > 0
    cost = pl.when(uncounted).then(None).when(billed & ~gone).then(nanos).otherwise(0)
    unknown = cost.is_null().cast(pl.Int64) * pl.max_horizontal(pl.col("requests"), 1)
    return frame.with_columns(
        cost.alias("cost_nanos"),
        pl.when(billed & gone).then(nanos).otherwise(pl.col("superseded_nanos")).alias("superseded_nanos"),
        unknown.alias("unpriced_requests"),
    )

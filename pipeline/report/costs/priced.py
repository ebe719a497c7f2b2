"""Bill lines at list prices: what the cache saved, and what old runs would cost at other prices; no calls are made."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import polars as pl

from pipeline.cost import SEARCH_NANOS, Pricer
from pipeline.cost.rates import Bands
from pipeline.journal.terms import read_terms

RATES = ("input", "output", "write_5m", "write_1h", "read", "call", "scale")
STEP = "15m"
"""Prices are looked up once for a model and a quarter of an hour: some tables change them within a day."""
LOOKED_UP_BY = ("model", "asked", "terms", "at")


def with_list_prices(frame: pl.LazyFrame, pricer: Pricer, *, reprice: bool) -> pl.LazyFrame:
    """Add `cache_saved_nanos`; with `reprice`, replace what each line cost by its price in the pricer's books.

    What the cache saved is the line's cost times what its tokens would have cost uncached at the list price, over what
    they cost with it: so discounts and surcharges are in it. It is less than 0 where writes were never read.
    A line is priced as one call: exact for a journal's attempts, whose terms are known, and for rows that took one
    call at list terms.
    """
    cached = (pl.col("cache_write_tokens") > 0) | (pl.col("cache_read_tokens") > 0)
    # Nulls do not meet in a join.
    named = frame.with_columns(
        pl.col("completed_at").dt.truncate(STEP).alias("at"),
        *(pl.col(name).fill_null("") for name in ("asked", "terms")),
    )
    needed = named if reprice else named.filter(cached)
    asked = (
        needed.filter(pl.col("model").is_not_null() & pl.col("at").is_not_null())
        .select(LOOKED_UP_BY)
        .unique()
        .collect(engine="streaming")
    )
    rates, bounds = _rates(asked, pricer)
    band = sum(((_prompt() > bound).cast(pl.Int32) for bound in bounds), start=pl.lit(0, pl.Int32))
    joined = named.with_columns(band.alias("band")).join(rates.lazy(), on=[*LOOKED_UP_BY, "band"], how="left")
    if reprice:
        joined = _repriced(joined)
    return joined.with_columns(
        pl.when(cached).then(_saved()).otherwise(0).fill_null(0).alias("cache_saved_nanos")
    ).drop("at", "band", *(f"rate.{name}" for name in RATES))


def _prompt() -> pl.Expr:
    return pl.col("input_tokens") + pl.col("cache_write_tokens") + pl.col("cache_read_tokens")


def _rates(asked: pl.DataFrame, pricer: Pricer) -> tuple[pl.DataFrame, list[int]]:
    """Look up the rates of every model at every time and terms, for every band of prompt lengths that any has."""
    quotes: dict[tuple[str, str, str, datetime], Bands] = {}
    for model, other, text, at in asked.iter_rows():
        quote = pricer.quote(answered=model, asked=other or model, at=at, terms=read_terms(text))
        if quote is not None:
            quotes[model, other, text, at] = quote.bands
    bounds = sorted({bound for bands in quotes.values() for bound, _ in bands.above})
    lines = [
        (*key, nth, *(getattr(bands.rates(least), name) for name in RATES))
        for key, bands in quotes.items()
        for nth, least in enumerate([0, *(bound + 1 for bound in bounds)])
    ]
    schema = {
        **dict.fromkeys(LOOKED_UP_BY[:3], pl.String()),
        "at": pl.Datetime("us", "UTC"),
        "band": pl.Int32(),
        **{f"rate.{name}": pl.Int64() for name in RATES},
    }
    assert all(low < high for low, high in pairwise(bounds))
    return pl.DataFrame(lines, schema=schema, orient="row"), bounds


def search_nanos() -> pl.Expr:
    """What a line's web searches cost, as far as its terms tell."""
    number = pl.col("terms").str.extract(r'"web_searches": (\d+)').cast(pl.Int64)
    return number.fill_null(0) * SEARCH_NANOS


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
    # Searches cost the same with and without a cache.
    for_tokens = pl.col("cost_nanos") - search_nanos()
    return (for_tokens * ((uncached - with_cache) / with_cache)).round().cast(pl.Int64)


def _repriced(frame: pl.LazyFrame) -> pl.LazyFrame:
    tokens = _prompt() + pl.col("output_tokens")
    # What was charged without a count of tokens, or has no price, costs an unknown amount; it is never 0.
    uncounted = (pl.col("cost_nanos").is_null() | (pl.col("cost_nanos") > 0)) & (tokens == 0)
    total = _list_price() + _rate("call")
    nanos = (2 * total + _rate("scale")) // (2 * _rate("scale")) + search_nanos()
    billed = (tokens > 0) & ~pl.col("unbilled")
    gone = pl.col("superseded_nanos") > 0
    cost = pl.when(uncounted).then(None).when(billed & ~gone).then(nanos).otherwise(0)
    unknown = cost.is_null().cast(pl.Int64) * pl.max_horizontal(pl.col("requests"), 1)
    return frame.with_columns(
        cost.alias("cost_nanos"),
        pl.when(billed & gone).then(nanos).otherwise(pl.col("superseded_nanos")).alias("superseded_nanos"),
        unknown.alias("unpriced_requests"),
    )

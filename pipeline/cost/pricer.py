"""Pricer: who says what a call cost, in order of trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Literal

from pipeline.cost import table
from pipeline.cost.book import Book, StatedPrice, job_book
from pipeline.cost.rates import Bands
from pipeline.cost.terms import BATCH_FACTOR, SEARCH_NANOS, factor
from pipeline.records import USUAL, Price, Terms, Usage

_FREE = Price(0, "table", "embedded")
_UNKNOWN = Price(None, None)


@dataclass(frozen=True, slots=True)
class Quote:
    """The prices that would be applied to a call.

    Attributes:
        model: whose prices they are: the one that answered, or the one that was asked.
        bands: what its tokens cost, the terms of the call taken in.
        priced_by: `override` for prices that people wrote down, `table` for the built-in ones.
        source: their identity.
    """

    model: str
    bands: Bands
    priced_by: Literal["override", "table"]
    source: str


_Found = tuple[str, Bands, Literal["override", "table"], str]
"""What a quote is made of."""


class Pricer:
    """Prices calls, one at a time: a sum of calls would cross a long-prompt band that no single call crossed.

    The order of trust: what the server reported; the written-down price for the model that answered, then for the one
    that was asked; the table's price for the one that answered, then for the one that was asked, as it was at the time
    of the attempt. Of written-down prices the job's go before the user's. They go by the exact name, the table's by
    any spelling of it.

    Args:
        overrides: the job's own prices.
        user: the user's own prices, for models and days that the job states none for.
        free: nothing costs anything, as on the embedded model.

    Attributes:
        unpriced: models that were met without a price, to be named in one warning; what their calls cost is unknown,
            never 0.
    """

    def __init__(
        self,
        overrides: Mapping[str, StatedPrice | Sequence[StatedPrice]],
        *,
        user: Book | None = None,
        free: bool = False,
    ) -> None:
        self.unpriced: set[str] = set()
        self._free = free
        self._books: Sequence[Book] = (job_book(overrides), user or {})
        self._table: dict[str, table.Tariff | None] = {}

    def price(
        self,
        usage: Usage | None,
        *,
        answered: str | None,
        asked: str,
        at: datetime,
        reported_nanos: int | None,
        terms: Terms = USUAL,
    ) -> Price:
        """Price one call.

        Args:
            usage: its tokens; None where the server gave no usable count, which makes an unreported price unknown.
            answered: the model that the server says answered.
            asked: the model that the request named.
            at: when the attempt was made, UTC.
            reported_nanos: what the server says it cost, in nano-dollars.
            terms: how it was served, as far as that is charged for.
        """
        if self._free:
            return _FREE
        if reported_nanos is not None:
            return Price(reported_nanos, "server", "server")
        if usage is None:
            return _UNKNOWN
        found = self._find(answered, asked, at, terms)
        if found is None:
            self.unpriced.add(asked if answered is None else answered)
            return _UNKNOWN
        _, bands, priced_by, source = found
        return Price(bands.nanos(usage) + terms.web_searches * SEARCH_NANOS, priced_by, source)

    def cache_saved(self, usage: Usage, *, calls: int, answered: str, asked: str, at: datetime) -> int:
        """Nano-dollars that the API's prompt cache has saved against the same tokens without it; less than 0 is a loss.

        Args:
            usage: of calls that wrote to the cache or read from it, summed.
            calls: how many.
            answered: the model that the server says answered.
            asked: the model that the request named.
            at: when, UTC.
        """
        quote = None if self._free else self.quote(answered=answered, asked=asked, at=at)
        if quote is None or not calls:
            return 0
        prompt = usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens
        # Which band a call falls into is its own affair; the average call's is taken for all.
        rates = quote.bands.rates(prompt // calls)
        return rates.nanos(Usage(prompt)) - rates.nanos(replace(usage, output_tokens=0))

    def quote(self, *, answered: str | None, asked: str, at: datetime, terms: Terms = USUAL) -> Quote | None:
        """Give the prices that a call's tokens would be charged at; None where none are known."""
        found = self._find(answered, asked, at, terms)
        return None if found is None else Quote(*found)

    def _find(self, answered: str | None, asked: str, at: datetime, terms: Terms) -> _Found | None:
        models = (asked,) if answered is None or answered == asked else (answered, asked)
        for model in models:
            for book in self._books:
                for entry in book.get(model, ()):
                    if entry.holds(at):
                        return self._on_terms(model, entry.bands, "override", entry.source, terms, entry.batch)
        for model in models:
            tariff = self._tariff(model)
            if tariff is not None:
                return self._on_terms(model, tariff.at(at), "table", tariff.source, terms, BATCH_FACTOR)
        return None

    @staticmethod
    def _on_terms(
        model: str, bands: Bands, by: Literal["override", "table"], source: str, terms: Terms, batch: Decimal
    ) -> _Found | None:
        words = "" if terms is USUAL else terms.words
        if not words:
            return model, bands, by, source
        times = factor(terms, table.canonical(model), batch)
        return None if times is None else (model, bands.times(times), by, f"{source} {words}")

    def _tariff(self, model: str) -> table.Tariff | None:
        try:
            return self._table[model]
        except KeyError:
            return self._table.setdefault(model, table.find(model))

"""Pricer: who says what a call cost, in order of trust."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pipeline.cost import table
from pipeline.cost.rates import Bands, ModelPrice, stated
from pipeline.records import Price, Usage

_FREE = Price(0, "table", "embedded")
_UNKNOWN = Price(None, None)


class Pricer:
    """Prices calls, one at a time: a sum of calls would cross a long-prompt band that no single call crossed.

    The order of trust: what the server reported; the job's own price for the model that answered, then for the one
    that was asked; the table's price for the one that answered, then for the one that was asked, as it was at the time
    of the attempt. The job's prices go by the exact name, the table's by any spelling of it.

    Attributes:
        unpriced: models that were met without a price, to be named in one warning; what their calls cost is unknown,
            never 0.
    """

    def __init__(self, overrides: Mapping[str, ModelPrice], *, free: bool = False) -> None:
        self.unpriced: set[str] = set()
        self._free = free
        self._overrides: dict[str, tuple[Bands, str]] = {
            model: (stated(price), f"job {model}") for model, price in overrides.items()
        }
        self._table: dict[str, table.Tariff | None] = {}

    def price(
        self, usage: Usage | None, *, answered: str | None, asked: str, at: datetime, reported_nanos: int | None
    ) -> Price:
        """Price one call.

        Args:
            usage: its tokens; None where the server gave no usable count, which makes an unreported price unknown.
            answered: the model that the server says answered.
            asked: the model that the request named.
            at: when the attempt was made, UTC.
            reported_nanos: what the server says it cost, in nano-dollars.
        """
        if self._free:
            return _FREE
        if reported_nanos is not None:
            return Price(reported_nanos, "server", "server")
        if usage is None:
            return _UNKNOWN
        models = (asked,) if answered is None or answered == asked else (answered, asked)
        for model in models:
            override = self._overrides.get(model)
            if override is not None:
                return Price(override[0].nanos(usage), "override", override[1])
        for model in models:
            tariff = self._tariff(model)
            if tariff is not None:
                return Price(tariff.at(at).nanos(usage), "table", tariff.source)
        self.unpriced.add(models[0])
        return _UNKNOWN

    def _tariff(self, model: str) -> table.Tariff | None:
        try:
            return self._table[model]
        except KeyError:
            return self._table.setdefault(model, table.find(model))

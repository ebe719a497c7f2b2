"""The price table: genai-prices as shipped in its wheel, dated, found by a model's name however a router spells it.

Nothing is fetched. The table is imported by the first look-up, because its data costs some 200 ms to load.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from pipeline.cost.rates import Bands, PerMillion, Rates

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice

_NO_PRICE = Decimal(0)
_VERSION_DOT = re.compile(r"(?<=\d)\.(?=\d)")
_LISTED = {
    # Anthropic's list of 2026-11-22 (messages-api §9) has these two, genai-prices 0.2.3 has not; it is asked first.
    "claude-mythos-5": PerMillion(Decimal(10), Decimal(50), Decimal("12.5"), Decimal(20), Decimal(1)),
    "claude-mythos-5-1": PerMillion(Decimal(10), Decimal(50), Decimal("12.5"), Decimal(20), Decimal("0.25")),
}
_LISTED_SOURCE = "anthropic list 2026-11-22"


@dataclass(frozen=True, slots=True)
class Tariff:
    """A model's prices over time.

    Attributes:
        source: identity of the prices, such as ``genai-prices 0.2.3 claude-sonnet-4-5``.
        dated: (whether it is active at a moment, bands), of which the last active one holds; the first where none is.
    """

    source: str
    dated: Sequence[tuple[Callable[[datetime], bool], Bands]]

    def at(self, moment: datetime) -> Bands:
        """Give the prices of a call that was made at this moment (UTC where it names no zone)."""
        current = self.dated[0][1]
        for active, bands in self.dated:
            if active(moment):
                current = bands
        return current


def find(model: str) -> Tariff | None:
    """Look a model up; None where the table has no token price for it."""
    from genai_prices import __version__
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    for provider, name in _spellings(model):
        info = _entry(snapshot, provider, name)
        if info is not None:
            return _tariff(info, f"genai-prices {__version__} {info.id}")
        if name in _LISTED:
            return Tariff(f"{_LISTED_SOURCE} {name}", ((_always, Bands(Rates.exactly(_LISTED[name]))),))
    return None


def canonical(model: str) -> str:
    """Spell a model as bills and outputs can be compared by: ``Claude Haiku 4.5`` is ``claude-haiku-4-5``.

    For a Claude, without router, cloud, date and version suffix; of any other model, the name in lower case.
    """
    name = re.sub(r"\s+", "-", model.strip().lower())
    if "claude" not in name:
        return name
    name = name[name.index("claude") :].partition(":")[0].partition("@")[0].removesuffix("-latest")
    return re.sub(r"-20\d{6}$", "", re.sub(r"-v\d+$", "", _VERSION_DOT.sub("-", name)))


def _spellings(model: str) -> Iterator[tuple[str | None, str]]:
    """Yield (provider or None, name) in the order to try: as written, then without what routers and clouds add.

    ``anthropic/claude-sonnet-4.5``, ``us.anthropic.claude-sonnet-4-5-20250929-v1:0`` and ``claude-3.7-sonnet:thinking``
    are the same models as ``claude-sonnet-4-5`` and ``claude-3-7-sonnet``. A prefix that names no provider is left
    alone unless the model is a Claude: a ``somebody/gpt-4-clone`` is not what OpenAI charges for.
    """
    name = model.strip().lower()
    prefix, slash, tail = name.rpartition("/")
    if "claude" in tail:
        tail = tail[tail.index("claude") :]
        plain = tail.partition(":")[0].removesuffix("-latest")
        for spelling in dict.fromkeys((tail, plain, _VERSION_DOT.sub("-", plain), re.sub(r"-v\d+$", "", plain))):
            yield "anthropic", spelling
        return
    yield None, name
    if slash:
        yield prefix.rpartition("/")[2], tail
        yield prefix.rpartition("/")[2], tail.partition(":")[0]


def _entry(snapshot: DataSnapshot, provider: str | None, name: str) -> ModelInfo | None:
    try:
        return snapshot.find_provider_model(name, None, provider, None)[1]
    except LookupError:
        return None


def _tariff(info: ModelInfo, source: str) -> Tariff | None:
    from genai_prices.types import ModelPrice

    priced = (
        [(_always, info.prices)]
        if isinstance(info.prices, ModelPrice)
        else [(dated.constraint.active if dated.constraint else _always, dated.prices) for dated in info.prices]
    )
    if not priced or any(price.input_mtok is None or price.output_mtok is None for _, price in priced):
        return None
    return Tariff(source, tuple((active, _bands(price)) for active, price in priced))


def _always(_: datetime) -> bool:
    return True


def _bands(price: ModelPrice) -> Bands:
    from genai_prices.types import TieredPrices

    bounds = sorted({t.start for p in price.__dict__.values() if isinstance(p, TieredPrices) for t in p.tiers})
    return Bands(
        Rates.exactly(_per_million(price, 0)), tuple((b, Rates.exactly(_per_million(price, b + 1))) for b in bounds)
    )


def _per_million(price: ModelPrice, prompt_tokens: int) -> PerMillion:
    """Read the prices for a prompt of this many tokens.

    A kind of cached token that the table does not price costs what its next wider kind costs, as genai-prices counts
    it: a 1-hour write like a write, a write or a read like input.
    """
    from genai_prices.types import TieredPrices

    def of(value: Decimal | TieredPrices | None, otherwise: Decimal) -> Decimal:
        if isinstance(value, TieredPrices):
            return next((t.price for t in reversed(value.tiers) if prompt_tokens > t.start), value.base)
        return otherwise if value is None else value

    base = of(price.input_mtok, _NO_PRICE)
    write = of(price.cache_write_mtok, base)
    return PerMillion(
        input=base,
        output=of(price.output_mtok, _NO_PRICE),
        write_5m=of(price.cache_write_5m_mtok, write),
        write_1h=of(price.cache_write_1h_mtok, write),
        read=of(price.cache_read_mtok, base),
        call=of(price.requests_kcount, _NO_PRICE) / 1_000,
    )

"""Rates: what a model charges per token, as integers, so that a bill adds up to the nano-dollar.

USD per million tokens times 1,000 is nano-dollars per token. Prices with more than three decimals make that a fraction;
a `Rates` therefore holds all of its rates multiplied by one common power of ten, its `scale`, and divides once, at the
end of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from pipeline.records import NANOS_PER_USD, Usage

NANOS_PER_TOKEN = 1_000
"""Nano-dollars per token in one USD per million tokens."""

WRITE_5M_FACTOR = Decimal("1.25")
WRITE_1H_FACTOR = Decimal(2)
READ_FACTOR = Decimal("0.1")
"""A price that a job leaves out is this times its input price: the ratios of Anthropic's list (messages-api §9)."""


class ModelPrice(Protocol):
    """The prices that a job states for a model, USD per million tokens; None where it states none."""

    @property
    def input(self) -> Decimal | float:
        """Tokens that are neither read from nor written to the cache."""

    @property
    def output(self) -> Decimal | float:
        """Tokens of the answer, thinking included."""

    @property
    def cache_write(self) -> Decimal | float | None:
        """Tokens written to the cache for 5 minutes; by default 1.25 times `input`."""

    @property
    def cache_write_1h(self) -> Decimal | float | None:
        """Tokens written to the cache for an hour; by default twice `input`."""

    @property
    def cache_read(self) -> Decimal | float | None:
        """Tokens read from the cache; by default a tenth of `input`."""


@dataclass(frozen=True, slots=True)
class PerMillion:
    """USD per million tokens of each kind, and USD per call."""

    input: Decimal
    output: Decimal
    write_5m: Decimal
    write_1h: Decimal
    read: Decimal
    call: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-dollars per token, and per call, times `scale`."""

    input: int
    output: int
    write_5m: int
    write_1h: int
    read: int
    call: int
    scale: int

    @classmethod
    def exactly(cls, price: PerMillion) -> Rates:
        """Turn prices into integers without losing a digit."""
        prices = (price.input, price.output, price.write_5m, price.write_1h, price.read)
        call = price.call * NANOS_PER_USD
        scale = 10 ** max(_decimals(p) for p in (*(dollars * NANOS_PER_TOKEN for dollars in prices), call))

        def per_token(dollars: Decimal) -> int:
            return int(dollars * NANOS_PER_TOKEN * scale)

        return cls(
            input=per_token(price.input),
            output=per_token(price.output),
            write_5m=per_token(price.write_5m),
            write_1h=per_token(price.write_1h),
            read=per_token(price.read),
            call=int(call * scale),
            scale=scale,
        )

    def times(self, factor: Decimal) -> Rates:
        """Give the same rates times a factor, as exactly; what is charged per call stays as it is."""
        if factor == 1:
            return self
        shift = 10 ** _decimals(factor)
        whole = int(factor * shift)
        return Rates(
            input=self.input * whole,
            output=self.output * whole,
            write_5m=self.write_5m * whole,
            write_1h=self.write_1h * whole,
            read=self.read * whole,
            call=self.call * shift,
            scale=self.scale * shift,
        )

    def nanos(self, usage: Usage) -> int:
        """What the call cost, in nano-dollars, half a nano-dollar rounded up."""
        total = (
            self.input * usage.input_tokens
            + self.output * usage.output_tokens
            + self.write_5m * usage.cache_write_5m_tokens
            + self.write_1h * usage.cache_write_1h_tokens
            + self.read * usage.cache_read_tokens
            + self.call
        )
        return total if self.scale == 1 else (2 * total + self.scale) // (2 * self.scale)


@dataclass(frozen=True, slots=True)
class Bands:
    """Rates by the length of the prompt: the band a call falls into prices the whole call, output too.

    Attributes:
        base: up to and including the first bound.
        above: (bound, rates) in ascending order; the rates hold for a prompt of more tokens than the bound, cached
            ones counted.
    """

    base: Rates
    above: Sequence[tuple[int, Rates]] = ()

    def times(self, factor: Decimal) -> Bands:
        """Give every band's rates times a factor."""
        return Bands(self.base.times(factor), tuple((bound, rates.times(factor)) for bound, rates in self.above))

    def rates(self, prompt_tokens: int) -> Rates:
        """Give the rates of a call whose prompt has this many tokens, cached ones counted."""
        rates = self.base
        for bound, higher in self.above:
            if prompt_tokens > bound:
                rates = higher
        return rates

    def nanos(self, usage: Usage) -> int:
        """What the call cost, in nano-dollars."""
        if not self.above:
            return self.base.nanos(usage)
        return self.rates(usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens).nanos(usage)


def stated(price: ModelPrice) -> Rates:
    """Take the prices that a job states; those it leaves out follow from its input price by the factors above."""
    base = decimal(price.input)
    return Rates.exactly(
        PerMillion(
            input=base,
            output=decimal(price.output),
            write_5m=_or(price.cache_write, base * WRITE_5M_FACTOR),
            write_1h=_or(price.cache_write_1h, base * WRITE_1H_FACTOR),
            read=_or(price.cache_read, base * READ_FACTOR),
        )
    )


def decimal(number: Decimal | float) -> Decimal:
    """Read a number as it was written: the float 0.1 is one tenth."""
    return number if isinstance(number, Decimal) else Decimal(repr(number))


def _or(number: Decimal | float | None, otherwise: Decimal) -> Decimal:
    return otherwise if number is None else decimal(number)


def _decimals(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    assert isinstance(exponent, int), "a price is a finite number"
    return max(0, -exponent)

"""Money as people read it: nano-dollars, which is how it is kept, as USD."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from pipeline.records import NANOS_PER_USD

_CENT = Decimal("0.01")
_HUNDREDTH_OF_A_CENT = Decimal("0.0001")


def usd(nanos: int) -> float:
    """Give USD as the float nearest to a whole number of nano-dollars, which is what output columns hold."""
    return nanos / NANOS_PER_USD


def nanos(dollars: Decimal) -> int:
    """Give whole nano-dollars of an amount of USD, half a nano-dollar rounded up."""
    return int((dollars * NANOS_PER_USD).to_integral_value(ROUND_HALF_UP))


def usd_text(nanos: int) -> str:
    """Write an amount for a message: cents from 10 dollars on, else hundredths of a cent; never 0 for what is not.

    ``$12.35``, ``$0.0123``, ``under $0.0001``, ``$0``.
    """
    if nanos == 0:
        return "$0"
    dollars = Decimal(abs(nanos)) / NANOS_PER_USD
    sign = "-" if nanos < 0 else ""
    if dollars < _HUNDREDTH_OF_A_CENT:
        return f"under {sign}${_HUNDREDTH_OF_A_CENT}"
    step = _CENT if dollars >= 10 else _HUNDREDTH_OF_A_CENT
    return f"{sign}${dollars.quantize(step, ROUND_HALF_UP):,}"

"""Money as people read it: nano-dollars, which is how it is kept, as USD."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from pipeline.records import NANOS_PER_USD

CENTS, FINE, NANO = 2, 4, 9
"""Digits after the point: of amounts from 10 dollars on, of smaller ones, and of what money is kept in."""


def usd(nanos: int) -> float:
    """Give USD as the float nearest to a whole number of nano-dollars, which is what output columns hold."""
    return nanos / NANOS_PER_USD


def nanos(dollars: Decimal) -> int:
    """Give whole nano-dollars of an amount of USD, half a nano-dollar rounded up."""
    return int((dollars * NANOS_PER_USD).to_integral_value(ROUND_HALF_UP))


def usd_text(nanos: int) -> str:
    """Write an amount for a message: cents from 10 dollars on, else hundredths of a cent, or finer for less.

    Never 0 for what is not. ``$12.35``, ``$0.0123``, ``$0.000052``, ``$0``.
    """
    digits = _digits(nanos)
    text = _written(nanos, digits)
    # The digits that only tiny amounts have are there to tell something.
    return text if digits <= FINE else text[: FINE - digits] + text[FINE - digits :].rstrip("0")


def usd_texts(*nanos: int) -> tuple[str, ...]:
    """Write amounts that stand beside each other, all with the digits that the smallest of them needs.

    ``$25.0000``, ``$24.9981``, ``$0.0031``.
    """
    digits = max((_digits(amount) for amount in nanos if amount), default=CENTS)
    return tuple(_written(amount, digits) for amount in nanos)


def _digits(nanos: int) -> int:
    """Digits after the point, so that two of them tell something of the amount, but hundredths of a cent at least."""
    dollars = Decimal(abs(nanos)) / NANOS_PER_USD
    if dollars >= 10:
        return CENTS
    return min(NANO, max(FINE, 1 - dollars.adjusted()))


def _written(nanos: int, digits: int) -> str:
    if nanos == 0:
        return "$0"
    dollars = (Decimal(abs(nanos)) / NANOS_PER_USD).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{'-' if nanos < 0 else ''}${dollars:,f}"

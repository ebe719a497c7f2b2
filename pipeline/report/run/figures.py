"""Numbers of a run as people read them: percentiles, durations, amounts."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records import NANOS_PER_USD

Histogram = Sequence[tuple[int, int]]
"""Values with how often each came, ascending."""

SHARES = (0.5, 0.9, 0.95, 0.99)


def percentiles(found: Histogram, shares: Sequence[float] = SHARES) -> list[int]:
    """The smallest values that at least these shares of all are not above (nearest rank); shares ascending."""
    total = sum(number for _, number in found)
    result: list[int] = []
    passed, at = 0, 0
    for share in shares:
        # Without the little that 0.99 * 100 is short of 99 in binary fractions.
        wanted = share * total - 1e-9
        while at < len(found) - 1 and passed + found[at][1] < wanted:
            passed += found[at][1]
            at += 1
        result.append(found[at][0])
    return result


def mean(found: Histogram) -> float:
    """The mean."""
    return sum(value * number for value, number in found) / max(1, sum(number for _, number in found))


def millis(value: float) -> str:
    """Write a latency given in ms: ``85 ms``, ``1.24 s``, ``12.4 s``, ``2 min 05 s``."""
    if value < 1000:
        return f"{value:.0f} ms"
    return duration(value / 1000)


def duration(secs: float) -> str:
    """Write seconds: ``0.42 s``, ``12.4 s``, ``2 min 05 s``, ``3 h 07 min``."""
    if secs < 9.995:
        return f"{secs:.2f} s"
    if secs < 59.95:
        return f"{secs:.1f} s"
    minutes, rest = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def amount(nanos: int) -> str:
    """Write USD for a column."""
    return f"{nanos / NANOS_PER_USD:,.4f}"


def share(part: float, whole: float) -> str:
    """Write a share in percent; never 0 or 100 for what is not quite that."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "under 0.1 %"
    if 99.9 < percent < 100:
        return "over 99.9 %"
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


def many(number: int, noun: str) -> str:
    """Write ``1 row``, ``1,200 rows``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def round_rate(value: float) -> str:
    """Write a rate: three digits are enough."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

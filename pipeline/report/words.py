"""Words that messages and pages share."""

from __future__ import annotations


def many(number: int, noun: str) -> str:
    """``1 row``, ``1,200 rows``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")

"""What the terms of a call do to its price."""

from __future__ import annotations

import re
from decimal import Decimal

from pipeline.records import Terms

BATCH_FACTOR = Decimal("0.5")
US_FACTOR = Decimal("1.1")
FAST_FACTOR = Decimal(2)
SEARCH_NANOS = 10_000_000
"""Nano-dollars of one web search: USD 10 per 1,000. Fetches cost their tokens only."""

US_SINCE = (4, 6)
"""The first version of a Claude model whose calls cost more when they are kept in the US (messages-api §9)."""
FAST_MODELS = frozenset({("opus", 4, 8), ("opus", 5, 0), ("opus", 5, 5)})
"""Whose fast mode costs twice the usual price; what others charge for theirs is not known (messages-api §9)."""

_MODEL = re.compile(r"claude-([a-z]+)-(\d{1,2})(?:-(\d{1,2}))?(?!\d)")


def factor(terms: Terms, model: str, batch: Decimal = BATCH_FACTOR) -> Decimal | None:
    """Give what the price of all tokens is multiplied by.

    Args:
        terms: how the call was served.
        model: whose prices are taken, in its canonical spelling.
        batch: what this model's batch price is of its usual one.

    Returns:
        None where the call was fast and the model's price for that is not known.
    """
    found = _MODEL.search(model)
    version = (int(found[2]), int(found[3] or 0)) if found else None
    product = batch if terms.batch else Decimal(1)
    if terms.us and version is not None and version >= US_SINCE:
        product *= US_FACTOR
    if terms.fast:
        if found is None or version is None or (found[1], *version) not in FAST_MODELS:
            return None
        product *= FAST_FACTOR
    return product

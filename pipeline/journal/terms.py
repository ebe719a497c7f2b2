"""The terms of a call as an attempt's row has them: a short JSON object, or NULL where nothing was unusual."""

from __future__ import annotations

import json
import sqlite3

import zstandard

from pipeline.journal.bodies import DAMAGE
from pipeline.records import USUAL, Terms

_UNUSUAL = (b'"batch"', b'"us"', b'"fast"', b"web_search_requests")
"""Without one of these, in small letters, an answer's usage holds nothing unusual."""


def terms_text(terms: Terms) -> str | None:
    """Write terms: ``{"batch": true, "web_searches": 2}``; None where all is usual."""
    if terms == USUAL:
        return None
    told = {name: getattr(terms, name) for name in Terms.__slots__}
    return json.dumps({name: value for name, value in told.items() if value})


def read_terms(text: str | None) -> Terms:
    """Read what `terms_text` wrote."""
    return Terms(**json.loads(text)) if text else USUAL


def add_terms_of(connection: sqlite3.Connection) -> None:
    """Give SQL the function ``terms_of(body)``: the terms in a stored response, for journals that lack them."""
    decompress = zstandard.ZstdDecompressor().decompress

    def terms_of(body: bytes | None) -> str | None:
        if body is None:
            return None
        try:
            raw = decompress(body)
            lower = raw.lower()
            if not any(word in lower for word in _UNUSUAL):
                return None
            found = json.loads(raw)
        except (*DAMAGE, RecursionError):
            # A damaged answer is asked again; what it was billed stays.
            return None
        return terms_text(Terms.of(found.get("usage"))) if isinstance(found, dict) else None

    connection.create_function("terms_of", 1, terms_of, deterministic=True)

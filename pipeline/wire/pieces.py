"""How the pieces of a streamed answer are put together: texts joined, members laid over each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from pipeline.wire.decode import Unusable


def whole(pieces: list[str]) -> str:
    """The join of texts, halves of characters made whole."""
    text = "".join(pieces)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def overlay(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Put changes over a mapping, which comes back; null changes nothing."""
    for name, value in changes.items():
        if value is not None or name not in base:
            base[name] = value
    return base


def keep_first(base: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add members; those that already say something stay."""
    for name, value in more.items():
        if not base.get(name):
            base[name] = value


def written(found: dict[str, Any]) -> bytes:
    """Write as JSON.

    Raises:
        Unusable: it is nested too deeply, holds a number beyond 64 bits or half a character.
    """
    try:
        return orjson.dumps(found)
    except TypeError as error:
        raise Unusable(f"a stream that cannot be written as JSON: {error}") from error

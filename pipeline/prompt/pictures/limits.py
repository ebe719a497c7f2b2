"""What the API takes of pictures, as dated data per family of models, and the arithmetic of sizes and tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date

from pipeline.job.rules import FROM_47, OLD, RETIRED, V46, is_one_of, known_name

CHECKED = date(2026, 11, 22)
"""When the table was last compared with its source."""

SOURCE = "D:build-with-claude/vision"

PATCH = 28
"""Pixels on each side of what one token stands for (messages-api §6)."""

MAX_SIDE = 8_000
"""Pixels on a side that no request may pass, whatever the model."""

MANY = 20
"""A request with more pictures than this takes none with a side above `MANY_SIDE`."""

MANY_SIDE = 2_000
REQUEST_BYTES = 32 * 1000 * 1000
"""What a request may have in all (messages-api §5.1)."""

OTHER_BYTES = 512 * 1000
"""Of it, what is left for all that is no picture where the pictures alone would fill it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one family takes.

    Attributes:
        models: short names as globs; empty for all others.
        long_side: pixels of the longer side above which the API scales down by itself.
        tokens: of one picture, likewise.
        base64_bytes: one picture at most, as base64 text.
        most: pictures in a request.
        side: pixels that neither side may pass.
    """

    models: tuple[str, ...]
    long_side: int
    tokens: int
    base64_bytes: int
    most: int
    side: int = MAX_SIDE


_MEGABYTE = 1000 * 1000

FAMILIES: tuple[Limits, ...] = (
    Limits(FROM_47, 2_576, 4_784, 10 * _MEGABYTE, 600),
    Limits(V46, 1_568, 1_568, 10 * _MEGABYTE, 600),
    Limits((*OLD, *RETIRED), 1_568, 1_568, 10 * _MEGABYTE, 100),
)
"""Claudes by family (SOURCE, as of CHECKED; 100 pictures where the context has 200k tokens)."""

OTHERS = Limits((), 1_568, 1_568, 5 * _MEGABYTE, 100)
"""Everything else: the smallest of what is documented anywhere."""

_RESOLD = ("anthropic.", "@")
"""In names of Bedrock and Google, which take 5 MB of base64."""


def limits_of(model: str, *, max_side: int | None = None) -> Limits:
    """Give what a model takes.

    Args:
        model: as the request names it.
        max_side: the job's own limit of the longer side. Above what the family scales down to, it takes the place of
            the family's token limit too: who asks for larger pictures shall have them.
    """
    name = known_name(model)
    limits = next((family for family in FAMILIES if is_one_of(name, family.models)), OTHERS)
    if any(mark in model for mark in _RESOLD):
        limits = replace(limits, base64_bytes=min(limits.base64_bytes, OTHERS.base64_bytes))
    if max_side is None:
        return limits
    tokens = limits.tokens if max_side <= limits.long_side else patches(max_side, max_side)
    return replace(limits, long_side=min(max_side, limits.side), tokens=tokens)


def for_many(limits: Limits, pictures: int) -> Limits:
    """Give the limits in a request of so many pictures."""
    if pictures <= MANY:
        return limits
    return replace(limits, long_side=min(limits.long_side, MANY_SIDE), side=min(limits.side, MANY_SIDE))


def patches(width: int, height: int) -> int:
    """Count the tokens of a picture that is sent in this size."""
    return math.ceil(width / PATCH) * math.ceil(height / PATCH)


def fits(width: int, height: int, limits: Limits) -> bool:
    """Whether the API would take this size as it is, without scaling down."""
    long_side = max(width, height)
    return long_side <= min(limits.long_side, limits.side) and patches(width, height) <= limits.tokens


def fitted(width: int, height: int, limits: Limits) -> tuple[int, int]:
    """Give the largest size of the same shape that fits; the size itself where it fits.

    Args:
        width: in pixels, from 1.
        height: likewise.
        limits: of the request at hand.
    """
    if fits(width, height, limits):
        return width, height
    long_side, short_side = max(width, height), min(width, height)
    low, high = 1, min(long_side, limits.long_side, limits.side)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(*_scaled(middle, long_side, short_side), limits):
            low = middle
        else:
            high = middle - 1
    new_long, new_short = _scaled(low, long_side, short_side)
    return (new_long, new_short) if width >= height else (new_short, new_long)


def _scaled(to: int, long_side: int, short_side: int) -> tuple[int, int]:
    return to, max(1, round(short_side * to / long_side))


def picture_tokens(width: int, height: int, model: str, *, max_side: int | None = None) -> int:
    """Estimate the input tokens of a picture: a token for each patch of 28 by 28 pixels after scaling down.

    Args:
        width: in pixels, as stored or upright; 0 where it is not known, which counts as the most there is.
        height: likewise.
        model: as the request names it.
        max_side: `prompt.image.max_side`.
    """
    limits = limits_of(model, max_side=max_side)
    if width < 1 or height < 1:
        return limits.tokens
    return min(patches(*fitted(width, height, limits)), limits.tokens)

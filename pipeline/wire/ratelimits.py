"""What a server says of its rate limits: in headers, in three spellings, and in the words of a refusal.

Sources: messages-api §2 (headers), §10 (what they count).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from pipeline.records import RATE_KINDS, RateHeaders, RateKind, RateLimit


def _names(kind: RateKind, spelling: str) -> tuple[RateKind, str, str, str]:
    limit, remaining, reset = (spelling.format(what) for what in ("limit", "remaining", "reset"))
    return kind, limit, remaining, reset


NAMES = (
    *(_names(kind, f"anthropic-ratelimit-{kind.replace('_', '-')}-{{}}") for kind in RATE_KINDS),
    _names("requests", "x-ratelimit-{}-requests"),
    _names("tokens", "x-ratelimit-{}-tokens"),
)
"""Kinds and the three headers that tell them; the first spelling that is there counts."""

_SPAN = re.compile(
    r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
_SPAN_SECS = (86_400.0, 3600.0, 60.0, 1.0, 0.001)


def rate_headers(headers: Mapping[str, str], now: datetime | None = None) -> RateHeaders | None:
    """The limits that headers tell; None where they tell none. What cannot be read counts as left out.

    Args:
        headers: in lower case, or a case-insensitive mapping.
        now: the present, for servers that send no `date`; a wrong clock here then shifts what resets at a time of day.
    """
    found: dict[RateKind, RateLimit] = {}
    for kind, limit, remaining, reset in NAMES:
        if kind in found:
            continue
        standing = RateLimit(
            _amount(headers.get(limit)), _amount(headers.get(remaining)), reset_secs(headers.get(reset), headers, now)
        )
        if standing.limit is not None or standing.remaining is not None:
            found[kind] = standing
    return RateHeaders(found) if found else None


def reset_secs(text: str | None, headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds until a limit is whole again: RFC 3339, a span such as `6m0s` or `120ms`, or plain seconds."""
    if not text:
        return None
    text = text.strip()
    if (number := _amount(text)) is not None:
        return number
    if (span := _SPAN.fullmatch(text)) is not None:
        return sum(float(part) * secs for part, secs in zip(span.groups(), _SPAN_SECS, strict=True) if part)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - (_date(headers.get("date")) or now or datetime.now(UTC))).total_seconds())


class RateReader:
    """Reads the limits out of headers now and then: often enough to follow them, too seldom to cost anything.

    Args:
        clock: seconds on a monotonic clock.
        every_secs: headers that come sooner after the last ones are passed over.
    """

    __slots__ = ("_clock", "_every_secs", "_next")

    def __init__(self, clock: Callable[[], float], every_secs: float = 0.25) -> None:
        self._clock = clock
        self._every_secs = every_secs
        self._next = -math.inf

    def read(self, headers: Mapping[str, str]) -> RateHeaders | None:
        """The limits, or None where they are passed over or not told."""
        now = self._clock()
        if now < self._next:
            return None
        self._next = now + self._every_secs
        return rate_headers(headers)


_WORDS = re.compile(r"rate limit of ([\d,]+) (input tokens|output tokens|tokens|requests) per minute", re.IGNORECASE)
_KIND_WORDS = re.compile(
    r"\b(input|output)[ _-]tokens?\b|\b(?:tokens? per min|TPM)\b|\b(?:requests? per min|RPM)\b", re.IGNORECASE
)


def named_limit(text: str) -> tuple[RateKind, float | None] | None:
    """Which limit the words of a 429 say was met, and how much it allows a minute where they say so."""
    if (words := _WORDS.search(text)) is not None:
        kind: RateKind = words[2].lower().replace(" ", "_")  # type: ignore[assignment]  # one of the pattern's four
        return kind, _amount(words[1].replace(",", "")) or None
    if (words := _KIND_WORDS.search(text)) is None:
        return None
    if words[1]:
        return ("input_tokens" if words[1].lower() == "input" else "output_tokens"), None
    return ("tokens" if words[0].lower().startswith("t") else "requests"), None


def _amount(text: str | None) -> float | None:
    """A number from 0 on, or None."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)

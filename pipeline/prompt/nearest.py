"""Nearest names: what somebody who wrote a name that does not exist may have meant."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

_NEAR = 0.6
_SHOWN = 8


def listed(options: Sequence[str]) -> str:
    """Write what there is, in its own order, and at most eight of it."""
    more = f" and {len(options) - _SHOWN} more" if len(options) > _SHOWN else ""
    return ", ".join(options[:_SHOWN]) + more


def nearest(name: str, options: Sequence[str]) -> str | None:
    """Give the most alike name, if any is alike at all; the first of equally alike ones. Case does not count."""
    near = max(options, key=lambda option: _likeness(name, option), default=None)
    return near if near is not None and _likeness(name, near) >= _NEAR else None


def did_you_mean(name: str, options: Sequence[str]) -> str:
    """End a sentence with the most alike name, or with nothing."""
    near = nearest(name, options)
    return f"; did you mean {near}?" if near else ""


def _likeness(name: str, option: str) -> float:
    return SequenceMatcher(None, name.lower(), option.lower()).ratio()

"""Nearest names: what somebody who wrote a name that does not exist may have meant."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

_NEAR = 0.6
_SHOWN = 8


def by_nearness(name: str, options: Sequence[str]) -> list[str]:
    """Sort names, the most alike first; equally alike ones keep their order. Case does not count."""
    return sorted(options, key=lambda option: -_likeness(name, option))


def listed(name: str, options: Sequence[str]) -> str:
    """Write what there is, the most alike first, and at most eight of it."""
    near = by_nearness(name, options)
    more = f" and {len(near) - _SHOWN} more" if len(near) > _SHOWN else ""
    return ", ".join(near[:_SHOWN]) + more


def nearest(name: str, options: Sequence[str]) -> str | None:
    """Give the most alike name, if any is alike at all."""
    near = by_nearness(name, options)
    return near[0] if near and _likeness(name, near[0]) >= _NEAR else None


def did_you_mean(name: str, options: Sequence[str]) -> str:
    """End a sentence with the most alike name, or with nothing."""
    near = nearest(name, options)
    return f"; did you mean {near}?" if near else ""


def _likeness(name: str, option: str) -> float:
    return SequenceMatcher(None, name.lower(), option.lower()).ratio()

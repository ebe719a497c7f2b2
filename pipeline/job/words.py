"""How complaints are worded: what was found, which names are near, and nothing that looks like a key."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

SHORTEST_SECRET = 4
"""Shorter values of the environment, such as ``1`` or ``eu``, are no secrets, and masking them would spoil messages."""

_SHOWN_CHARS = 60
_SHOWN_NAMES = 8
_KEY_LIKE = re.compile(r"\bsk-[A-Za-z0-9_-]{6,}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(text: str) -> str:
    """Make text safe to print in one line: control characters and halves of surrogate pairs become escapes."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def hide_keys(text: str) -> str:
    """Hide what looks like an API key, wherever it was pasted."""
    return _KEY_LIKE.sub("sk-***", text)


def mask(text: str, secrets: Mapping[str, str]) -> str:
    """Put the name, as ``${env:NAME}``, where a secret value stands; `secrets` maps value to name.

    Found are also a value in other case (hosts), with its control characters escaped, as a path is shortened, and what
    is left of it where a message was cut. Longer values go first, so that one which holds another leaves no half.
    """
    for value in sorted(secrets, key=len, reverse=True):
        name = f"${{env:{secrets[value]}}}"
        for form in sorted(
            {value, one_line(value), os.path.normpath(value), str(PurePath(value))}, key=len, reverse=True
        ):
            if len(form) >= SHORTEST_SECRET:
                text = re.sub(re.escape(form), lambda _, name=name: name, text, flags=re.IGNORECASE)  # type: ignore[misc]
                text = _mask_cut(text, form, name)
    return hide_keys(text)


def _mask_cut(text: str, form: str, name: str) -> str:
    for length in range(min(len(form), _SHOWN_CHARS) - 1, SHORTEST_SECRET - 1, -1):
        if (beginning := f"{form[:length]}…") in text:
            text = text.replace(beginning, f"{name}…")
    return text


def quoted(text: str) -> str:
    """Show text as it was written, cut where it is long."""
    short = text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
    return f'"{one_line(short)}"'


def shown_path(path: object) -> str:
    """Show a path whole, so that it can be copied."""
    return f'"{one_line(str(path))}"'


def listed(names: Collection[str]) -> str:
    """Write names with commas, at most eight of them."""
    shown = [one_line(name) for name in list(names)[:_SHOWN_NAMES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def nearest(name: str, options: Collection[str]) -> str | None:
    """Give the option most like `name`, or None where none is alike; case does not count."""
    by_lower = {option.lower(): option for option in sorted(options, reverse=True)}
    # difflib is quadratic: a name longer than any sensible option is like none of them.
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6) if len(name) <= 200 else []
    return by_lower[near[0]] if near else None


def did_you_mean(name: str, options: Collection[str]) -> str:
    """End a sentence with the nearest name, or with nothing."""
    near = nearest(name, options)
    return f"; did you mean {near}?" if near else ""


def counted(number: int, noun: str) -> str:
    """Write ``1 row``, ``2 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def found(value: Any) -> str:
    """Say what was found, for the end of a sentence."""
    if isinstance(value, Mapping):
        return f"a mapping with {listed([str(key) for key in value])}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {counted(len(value), 'item')}" if value else "an empty list"
    text = getattr(value, "text", value)
    if text is None or getattr(value, "is_null", False):
        return "nothing" if not text else f"{text}, which is YAML's word for nothing"
    return quoted(str(text))

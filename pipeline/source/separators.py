"""A header that was read as another than was meant: by the wrong separator, or from a line of notes before it."""

from __future__ import annotations

from collections.abc import Sequence

SEPARATORS = {";": "';'", ",": "','", "|": "'|'", "\t": '"\\t"'}
"""Each with how a job file spells it."""


def unseen_separator(columns: Sequence[str]) -> str:
    """Say what to set where the one column there is looks like several, or that a line of notes became the header.

    Nothing where it looks like neither. A header may begin with #, so this is for where a column is missed.
    """
    first = columns[0] if columns else ""
    likely = max(SEPARATORS, key=first.count)
    several = len(columns) == 1 and likely in first
    if first.startswith("# ") or (first.startswith("#") and len(columns) == 1 and not several):
        return (
            "its header was read from a line that begins with #: lines before the header are not skipped, remove them"
        )
    return f"its header was read as one column: set source.csv.separator to {SEPARATORS[likely]}" if several else ""

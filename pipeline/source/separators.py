"""Another separator than the one a file was read by, seen in a header that came out as one column."""

from __future__ import annotations

from collections.abc import Sequence

SEPARATORS = {";": "';'", ",": "','", "|": "'|'", "\t": '"\\t"'}
"""Each with how a job file spells it."""


def unseen_separator(columns: Sequence[str]) -> str:
    """Say what to set where the one column there is looks like several; nothing where it does not."""
    if len(columns) != 1:
        return ""
    likely = max(SEPARATORS, key=columns[0].count)
    if likely not in columns[0]:
        return ""
    return f"its header was read as one column: set source.csv.separator to {SEPARATORS[likely]}"

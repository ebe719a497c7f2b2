"""What a plain scalar means where its field does not say: the core schema of YAML 1.2, a little stricter.

Stricter in one point: a number with leading zeros, such as ``007``, is somebody's label and stays text. Dates, times,
``yes``, ``no``, ``on`` and ``off`` are text in YAML 1.2 anyway.
"""

from __future__ import annotations

import math
import re

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

_INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
_BASED = re.compile(r"0x[0-9a-fA-F]{1,32}|0o[0-7]{1,32}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")
_SPECIAL = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_NOT_A_NUMBER = frozenset({".nan", ".NaN", ".NAN"})
_LONGEST_NUMBER = 400

_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
"""What columns and JSON carry; a longer row of digits is a label and stays text."""

CoreValue = str | int | float | bool | None


def number(text: str) -> int | float | None:
    """Read a number where one is wanted: ``16``, ``007``, ``0x10``, ``0.5``, ``1e3``; None for all else.

    A float that is out of range comes back as infinity.
    """
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if len(text) <= _LONGEST_NUMBER and _FLOAT.fullmatch(text):
        return float(text)
    return None


def core(text: str) -> CoreValue:
    """Read a plain scalar by its looks: null, true, false, a number, or the text itself."""
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    if _BASED.fullmatch(text):
        value = int(text, 0)
        return value if value <= _LARGEST else text
    if special := _SPECIAL.fullmatch(text):
        return -math.inf if special[1] == "-" else math.inf
    if text in _NOT_A_NUMBER:
        return math.nan
    if _LEADING_ZERO.match(text):
        return text
    decimal = number(text)
    if decimal is None or (isinstance(decimal, int) and not _SMALLEST <= decimal <= _LARGEST):
        return text
    return decimal

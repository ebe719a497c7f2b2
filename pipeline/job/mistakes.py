"""Mistakes in YAML that people make by hand: what to write instead, where the parser only says what it expected."""

from __future__ import annotations

import re
from collections.abc import Sequence

from yaml import MarkedYAMLError

from pipeline.job.nodes import Mark

_KEY_WITHOUT_BLANK = re.compile(r"\s*([\w-]+):(?![\s/\\]|$)(\S.*)")
_STARTS_BADLY = re.compile(r"found character '([@`%|>&*!?])' that cannot start any token")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def advice(error: MarkedYAMLError, lines: Sequence[str]) -> tuple[Mark | None, str]:
    """Say what would be right, for the end of a sentence; nothing where there is nothing to add.

    Args:
        error: the parser's.
        lines: of the text.

    Returns:
        The place to look at where that is another than the error's, and the words.
    """
    problem, at, context = error.problem or "", error.problem_mark, error.context_mark
    if at is None:
        return None, ""
    line = lines[at.line] if at.line < len(lines) else ""
    if "escape" in problem:
        return (
            None,
            "a backslash in double quotes begins an escape; write the text in single quotes, or each \\ as \\\\",
        )
    if "unexpected end of stream" in problem and context is not None and "quoted" in (error.context or ""):
        return Mark(context.line + 1, context.column + 1), "the quote that opens here is never closed"
    if "expected <block end>" in problem and context is not None:
        return None, (
            f"it is indented by {_blanks(at.column)}, and what it stands in, from line {context.line + 1} on, by "
            f"{_blanks(context.column)}: give all keys of one section the same indentation"
        )
    if "mapping values are not allowed" in problem:
        return _no_mapping_here(at.line, at.column, line, lines)
    if "could not find expected ':'" in problem and context is not None:
        return Mark(context.line + 1, context.column + 1), (
            "this line is no key: value; a text that goes on is indented deeper than its key"
        )
    if bad := _STARTS_BADLY.match(problem):
        return None, f"a text that starts with {bad[1]} needs quotes"
    return None, ""


def _blanks(number: int) -> str:
    return f"{number} blank{'' if number == 1 else 's'}"


def _no_mapping_here(number: int, column: int, line: str, lines: Sequence[str]) -> tuple[Mark | None, str]:
    """A colon where a text goes on: a text without quotes, a key without a blank behind it, or a wrong indentation."""
    if ": " in line[:column]:
        return (
            None,
            "a second `: ` stands in this line; put a text that holds it in quotes, and a key on a line of its own",
        )
    before = next((place for place in range(number - 1, -1, -1) if lines[place].strip()), None)
    if before is None:
        return None, ""
    if close := _KEY_WITHOUT_BLANK.fullmatch(lines[before]):
        return Mark(before + 1, close.end(1) + 1), f"a colon needs a blank behind it; write {close[1]}: {close[2]}"
    return None, f"it is indented deeper than line {before + 1}, which has a value already; indent both alike"


def number_meant(text: str) -> str:
    """Say how a number is written, for the end of a sentence; nothing where none seems meant."""
    if _THOUSANDS.fullmatch(text):
        return f"; write {text.replace(',', '')}, without a comma"
    if _DECIMAL_COMMA.fullmatch(text):
        return f"; write {text.replace(',', '.')}, with a point"
    return ""

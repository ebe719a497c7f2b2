r"""DATASET: a request's rows as a table in text, so that a reader could parse every value back.

csv: RFC 4180 with a header and `\n` between lines. Null is an empty field, the empty text `""`; text with a comma, a
quote, a line break or blanks at its ends is quoted. Where the last line would be empty (a null in a table of one
column) the text ends in `\n`, or the row would not be seen.

json: one array of objects. ndjson: one object a line. Numbers keep every digit.

markdown: a pipe table. In a cell `\` is written `\\`, `|` is `\|`, a line break `\n` or `\r`; null is an empty cell,
the empty text `""`, and a text that is itself `""` is written `\""`.

No format ends in a line break, apart from csv in the case above.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.prompt.values import NoTextError, json_bytes, json_lines, text

Rows = Sequence[Mapping[str, Any]]
Writer = Callable[[Rows, Sequence[str]], str]


def csv(rows: Rows, columns: Sequence[str]) -> str:
    """Write rows as CSV with a header."""
    cells = [_cells([row[column] for row in rows], _csv_text) for column in columns]
    lines = [",".join(map(_csv_text, columns)), *map(",".join, zip(*cells, strict=True))]
    if not lines[-1]:
        lines.append("")
    return "\n".join(lines)


def json(rows: Rows, columns: Sequence[str]) -> str:
    """Write rows as one JSON array of objects, on one line."""
    return json_bytes([{column: row[column] for column in columns} for row in rows]).decode()


def ndjson(rows: Rows, columns: Sequence[str]) -> str:
    """Write rows as one JSON object a line."""
    return json_lines([{column: row[column] for column in columns} for row in rows]).decode()


def markdown(rows: Rows, columns: Sequence[str]) -> str:
    """Write rows as a Markdown table."""
    cells = [_cells([row[column] for row in rows], _markdown_text) for column in columns]
    lines = [map(_markdown_text, columns), ["---"] * len(columns), *zip(*cells, strict=True)]
    return "\n".join([f"| {' | '.join(line)} |" for line in lines])


WRITERS: Mapping[str, Writer] = {"csv": csv, "json": json, "ndjson": ndjson, "markdown": markdown}
"""By the words of `prompt.dataset.format`."""


def write(rows: Rows, columns: Sequence[str], form: str) -> str:
    """Write rows in the form that `prompt.dataset.format` names.

    Raises:
        NoTextError: a value has no text form; the message names its column.
    """
    try:
        return WRITERS[form](rows, columns)
    except NoTextError:
        for column in columns:
            for row in rows:
                _name_column(column, row[column])
        raise


def _name_column(column: str, value: Any) -> None:
    try:
        json_bytes(value)
    except NoTextError as error:
        raise NoTextError(f"column {column}: {error}; prompt.dataset.columns can leave the column out") from error


def _cells(values: Sequence[Any], written: Callable[[str], str]) -> list[str]:
    """Write a column's values; text as `written` does. Columns of one type, which most are, go in one sweep."""
    kinds = set(map(type, values))
    if kinds == {str}:
        return list(map(written, values))
    if kinds == {int}:
        return list(map(str, values))
    if kinds == {float} and all(map(math.isfinite, values)):
        return list(map(repr, values))
    return [
        "" if value is None else text(value) if isinstance(value, (int, float)) else written(text(value))
        for value in values
    ]


_NEEDS_QUOTES = re.compile(r'[",\r\n]|^\s|\s$|^$').search


def _csv_text(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if _NEEDS_QUOTES(value) else value


_NEEDS_ESCAPES = re.compile(r"[\\|\n\r]").search
_MARKDOWN = str.maketrans({"\\": "\\\\", "|": "\\|", "\n": "\\n", "\r": "\\r"})


def _markdown_text(value: str) -> str:
    if value in ("", '""'):
        return '\\""' if value else '""'
    return value.translate(_MARKDOWN) if _NEEDS_ESCAPES(value) else value

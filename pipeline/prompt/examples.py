"""Examples: the job's own `tests`, rendered and compared; nothing is sent."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import Complaint, JobError, RowError
from pipeline.prompt.nearest import listed
from pipeline.prompt.prompts import Prompts, in_file_order, in_order, parse
from pipeline.prompt.shape import Example, TestedJob
from pipeline.records import Row

_AROUND = 20
"""Characters shown on each side of a difference."""


def check_examples(job: TestedJob, columns: Collection[str] | None = None) -> list[Complaint]:
    """Render each of the job's examples and compare.

    An example brings its own columns, and DATASET shows them in the example's order. `prompt` is compared with the text
    of the last user turn, `system` with the system text: exactly, but for line breaks at their end, which YAML blocks
    add. Of a list of blocks, the text is that of its text blocks, one right after the other.

    Args:
        job: whose `tests` and `prompt` are read.
        columns: the source's real columns, if known; an example that has others is complained about. In the source's
            order; a set is taken in the order of its names.

    Returns:
        One complaint for each thing that differs or cannot be rendered, in the order of the file; the templates' own
        where they cannot be parsed.
    """
    _, complaints = parse(job)
    if complaints:
        return list(complaints)
    source = None if columns is None else in_order(columns)
    return in_file_order(
        job.complain(path, message)
        for index, example in enumerate(job.tests)
        for path, message in _check(job, example, f"tests.{index}", source)
    )


def _check(job: TestedJob, example: Example, path: str, source: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    rows, where = _rows(example, path)
    if not rows:
        yield path, "has neither row nor rows; one of them would be right"
        return
    own = tuple(dict.fromkeys(name for row in rows for name in row))
    if source is not None:
        for name in own:
            if name not in source:
                yield where, f"has the column {name}, but the source has {listed(source)}"
    uneven = [name for name in own if any(name not in row for row in rows)]
    if uneven:
        yield where, f"has {', '.join(uneven)} in some rows only; every row of an example has the same columns"
        return
    try:
        built = Prompts(job, own, owner="this example", source=source).messages(Row(example.name or path, rows))
    except JobError as error:
        yield from ((where, f"{complaint.path} {complaint.message}") for complaint in error.complaints)
    except RowError as error:
        yield path, str(error)
    else:
        yield from _compare(example, built, path)


def _rows(example: Example, path: str) -> tuple[Sequence[Mapping[str, Any]], str]:
    if example.row is not None:
        return (example.row,), f"{path}.row"
    return tuple(example.rows or ()), f"{path}.rows"


def _compare(example: Example, built: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    if example.system is not None:
        difference = first_difference(example.system, _text(built.get("system", "")))
        if difference:
            yield f"{path}.system", difference
    if example.prompt is not None:
        user = [turn["content"] for turn in built["messages"] if turn["role"] == "user"]
        difference = first_difference(example.prompt, _text(user[-1]) if user else "")
        if difference:
            yield f"{path}.prompt", difference


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    """Give the text of a content: of a list of blocks that of its text blocks, one right after the other."""
    if isinstance(content, str):
        return content
    return "".join(block["text"] for block in content if block.get("type") == "text")


def first_difference(expected: str, found: str) -> str | None:
    """Say in one line where two texts part; None where they are the same but for line breaks at their end."""
    expected, found = expected.rstrip("\n"), found.rstrip("\n")
    if expected == found:
        return None
    at = next(
        (index for index, (left, right) in enumerate(zip(expected, found, strict=False)) if left != right),
        min(len(expected), len(found)),
    )
    line = expected.count("\n", 0, at) + 1
    column = at - (expected.rfind("\n", 0, at) + 1) + 1
    return (
        f"differs at line {line}, column {column}: expected {_excerpt(expected, at)}, the job renders "
        f"{_excerpt(found, at)}"
    )


def _excerpt(text: str, at: int) -> str:
    if at >= len(text):
        return f"the end after {_quoted(text[max(0, at - _AROUND) : at])}" if text else "nothing"
    start, end = max(0, at - _AROUND), at + _AROUND
    return ("…" if start else "") + _quoted(text[start:end]) + ("…" if end < len(text) else "")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

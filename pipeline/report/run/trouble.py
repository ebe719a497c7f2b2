"""Trouble on the way: calls that ended with an error, by kind with examples, and how often rows were asked."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.page import Figure, Table
from pipeline.report.page.text import line
from pipeline.report.run.figures import many, share
from pipeline.report.run.ledger import Trouble
from pipeline.report.run.view import View

EXAMPLES = 2
MOST_KINDS = 30
LONGEST_MESSAGE = 400
LONGEST_NAME = 80
MOST_CALLS = 8
"""Rows that took more calls than this are told together."""


def trouble(view: View) -> Figure | None:
    """Errors by kind, with examples, and calls per row."""
    ended, _ = view.calls
    if not ended:
        return None
    kinds = view.ledger.trouble(EXAMPLES)[:MOST_KINDS]
    per_row = view.ledger.calls_per_row()
    rows = sum(number for _, number in per_row)
    retried = ended - rows
    errors = sum(each.calls for each in kinds)
    text = f"{many(ended, 'call')} for {many(rows, 'row')}: {retried:,} after a row's first."
    text += f" {many(errors, 'call')} ended with an error." if errors else " None ended with an error."
    turns = sum(paid.calls for paid in view.paid.get("asked again", {}).values())
    if turns:
        text += f" {many(turns, 'answer')} led to another call: a repair, a pause, or asked anew."
    table = _kinds(view, kinds) if kinds else None
    return Figure("Retries and errors", text, table=table, tables=[("Calls per row", _per_row(per_row, rows))])


def _kinds(view: View, kinds: Sequence[Trouble]) -> Table:
    cells = [
        [
            line(each.kind),
            "" if each.http_status is None else str(each.http_status),
            f"{each.calls:,}",
            f"{each.rows:,}",
            f"{each.calls - each.final:,}",
            f"{each.final:,}",
            "; ".join(_example(view, *example) for example in each.examples),
        ]
        for each in kinds
    ]
    heads = ["error", "HTTP", "calls", "rows", "asked again", "final", "such as"]
    return Table(heads, cells, range(1, 6), texts={6})


def _example(view: View, message: str, number: int, row: str) -> str:
    """A message, how often it came, and for which row; of one that is wanted no more nobody knows the name."""
    mask = view.asked.mask
    name = f", {'' if number == 1 else 'such as '}row {line(mask(row), LONGEST_NAME)}" if row else ""
    return f"{_often(number)}{name}: {line(mask(message), LONGEST_MESSAGE)}"


def _often(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _per_row(per_row: list[tuple[int, int]], rows: int) -> Table:
    cells = [[f"{calls:,}", f"{number:,}", share(number, rows)] for calls, number in per_row if calls <= MOST_CALLS]
    more = sum(number for calls, number in per_row if calls > MOST_CALLS)
    if more:
        cells.append([f"{MOST_CALLS + 1} to {per_row[-1][0]:,}", f"{more:,}", share(more, rows)])
    return Table(["calls", "rows", "share"], cells, {0, 1, 2})

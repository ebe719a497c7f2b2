"""The rows: what came of them, those that are not ok with their reasons, and some answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime
from itertools import islice
from typing import Any

from pipeline.report.page import Card, Figure, Table, bars
from pipeline.report.page.text import line, shown
from pipeline.report.run.figures import many, millis, share
from pipeline.report.run.ledger import Fallen, Picked
from pipeline.report.run.view import STATUSES, View

PALETTE = {"ok": 2, "truncated": 1, "refused": 3, "invalid": 5, "failed": 4, "pending": 7}
"""Which of the page's colours a status has."""

MOST_MODELS = 8
MOST_FALLEN = 40
MOST_REASONS = 30
WANTED = {"ok": 18, "truncated": 3, "refused": 3, "invalid": 6}
"""How many answers of each status are shown."""

LONGEST_ANSWER = 1_200
LONGEST_CELL = 300
LONGEST_MESSAGE = 500
LONGEST_NAME = 160
LONGEST_INPUT = 48
MOST_INPUTS = 3
"""Kept input columns that stand beside a row's name, to tell which it is."""

MOST_CELLS = 12


def outcome(view: View) -> Figure:
    """Rows by status, and by model where several answered."""
    statuses = [name for name in STATUSES if view.rows[name]]
    if not statuses:
        return Figure("Outcome", "The plan has no rows.")
    several = len(view.outcomes) > 1
    models = sorted(view.outcomes, key=lambda name: (-sum(view.outcomes[name].values()), name))
    labels = _labels(models[:MOST_MODELS]) if several else {models[0]: "rows"}
    records = [
        {"name": label, "series": name, "rank": rank, "amount": view.outcomes[model].get(name, 0)}
        for model, label in labels.items()
        for rank, name in enumerate(statuses)
    ]
    palette = [PALETTE[name] for name in statuses]
    chart = bars(records, statuses, list(labels.values()), title="Rows by status", palette=palette)
    return Figure("Outcome", _words(view), chart, _by_model(view, models) if several else _by_status(view))


def _words(view: View) -> str:
    reused, repeats, unsent = view.ledger.shared()
    words = [f"{many(view.total, 'row')}, {share(view.rows['ok'], view.total)} ok."]
    if reused:
        words.append(f"{many(reused, 'answer')} came from other runs, for nothing.")
    if repeats:
        words.append(f"{many(repeats, 'row')} with the answer of an equal row.")
    if unsent:
        words.append(f"{many(unsent, 'row')} failed before sending, for nothing.")
    return " ".join(words)


def _by_status(view: View) -> Table:
    rows = [[name, f"{number:,}", share(number, view.total)] for name, number in view.rows.items() if number]
    return Table(["status", "rows", "share"], rows, {1, 2})


def _by_model(view: View, models: list[str]) -> Table:
    statuses = [name for name in STATUSES if view.rows[name]]
    rows = [
        [
            line(model),
            f"{sum(view.outcomes[model].values()):,}",
            *(f"{view.outcomes[model].get(name, 0):,}" for name in statuses),
            share(view.outcomes[model].get("ok", 0), sum(view.outcomes[model].values())),
        ]
        for model in models
    ]
    total = ["total", f"{view.total:,}", *(f"{view.rows[name]:,}" for name in statuses)]
    total.append(share(view.rows["ok"], view.total))
    return Table(["model", "rows", *statuses, "ok share"], rows, range(1, len(total)), total)


def _labels(names: list[str]) -> dict[str, str]:
    """Short names that an axis has room for, still different from each other."""
    labels: dict[str, str] = {}
    for name in names:
        short = line(name)
        short = short if len(short) <= 48 else short[:47] + "…"
        while short in labels.values():
            short += "'"
        labels[name] = short
    return labels


def fallen(view: View) -> Figure | None:
    """Rows that are not ok: why, how many, and which."""
    reasons = view.ledger.reasons()
    if not reasons:
        return None
    mask = view.asked.mask
    statuses = [name for name in ("failed", "invalid", "refused", "truncated") if view.rows[name]]
    found = view.ledger.fallen(MOST_FALLEN, statuses)
    why = Table(
        ["status", "reason", "rows", "of all"],
        [[s, line(reason), f"{n:,}", share(n, view.total)] for s, reason, n in reasons[:MOST_REASONS]],
        {2, 3},
    )
    inputs = view.inputs({each.place for each in found})
    named = any(_told_apart(each, inputs.get(each.place, {})) for each in found)
    rows = [
        [
            f"{each.place + 1:,}",
            line(mask(each.row), 120),
            *([line(mask(_told_apart(each, inputs.get(each.place, {}))), LONGEST_NAME)] if named else []),
            each.status,
            line(each.kind or each.stop_reason or ""),
            line(mask(each.message or ""), LONGEST_MESSAGE) or MEANING.get(each.status, ""),
            f"{each.calls:,}",
        ]
        for each in sorted(found, key=lambda each: statuses.index(each.status))
    ]
    all_of_them = sum(number for _, _, number in reasons)
    left = all_of_them - len(rows)
    names = ",".join(statuses)
    caption = f"{left:,} more are not shown; `pipeline export --status {names}` writes them all." if left > 0 else ""
    heads = ["row", "name", *(["input"] if named else []), "status", "reason", "message", "calls"]
    message = heads.index("message")
    which = Table(
        heads, rows, {0, message + 1}, caption=caption, texts={heads.index("input"), message} if named else {message}
    )
    tables = [("Which rows" if not left else "Some of these rows", which)]
    return Figure("Rows that are not ok", f"{many(all_of_them, 'row')} in all.", table=why, tables=tables)


def _told_apart(row: Fallen, inputs: Mapping[str, Any]) -> str:
    """The first kept input columns of a row that its name does not hold already, short."""
    cells = (
        f"{name} {cut}"
        for name, value in inputs.items()
        if f"{name}=" not in row.row and (cut := line(cell(value), LONGEST_INPUT)) not in ("", row.row)
    )
    return ", ".join(islice(cells, MOST_INPUTS))


MEANING = {
    "truncated": "the answer was cut off at max_tokens",
    "refused": "the model declined to answer",
}


def answers(view: View) -> Figure | None:
    """Some answers, spread over the rows: the row's input columns, the typed columns, and the text."""
    told = view.ledger.told([p.line.attempt for found in view.picked.values() for p in found if p.line.attempt])
    cards = [_card(view, each, told) for status in WANTED for each in view.picked.get(status, ())]
    if not cards:
        return None
    text = f"{many(len(cards), 'answer')}, spread evenly over the rows; those that are not ok come last."
    return Figure("Answers, a sample", text, cards=cards)


def _card(view: View, each: Picked, told: Mapping[int, tuple[str | None, str | None, int | None, int]]) -> Card:
    row, answer = each.line, view.answers.get(each.line.key or b"")
    values = {} if answer is None else answer.values
    facts = [*_cells(each.inputs), *((f"→ {name}", value) for name, value in _cells(values, empty="null"))]
    model, stop, tokens, latency = told.get(row.attempt or 0, (None, None, None, 0))
    note = [line(model or ""), line(stop or ""), many(tokens, "token") if tokens is not None else "", millis(latency)]
    return Card(
        heading=line(view.asked.mask(row.row), 120),
        badge=row.status,
        facts=facts,
        text=shown(answer.text, LONGEST_ANSWER) if answer is not None and answer.text else "",
        note=" · ".join(filter(None, note)),
    )


def _cells(values: Mapping[str, Any], empty: str = "") -> list[tuple[str, str]]:
    found = [(line(name, 80), cell(value) or empty) for name, value in list(values.items())[:MOST_CELLS]]
    left = len(values) - len(found)
    return [*found, *([("…", f"{left:,} more columns")] if left > 0 else [])]


def cell(value: Any) -> str:
    """Write a cell of a table as text, cut where it is long; null is empty."""
    match value:
        case None:
            return ""
        case str():
            return shown(value, LONGEST_CELL)
        case bool():
            return "true" if value else "false"
        case bytes():
            return f"{len(value):,} bytes"
        case datetime() | date():
            return str(value)
        case list() | dict() | tuple():
            return shown(json.dumps(value, ensure_ascii=False, default=str), LONGEST_CELL)
        case _:
            return shown(str(value), LONGEST_CELL)

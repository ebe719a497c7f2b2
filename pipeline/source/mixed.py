"""Text beside a number in a condition, which SQL engines compare letter by letter, or not at all."""

from __future__ import annotations

import json
import re

import polars as pl

PLAIN = re.compile(r"[^\W\d]\w*")
RULE = "text and numbers do not go together in a condition"


def text_beside_number(condition: pl.Expr, rows: pl.LazyFrame) -> str | None:
    """Say where text meets a number under one operator, and what to write instead; None where it does not.

    Polars refuses whole numbers and floats there, but takes a decimal such as 10.5 for text: '5' is above it then.

    Args:
        condition: with ``x = …`` in place of ``x IN (…)``.
        rows: of the source's types, whatever is in them.
    """
    node = json.loads(condition.meta.serialize(format="json"))
    inputs = condition.meta.pop()
    if _is_operator(node):
        types = [(_type(one, rows), one) for one in inputs]
        texts = [one for kind, one in types if kind == pl.String]
        numbers = [one for kind, one in types if kind is not None and kind.is_numeric()]
        if texts and numbers:
            return _words(texts[0], numbers[0], equal="Eq" in json.dumps(_operator(node)))
    return next((words for one in inputs if (words := text_beside_number(one, rows))), None)


def _is_operator(node: dict[str, object]) -> bool:
    return "BinaryExpr" in node or "Sql" in _operator(node)


def _operator(node: dict[str, object]) -> dict[str, object]:
    """What a node does with its inputs, as far as it is an operator."""
    match node:
        case {"BinaryExpr": {"op": op}}:
            return {"op": op}
        case {"Function": {"function": {"Sql": op}}}:
            return {"Sql": op}
    return {}


def _type(expression: pl.Expr, rows: pl.LazyFrame) -> pl.DataType | None:
    """The type of a part; None where polars finds none, as it says itself when the whole is tried."""
    try:
        return rows.select(expression.alias("part")).collect_schema()["part"]
    except pl.exceptions.PolarsError:
        return None


def _words(text: pl.Expr, number: pl.Expr, *, equal: bool) -> str:
    columns = text.meta.root_names()
    if not columns:
        return (
            f"{RULE}: {_shown(number, 'a number')} is a number and {_shown(text, 'what is beside it')} is text; "
            "write the number without quotes"
        )
    name = columns[0]
    spelled = name if PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'
    of = "" if text.meta.is_column() else "an expression of "
    value = _shown(number, "a number")
    quoted = f"quote the number to compare texts ('{value}'), or " if equal and not number.meta.root_names() else ""
    return (
        f"{RULE}: {of}column {name!r} is text (string), compared with {value}; {quoted}write "
        f"CAST({spelled} AS DOUBLE), with decimal commas CAST(REPLACE({spelled}, ',', '.') AS DOUBLE), and "
        f"TRY_CAST where what is no number is to be null; or set source.types: {{{name}: number}}"
    )


def _shown(expression: pl.Expr, otherwise: str) -> str:
    """A column by its name, a constant by its value."""
    if expression.meta.is_column():
        return f"column {expression.meta.output_name()!r}"
    if expression.meta.root_names():
        return otherwise
    try:
        value = pl.select(expression).item()
    except pl.exceptions.PolarsError:
        return otherwise
    return f"'{value}'" if isinstance(value, str) else str(value)

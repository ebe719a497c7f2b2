"""`source.where`: a condition in polars SQL over one row, applied batch by batch."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from pipeline.source.contract import first_line
from pipeline.source.mixed import text_beside_number
from pipeline.source.separators import unseen_separator

# Strings, quoted names, comments, words, numbers, and whatever else there is: enough of SQL's spelling to tell names
# from text and to find the brackets that belong together.
TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|--[^\n]*|/\*.*?\*/|[^\W\d]\w*|\s+|.""", re.DOTALL)
ROW_WISE = frozenset({"Column", "Literal", "BinaryExpr", "Ternary", "Cast", "Function", "Alias", "Field"})
TABLE = "rows"
ONE_ROW = "a condition may look at one row only, without aggregates, windows and subqueries"


class WhereError(Exception):
    """The condition is refused; says why."""


@dataclass(frozen=True, slots=True)
class Where:
    """A condition, checked.

    Attributes:
        sql: as written.
        columns: those it may read (a superset, in the source's order).
    """

    sql: str
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, sql: str, columns: Collection[str]) -> Where:
        """Check the words of a condition against the source's columns.

        Raises:
            WhereError: it is no condition, or looks at more than one row.
        """
        tokens = _tokens(sql)
        words = {word.lower() for word in tokens}
        if found := sorted(words & {"select", "over", "exists"}):
            raise WhereError(f"{ONE_ROW}; found {found[0].upper()}")
        if not _is_row_wise(_without_lists(tokens)):
            raise WhereError(ONE_ROW)
        _check_names(sql, columns)
        named = {_name(word) for word in tokens}
        return cls(sql, tuple(column for column in columns if column in named))

    def check(self, schema: pa.Schema) -> None:
        """Check names and types, without any row.

        Raises:
            WhereError: an unknown column, types that do not go together, no condition.
        """
        for column in schema:
            if pa.types.is_decimal256(column.type) or pa.types.is_interval(column.type):
                raise WhereError(f"column {column.name!r} is {column.type}, which a condition cannot look at")
        empty = pa.RecordBatch.from_pylist([], schema=schema)
        tokens = _tokens(self.sql) if TABLE in self.columns else _without_table(_tokens(self.sql))
        if mixed := text_beside_number(pl.sql_expr(_without_lists(tokens)), _frame(empty).lazy()):
            raise WhereError(mixed)
        try:
            self.mask(empty)
        except pl.exceptions.PolarsError as error:
            raise WhereError(_explain(error, schema.names)) from error

    def mask(self, batch: pa.RecordBatch) -> pa.Array:
        """For each row whether it is wanted; null means no.

        Raises:
            pl.exceptions.PolarsError: a value that the condition cannot be applied to.
        """
        wanted = _evaluate(self.sql, _frame(batch))
        if wanted.dtype == pl.Null:
            wanted = wanted.cast(pl.Boolean)
        if wanted.dtype != pl.Boolean:
            raise pl.exceptions.InvalidOperationError(f"it gives {wanted.dtype}, expected true or false")
        return wanted.fill_null(value=False).to_arrow()


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    columns = zip(batch.schema.names, batch.columns, strict=True)
    return pl.DataFrame({name: pl.Series(name, column) for name, column in columns})


def _evaluate(sql: str, rows: pl.DataFrame) -> pl.Series:
    with pl.SQLContext(frames={TABLE: rows}, eager=True) as context:
        return context.execute(f"SELECT ({sql}\n) AS wanted FROM {TABLE}").to_series()  # noqa: S608 - the job's own words


def _check_names(sql: str, columns: Collection[str]) -> None:
    """Refuse unknown columns; types do not matter here, and come later."""
    try:
        _evaluate(sql, pl.DataFrame(schema=dict.fromkeys(columns, pl.String)))
    except pl.exceptions.ColumnNotFoundError as error:
        raise WhereError(_explain(error, list(columns))) from error
    except pl.exceptions.PolarsError:
        return


def _name(word: str) -> str:
    if word[0] in '"`':
        return word[1:-1].replace('""', '"')
    return word


def _tokens(sql: str) -> list[str]:
    return [" " if word.startswith(("--", "/*")) else word for word in TOKEN.findall(sql)]


def _without_table(tokens: Sequence[str]) -> list[str]:
    """The condition with ``x`` in place of ``rows.x``, which without rows would be read as a field of a column."""
    out: list[str] = []
    for word in tokens:
        if word == "." and out and out[-1].lower() == TABLE:
            out.pop()
        else:
            out.append(word)
    return out


def _without_lists(tokens: Sequence[str]) -> str:
    """The condition with ``x = coalesce(a, b)`` in place of ``x [NOT] IN (a, b)``, which names and compares the same.

    Polars reads IN only where it knows the types of the columns, and all else without.
    """
    out: list[str] = []
    rest = iter(tokens)
    for word in rest:
        if word.lower() == "in":
            while out and (out[-1].isspace() or out[-1].lower() == "not"):
                out.pop()
            out.append(f" = coalesce({_without_lists(list(_bracket(rest)))})")
        else:
            out.append(word)
    return "".join(out)


def _bracket(rest: Iterator[str]) -> Iterator[str]:
    """What stands in the bracket that comes next."""
    depth = 0
    for word in rest:
        depth -= word == ")"
        if depth == 0 and not word.isspace() and word != "(":
            return
        if depth:
            yield word
        depth += word == "("


def _is_row_wise(condition: str) -> bool:
    try:
        return _all_row_wise(pl.sql_expr(condition))
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise WhereError(f"it cannot be read as a condition in SQL: {first_line(error)}") from error


def _all_row_wise(expression: pl.Expr) -> bool:
    kind = next(iter(json.loads(expression.meta.serialize(format="json"))))
    return kind in ROW_WISE and _separable(expression) and all(map(_all_row_wise, expression.meta.pop()))


def _separable(expression: pl.Expr) -> bool:
    try:
        return expression.meta.is_row_separable()
    except pl.exceptions.ColumnNotFoundError:
        # Functions over arithmetic need the types of the columns to say so. Those that look at several rows are
        # nodes of their own kind, or cannot be written in SQL without OVER.
        return True


def _explain(error: pl.exceptions.PolarsError, names: Sequence[str]) -> str:
    unknown = re.search(r'unable to find column "(.*?)"', str(error))
    if unknown is None:
        return first_line(error).split(" (create native python")[0]
    if separator := unseen_separator(names):
        return f"the source has no column {unknown[1]!r}; there is {names[0]}; {separator}"
    near = difflib.get_close_matches(unknown[1], names, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; the source has {', '.join(names[:20])}"
    return f"the source has no column {unknown[1]!r}{hint}"

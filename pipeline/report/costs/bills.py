"""Reconcile: a provider's usage export read by a column mapping, and compared with ours by day and model."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

import polars as pl

from pipeline.cost import canonical, nanos
from pipeline.errors import JobError
from pipeline.records import NANOS_PER_USD
from pipeline.report.costs.lines import reading
from pipeline.report.costs.priced import search_nanos

TOKEN_KINDS = ("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens")
UNITS: Mapping[str, Decimal] = {"usd": Decimal(1), "cents": Decimal(100)}

Day = date
Measure = Literal["usd", "tokens"]


@dataclass(frozen=True, slots=True)
class Mapped:
    """Which columns of a bill hold what. Each is a list of spellings, of which the first that is there is read.

    Attributes:
        date: the UTC day, or a time whose first ten characters are the day.
        model: the model, however it is spelled.
        cost: what was charged; empty where the bill counts tokens only.
        per_usd: how many of the bill's units make a USD.
        tokens: columns whose sum is the tokens charged for.
        separator: what stands between the columns.
        decimal: ``.`` or ``,``; None where nobody said, so that what could mean either is refused.
        date_format: as `strptime` has it; None for ISO dates, and times that start with one.
    """

    date: Sequence[str]
    model: Sequence[str]
    cost: Sequence[str] = ()
    per_usd: Decimal = Decimal(1)
    tokens: Sequence[str] = ()
    separator: str = ","
    decimal: str | None = None
    date_format: str | None = None


KNOWN: Mapping[str, Sequence[Mapped]] = {
    # The console's two exports: costs, and tokens.
    "anthropic": (
        Mapped(("usage_date_utc",), ("model", "model_version"), ("cost_usd",)),
        Mapped(
            ("usage_date_utc",),
            ("model_version", "model"),
            tokens=(
                "usage_input_tokens_no_cache",
                "usage_input_tokens_cache_write_5m",
                "usage_input_tokens_cache_write_1h",
                "usage_input_tokens_cache_read",
                "usage_output_tokens",
            ),
        ),
    ),
    # No export is documented; these are the words of its API. 1 USD is 2,000,000 credits (messages-api §3.3).
    "aimlapi": (
        Mapped(("date", "created_at", "timestamp"), ("model",), ("usd_spent", "cost_usd")),
        Mapped(("date", "created_at", "timestamp"), ("model",), ("credits_used", "credits"), Decimal(2_000_000)),
    ),
}


@dataclass(frozen=True, slots=True)
class Bill:
    """A bill by day and model.

    Attributes:
        measure: `usd` (amounts in nano-dollars) or `tokens`.
        amounts: by day and canonical model.
        rounding: how far the bill's own rounding may move a sum, in the amounts' unit, by day and model.
    """

    measure: Measure
    amounts: Mapping[tuple[Day, str], int]
    rounding: Mapping[tuple[Day, str], int]


@dataclass(frozen=True, slots=True)
class Gap:
    """Ours and the bill's amount of a day and model.

    Attributes:
        only: who alone has it.
        off: the gap is more than tolerance and rounding explain.
        unpriced: our requests without a known price, so that `ours` is a lower bound; 0 where tokens are compared.
    """

    day: Day
    model: str
    ours: int
    bill: int
    only: Literal["", "ours", "bill"]
    off: bool
    unpriced: int = 0

    @property
    def gap(self) -> int:
        """What the bill has more than we."""
        return self.bill - self.ours


@dataclass(frozen=True, slots=True)
class Comparison:
    """A bill beside ours.

    Attributes:
        measure: of the amounts; `usd` are nano-dollars.
        gaps: by day and model.
        total: the same over all, with an empty model.
        within: whether no day and model, and not the total, is off by more than the tolerance.
    """

    measure: Measure
    gaps: Sequence[Gap]
    total: Gap
    tolerance: Decimal

    @property
    def within(self) -> bool:
        """Whether everything is within the tolerance."""
        return not self.total.off and not any(gap.off for gap in self.gaps)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The comparison as rows: day, model, ours, bill, gap, gap_percent, unpriced_requests, only_in, off."""
        return [
            {"day": gap.day, "model": gap.model, **self._amounts(gap), "only_in": gap.only, "off": gap.off}
            for gap in self.gaps
        ]

    @property
    def total_record(self) -> dict[str, Any]:
        """The total as such a row, without day, model and only_in."""
        return {**self._amounts(self.total), "off": self.total.off}

    def _amounts(self, gap: Gap) -> dict[str, Any]:
        unit, end = (NANOS_PER_USD, "_usd") if self.measure == "usd" else (1, "_tokens")
        return {
            f"ours{end}": gap.ours / unit if unit > 1 else gap.ours,
            f"bill{end}": gap.bill / unit if unit > 1 else gap.bill,
            f"gap{end}": gap.gap / unit if unit > 1 else gap.gap,
            "gap_percent": round(100 * gap.gap / gap.bill, 2) if gap.bill else None,
            "unpriced_requests": gap.unpriced,
        }


def read_bill(path: Path, mapping: str) -> Bill:
    """Read a usage export.

    Args:
        path: the CSV.
        mapping: `anthropic`, `aimlapi`, or the path of a YAML file with the names of the columns.

    Raises:
        JobError: bill or mapping cannot be read, or a line of it holds no day, model or amount.
    """
    mappings = KNOWN.get(mapping) or (_mapping_file(Path(mapping)),)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=mappings[0].separator)
            columns = reader.fieldnames or []
            mapped = next((each for each in mappings if _fits(each, columns)), None)
            if mapped is None:
                raise JobError(_no_fit(path, mapping, mappings, columns))
            return _read(path, reader, mapped, columns)
    except OSError as error:
        raise JobError(f"{path}: cannot read the bill: {(error.strerror or 'error').lower()}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise JobError(f"{path}: the bill is not CSV in UTF-8: {error}") from error


@reading()
def compare(lines: pl.LazyFrame, bill: Bill, tolerance: Decimal) -> Comparison:
    """Compare our lines with the bill, over the days that the bill has.

    A day and model is off when the gap is more than the tolerance of the larger amount, and more than the bill's own
    rounding explains. What was paid for answers no longer wanted is part of ours: it was billed. Lines of the bill
    without a model are what is charged beside tokens; where it has such, our web searches are compared with them.

    Raises:
        JobError: the bill has no line.
    """
    if not bill.amounts:
        raise JobError("the bill has no line with an amount")
    first, last = min(day for day, _ in bill.amounts), max(day for day, _ in bill.amounts)
    fees_apart = any(not model for _, model in bill.amounts)
    mine_of, unpriced_of = _ours(lines, bill.measure, fees_apart=fees_apart)
    ours = {pair: amount for pair, amount in mine_of.items() if first <= pair[0] <= last}
    unpriced = {pair: number for pair, number in unpriced_of.items() if first <= pair[0] <= last}
    gaps = []
    for day, model in sorted(ours.keys() | bill.amounts.keys()):
        pair = (day, model)
        mine, theirs = ours.get(pair, 0), bill.amounts.get(pair, 0)
        only: Literal["", "ours", "bill"] = "bill" if pair not in ours else "ours" if pair not in bill.amounts else ""
        off = _off(mine, theirs, tolerance, bill.rounding.get(pair, 0))
        gaps.append(Gap(day, model, mine, theirs, only, off, unpriced.get(pair, 0)))
    mine, theirs = sum(ours.values()), sum(bill.amounts.values())
    off = _off(mine, theirs, tolerance, sum(bill.rounding.values()))
    total = Gap(last, "", mine, theirs, "", off, sum(unpriced.values()))
    return Comparison(bill.measure, gaps, total, tolerance)


_Amounts = dict[tuple[Day, str], int]


def _ours(lines: pl.LazyFrame, measure: Measure, *, fees_apart: bool) -> tuple[_Amounts, _Amounts]:
    """Our amounts, and how many requests without a known price stand behind none.

    With `fees_apart`, those of web searches stand under no model, as such bills have them.
    """
    fees = search_nanos() if fees_apart and measure == "usd" else pl.lit(0, pl.Int64)
    amount = (
        pl.col("cost_nanos").fill_null(0) + pl.col("superseded_nanos")
        if measure == "usd"
        else pl.sum_horizontal(pl.col(kind) for kind in TOKEN_KINDS)
    )
    unpriced = pl.col("unpriced_requests") if measure == "usd" else pl.lit(0, pl.Int64)
    grouped = (
        lines.select(
            pl.col("completed_at").dt.date().alias("day"),
            "model",
            amount.alias("amount"),
            fees.alias("fees"),
            unpriced.alias("unpriced"),
        )
        .filter((pl.col("amount") > 0) | (pl.col("unpriced") > 0), pl.col("day").is_not_null())
        .group_by("day", "model")
        .agg(pl.col("amount").sum(), pl.col("fees").sum(), pl.col("unpriced").sum())
        .collect(engine="streaming")
    )
    amounts: _Amounts = defaultdict(int)
    without: _Amounts = defaultdict(int)
    for day, model, total, apart, unknown in grouped.iter_rows():
        amounts[day, canonical(model or "")] += total - apart
        if apart:
            amounts[day, ""] += apart
        if unknown:
            without[day, canonical(model or "")] += unknown
    return amounts, without


def _off(ours: int, bill: int, tolerance: Decimal, rounding: int) -> bool:
    gap = abs(bill - ours)
    return gap > rounding and gap > tolerance * max(ours, bill)


def _read(path: Path, reader: csv.DictReader[str], mapped: Mapped, columns: Sequence[str]) -> Bill:
    day_column, model_column = _first(mapped.date, columns), _first(mapped.model, columns)
    assert day_column is not None
    assert model_column is not None
    cost_column = _first(mapped.cost, columns)
    amounts: dict[tuple[Day, str], int] = defaultdict(int)
    counts: dict[tuple[Day, str], int] = defaultdict(int)
    places = 0
    for line in reader:
        cells = _Cells(path, reader.line_num, line, mapped, columns)
        pair = (cells.day(day_column), canonical(line[model_column] or ""))
        if cost_column is not None:
            text = cells.number(cost_column)
            places = max(places, len(text.partition(".")[2]))
            amounts[pair] += nanos(Decimal(text) / mapped.per_usd)
        else:
            amounts[pair] += sum(cells.count(name) for name in mapped.tokens if name in columns)
        counts[pair] += 1
    if cost_column is None:
        return Bill("tokens", amounts, {})
    half = nanos(Decimal(1).scaleb(-places) / 2 / mapped.per_usd) if places else 0
    return Bill("usd", amounts, {pair: half * number for pair, number in counts.items()})


@dataclass(frozen=True, slots=True)
class _Cells:
    """A line of a bill; what cannot be read is refused with its place."""

    path: Path
    number_of_line: int
    line: Mapping[str, str | None]
    mapped: Mapped
    columns: Sequence[str]

    def day(self, column: str) -> Day:
        text, form = (self.line[column] or "").strip(), self.mapped.date_format
        try:
            if form is None:
                return datetime.fromisoformat(text[:10]).date()
            at = datetime.strptime(text, form)  # noqa: DTZ007 - bills are in UTC, or say their zone
        except ValueError as error:
            wanted = "expected a day such as 2026-10-05" if form is None else f"date_format is {form!r}"
            if form is None and any(character.isdigit() for character in text):
                wanted += "; date_format: '%d.%m.%Y' in the mapping reads 05.10.2026"
            raise self._refused(column, f"the day is {text!r}, {wanted}") from error
        return at.date() if at.tzinfo is None else at.astimezone(UTC).date()

    def number(self, column: str, decimal: str | None = None) -> str:
        """A number as Python writes it."""
        text = (self.line[column] or "").strip()
        try:
            return plain(text, self.mapped.decimal or decimal)
        except ValueError as error:
            raise self._refused(column, str(error)) from error

    def count(self, column: str) -> int:
        # Nobody writes parts of tokens: a comma stands between thousands.
        text = self.number(column, ".")
        try:
            return int(text)
        except ValueError as error:
            raise self._refused(column, f"the tokens are {text!r}, expected a whole number") from error

    def _refused(self, column: str, words: str) -> JobError:
        place = f"{self.path}:{self.number_of_line}: column {self.columns.index(column) + 1} ({column})"
        return JobError(f"{place}: {words}")


THOUSANDS: Mapping[str, str] = {".": ",", ",": r"[. \u00a0\u2009\u202f']"}
"""What stands between thousands, by what stands before decimals."""

NUMBERS: Mapping[str, re.Pattern[str]] = {
    decimal: re.compile(
        rf"[-+]?([1-9]\d{{0,2}}(?:(?P<mark>{mark})\d{{3}})(?:(?P=mark)\d{{3}})*|\d+|(?={re.escape(decimal)}\d))"
        rf"({re.escape(decimal)}\d*)?([eE][-+]?\d+)?"
    )
    for decimal, mark in THOUSANDS.items()
}
EITHER = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")
"""``1,234`` is 1234 to some and 1.234 to others."""


def plain(text: str, decimal: str | None = None) -> str:
    """A number's text without its sign of money and without what stands between thousands, its decimals after a point.

    Args:
        text: as the bill has it; empty for 0.
        decimal: what stands before decimals; without it a point, and a comma that may mean either is refused.

    Raises:
        ValueError: it is none, or may mean two; a number is never read a thousand times too large.
    """
    bare = text.strip().removeprefix("$").removesuffix("$").strip() or "0"
    mark = decimal or "."
    if decimal is None and EITHER.fullmatch(bare):
        raise ValueError(
            f"the amount is {text!r}, which may be {bare.replace(',', '')} or {bare.replace(',', '.')}; "
            'say which in the mapping: decimal: "." or decimal: ","'
        )
    if not NUMBERS[mark].fullmatch(bare):
        example = "1,234.56" if mark == "." else "1.234,56"
        said = "" if decimal or "," not in bare else '; decimal: "," in the mapping reads 1.234,56'
        raise ValueError(f"the amount is {text!r}, expected a number such as {example}{said}")
    return re.sub(THOUSANDS[mark], "", bare).replace(",", ".")


def _first(names: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _fits(mapped: Mapped, columns: Sequence[str]) -> bool:
    amount = _first(mapped.cost, columns) if mapped.cost else _first(mapped.tokens, columns)
    return None not in (_first(mapped.date, columns), _first(mapped.model, columns), amount)


def _no_fit(path: Path, mapping: str, mappings: Sequence[Mapped], columns: Sequence[str]) -> str:
    wanted = mappings[0]
    needs = ", ".join(" or ".join(names) for names in (wanted.date, wanted.model, wanted.cost or wanted.tokens))
    has = ", ".join(columns[:12]) or "none"
    other = next((sign for sign in ";\t|" if len(columns) == 1 and sign in columns[0]), None)
    way_out = (
        "name the columns in a file: --bill FILE.yaml"
        if other is None
        else f"its columns seem to be separated by {other!r}: write separator: {json.dumps(other)} in --bill FILE.yaml"
    )
    return f"{path}: no {mapping} bill: needs columns {needs}; it has {has}; {way_out}"


def _mapping_file(path: Path) -> Mapped:
    """Read ``date``, ``model``, either ``cost`` (with ``unit``) or ``tokens``, and how cells are written."""
    import yaml

    example = "{date: day, model: model_name, cost: amount, unit: usd}"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "not UTF-8"
        raise JobError(
            f"{path}: cannot read the mapping: {words.lower()}; --bill takes {', '.join(KNOWN)} or a YAML file"
        ) from error
    except yaml.YAMLError as error:
        raise JobError(f"{path}: the mapping is not YAML") from error
    known = {"date", "model", "cost", "unit", "tokens", "separator", "decimal", "date_format"}
    if not isinstance(found, dict) or not {"date", "model"} <= found.keys() or not found.keys() <= known:
        raise JobError(
            f"{path}: a mapping holds the names of the bill's columns, such as {example}, and separator, decimal and "
            "date_format where they are not the usual ones"
        )
    if ("cost" in found) == ("tokens" in found):
        raise JobError(f"{path}: a mapping names either cost or tokens, such as {example}")
    unit = found.get("unit", "usd")
    try:
        per_usd = UNITS[unit] if unit in UNITS else Decimal(str(unit))
    except InvalidOperation:
        per_usd = Decimal(0)
    if per_usd <= 0:
        raise JobError(f"{path}: unit is usd, cents, or how many of them make a USD, such as 2000000; found {unit!r}")
    return Mapped(
        _names(found["date"]),
        _names(found["model"]),
        _names(found.get("cost")),
        per_usd,
        _names(found.get("tokens")),
        **_writing(path, found),
    )


def _writing(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """How a bill's cells are written, as its mapping says."""
    separator, decimal, form = found.get("separator", ","), found.get("decimal"), found.get("date_format")
    separator = "\t" if separator == "tab" else separator
    if not isinstance(separator, str) or len(separator) != 1 or separator.isalnum() or separator in '"\r\n .':
        raise JobError(f"{path}: separator is one character, such as ';', or tab; found {separator!r}")
    if decimal not in (None, *THOUSANDS):
        raise JobError(f"{path}: decimal is '.' or ','; found {decimal!r}")
    if form is not None and not _is_date_format(form):
        raise JobError(f"{path}: date_format names day, month and year, such as '%d.%m.%Y'; found {form!r}")
    return {"separator": separator, "decimal": decimal, "date_format": form}


def _is_date_format(form: Any) -> bool:
    sample = datetime(2031, 10, 25, tzinfo=UTC)
    try:
        return datetime.strptime(sample.strftime(form), form).date() == sample.date()  # noqa: DTZ007 - only the day
    except (ValueError, TypeError, re.error):
        return False


def _names(value: Any) -> Sequence[str]:
    return () if value is None else tuple(map(str, value)) if isinstance(value, list) else (str(value),)

"""Plan and answers to rows of the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple, Protocol, Self

import pyarrow as pa

from pipeline.journal.settled import FIGURES, KIND, Figures, Kind
from pipeline.output.columns import OWN_COLUMNS
from pipeline.records import KEY_PREFIX, NANOS_PER_USD, Key, Usage


class PlannedRows(Protocol):
    """The part of a plan that one batch of the output is made of (see `run.plan.Planned`)."""

    @property
    def keys(self) -> Sequence[Key | None]:
        """None where the request failed before sending."""

    @property
    def kept(self) -> pa.RecordBatch:
        """The kept input columns."""


@dataclass(frozen=True, slots=True)
class RunColumns:
    """What is the same in every row of an output."""

    job: str
    run: int
    run_id: str
    run_date: date | None
    model: str
    endpoint: str


class Cells(NamedTuple):
    """What is read out of an answer.

    Attributes:
        text: the answer's; None where there is no response.
        values: one per answer column.
        misfits: answer columns whose value is of another type, and so null.
    """

    text: str | None = None
    values: tuple[Any, ...] = ()
    misfits: tuple[str, ...] = ()


NO_CELLS = Cells()
"""Of a row without a response."""


@dataclass(slots=True)
class Tally:
    """Sums over the rows of an output, as they are written.

    `failures` by error type: how many, and one in words; `misfits` by answer column: values of another type;
    `damaged`: attempts whose stored response cannot be used, so that their rows are pending.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)
    cost_nanos: int = 0
    unpriced: int = 0
    by_model: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    misfits: Counter[str] = field(default_factory=Counter)
    damaged: set[int] = field(default_factory=set)


Line = tuple[Kind, Figures, Cells, int, bool, Mapping[str, int] | None]
"""A row but for its kept columns: what its attempt tells, what is read out of it, attempts, reused, what it cost.

What it cost is nano-dollars by model; None where that is the cost that the attempt tells, by the model it tells.
"""


@dataclass(slots=True)
class Lines:
    """Lines by column, all of one length; `cells` is None where no answer is read but for its text."""

    kinds: list[Kind]
    figures: list[Figures]
    texts: list[str | None]
    cells: list[Cells] | None
    attempts: list[int]
    reused: list[bool]
    bills: list[Mapping[str, int] | None]

    @classmethod
    def of(cls, kinds: list[Kind], figures: list[Figures], texts: list[str | None], cells: list[Cells] | None) -> Self:
        """Lines of rows that one attempt each answered, and that have its bill."""
        number = len(kinds)
        return cls(kinds, figures, texts, cells, [1] * number, [False] * number, [None] * number)

    def cells_of(self, nth: int) -> Cells:
        """What is read out of the nth one's answer."""
        return Cells(self.texts[nth]) if self.cells is None else self.cells[nth]

    def put(self, nth: int, line: Line) -> None:
        """Put another line in the place of the nth one."""
        self.kinds[nth], self.figures[nth], read, self.attempts[nth], self.reused[nth], self.bills[nth] = line
        self.texts[nth] = read.text
        if read.values or read.misfits:
            self.cells = self.cells or [NO_CELLS] * len(self.kinds)
        if self.cells is not None:
            self.cells[nth] = read


UNASKED: Figures = (0, 0, 0, 0, 0, None, None, None)
PAID = 5
"""The first of `FIGURES` are a bill: four counts of tokens, nano-dollars."""
_TOKENS = FIGURES[: PAID - 1]


def kind_of(status: str, run: RunColumns, error_type: str | None = None, error_message: str | None = None) -> Kind:
    """What is told of a row without an outcome: it is `pending`, or `failed` before it was sent."""
    return status, error_type, error_message, None, run.model, None, run.endpoint


def table(planned: PlannedRows, lines: Lines, run: RunColumns, schema: pa.Schema, tally: Tally) -> pa.RecordBatch:
    """The rows of a stretch of the plan, which has one at least.

    Args:
        planned: the plan's rows.
        lines: theirs.
        run: what is the same in every row.
        schema: of the output.
        tally: gets the sums.
    """
    columns = _kinds(lines.kinds)
    # Not strict: figures may go on behind the columns.
    columns.update(zip(FIGURES, zip(*lines.figures, strict=False), strict=False))
    _count(columns, lines.bills, tally)
    for read in lines.cells or ():
        tally.misfits.update(read.misfits)
    columns["cost_usd"] = [None if nanos is None else nanos / NANOS_PER_USD for nanos in columns["cost_nanos"]]
    columns["request_key"] = [None if key is None else KEY_PREFIX + key.hex() for key in planned.keys]
    columns |= {"response_text": lines.texts, "attempts": lines.attempts, "reused": lines.reused}
    columns |= {name: [getattr(run, name)] * len(lines.kinds) for name in ("job", "run_id", "run_date")}
    kept = len(planned.kept.columns)
    cells = lines.cells or [NO_CELLS] * len(lines.kinds)
    typed = [
        _array([read.values[nth] if read.values else None for read in cells], schema.field(kept + nth).type)
        for nth in range(len(schema) - kept - len(OWN_COLUMNS))
    ]
    own = [_array(columns[field.name], field.type) for field in OWN_COLUMNS]
    return pa.record_batch([*planned.kept.columns, *typed, *own], schema=schema)


def _kinds(kinds: Sequence[Kind]) -> dict[str, Sequence[Any]]:
    if kinds.count(kinds[0]) == len(kinds):
        return {name: [value] * len(kinds) for name, value in zip(KIND, kinds[0], strict=True)}
    return dict(zip(KIND, zip(*kinds, strict=True), strict=True))


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    # A good half of the columns mostly hold one value: comparing it is quicker than converting it.
    one = values[0]
    if one == values[-1] and values.count(one) == len(values) and not _may_differ(one, kind):
        return pa.repeat(pa.scalar(one, kind), len(values))
    return pa.array(values, kind)


def _may_differ(value: Any, kind: pa.DataType) -> bool:
    """Whether what is equal to a value may be another one: -0.0 is equal to 0.0."""
    return bool(pa.types.is_nested(kind) or (pa.types.is_floating(kind) and value == 0))


def _count(columns: Mapping[str, Sequence[Any]], bills: Sequence[Mapping[str, int] | None], tally: Tally) -> None:
    """Add the sums of columns: what is unknown adds nothing, but an unknown cost is counted."""
    status, costs = columns["status"], columns["cost_nanos"]
    tally.statuses.update(status)
    tokens = [columns[name] for name in _TOKENS]
    asked, answered, written, read = (sum(filter(None, column)) for column in tokens)
    # Cache writes of either lifetime are one column of the output.
    tally.usage += Usage(asked, answered, written, 0, read)
    tally.unpriced += costs.count(None)
    tally.cost_nanos += sum(filter(None, costs))
    models = columns["model"]
    if bills.count(None) == len(bills) and models.count(models[0]) == len(models):
        tally.by_model[models[0]] += sum(filter(None, costs))
    else:
        for model, cost, bill in zip(models, costs, bills, strict=True):
            if bill is not None:
                tally.by_model.update(bill)
            elif cost is not None:
                tally.by_model[model] += cost
    if "failed" in status or "invalid" in status:
        for said, kind, words in zip(status, columns["error_type"], columns["error_message"], strict=True):
            if said in ("failed", "invalid"):
                number, example = tally.failures.get(kind or "error", (0, words or ""))
                tally.failures[kind or "error"] = (number + 1, example)

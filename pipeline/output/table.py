"""Plan and answers to rows of the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.journal import Answer, Bill
from pipeline.journal.settled import Settled
from pipeline.output.columns import OWN_COLUMNS
from pipeline.records import KEY_PREFIX, NANOS_PER_USD, Key, Usage, key_text

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class PlannedRows(Protocol):
    """The part of a plan that one batch of the output is made of (see `run.plan.Planned`)."""

    @property
    def keys(self) -> Sequence[Key | None]:
        """None where the request failed before sending."""

    @property
    def errors(self) -> Sequence[tuple[str, str] | None]:
        """What failed before sending."""

    @property
    def repeats(self) -> frozenset[int]:
        """Which rows stand earlier in the plan too."""

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


@dataclass(frozen=True, slots=True)
class Cells:
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


@dataclass(slots=True)
class _Line:
    """One row of the run's own columns; the defaults are those of a row that was not asked."""

    status: str
    error_type: str | None = None
    error_message: str | None = None
    cells: Cells = NO_CELLS
    stop_reason: str | None = None
    model: str | None = None
    bill: Bill | None = None
    latency_ms: int | None = None
    reused: bool = False
    key: Key | None = None
    request_id: str | None = None
    endpoint: str | None = None
    completed_at: datetime | None = None


Fields = tuple[Any, ...]
"""A row of the run's own columns in their order, but the cost in nano-dollars and the time in microseconds, UTC.

`job`, `run_id` and `run_date` are left out: they are the same in every row.
"""

_STATUS, _MODEL, _COST = 1, 5, 10
_TOKENS = slice(6, 10)


def own_fields(answered: Settled, text: str | None, key: Key) -> Fields:
    """The fields of a row that was asked once and answered, with a bill of that one attempt.

    Args:
        answered: the attempt.
        text: the answer's.
        key: the row's.
    """
    cost = answered.cost_nanos
    known = answered.input_tokens is not None
    return (
        text,
        answered.status,
        answered.error_type,
        answered.error_message,
        answered.stop_reason,
        answered.model,
        answered.input_tokens,
        answered.output_tokens if known else None,
        answered.cache_write_tokens if known else None,
        answered.cache_read_tokens if known else None,
        cost,
        None if cost is None else answered.priced_by,
        1,
        answered.latency_ms,
        False,
        KEY_PREFIX + key.hex(),
        answered.request_id,
        answered.endpoint,
        answered.completed_at,
    )


def table(
    planned: PlannedRows,
    answers: Mapping[Key, Answer],
    cells: Mapping[Key, Cells],
    bills: Mapping[Key, Bill],
    run: RunColumns,
    schema: pa.Schema,
    tally: Tally,
    ready: Mapping[Key, Fields] = MappingProxyType({}),
) -> pa.RecordBatch:
    """Join a stretch of the plan with what the journal knows of it.

    Args:
        planned: the plan's rows.
        answers: the outcome the run refers to, by key; a key that is missing is pending.
        cells: what is read out of the answers, by key.
        bills: what this run paid, by key.
        run: what is the same in every row.
        schema: of the output.
        tally: gets the sums.
        ready: rows that are made already (`own_fields`), by key; such a key needs no answer and no bill.
    """
    rows: list[Fields] = []
    values: list[tuple[Any, ...]] = []
    for nth, key in enumerate(planned.keys):
        made = None if key is None or nth in planned.repeats or planned.errors[nth] else ready.get(key)
        if made is not None and key is not None:
            rows.append(made)
            values.append(cells[key].values if key in cells else ())
            if made[_COST] is not None:
                tally.by_model[made[_MODEL]] += made[_COST]
            if made[_STATUS] == "invalid":
                _count_failure(tally, made[2], made[3])
            continue
        line = _line(planned, nth, answers, cells, bills, run)
        rows.append(_fields(line, run, tally))
        values.append(line.cells.values)
    _count(rows, tally)
    for key in planned.keys:
        if key is not None and key in cells and cells[key].misfits:
            tally.misfits.update(cells[key].misfits)
    first = len(planned.kept.columns)
    width = len(schema) - first - len(OWN_COLUMNS)
    typed = [
        pa.array([row[nth] if row else None for row in values], schema.field(first + nth).type) for nth in range(width)
    ]
    return pa.record_batch([*planned.kept.columns, *typed, *_own_columns(rows, run)], schema=schema)


def _line(
    planned: PlannedRows,
    nth: int,
    answers: Mapping[Key, Answer],
    cells: Mapping[Key, Cells],
    bills: Mapping[Key, Bill],
    run: RunColumns,
) -> _Line:
    key, error = planned.keys[nth], planned.errors[nth]
    if key is None or error is not None:
        kind, message = error or (None, None)
        return _Line("failed", kind, message, key=key)
    answer = answers.get(key)
    repeat = nth in planned.repeats
    bill = None if repeat else bills.get(key)
    if answer is None:
        return _Line("pending", bill=bill, key=key)
    known = answer.known
    return _Line(
        known.status,
        known.error_type,
        answer.error_message,
        cells.get(key, NO_CELLS),
        answer.stop_reason,
        answer.model,
        bill,
        answer.latency_ms,
        reused=repeat or known.run != run.run,
        key=key,
        request_id=answer.request_id,
        endpoint=answer.endpoint,
        completed_at=answer.completed_at,
    )


NOTHING = Bill()


def _fields(line: _Line, run: RunColumns, tally: Tally) -> Fields:
    bill = line.bill or NOTHING
    usage = bill.usage
    tally.by_model.update(bill.by_model or {})
    if line.status in ("failed", "invalid"):
        _count_failure(tally, line.error_type, line.error_message)
    return (
        line.cells.text,
        line.status,
        line.error_type,
        line.error_message,
        line.stop_reason,
        line.model or run.model,
        usage and usage.input_tokens,
        usage and usage.output_tokens,
        usage and usage.cache_write_tokens,
        usage and usage.cache_read_tokens,
        bill.cost_nanos,
        bill.priced_by,
        bill.attempts,
        line.latency_ms,
        line.reused,
        None if line.key is None else key_text(line.key),
        line.request_id,
        line.endpoint or run.endpoint,
        None if line.completed_at is None else (line.completed_at - EPOCH) // MICROSECOND,
    )


def _own_columns(rows: Sequence[Fields], run: RunColumns) -> list[pa.Array]:
    constant = {"job": run.job, "run_id": run.run_id, "run_date": run.run_date}
    columns = iter(zip(*rows, strict=True) if rows else [()] * (len(OWN_COLUMNS) - len(constant)))
    arrays = []
    for own in OWN_COLUMNS:
        if own.name in constant:
            arrays.append(pa.repeat(pa.scalar(constant[own.name], own.type), len(rows)))
        elif own.name == "cost_usd":
            nanos = pa.array(next(columns), pa.int64())
            arrays.append(pc.divide(nanos.cast(pa.float64(), safe=False), float(NANOS_PER_USD)))
        else:
            arrays.append(pa.array(next(columns), own.type))
    return arrays


def _count(rows: Sequence[Fields], tally: Tally) -> None:
    """Add the sums of columns: what is unknown adds nothing, but an unknown cost is counted."""
    if not rows:
        return
    columns = list(zip(*rows, strict=True))
    tally.statuses.update(columns[_STATUS])
    tally.usage += Usage(*_usage([sum(filter(None, column)) for column in columns[_TOKENS]]))
    costs = columns[_COST]
    tally.unpriced += costs.count(None)
    tally.cost_nanos += sum(filter(None, costs))


def _usage(sums: Sequence[int]) -> tuple[int, int, int, int, int]:
    """Cache writes of either lifetime are one column of the output."""
    asked, answered, written, read = sums
    return asked, answered, written, 0, read


def _count_failure(tally: Tally, error_type: str | None, message: str | None) -> None:
    number, example = tally.failures.get(error_type or "error", (0, message or ""))
    tally.failures[error_type or "error"] = (number + 1, example)

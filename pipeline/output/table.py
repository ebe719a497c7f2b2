"""Plan and answers to rows of the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol

import pyarrow as pa

from pipeline.journal import Answer, Bill
from pipeline.output.columns import OWN_COLUMNS
from pipeline.records import NANOS_PER_USD, Key, Usage, key_text


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

    `failures` by error type: how many, and one in words; `misfits` by answer column: values of another type.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)
    cost_nanos: int = 0
    unpriced: int = 0
    by_model: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    misfits: Counter[str] = field(default_factory=Counter)


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


def table(
    planned: PlannedRows,
    answers: Mapping[Key, Answer],
    cells: Mapping[Key, Cells],
    bills: Mapping[Key, Bill],
    run: RunColumns,
    schema: pa.Schema,
    tally: Tally,
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
    """
    lines: list[_Line] = []
    for nth, key in enumerate(planned.keys):
        error = planned.errors[nth]
        if key is None or error is not None:
            kind, message = error or (None, None)
            lines.append(_Line("failed", kind, message, key=key))
            continue
        answer = answers.get(key)
        repeat = nth in planned.repeats
        bill = None if repeat else bills.get(key)
        if answer is None:
            lines.append(_Line("pending", bill=bill, key=key))
            continue
        known = answer.known
        lines.append(
            _Line(
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
        )
    first = len(planned.kept.columns)
    width = len(schema) - first - len(OWN_COLUMNS)
    columns = [*_answer_columns(lines, width), *_own_columns(lines, run, tally)]
    arrays = [pa.array(values, schema.field(first + nth).type) for nth, values in enumerate(columns)]
    return pa.record_batch([*planned.kept.columns, *arrays], schema=schema)


def _answer_columns(lines: Sequence[_Line], width: int) -> list[list[Any]]:
    return [[line.cells.values[nth] if line.cells.values else None for line in lines] for nth in range(width)]


NOTHING = Bill()


def _own_columns(lines: Sequence[_Line], run: RunColumns, tally: Tally) -> list[list[Any]]:
    rows: list[tuple[Any, ...]] = []
    for line in lines:
        bill = line.bill or NOTHING
        usage, nanos = bill.usage, bill.cost_nanos
        _count(line, bill, tally)
        rows.append(
            (
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
                None if nanos is None else nanos / NANOS_PER_USD,
                bill.priced_by,
                bill.attempts,
                line.latency_ms,
                line.reused,
                None if line.key is None else key_text(line.key),
                line.request_id,
                line.endpoint or run.endpoint,
                run.job,
                run.run_id,
                run.run_date,
                line.completed_at,
            )
        )
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in OWN_COLUMNS]


def _count(line: _Line, bill: Bill, tally: Tally) -> None:
    tally.statuses[line.status] += 1
    if line.status in ("failed", "invalid"):
        number, example = tally.failures.get(line.error_type or "error", (0, line.error_message or ""))
        tally.failures[line.error_type or "error"] = (number + 1, example)
    tally.misfits.update(line.cells.misfits)
    if bill.usage is not None:
        tally.usage += bill.usage
    if bill.cost_nanos is None:
        tally.unpriced += 1
    else:
        tally.cost_nanos += bill.cost_nanos
    tally.by_model.update(bill.by_model or {})

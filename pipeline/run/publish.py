"""Publish: the plan joined with the answers this run refers to, as the output and as counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import TransportError
from pipeline.journal import Answer, Journal
from pipeline.output import Tally, table
from pipeline.output.table import RunColumns
from pipeline.records import Key
from pipeline.run.coordinator import chosen_outcomes
from pipeline.run.plan import Plan
from pipeline.run.policy import Standing
from pipeline.wire import decode

ANSWERS_AT_ONCE = 250


@dataclass(frozen=True, slots=True)
class Counts:
    """Where a run stands.

    Attributes:
        rows: requests of the plan, by status; `pending` are those without an outcome.
        answered: rows that need no call: answered, or failed for good.
        open: different keys that are to be asked.
    """

    rows: dict[str, int]
    answered: int
    open: int


def join(
    plan: Plan, journal: Journal, standing: Standing, run: RunColumns, schema: pa.Schema, tally: Tally
) -> Iterator[pa.RecordBatch]:
    """The rows of the output, in the order of the plan, a batch at a time.

    Raises:
        StorageError: plan or journal cannot be read.
    """
    for batch in plan.read(prompts=False):
        # Answers may be large: only so many are in memory at a time, however many rows a batch of the plan has.
        for planned in batch.pieces(ANSWERS_AT_ONCE):
            keys = list({key for key in planned.keys if key is not None})
            chosen = chosen_outcomes(journal, standing, keys)
            answers = journal.answers({key: known.attempt for key, known in chosen.items() if known is not None})
            texts = {key: text_of(answer) for key, answer in answers.items()}
            yield table(planned, answers, texts, journal.bills(standing.run, keys), run, schema, tally)


def text_of(answer: Answer) -> str | None:
    """The text of a kept response, read from its raw body; None where there is no response."""
    if answer.body is None:
        return None
    try:
        return decode(200, {}, answer.body).text
    except TransportError:
        # It was readable when it was kept; a stricter reader of today does not lose the row.
        return None


def count(plan: Plan, journal: Journal, standing: Standing) -> Counts:
    """Count the plan's rows by the outcomes this run refers to, without reading an answer."""
    rows: dict[str, int] = {}
    to_ask = 0
    pending: set[Key] = set()
    for planned in plan.read(prompts=False):
        keys = list({key for key in planned.keys if key is not None})
        chosen = chosen_outcomes(journal, standing, keys)
        pending = {key for key, known in chosen.items() if known is None}
        # A repeat is open with its first, which was counted.
        to_ask += len({key for n, key in enumerate(planned.keys) if key in pending and n not in planned.repeats})
        for key in planned.keys:
            known = None if key is None else chosen[key]
            status = "failed" if key is None else "pending" if known is None else known.status
            rows[status] = rows.get(status, 0) + 1
    return Counts(rows, sum(rows.values()) - rows.get("pending", 0), to_ask)

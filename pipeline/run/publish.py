"""Publish: the plan joined with the answers this run refers to, as the output and as counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.answer import Reading
from pipeline.errors import TransportError
from pipeline.journal import Answer, Journal, Judgement, Known
from pipeline.output import Cells, Tally, table
from pipeline.output.table import NO_CELLS, RunColumns
from pipeline.records import Key, Response
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
    plan: Plan, journal: Journal, standing: Standing, reading: Reading, run: RunColumns, schema: pa.Schema, tally: Tally
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
            cells = {key: cells_of(answer, reading) for key, answer in answers.items()}
            yield table(planned, answers, cells, journal.bills(standing.run, keys), run, schema, tally)


def cells_of(answer: Answer, reading: Reading) -> Cells:
    """The text and the typed cells of a kept response, read from its raw body; nothing where there is no response."""
    response = response_of(answer)
    if response is None:
        return NO_CELLS
    read = reading.read(response)
    return Cells(reading.text(response), read.values, read.misfits)


def response_of(answer: Answer) -> Response | None:
    """The kept response, with the text of the paused answers that it goes on from; None where there is none."""
    if answer.body is None:
        return None
    try:
        before = "".join(decode(200, {}, body).text for body in answer.earlier)
        response = decode(200, {}, answer.body)
    except TransportError:
        # It was readable when it was kept; a stricter reader of today does not lose the row.
        return None
    return replace(response, text=before + response.text) if before else response


def count(plan: Plan, journal: Journal, standing: Standing, reading: Reading | None = None) -> Counts:
    """Count the plan's rows by the outcomes this run refers to.

    Args:
        plan: what is wanted.
        journal: what is known of it.
        standing: the start that looks.
        reading: answers whose verdict comes from other reading rules are read again by these, free, and the new
            verdict is kept; only for who holds the journal's lock. None leaves them as they are.

    Raises:
        StorageError: plan or journal cannot be read, or a verdict cannot be kept.
    """
    rows: dict[str, int] = {}
    to_ask = 0
    for planned in plan.read(prompts=False):
        keys = list({key for key in planned.keys if key is not None})
        chosen = chosen_outcomes(journal, standing, keys)
        if reading is not None and judge_again(journal, chosen, reading):
            chosen = chosen_outcomes(journal, standing, keys)
        pending = {key for key, known in chosen.items() if known is None}
        # A repeat is open with its first, which was counted.
        to_ask += len({key for n, key in enumerate(planned.keys) if key in pending and n not in planned.repeats})
        for key in planned.keys:
            known = None if key is None else chosen[key]
            status = "failed" if key is None else "pending" if known is None else known.status
            rows[status] = rows.get(status, 0) + 1
    return Counts(rows, sum(rows.values()) - rows.get("pending", 0), to_ask)


def judge_again(journal: Journal, chosen: Mapping[Key, Known | None], reading: Reading) -> bool:
    """Read again what was judged by other rules, and keep the new verdicts; whether there was any."""
    stale = [(key, known.attempt) for key, known in chosen.items() if known is not None and _stale(known, reading)]
    for at in range(0, len(stale), ANSWERS_AT_ONCE):
        answers = journal.answers(dict(stale[at : at + ANSWERS_AT_ONCE]))
        with journal.transaction():
            journal.judge(_judged(answer, reading) for answer in answers.values())
    return bool(stale)


def _stale(known: Known, reading: Reading) -> bool:
    return known.status != "failed" and known.rules != reading.verdict_hash


def _judged(answer: Answer, reading: Reading) -> Judgement:
    response, known = response_of(answer), answer.known
    if response is None:
        return Judgement(known.attempt, known.status, known.error_type, answer.error_message, reading.verdict_hash)
    read = reading.read(response)
    return Judgement(known.attempt, read.status, read.error_type, read.error_message, reading.verdict_hash)

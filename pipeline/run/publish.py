"""Publish: the plan joined with the answers this run refers to, as the output and as counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import orjson
import pyarrow as pa

from pipeline.answer import Reading
from pipeline.errors import StorageError, TransportError
from pipeline.journal import Answer, Journal, Judgement, Known
from pipeline.journal.settled import settled, statuses
from pipeline.output import Cells, Tally, table
from pipeline.output.table import NO_CELLS, Fields, RunColumns, own_fields
from pipeline.records import Key, Response
from pipeline.run.coordinator import chosen_outcomes
from pipeline.run.plan import Plan
from pipeline.run.policy import Standing
from pipeline.wire import decode
from pipeline.wire.decode import is_error

ANSWERS_AT_ONCE = 250

SETTLED = frozenset({"ok", "refused", "invalid"})
"""Statuses that a run takes from itself whatever it asks with (`policy.good`)."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Where a run stands.

    Attributes:
        rows: requests of the plan, by status; `pending` are those without an outcome.
        answered: rows that need no call: answered, or failed for good.
        open: different keys that are to be asked.
        batches: places in the plan of the batches (`Planned.at`) with keys to be asked, or answered by another run.
    """

    rows: dict[str, int]
    answered: int
    open: int
    batches: frozenset[int] = frozenset()


class DamagedAnswers(StorageError):
    """Stored responses that rows of the output rest on cannot be used; their rows are to be asked again.

    `attempts` are theirs.
    """

    def __init__(self, attempts: Collection[int]) -> None:
        self.attempts = tuple(sorted(attempts))
        super().__init__(f"{len(self.attempts):,} stored answers are damaged; run again to have their rows asked again")


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
            ready, cells = _ready(journal, standing, reading, keys)
            # An equal row that stands earlier was answered: it needs the answer, without the bill.
            again = {planned.keys[nth] for nth in planned.repeats}
            others = [key for key in keys if key not in ready or key in again]
            chosen = chosen_outcomes(journal, standing, others)
            used = {key: known.attempt for key, known in chosen.items() if known is not None}
            answers = journal.answers(used)
            tally.damaged.update(attempt for key, attempt in used.items() if key not in answers)
            cells.update((key, cells_of(answer, reading)) for key, answer in answers.items())
            yield table(planned, answers, cells, journal.bills(standing.run, others), run, schema, tally, ready)


def _ready(
    journal: Journal, standing: Standing, reading: Reading, keys: list[Key]
) -> tuple[dict[Key, Fields], dict[Key, Cells]]:
    """Rows that one attempt of this run answered for good: nearly all of most runs, so they take a way of their own."""
    ready: dict[Key, Fields] = {}
    cells: dict[Key, Cells] = {}
    reopened = max(standing.reopened.values(), default=0)
    # Without a schema and without columns there is nothing to read but the text.
    plain = reading.verdict_hash is None and not reading.fields.names
    for key, known in settled(journal, standing.run, keys).items():
        if known.status not in SETTLED or (known.attempt <= reopened and known.start != standing.start):
            continue
        if plain:
            ready[key] = own_fields(known, text_of(known.body), key)
            continue
        response = _response(known.body)
        read = NO_CELLS if response is None else _cells(response, reading)
        ready[key] = own_fields(known, read.text, key)
        cells[key] = read
    return ready, cells


def cells_of(answer: Answer, reading: Reading) -> Cells:
    """The text and the typed cells of a kept response, read from its raw body; nothing where there is no response."""
    response = response_of(answer)
    return NO_CELLS if response is None else _cells(response, reading)


def _cells(response: Response, reading: Reading) -> Cells:
    read = reading.read(response)
    return Cells(reading.text(response), read.values, read.misfits)


def response_of(answer: Answer) -> Response | None:
    """The kept response, with the text of the paused answers that it goes on from; None where there is none."""
    if answer.body is None:
        return None
    response = _response(answer.body)
    before = [_response(body) for body in answer.earlier]
    if response is None or None in before:
        return None
    text = "".join(paused.text for paused in before if paused is not None)
    return replace(response, text=text + response.text) if text else response


def _response(body: bytes) -> Response | None:
    try:
        return decode(200, {}, body)
    except TransportError:
        # It was readable when it was kept; a stricter reader of today does not lose the row.
        return None


def text_of(body: bytes) -> str | None:
    """The text of a kept response alone; of the usual shape it is taken without reading the rest."""
    try:
        found = orjson.loads(body)
        if found["type"] == "message" and not is_error(found):
            blocks = found["content"]
            if len(blocks) == 1 and blocks[0]["type"] == "text" and isinstance(text := blocks[0]["text"], str):
                return text
    except (orjson.JSONDecodeError, LookupError, TypeError):
        pass
    response = _response(body)
    return None if response is None else response.text


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
    rows: Counter[str] = Counter()
    to_ask = 0
    batches: set[int] = set()
    reopened = max(standing.reopened.values(), default=0)
    rules = None if reading is None else reading.verdict_hash
    for planned in plan.read(prompts=False):
        keys = list({key for key in planned.keys if key is not None})
        known = statuses(journal, standing.run, keys, after=reopened, rules=rules, any_rules=reading is None)
        pending: set[Key] = set()
        if others := [key for key in keys if key not in known]:
            for key, chosen in _judged_outcomes(journal, standing, others, reading).items():
                known[key] = "pending" if chosen is None else chosen.status
                if chosen is None or chosen.run != standing.run:
                    batches.add(planned.at)
            pending = {key for key in others if known[key] == "pending"}
        # A repeat is open with its first, which was counted.
        to_ask += len({key for n, key in enumerate(planned.keys) if key in pending and n not in planned.repeats})
        rows.update("failed" if key is None else known[key] for key in planned.keys)
    return Counts(dict(rows), sum(rows.values()) - rows.get("pending", 0), to_ask, frozenset(batches))


def _judged_outcomes(
    journal: Journal, standing: Standing, keys: list[Key], reading: Reading | None
) -> dict[Key, Known | None]:
    chosen = chosen_outcomes(journal, standing, keys)
    if reading is not None and judge_again(journal, chosen, reading):
        chosen = chosen_outcomes(journal, standing, keys)
    return chosen


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

"""Publish: the plan joined with the answers this run refers to, as the output and as counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson
import pyarrow as pa

from pipeline.answer import Reading
from pipeline.errors import StorageError, TransportError
from pipeline.journal import Answer, Journal, Judgement, Known
from pipeline.journal.settled import KIND, Asked, Figures, Past, Settled, TooMuchError, bodies, histories, statuses
from pipeline.output import Cells, Tally, table
from pipeline.output.table import NO_CELLS, PAID, UNASKED, Line, Lines, RunColumns, kind_of
from pipeline.records import Key, Response
from pipeline.run.coordinator import chosen_outcomes
from pipeline.run.heap import rare_collections
from pipeline.run.plan import Plan, Planned
from pipeline.run.policy import UNSENT, Standing, choose
from pipeline.wire import decode

ANSWERS_AT_ONCE = 500
ANSWERS_BYTES = 4 * 1024 * 1024
"""Answers may be large: so many, or about so many bytes, are in memory at a time …"""
ANSWERS_AT_FIRST = 32
MOST_BYTES = 4 * ANSWERS_BYTES
"""… and never more than so many, unless it is one answer."""

ROW_BYTES = 1024
STRETCH_BYTES = 4 * 1024 * 1024
"""Rows of the plan in memory at a time, each of so many bytes and its kept columns: keys are looked up together."""


_ERROR_TYPE, _PRICED = KIND.index("error_type"), KIND.index("priced_by")


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
    joined = Joined(journal, standing, reading, run, tally)
    for stretch in _stretches(plan):
        asked = Asked(journal, {key for planned in stretch for key in planned.keys if key is not None})
        for planned in stretch:
            at = 0
            while at < len(planned):
                piece = planned.piece(at, joined.at_once)
                try:
                    lines = joined.lines(piece, asked)
                except TooMuchError:
                    joined.at_once = max(1, len(piece) // 4)
                    continue
                yield table(piece, lines, run, schema, tally)
                at += len(piece)


def _stretches(plan: Plan) -> Iterator[list[Planned]]:
    """The plan, without prompts, so much at a time that its keys are well looked up together and that memory holds."""
    stretch: list[Planned] = []
    size = 0
    for planned in plan.read(prompts=False):
        if not len(planned):
            continue
        stretch.append(planned)
        size += len(planned) * ROW_BYTES + planned.kept.nbytes
        if size >= STRETCH_BYTES:
            yield stretch
            stretch, size = [], 0
    if stretch:
        yield stretch


@dataclass(frozen=True, slots=True)
class _Taken:
    """The outcome that a run refers to for a key, with its response, read. Of those without one, `past` is None."""

    past: Past | None
    cells: Cells
    size: int = 0


class Joined:
    """What the journal tells of the plan's rows.

    Attributes:
        at_once: so many rows' answers may be in memory, as far as the last ones tell.
    """

    def __init__(self, journal: Journal, standing: Standing, reading: Reading, run: RunColumns, tally: Tally) -> None:
        self._journal = journal
        self._standing = standing
        self._reading = reading
        self._run = run
        self._tally = tally
        after = max(standing.reopened.values(), default=0)
        self._settled = Settled(journal, standing.run, start=standing.start, after=after, most_bytes=MOST_BYTES)
        self._pending: Line = kind_of("pending", run), UNASKED, NO_CELLS, 0, False, {}
        # Without a schema and without columns there is nothing to read but the text.
        self._text_alone = reading.verdict_hash is None and not reading.fields.names
        self.at_once = ANSWERS_AT_ONCE

    def lines(self, planned: Planned, asked: Asked) -> Lines:
        """The lines of a piece of the plan.

        Raises:
            StorageError: the journal cannot be read.
            TooMuchError: it has several rows, and what they hold comes to more than `MOST_BYTES`.
        """
        # Nearly all rows of most runs were asked once and answered for good, so these are read together.
        attempts = asked.only(planned.keys)
        found = self._settled.find(set(attempts) - {0})
        texts, cells = self._read(found.bodies)
        lines = Lines.of(
            [found.kinds.get(attempt, found.usual) for attempt in attempts],
            [found.figures.get(attempt, UNASKED) for attempt in attempts],
            [texts.get(attempt) for attempt in attempts],
            [cells.get(attempt, NO_CELLS) for attempt in attempts] if cells else None,
        )
        others = [nth for nth, attempt in enumerate(attempts) if attempt not in texts]
        number, size = len(texts), sum(map(len, found.bodies.values()))
        if others:
            taken = self._others(lines, planned, asked, others)
            number, size = number + len(taken), size + sum(one.size for one in taken)
        for nth in planned.repeats:
            # An equal row that stands earlier has the bill.
            kind, figures, read = lines.kinds[nth], lines.figures[nth], lines.cells_of(nth)
            kind = (*kind[:_PRICED], None, *kind[_PRICED + 1 :])
            lines.put(nth, (kind, (*UNASKED[:PAID], *figures[PAID:]), read, 0, kind[0] != "pending", {}))
        if planned.repeats and len(planned) > 1 and sum(len(text) for text in lines.texts if text) > MOST_BYTES:
            # Equal rows share an answer here, and each has its own in the output.
            raise TooMuchError
        if size:
            self.at_once = max(1, min(ANSWERS_AT_ONCE, ANSWERS_BYTES * number // size))
        return lines

    def _others(self, lines: Lines, planned: Planned, asked: Asked, places: Sequence[int]) -> Collection[_Taken]:
        """Put lines of rows asked in vain, not once, by others or not at all; gives what was read for them."""
        keys = {key for nth in places if (key := planned.keys[nth]) is not None and key in asked.one}
        pasts = histories(self._journal, [attempt for key in keys for attempt in asked.all(key)])
        taken = self._taken(pasts)
        for nth in places:
            key, error = planned.keys[nth], planned.errors[nth]
            line = self._pending
            if key is None or error is not None:
                line = kind_of("failed", self._run, *(error or ())), UNASKED, NO_CELLS, 0, False, {}
            elif key in taken:
                line = self._line(pasts[key], taken[key])
            lines.put(nth, line)
        return taken.values()

    def _read(self, bodies: Mapping[int, bytes]) -> tuple[dict[int, str | None], dict[int, Cells]]:
        """What is read out of these responses: their texts, and all their cells where there are others."""
        if self._text_alone:
            return {attempt: text_of(body) for attempt, body in bodies.items()}, {}
        cells = {attempt: self._cells(body) for attempt, body in bodies.items()}
        return {attempt: read.text for attempt, read in cells.items()}, cells

    def _cells(self, body: bytes) -> Cells:
        if self._text_alone:
            return Cells(text_of(body))
        response = _response(body)
        return NO_CELLS if response is None else _cells(response, self._reading)

    def _taken(self, pasts: Mapping[Key, Sequence[Past]]) -> dict[Key, _Taken]:
        """For each key what this run refers to, chosen by what it was asked with and by whom."""
        chosen = self._chosen(pasts)
        ids = {key: past.attempt for key, past in chosen.items()}
        # A paused answer that another one goes on from belongs to its text; there are few of these.
        joined = {key: past.attempt for key, past in chosen.items() if past.continues is not None}
        answers = self._journal.answers(joined) if joined else {}
        stored, damaged = bodies(self._journal, [ids[key] for key in ids.keys() - joined.keys()], MOST_BYTES)
        damaged |= {joined[key] for key in joined.keys() - answers.keys()}
        self._tally.damaged |= damaged
        taken: dict[Key, _Taken] = {}
        for key in pasts:
            past = chosen.get(key)
            body = None if past is None else stored.get(past.attempt)
            if past is None or past.attempt in damaged:
                taken[key] = _Taken(None, NO_CELLS)
            elif key in answers:
                taken[key] = _Taken(past, cells_of(answers[key], self._reading), len(answers[key].body or b""))
            else:
                taken[key] = _Taken(past, NO_CELLS if body is None else self._cells(body), len(body or b""))
        return taken

    def _chosen(self, pasts: Mapping[Key, Sequence[Past]]) -> dict[Key, Past]:
        run = self._standing.run
        others = [key for key, past in pasts.items() if any(one.known and one.run != run for one in past)]
        reused = self._journal.reused(run, others)
        chosen: dict[Key, Past] = {}
        for key, past in pasts.items():
            known = choose([one.known for one in past if one.known], reused.get(key), self._standing)
            if known is not None:
                chosen[key] = next(one for one in past if one.attempt == known.attempt)
        return chosen

    def _line(self, pasts: Sequence[Past], taken: _Taken) -> Line:
        run = self._standing.run
        # What failed before it was sent was no call.
        calls = [past for past in pasts if past.run == run and past.called and past.kind[_ERROR_TYPE] not in UNSENT]
        paid, priced_by, by_model = _bill([call for call in calls if call.answered])
        if taken.past is None:
            kind, behind = kind_of("pending", self._run), UNASKED[PAID:]
        else:
            kind, behind = taken.past.kind, taken.past.figures[PAID:]
        reused = taken.past is not None and taken.past.run != run
        *first, model, _, endpoint = kind
        kind = (*first, model or self._run.model, priced_by, endpoint or self._run.endpoint)
        return kind, (*paid, *behind), taken.cells, len(calls), reused, by_model


def _bill(answered: Sequence[Past]) -> tuple[Figures, str | None, dict[str, int]]:
    """What answers cost together: the first of `FIGURES`, who priced it, nano-dollars by model.

    An unknown part makes the whole unknown, never smaller.
    """
    tokens: list[int] | None = [0, 0, 0, 0]
    nanos: int | None = 0
    said: str | None = None
    by_model: dict[str, int] = {}
    for one in answered:
        *counts, cost = one.figures[:PAID]
        if counts[0] is None:
            tokens = None
        elif tokens is not None:
            tokens = [before + more for before, more in zip(tokens, counts, strict=True)]
        if cost is None:
            nanos = None
            continue
        _, _, _, _, model, priced_by, _ = one.kind
        by_model[model] = by_model.get(model, 0) + cost
        if nanos is not None:
            nanos += cost
            said = priced_by
    return (*(tokens or (None,) * 4), nanos), said, by_model


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
        (block,) = found["content"]
        # `decode` takes what has an `error` or a `statusCode` for an error, or knows better.
        usual = found["type"] == "message" and "error" not in found and "statusCode" not in found
        if usual and block["type"] == "text" and isinstance(text := block["text"], str):
            return text
    except (ValueError, LookupError, TypeError):
        pass
    response = _response(body)
    return None if response is None else response.text


@rare_collections()
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
    for stretch in _stretches(plan):
        keys = {key for planned in stretch for key in planned.keys if key is not None}
        asked = Asked(journal, keys)
        known = statuses(journal, standing.run, asked, after=reopened, rules=rules, any_rules=reading is None)
        pending: set[Key] = set()
        elsewhere: set[Key] = set()
        if len(known) < len(keys):
            pending = keys - asked.one.keys()
            known.update(dict.fromkeys(pending, "pending"))
            others = [key for key in asked.one if key not in known]
            for key, chosen in _judged_outcomes(journal, standing, others, reading).items():
                known[key] = "pending" if chosen is None else chosen.status
                if chosen is None:
                    pending.add(key)
                elif chosen.run != standing.run:
                    elsewhere.add(key)
        for planned in stretch:
            rows.update("failed" if key is None else known[key] for key in planned.keys)
            if pending or elsewhere:
                # A repeat is open with its first, which was counted.
                to_ask += len(
                    {key for n, key in enumerate(planned.keys) if key in pending and n not in planned.repeats}
                )
                if any(key in pending or key in elsewhere for key in planned.keys):
                    batches.add(planned.at)
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
    at, at_once = 0, ANSWERS_AT_FIRST
    while at < len(stale):
        answers = journal.answers(dict(stale[at : at + at_once]))
        with journal.transaction():
            journal.judge(_judged(answer, reading) for answer in answers.values())
        at += at_once
        size = sum(len(answer.body or b"") for answer in answers.values())
        at_once = max(1, min(ANSWERS_AT_ONCE, 4 * at_once, ANSWERS_BYTES * len(answers) // max(1, size)))
    return bool(stale)


def _stale(known: Known, reading: Reading) -> bool:
    return known.status != "failed" and known.rules != reading.verdict_hash


def _judged(answer: Answer, reading: Reading) -> Judgement:
    response, known = response_of(answer), answer.known
    if response is None:
        return Judgement(known.attempt, known.status, known.error_type, answer.error_message, reading.verdict_hash)
    read = reading.read(response)
    return Judgement(known.attempt, read.status, read.error_type, read.error_message, reading.verdict_hash)

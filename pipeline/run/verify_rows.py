"""The rows of an output against those that plan and journal make now: which differ, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipeline.answer import Reading
from pipeline.journal import Answer, Journal
from pipeline.records import KEY_PREFIX, Key, key_text
from pipeline.run.plan import Plan
from pipeline.run.publish import cells_of

NAMED = 5
"""So many rows that differ are named; the others are counted."""

LONGEST = 60
MOST_COLUMNS = 4

_ALWAYS = ("request_key", "job", "run_id", "run_date")
"""Own columns that a row has before it is asked."""

_ANSWERED = ("response_text", "error_type", "error_message", "stop_reason", "request_id", "completed_at")
"""Own columns that are null as long as a row is pending."""

_LEADING = ("request_key", "run_id")
"""Own columns that tell at once what is wrong with a row, whatever else is."""

_TOLD = ("status", "error_type", "error_message", "stop_reason", "model", "request_id", "endpoint", "completed_at")
"""Own columns that tell of an answer what the journal's record of it tells."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that differs: its place from 0, and by column what stands there and what it should be."""

    place: int
    columns: Mapping[str, tuple[Any, Any]]
    missing: bool = False


@dataclass(slots=True)
class Compared:
    """What a walk over all rows has found.

    Attributes:
        named: the first rows that differ, in order.
        rows: how many differ.
        types: columns that are of another type, or not there, in words.
        asked_since: rows that were pending, and were asked later.
        again_since: rows that hold an earlier answer, and were asked again later.
    """

    named: list[Difference] = field(default_factory=list)
    rows: int = 0
    types: list[str] = field(default_factory=list)
    asked_since: int = 0
    again_since: int = 0


@dataclass(frozen=True, slots=True)
class Since:
    """Tells a row that was right when it was written, and that the run has gone on from since.

    Attributes:
        journal: holds every outcome there ever was.
        reading: reads answers.
        prefix: of the output's own columns.
        kept: the kept input columns, which nothing changes.
        as_of: when the output was written, as far as is known; None where nothing was answered then.
    """

    journal: Journal
    reading: Reading
    prefix: str
    kept: frozenset[str]
    as_of: datetime | None

    def tell(self, rows: Mapping[int, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[int, str]:
        """Those of some differing rows (what stands, what it should be) that are so; `asked` or `again`.

        Raises:
            StorageError: the journal cannot be read.
        """
        steady = {nth: pair for nth, pair in rows.items() if self._may_be_earlier(*pair)}
        keys = {nth: _key(stands[f"{self.prefix}request_key"]) for nth, (stands, _) in steady.items()}
        earlier = self._outcomes({key for key in keys.values() if key is not None})
        found: dict[int, str] = {}
        for nth, (stands, wanted) in steady.items():
            if stands[f"{self.prefix}status"] == "pending":
                if all(stands[self.prefix + name] is None for name in _ANSWERED):
                    found[nth] = "asked"
            elif any(
                self._tells(answer, stands) and not self._tells(answer, wanted)
                for answer in earlier.get(keys[nth] or b"", ())
            ):
                found[nth] = "again"
        return found

    def _may_be_earlier(self, stands: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
        """Whether it is the same row, whose outcome came after the output was written, or is open again."""
        names = (*self.kept, *(self.prefix + name for name in _ALWAYS))
        if not all(name in stands and repr(stands[name]) == repr(wanted[name]) for name in names):
            return False
        if wanted[f"{self.prefix}status"] == "pending":
            return True
        later = wanted[f"{self.prefix}completed_at"]
        return later is not None and (self.as_of is None or later > self.as_of)

    def _outcomes(self, keys: set[Key]) -> dict[Key, list[Answer]]:
        found: dict[Key, list[Answer]] = {}
        for key, outcomes in self.journal.find(sorted(keys)).items():
            for known in outcomes:
                found.setdefault(key, []).extend(self.journal.answers({key: known.attempt}).values())
        return found

    def _tells(self, answer: Answer, stands: Mapping[str, Any]) -> bool:
        known = answer.known
        told = (
            known.status,
            known.error_type,
            answer.error_message,
            answer.stop_reason,
            answer.model,
            answer.request_id,
            answer.endpoint,
            answer.completed_at,
        )
        text = stands[f"{self.prefix}response_text"]
        return (
            tuple(stands[self.prefix + name] for name in _TOLD) == told and cells_of(answer, self.reading).text == text
        )


def compare_rows(
    written: Iterator[pa.RecordBatch], derived: Iterator[tuple[pa.RecordBatch, Sequence[int]]], since: Since
) -> Compared:
    """Compare all rows, column by column.

    Args:
        written: the output's rows.
        derived: what they should be, each with its place in the plan.
        since: tells rows that the run has gone on from.

    Raises:
        StorageError: plan or journal cannot be read.
    """
    found, cut = Compared(), Cut(written)
    typed: pa.Schema | None = None
    for wanted, places in derived:
        stands = cut.take(wanted.num_rows)
        if stands.schema != typed:
            typed = stands.schema
            found.types = _types(typed, wanted.schema)
        differing = _differing(stands, wanted)
        for nth in range(stands.num_rows, wanted.num_rows):
            found.rows += 1
            if len(found.named) < NAMED:
                found.named.append(Difference(places[nth], {}, missing=True))
        if not differing:
            continue
        rows = {nth: (stands.slice(nth, 1).to_pylist()[0], wanted.slice(nth, 1).to_pylist()[0]) for nth in differing}
        told = since.tell(rows)
        words = Counter(told.values())
        found.asked_since += words["asked"]
        found.again_since += words["again"]
        for nth in sorted(differing.keys() - told.keys()):
            found.rows += 1
            if len(found.named) < NAMED:
                pair = rows[nth]
                columns = {name: (pair[0][name], pair[1][name]) for name in differing[nth]}
                found.named.append(Difference(places[nth], columns))
    return found


def first_misfit(
    written: Iterator[pa.RecordBatch], derived: Iterator[tuple[pa.RecordBatch, Sequence[int]]], names: Sequence[str]
) -> Difference | None:
    """The first row that does not stand in its place, where rows are missing or too many; None where all there is fits.

    Args:
        written: the output's rows.
        derived: what they should be, each with its place in the plan.
        names: columns that tell rows apart.
    """
    cut, at = Cut(written), -1
    for wanted, places in derived:
        stands = cut.take(wanted.num_rows)
        differing = _differing(stands.select([n for n in names if n in stands.schema.names]), wanted.select(names))
        if differing:
            nth = min(differing)
            pair = stands.slice(nth, 1).to_pylist()[0], wanted.slice(nth, 1).to_pylist()[0]
            return Difference(places[nth], {name: (pair[0][name], pair[1][name]) for name in differing[nth]})
        if stands.num_rows < wanted.num_rows:
            return Difference(places[stands.num_rows], {}, missing=True)
        at = places[-1] if len(places) else at
    return Difference(at + 1, {}) if cut.take(1).num_rows else None


def _types(stands: pa.Schema, wanted: pa.Schema) -> list[str]:
    words = []
    for field_ in wanted:
        if field_.name not in stands.names:
            words.append(f"{field_.name}: the output has no such column")
        elif (found := stands.field(field_.name).type) != field_.type:
            words.append(f"{field_.name}: the column is {found}, by plan and journal it is {field_.type}")
    words += [f"{name}: the output has this column too" for name in stands.names if name not in wanted.names]
    if not words and stands.names != wanted.names:
        words.append("the columns stand in another order")
    return words


def _differing(stands: pa.Table, wanted: pa.RecordBatch) -> dict[int, list[str]]:
    """Rows that differ, with the columns they differ in, the most telling first."""
    found: dict[int, list[str]] = {}
    for name in sorted(wanted.schema.names, key=lambda name: not name.endswith(_LEADING)):
        if name in stands.schema.names:
            for nth in _unlike(stands.column(name).combine_chunks(), wanted.column(name)):
                found.setdefault(nth, []).append(name)
    return found


def _unlike(stands: Any, wanted: Any) -> Iterator[int]:
    if stands.type == wanted.type and stands.equals(wanted):
        return
    # Not-a-number equals itself here; so a column of such is compared by what it reads as.
    pairs = zip(stands.to_pylist(), wanted.to_pylist(), strict=False)
    yield from (nth for nth, (a, b) in enumerate(pairs) if repr(a) != repr(b))


def words_of(differences: Sequence[Difference], rows: int, plan: Plan, prefix: str) -> Iterator[str]:
    """Say which rows differ, by the names they have in messages.

    Raises:
        StorageError: the plan cannot be read.
    """
    key_column = f"{prefix}request_key"
    names, owners = _named(plan, differences, key_column)
    for each in differences:
        name = names.get(each.place)
        row = f"row {each.place + 1:,}" + (f" ({_cut(name)})" if name else "")
        if each.missing:
            yield f"{row} is missing"
            continue
        columns = iter(each.columns)
        first = next(columns, None)
        if first is None:
            yield f"{row} and what follows it are in no plan"
            continue
        stands, wanted = each.columns[first]
        words = f"{first}: {row} has {_shown(stands)}, by plan and journal it is {_shown(wanted)}"
        owner = owners.get(stands) if first == key_column else None
        words += f"; that is the key of row {owner[0] + 1:,} ({_cut(owner[1])})" if owner else ""
        more = list(columns)
        shown = ", ".join(more[:MOST_COLUMNS]) + (f" and {len(more) - MOST_COLUMNS} more" * (len(more) > MOST_COLUMNS))
        yield words + (f"; it differs in {shown}, too" if more else "")
    if rows > len(differences):
        yield f"{rows:,} rows differ in all"


def _named(
    plan: Plan, differences: Sequence[Difference], key_column: str
) -> tuple[dict[int, str], dict[str, tuple[int, str]]]:
    """Names of rows by their places, and of keys that stand where they should not, the first row that has each."""
    places = {each.place for each in differences}
    keys = {each.columns[key_column][0] for each in differences if key_column in each.columns}
    names: dict[int, str] = {}
    owners: dict[str, tuple[int, str]] = {}
    if not places:
        return names, owners
    for planned in plan.read(prompts=False):
        names.update({p: planned.row_ids[p - planned.at] for p in places if 0 <= p - planned.at < len(planned)})
        if keys:
            for nth, key in enumerate(planned.keys):
                if key is not None and (text := key_text(key)) in keys:
                    owners.setdefault(text, (planned.at + nth, planned.row_ids[nth]))
    return names, owners


def _key(text: object) -> Key | None:
    try:
        return bytes.fromhex(text.removeprefix(KEY_PREFIX)) if isinstance(text, str) else None
    except ValueError:
        return None


def _shown(value: object) -> str:
    return _cut(value.isoformat() if isinstance(value, datetime) else repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


class Cut:
    """A table read on and on, in pieces of any size."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._held: pa.Table | None = None

    def take(self, rows: int) -> pa.Table:
        """The next rows; fewer where there are no more."""
        while self._held is None or self._held.num_rows < rows:
            batch = next(self._batches, None)
            if batch is None:
                break
            more = pa.Table.from_batches([batch])
            self._held = more if self._held is None else pa.concat_tables([self._held, more])
        if self._held is None:
            return pa.table({})
        taken, self._held = self._held.slice(0, rows), self._held.slice(rows)
        return taken.combine_chunks()

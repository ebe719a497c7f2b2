"""Publishing's look-ups, many keys at a time: where their attempts lie, and what stands there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from pipeline.journal.journal import ATTEMPTS_PER_CLAIM, CALLED, Journal, Known, storage
from pipeline.records import Key

KEYS_AT_ONCE = 20_000
"""Keys are hashes, so each lies on a page of its own of the index: only many of them, sorted, share pages."""
ATTEMPTS_AT_ONCE = 8_000
ROWS_AT_ONCE = 50

Kind = tuple[Any, ...]
"""What many attempts tell alike, in the order of `KIND`; equal ones of one look-up are one object."""
KIND = ("status", "error_type", "error_message", "stop_reason", "model", "priced_by", "endpoint")

Figures = tuple[Any, ...]
"""What each attempt tells, in the order of `FIGURES`; tuples may go on behind that."""
FIGURES = (
    *("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens", "cost_nanos"),
    *("latency_ms", "request_id", "completed_at"),
)
"""`completed_at` is in microseconds since 1970, UTC; in figures and kinds, None is what is unknown."""

KINDS, ID = len(KIND), len(FIGURES)
"""In a row of `Settled`, behind its figures stand its id, its response's checksum, and the response."""

_KIND = (
    *("a.status", "a.error_type", "a.error_message", "a.stop_reason", "a.model"),
    *("iif(a.cost_nanos IS NULL, NULL, a.priced_by)", "a.endpoint"),
)
_FIGURES = """
a.input_tokens, a.output_tokens, a.cache_write_5m_tokens + a.cache_write_1h_tokens, a.cache_read_tokens, a.cost_nanos,
a.latency_ms, a.request_id, a.started_at + a.latency_ms * 1000
"""


class TooMuchError(Exception):
    """Responses of several attempts come to more bytes than may be in memory at a time."""


class Asked:
    """The attempts of some keys, of whatever run.

    Attributes:
        one: the newest attempt of each key that has any.
        earlier: the others of those keys that have several, oldest first.

    Raises:
        StorageError: the journal cannot be read.
    """

    def __init__(self, journal: Journal, keys: Collection[Key]) -> None:
        self.one: dict[Key, int] = {}
        self.earlier: dict[Key, list[int]] = {}
        with storage(journal.path):
            # The index alone is read, and in its order.
            for part in _parts(sorted(keys), KEYS_AT_ONCE):
                query = f"SELECT request_key, id FROM attempt WHERE request_key IN ({_marks(part)})"
                rows = journal._db.execute(query, part).fetchall()  # noqa: SLF001 - of this room
                known = len(self.one)
                self.one.update(rows)
                if len(self.one) - known < len(rows):
                    for key, attempt in rows:
                        if self.one[key] != attempt:
                            self.earlier.setdefault(key, []).append(attempt)

    def all(self, key: Key) -> Sequence[int]:
        """All attempts of a key, oldest first."""
        return (*self.earlier.get(key, ()), self.one[key])

    def only(self, keys: Sequence[Key | None]) -> list[int]:
        """For each key the only attempt that it has; 0 where it has none or several."""
        found = [self.one.get(key, 0) if key else 0 for key in keys]
        if self.earlier:
            return [0 if key in self.earlier else attempt for key, attempt in zip(keys, found, strict=True)]
        return found


class Found(NamedTuple):
    """Attempts that answered their row for good, by id.

    Attributes:
        figures: how much they tell, in the order of `FIGURES`; more may stand behind that.
        bodies: their responses.
        usual: the kind of most; empty where that is not known …
        kinds: … and of those that differ.
    """

    figures: dict[int, Figures]
    bodies: dict[int, bytes]
    usual: Kind
    kinds: dict[int, Kind]


class Settled:
    """Attempts that answered their row for good at the first turn: nearly all of most runs.

    Args:
        journal: where to look.
        run: whose attempts they must be.
        start: only attempts of this start …
        after: … or later ones than this.
        most_bytes: of responses at a time.
    """

    def __init__(self, journal: Journal, run: int, *, start: int, after: int, most_bytes: int) -> None:
        self._journal = journal
        self._most_bytes = most_bytes
        self._values = (run, after, start)
        self._usual: Kind = ()
        self._unpack = journal._bodies.unpack  # noqa: SLF001 - of this room

    def find(self, attempts: Collection[int]) -> Found:
        """Those of them that did and whose responses are whole; what is left out is not therefore open.

        Args:
            attempts: ids, each the only attempt of its key.

        Raises:
            StorageError: the journal cannot be read.
            TooMuchError: there are several, and they have more than `most_bytes`.
        """
        usual, kinds, rows = self._usual, {}, []
        with storage(self._journal.path):
            # To compare seven columns with what is usual takes a fraction of fetching them.
            if usual:
                same = "".join(f" AND {column} IS ?" for column in _KIND)
                rows = self._rows("", attempts, same, usual)
            if len(rows) < len(attempts):
                known = {row[ID] for row in rows}
                odd = self._rows(",".join(_KIND) + ",", [attempt for attempt in attempts if attempt not in known])
                alike: dict[Kind, Kind] = {}
                kinds = {row[KINDS + ID]: alike.setdefault(row[:KINDS], row[:KINDS]) for row in odd}
                rows += [row[KINDS:] for row in odd]
                if 2 * len(kinds) > len(attempts):
                    ((self._usual, _),) = Counter(kinds.values()).most_common(1)
        figures = {row[ID]: row for row in rows}
        unpacked = ((row[ID], self._unpack(row[-1], row[-2])) for row in rows)
        bodies, _ = _whole(unpacked, self._most_bytes if len(attempts) > 1 else None)
        return Found(figures, bodies, usual, kinds)

    def _rows(self, first: str, attempts: Collection[int], where: str = "", values: Sequence[Any] = ()) -> list[Any]:
        found: list[Any] = []
        size = 0
        for among, ids in _among(attempts):
            query = (
                f"SELECT {first} {_FIGURES}, a.id, r.checksum, r.body"
                f" FROM attempt a JOIN response r ON r.attempt = a.id WHERE a.id {among} AND a.run = ?"
                " AND a.answered AND a.key IS NULL AND a.continues IS NULL"
                f" AND a.status IN ('ok', 'refused', 'invalid') AND (a.id > ? OR a.start = ?) {where}"
            )
            rows = self._journal._db.execute(query, (*ids, *self._values, *values))  # noqa: SLF001 - of this room
            while some := rows.fetchmany(ROWS_AT_ONCE):
                found += some
                size += sum([len(row[-1]) for row in some])
                if size > self._most_bytes and len(attempts) > 1:
                    raise TooMuchError
        if len(found) > len(attempts):
            wanted = set(attempts)
            return [row for row in found if row[-3] in wanted]  # counted from behind: a kind may stand first
        return found


class Past(NamedTuple):
    """An attempt of a row.

    Attributes:
        attempt: its id.
        run: whose it is.
        known: the outcome, where it decided.
        called: it was a call, and no verdict on the answer of an earlier one.
        answered: it has a bill.
        continues: the attempt whose paused answer it goes on from.
        kind: what it tells a row …
        figures: … and how much.
    """

    attempt: int
    run: int
    known: Known | None
    called: int
    answered: int
    continues: int | None
    kind: Kind
    figures: Figures


_PAST = f"""
SELECT a.request_key, a.id, a.run, a.start, a.max_tokens, a.rules, {CALLED}, a.answered, a.continues,
  {",".join(_KIND)}, {_FIGURES}
FROM attempt a WHERE a.id IN ({{marks}}) ORDER BY a.id
"""


def histories(journal: Journal, attempts: Collection[int]) -> dict[Key, list[Past]]:
    """These attempts by key, oldest first.

    Raises:
        StorageError: the journal cannot be read.
    """
    found: dict[Key, list[Past]] = defaultdict(list)
    with storage(journal.path):
        for part in _parts(sorted(attempts), ATTEMPTS_AT_ONCE):
            rows = journal._db.execute(_PAST.format(marks=_marks(part)), part)  # noqa: SLF001 - of this room
            for key, attempt, run, start, max_tokens, rules, called, answered, continues, *told in rows:
                status, error_type = told[:2]
                known = None if status is None else Known(attempt, run, start, status, error_type, max_tokens, rules)
                kind = tuple(told[: len(KIND)])
                past = Past(attempt, run, known, called, answered, continues, kind, tuple(told[len(KIND) :]))
                found[key].append(past)
    return found


def bodies(journal: Journal, attempts: Collection[int], most_bytes: int) -> tuple[dict[int, bytes], set[int]]:
    """The stored responses of these attempts, and which of them are damaged.

    Raises:
        StorageError: the journal cannot be read.
        TooMuchError: there are several, and they have more than `most_bytes`.
    """
    unpack = journal._bodies.unpack  # noqa: SLF001 - of this room

    def stored() -> Iterator[tuple[int, bytes | None]]:
        for part in _parts(sorted(attempts), ATTEMPTS_AT_ONCE):
            query = f"SELECT attempt, body, checksum FROM response WHERE attempt IN ({_marks(part)})"
            for attempt, packed, checksum in journal._db.execute(query, part):  # noqa: SLF001 - of this room
                yield attempt, unpack(packed, checksum)

    with storage(journal.path):
        return _whole(stored(), most_bytes if len(attempts) > 1 else None)


def _whole(unpacked: Iterable[tuple[int, bytes | None]], most_bytes: int | None) -> tuple[dict[int, bytes], set[int]]:
    """Those responses that are whole, as far as there is room for them, and the attempts of the others."""
    found: dict[int, bytes] = {}
    damaged: set[int] = set()
    size = 0
    for attempt, body in unpacked:
        if body is None:
            damaged.add(attempt)
            continue
        found[attempt] = body
        size += len(body)
        if most_bytes is not None and size > most_bytes:
            raise TooMuchError
    return found, damaged


def statuses(
    journal: Journal, run: int, asked: Asked, *, after: int, rules: bytes | None, any_rules: bool
) -> dict[Key, str]:
    """The statuses of those keys that have one outcome in all, of this run, which stands whatever is asked with.

    Args:
        journal: where to look.
        run: id of the run.
        asked: the keys.
        after: only outcomes of later attempts than this.
        rules: only outcomes that were judged by these rules …
        any_rules: … or by whatever rules.

    Raises:
        StorageError: the journal cannot be read.
    """
    stands = "run = ? AND id > ? AND (? OR rules IS ?) AND status"
    # Nearly all are `ok`, so only the others are fetched: by attempt, `none` where there is no outcome.
    others: dict[int, str | None] = {}
    attempts = [*asked.one.values(), *chain.from_iterable(asked.earlier.values())]
    with storage(journal.path):
        for among, ids in _among(attempts):
            query = (
                f"SELECT id, CASE WHEN status IS NULL THEN 'none' WHEN {stands} IN ('refused', 'invalid') THEN status"
                f" END FROM attempt WHERE id {among} AND ({stands} = 'ok') IS NOT TRUE"
            )
            values = (run, after, any_rules, rules)
            others.update(journal._db.execute(query, (*values, *ids, *values)))  # noqa: SLF001 - of this room
    if not others and not asked.earlier:
        return dict.fromkeys(asked.one, "ok")
    found: dict[Key, str] = {}
    for key, attempt in asked.one.items():
        told = [others.get(attempt, "ok")]
        if key in asked.earlier:
            told = [status for one in asked.all(key) if (status := others.get(one, "ok")) != "none"]
        if len(told) == 1 and told[0] not in (None, "none"):
            found[key] = told[0]
    return found


def _among(attempts: Collection[int]) -> Iterator[tuple[str, Sequence[int]]]:
    """A condition on ids with its values, so many at a time; where they lie close together others may meet it too."""
    for part in _parts(sorted(attempts), ATTEMPTS_AT_ONCE):
        if (part[-1] - part[0]) // ATTEMPTS_PER_CLAIM < len(part) * 5 // 4:
            yield "BETWEEN ? AND ?", (part[0], part[-1])
        else:
            yield f"IN ({_marks(part)})", part


def _marks(part: Sequence[Any]) -> str:
    return ",".join("?" * len(part))


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The values so many at a time, each part filled up with its last value to one of a few lengths.

    SQLite's statements are cached by their text, and one with thousands of marks takes a megabyte.
    """
    for at in range(0, len(values), size):
        part = list(values[at : at + size])
        step = 2 ** max(4, len(part).bit_length() - 3)
        yield part + part[-1:] * (-len(part) % step)

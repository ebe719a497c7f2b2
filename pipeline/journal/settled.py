"""Publishing's look-ups, many keys at a time: where their attempts lie, and what stands there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import zstandard

from pipeline.journal.journal import CALLED, Journal, Known, checksum, storage
from pipeline.records import Key

KEYS_AT_ONCE = 20_000
"""Keys are hashes, so each lies on a page of its own of the index: only many of them, sorted, share pages."""
ATTEMPTS_AT_ONCE = 8_000

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

_KIND = (
    *("a.status", "a.error_type", "a.error_message", "a.stop_reason", "a.model"),
    *("iif(a.cost_nanos IS NULL, NULL, a.priced_by)", "a.endpoint"),
)
_FIGURES = """
a.input_tokens, a.output_tokens, a.cache_write_5m_tokens + a.cache_write_1h_tokens, a.cache_read_tokens, a.cost_nanos,
a.latency_ms, a.request_id, a.started_at + a.latency_ms * 1000
"""


def attempts_of(journal: Journal, keys: Collection[Key]) -> dict[int, Key]:
    """The attempts of these keys, of whatever run, each with its key.

    Raises:
        StorageError: the journal cannot be read.
    """
    found: dict[int, Key] = {}
    with storage(journal.path):
        # The index alone is read, and in its order.
        for part in _parts(sorted(keys), KEYS_AT_ONCE):
            query = f"SELECT id, request_key FROM attempt WHERE request_key IN ({_marks(part)})"
            found.update(journal._db.execute(query, part))  # noqa: SLF001 - of this room
    return found


class Settled:
    """Attempts that answered their row for good at the first turn: nearly all of most runs.

    Args:
        journal: where to look.
        run: whose attempts they must be.
        start: only attempts of this start …
        after: … or later ones than this.
    """

    def __init__(self, journal: Journal, run: int, *, start: int, after: int) -> None:
        self._journal = journal
        self._values = (run, after, start)
        self._usual: Kind | None = None
        self._whole = partial(_whole, zstandard.ZstdDecompressor().decompress)

    def find(self, attempts: Sequence[int]) -> dict[int, tuple[Kind, Figures, bytes]]:
        """Those of them that did, with their responses, where these are whole.

        What is left out is not therefore open: `histories` tells.

        Args:
            attempts: ids, each the only attempt of its key.

        Raises:
            StorageError: the journal cannot be read.
        """
        found: dict[int, tuple[Kind, Figures, bytes]] = {}
        with storage(self._journal.path):
            # To compare seven columns with what is usual takes a fraction of fetching them.
            if self._usual is not None:
                usual = "".join(f" AND {column} IS ?" for column in _KIND)
                kind, whole = self._usual, self._whole
                for figures in self._rows("", attempts, usual, kind):
                    if (body := whole(figures[-1], figures[-2])) is not None:
                        found[figures[-3]] = kind, figures, body
            rest = attempts if not found else [attempt for attempt in attempts if attempt not in found]
            kinds: Counter[Kind] = Counter()
            same: dict[Kind, Kind] = {}
            for row in self._rows(f"{','.join(_KIND)},", rest):
                kind = row[: len(KIND)]
                kinds[kind] += 1
                if (body := self._whole(row[-1], row[-2])) is not None:
                    found[row[-3]] = same.setdefault(kind, kind), row[len(KIND) :], body
            if 2 * kinds.total() > len(attempts):
                ((self._usual, _),) = kinds.most_common(1)
        return found

    def _rows(
        self, first: str, attempts: Sequence[int], where: str = "", values: Sequence[Any] = ()
    ) -> Iterator[tuple[Any, ...]]:
        for part in _parts(sorted(attempts), ATTEMPTS_AT_ONCE):
            query = (
                f"SELECT {first} {_FIGURES}, a.id, r.checksum, r.body"
                f" FROM attempt a JOIN response r ON r.attempt = a.id WHERE a.id IN ({_marks(part)}) AND a.run = ?"
                " AND a.answered AND a.key IS NULL AND a.continues IS NULL"
                f" AND a.status IN ('ok', 'refused', 'invalid') AND (a.id > ? OR a.start = ?) {where}"
            )
            yield from self._journal._db.execute(query, (*part, *self._values, *values))  # noqa: SLF001 - of this room


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


def bodies(journal: Journal, attempts: Collection[int]) -> tuple[dict[int, bytes], set[int]]:
    """The stored responses of these attempts, and which of them are damaged.

    Raises:
        StorageError: the journal cannot be read.
    """
    decompress = zstandard.ZstdDecompressor().decompress
    found: dict[int, bytes] = {}
    damaged: set[int] = set()
    with storage(journal.path):
        for part in _parts(sorted(attempts), ATTEMPTS_AT_ONCE):
            query = f"SELECT attempt, body, checksum FROM response WHERE attempt IN ({_marks(part)})"
            for attempt, compressed, stored in journal._db.execute(query, part):  # noqa: SLF001 - of this room
                body = _whole(decompress, compressed, stored)
                if body is None:
                    damaged.add(attempt)
                else:
                    found[attempt] = body
    return found, damaged


def _whole(decompress: Any, compressed: bytes, stored: bytes) -> bytes | None:
    try:
        body: bytes = decompress(compressed)
    except zstandard.ZstdError:
        return None
    return body if checksum(body) == stored else None


def statuses(
    journal: Journal, run: int, attempts: Mapping[int, Key], *, after: int, rules: bytes | None, any_rules: bool
) -> dict[Key, str]:
    """The statuses of those keys that have one outcome in all, of this run, which stands whatever is asked with.

    Args:
        journal: where to look.
        run: id of the run.
        attempts: all attempts of the keys.
        after: only outcomes of later attempts than this.
        rules: only outcomes that were judged by these rules …
        any_rules: … or by whatever rules.

    Raises:
        StorageError: the journal cannot be read.
    """
    found: dict[Key, str | None] = {}
    with storage(journal.path):
        for part in _parts(sorted(attempts), ATTEMPTS_AT_ONCE):
            query = (
                "SELECT id, iif(run = ? AND id > ? AND status IN ('ok', 'refused', 'invalid') AND (? OR rules IS ?),"
                f" status, NULL) FROM attempt WHERE id IN ({_marks(part)}) AND status IS NOT NULL"
            )
            for attempt, status in journal._db.execute(query, [run, after, any_rules, rules, *part]):  # noqa: SLF001 - of this room
                key = attempts[attempt]
                found[key] = None if key in found else status
    return {key: status for key, status in found.items() if status is not None}


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

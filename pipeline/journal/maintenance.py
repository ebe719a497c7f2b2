"""Care of a journal: whether it is whole, what it holds, what may go, and giving back the room."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import JobError
from pipeline.journal.bodies import Bodies, damaged_dictionaries
from pipeline.journal.journal import SENT, Journal, micros, moment, storage
from pipeline.records import key_text

NAMED = 5
"""So many of what is wrong are named; the others are counted."""

_DELETED_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at every page and every stored response has found.

    Attributes:
        responses: how many are stored.
        problems: what is wrong, in words; nothing where the journal is whole.
        damaged: attempts whose stored response is not what was stored.
    """

    responses: int
    problems: tuple[str, ...]
    damaged: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunStats:
    """A run in figures: bytes of its stored responses, its calls and answers, nano-dollars by model.

    `sent` leaves out attempts that never reached a server; `unpriced` answers have no known price; `maybe_nanos` is
    what lost calls may have cost.
    """

    run_id: str
    started_at: datetime
    completed_at: datetime | None
    sent: int
    answered: int
    stored_bytes: int
    cost_nanos: int
    unpriced: int
    maybe_nanos: int
    by_model: dict[str, int]


@dataclass(frozen=True, slots=True)
class Stats:
    """A journal in figures: bytes of the file and its WAL, bytes that `vacuum` would give back, and its runs."""

    file_bytes: int
    free_bytes: int
    version: int
    runs: tuple[RunStats, ...]


@dataclass(frozen=True, slots=True)
class Prunable:
    """Stored responses that are to go.

    Attributes:
        attempts: theirs, ascending.
        stored_bytes: what they take.
        cost_nanos: what they cost; they would be paid for again if their rows were wanted again.
        runs: ids of the runs that paid for them.
    """

    attempts: tuple[int, ...]
    stored_bytes: int
    cost_nanos: int
    runs: tuple[str, ...]


def check(journal: Journal) -> Checked:
    """Look at every page, every stored response, and at what refers to what; reads only.

    Raises:
        StorageError: it is too damaged to be read at all.
    """
    problems: list[str] = []
    with storage(journal.path):
        db = _connection(journal)
        found = [str(row[0]) for row in db.execute("PRAGMA integrity_check(20)")]
        if found != ["ok"]:
            problems += [f"the file is damaged: {words}" for words in found[:NAMED]]
        responses, damaged, names = _responses(db, Bodies.of(db))
        problems += _named(len(damaged), "stored response is damaged", "stored responses are damaged", names)
        damaged_words = list(map(str, damaged_dictionaries(db)))
        problems += _named(len(damaged_words), "dictionary is damaged", "dictionaries are damaged", damaged_words)
        for (one, many), query in _REFERENCES.items():
            rows = db.execute(query).fetchall()
            problems += _named(len(rows), one, many, [_word(row[0]) for row in rows[:NAMED]])
    return Checked(responses, tuple(problems), tuple(damaged))


_REFERENCES = {
    ("response belongs to no attempt", "responses belong to no attempt"): (
        "SELECT r.attempt FROM response r LEFT JOIN attempt a ON a.id = r.attempt WHERE a.id IS NULL"
    ),
    ("answer that a run refers to has lost its response", "answers that runs refer to have lost their responses"): (
        "SELECT a.request_key FROM attempt a LEFT JOIN response r ON r.attempt = a.id"
        " WHERE a.answered AND a.status IS NOT NULL AND r.attempt IS NULL"
    ),
    ("attempt belongs to no run", "attempts belong to no run"): (
        "SELECT a.id FROM attempt a LEFT JOIN run ON run.id = a.run WHERE run.id IS NULL"
    ),
    ("taken-over answer is gone", "taken-over answers are gone"): (
        "SELECT u.key FROM reuse u LEFT JOIN attempt a ON a.id = u.attempt WHERE a.id IS NULL"
    ),
    ("answer is of another key than the run that took it over wants", "answers are of another key than taken over"): (
        "SELECT u.key FROM reuse u JOIN attempt a ON a.id = u.attempt WHERE a.request_key <> u.key"
    ),
}


def _responses(db: sqlite3.Connection, bodies: Bodies) -> tuple[int, list[int], list[str]]:
    """How many are stored, the attempts of the damaged ones, and the names of some."""
    number = 0
    damaged: list[int] = []
    names: list[str] = []
    query = (
        "SELECT r.attempt, a.request_key, r.body, r.checksum FROM response r LEFT JOIN attempt a ON a.id = r.attempt"
        " ORDER BY r.attempt"
    )
    for attempt, key, body, stored in db.execute(query):
        number += 1
        if bodies.unpack(body, stored) is None:
            damaged.append(attempt)
            if len(names) < NAMED:
                names.append(str(attempt) if key is None else key_text(key))
    return number, damaged, names


def open_again(journal: Journal, attempts: Sequence[int]) -> int:
    """Take the verdict off answers whose stored response is damaged, so that their rows are asked again.

    What they cost stays on record. Only for who holds the journal's lock.

    Args:
        journal: open for writing.
        attempts: theirs, as `check` gives them, or a publishing that met them.

    Returns:
        How many were opened.

    Raises:
        StorageError: it could not be made durable.
    """
    with journal.transaction():
        db = _connection(journal)
        rows = [(attempt,) for attempt in attempts]
        opened = db.executemany(
            "UPDATE attempt SET status = NULL, rules = NULL, error_message = 'its stored response was found damaged'"
            " WHERE id = ?",
            rows,
        ).rowcount
        db.executemany("DELETE FROM response WHERE attempt = ?", rows)
        db.executemany("DELETE FROM reuse WHERE attempt = ?", rows)
        db.executemany(
            "UPDATE run SET completed_at = NULL WHERE id = (SELECT run FROM attempt WHERE attempt.id = ?)", rows
        )
    return opened


def stats(journal: Journal) -> Stats:
    """The journal in figures; reads only.

    Raises:
        StorageError: it cannot be read.
    """
    with storage(journal.path):
        db = _connection(journal)
        (pages,), (free,), (size,) = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
        )
        (version,) = db.execute("PRAGMA user_version").fetchone()
        models: dict[int, dict[str, int]] = {}
        for run, model, nanos in db.execute(
            "SELECT run, coalesce(model, '?'), sum(cost_nanos) FROM attempt WHERE answered GROUP BY 1, 2 ORDER BY 1, 2"
        ):
            models.setdefault(run, {})[model] = nanos or 0
        rows = db.execute(
            f"SELECT run.id, name, run.started_at, completed_at, total({SENT}), total(answered),"
            " total(length(body)), total(cost_nanos), total(answered AND cost_nanos IS NULL), total(maybe_nanos)"
            " FROM run LEFT JOIN attempt a ON a.run = run.id LEFT JOIN response r ON r.attempt = a.id"
            " GROUP BY run.id ORDER BY run.id"
        ).fetchall()
    wal = journal.path.with_name(journal.path.name + "-wal")
    return Stats(
        pages * size + (wal.stat().st_size if wal.exists() else 0),
        free * size,
        version,
        tuple(
            RunStats(
                name,
                moment(started),
                None if completed is None else moment(completed),
                int(sent),
                int(answered),
                int(stored),
                int(cost),
                int(unpriced),
                int(maybe),
                models.get(run, {}),
            )
            for run, name, started, completed, sent, answered, stored, cost, unpriced, maybe in rows
        ),
    )


@dataclass(frozen=True, slots=True)
class Which:
    """Which stored responses are to go; each condition that is given must hold.

    Attributes:
        before: of calls made before this time.
        runs: of these runs, by id; empty for all.
        superseded: only those that decide nothing any more: retried, repaired, or older than a newer outcome.
        keep: ids of runs whose deciding answers stay, whatever else is said.
    """

    before: datetime | None = None
    runs: tuple[str, ...] = ()
    superseded: bool = False
    keep: tuple[str, ...] = ()


def prunable(journal: Journal, which: Which) -> Prunable:
    """What would go; reads only.

    Raises:
        JobError: there is no such run.
        StorageError: it cannot be read.
    """
    conditions: list[str] = []
    values: list[Any] = []
    with storage(journal.path):
        db = _connection(journal)
        known = {name for (name,) in db.execute("SELECT name FROM run")}
        for name in which.runs:
            if name not in known:
                raise JobError(f"there is no run {name}; runs in the journal: {', '.join(sorted(known)) or 'none'}")
        if which.before is not None:
            conditions.append("a.started_at < ?")
            values.append(micros(which.before))
        if which.runs:
            conditions.append(f"run.name IN ({','.join('?' * len(which.runs))})")
            values += which.runs
        if which.superseded:
            conditions.append(_SUPERSEDED)
        if which.keep:
            conditions.append(f"({_SUPERSEDED} OR NOT {_USED_BY.format(marks=','.join('?' * len(which.keep)))})")
            values += [*which.keep, *which.keep]
        rows = db.execute(
            "SELECT a.id, length(r.body), coalesce(a.cost_nanos, 0), coalesce(run.name, '') FROM response r"
            " JOIN attempt a ON a.id = r.attempt LEFT JOIN run ON run.id = a.run"
            f" WHERE {' AND '.join(conditions) or '1'} ORDER BY a.id",
            values,
        ).fetchall()
    return Prunable(
        tuple(row[0] for row in rows),
        sum(row[1] for row in rows),
        sum(row[2] for row in rows),
        tuple(sorted({row[3] for row in rows})),
    )


_SUPERSEDED = """(
  (a.status IS NULL OR EXISTS (SELECT 1 FROM attempt n WHERE n.request_key = a.request_key AND n.run = a.run
    AND n.id > a.id AND n.status IS NOT NULL))
  AND NOT EXISTS (SELECT 1 FROM reuse u WHERE u.attempt = a.id)
  AND NOT EXISTS (SELECT 1 FROM attempt n WHERE n.request_key = a.request_key AND n.id > a.id
    AND n.continues IS NOT NULL)
  AND EXISTS (SELECT 1 FROM attempt n WHERE n.request_key = a.request_key AND n.id > a.id AND n.status IS NOT NULL)
)"""
"""It decides nothing: a later attempt has the verdict, nobody took it over, and no later turn goes on from it."""

_USED_BY = """(run.name IN ({marks}) OR a.id IN (SELECT u.attempt FROM reuse u JOIN run w ON w.id = u.run
  WHERE w.name IN ({marks})))"""


def prune(journal: Journal, attempts: Sequence[int]) -> None:
    """Remove stored responses, with the verdicts that rest on them; what they cost stays on record.

    Rows that still want one are asked, and paid, again. Only for who holds the journal's lock.

    Raises:
        StorageError: it could not be made durable; what was removed before that stays removed.
    """
    for at in range(0, len(attempts), _DELETED_AT_ONCE):
        part = [(attempt,) for attempt in attempts[at : at + _DELETED_AT_ONCE]]
        with journal.transaction():
            db = _connection(journal)
            db.executemany("DELETE FROM response WHERE attempt = ?", part)
            db.executemany("DELETE FROM reuse WHERE attempt = ?", part)
            db.executemany("UPDATE attempt SET status = NULL, rules = NULL WHERE id = ?", part)


def vacuum(journal: Journal) -> int:
    """Write the file anew without its free pages; returns the bytes it gave back. Only for who holds the lock.

    Raises:
        StorageError: there is no room for the new file; the old one stands.
    """
    before = _size(journal.path)
    with storage(journal.path):
        db = _connection(journal)
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return before - _size(journal.path)


def params_of(journal: Journal, run: int) -> dict[str, Any]:
    """The params that a run was last started with.

    Raises:
        StorageError: the journal cannot be read.
    """
    with storage(journal.path):
        (text,) = _connection(journal).execute("SELECT params FROM run WHERE id = ?", (run,)).fetchone()
    read: dict[str, Any] = json.loads(text)
    return read


def _size(path: Path) -> int:
    wal = path.with_name(path.name + "-wal")
    return path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)


def _connection(journal: Journal) -> sqlite3.Connection:
    return journal._db  # noqa: SLF001 - of this room


def _named(number: int, one: str, many: str, names: Sequence[str]) -> Iterator[str]:
    if number:
        more = f", and {number - len(names):,} more" if number > len(names) else ""
        yield f"{number:,} {one if number == 1 else many}: {', '.join(names)}{more}"


def _word(value: object) -> str:
    return key_text(value) if isinstance(value, bytes) else str(value)

"""Keys, attempts, responses and runs in SQLite: WAL, synchronous=FULL, every write in a transaction of the caller."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from pipeline.errors import JobError, StorageError
from pipeline.journal import schema
from pipeline.journal.apart import TIMEOUT_SECS, open_apart, unwritable
from pipeline.journal.bodies import Bodies, keep_dictionary
from pipeline.journal.terms import terms_text
from pipeline.records import Attempt, Key, Outcome, Price, Status, Usage, key_text

ATTEMPTS_PER_CLAIM = 1024
"""An attempt's id is its claim's times this plus its place, so an attempt kept twice is one row."""

KEYS_PER_QUERY = 896
KEYS_STEP = 16

KEPT_COLUMNS = (
    *("id", "run", "start", "request_key", "status"),
    *("error_type", "error_message", "http_status", "answered", "request_id", "stop_reason", "model"),
    *("input_tokens", "output_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "cache_read_tokens"),
    *("cost_nanos", "priced_by", "price_source", "maybe_billed", "started_at", "latency_ms", "maybe_nanos"),
    *("max_tokens", "endpoint", "key", "continues", "rules", "asked", "terms"),
)
KEEP_ATTEMPT = (
    f"INSERT OR REPLACE INTO attempt ({', '.join(KEPT_COLUMNS)}) VALUES ({','.join('?' * len(KEPT_COLUMNS))})"
)
CALLED = "(answered OR status IS NULL OR status = 'failed')"
"""Attempts that were calls; the others are verdicts on an answer of an earlier call (see `Journal.keep`)."""
SENT = "(answered OR maybe_billed OR http_status IS NOT NULL)"
"""Attempts that reached a server, or may have."""
_SPENT = "coalesce(sum(cost_nanos), 0) + coalesce(sum(maybe_nanos), 0)"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class JobStamp:
    """What a run is recorded as: run id, job name, run date, endpoint scope, params, tags, a month's budget."""

    run_id: str
    job: str
    run_date: date | None
    scope: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    month_nanos: int | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the journal knows it.

    Attributes:
        plan: the plan's folder, relative to the state folder.
        published: the output as it was last published, if it was.
        reopened: by status, the newest attempt when `--retry-failed` opened it again.
        settled_attempt: the newest attempt when the run was last complete.
    """

    id: int
    run_id: str
    job: str
    run_date: date | None
    scope: str
    plan: str | None
    started_at: datetime
    completed_at: datetime | None
    published: Mapping[str, Any] | None
    reopened: Mapping[str, int]
    settled_attempt: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to make the calls of one key, until `keep` settles it or `release` gives it up.

    Attributes:
        reserved: nano-dollars that its call may cost at worst.
        begun: answers of earlier turns are kept, so that its conversation goes on from there.
    """

    id: int
    key: Key
    reserved: int = 0
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """An outcome that the journal holds for a key.

    Attributes:
        attempt: id of the attempt that decided; a larger id is newer.
        run: id of the run that made it.
        start: id of the start that made it.
        max_tokens: the limit it was asked with.
        rules: hash of the reading rules that gave the status; None where the stop reason alone did.
    """

    attempt: int
    run: int
    start: int
    status: Status
    error_type: str | None
    max_tokens: int
    rules: bytes | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on an answer that is kept already.

    Attributes:
        attempt: whose answer it is.
        rules: hash of the reading rules; None where the stop reason alone decides.
    """

    attempt: int
    status: Status
    error_type: str | None
    error_message: str | None
    rules: bytes | None


@dataclass(frozen=True, slots=True)
class Turn:
    """An answered turn of a conversation that has no verdict yet.

    Attributes:
        attempt: id of the attempt that was answered.
        asked: the turn's key; None for the row's first.
        body: the raw response.
    """

    attempt: int
    asked: Key | None
    body: bytes


@dataclass(slots=True)
class Bill:
    """What this run paid for a key, summed over its attempts; None where a billed attempt's part is unknown."""

    attempts: int = 0
    usage: Usage | None = field(default_factory=Usage)
    cost_nanos: int | None = 0
    priced_by: str | None = None
    by_model: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome that a run refers to for a key, ready for a row of the output.

    `body` is the raw response; `earlier` are those of the paused answers that it goes on from, in order.
    """

    known: Known
    error_message: str | None
    stop_reason: str | None
    model: str | None
    request_id: str | None
    endpoint: str
    completed_at: datetime
    latency_ms: int
    body: bytes | None
    earlier: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """Tokens of a row's calls, None where the server gave no usable count, and how long they took."""

    usage: Usage | None
    latency_ms: int


@dataclass(frozen=True, slots=True)
class RunTotals:
    """What a run has cost so far, every attempt counted, whether its row is still wanted or not.

    `sent` leaves out attempts that never reached a server.
    `retried` counts the attempts after a row's first, `maybe_billed_retried` the lost calls that were asked again;
    `cached`, by model, the calls that had to do with the API's prompt cache, and their tokens.
    """

    sent: int
    answered: int
    retried: int
    maybe_billed: int
    maybe_billed_retried: int
    maybe_nanos: int
    usage: Usage
    cost_nanos: int
    unpriced: int
    by_model: Mapping[str, int]
    cached: Mapping[str, tuple[int, Usage]]


@dataclass(frozen=True, slots=True)
class Pulse:
    """How fast a run goes: answers, input and output tokens a minute, and what limits it, where it is under way."""

    answers_per_minute: float
    input_tokens_per_minute: float
    output_tokens_per_minute: float
    bound_by: str | None


def attempt_id(claim: int, nth: int) -> int:
    """The id of a claim's nth attempt, from 0; rows over the places a claim has keep their first and their last."""
    return claim * ATTEMPTS_PER_CLAIM + min(nth, ATTEMPTS_PER_CLAIM - 2)


def micros(moment: datetime) -> int:
    """Microseconds since 1970, UTC."""
    return (moment - EPOCH) // MICROSECOND


def moment(value: int) -> datetime:
    """The UTC datetime of `micros`."""
    return EPOCH + timedelta(microseconds=value)


def _as_it_is(value: bytes | None) -> bytes | None:
    return value


# For what is no int, float or str the sqlite3 module looks for a way to adapt it: in a table, and where that has none,
# in attributes that are not there, by way of errors. Keys, bodies and NULLs are half of what is written of a row.
sqlite3.register_adapter(bytes, _as_it_is)
sqlite3.register_adapter(type(None), _as_it_is)


class DamagedError(StorageError):
    """A stored response is not what was stored."""


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, with words that say what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"{path}: the journal could not be written or read: {error}") from error


class Journal:
    """The journal of one job. Not for concurrent use: each thread opens its own, and one of them writes.

    Raises:
        StorageError: the file cannot be read or written, or is damaged.
        JobError: the file is not a journal of ours, or was written by a newer version.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, folder: TemporaryDirectory[str] | None = None
    ) -> None:
        self.path = path
        self._db = connection
        self._folder = folder
        self._bodies = Bodies.of(connection)
        row = connection.execute(
            f"SELECT max((SELECT coalesce(max(id), 0) FROM claim),"
            f" (SELECT coalesce(max(id), 0) / {ATTEMPTS_PER_CLAIM} FROM attempt))"
        ).fetchone()
        self._last_claim: int = row[0]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the journal for writing; make it, with its folder (0700, files 0600), where there is none."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise StorageError(
                f"{path}: cannot write the journal: {error.strerror}; make the folder writable, or set `state:`"
            ) from error
        with storage(path):
            connection = _connect(path)
            with _closed_on_error(connection):
                # A foreign file is looked at before anything in it is changed. One without any table is ours to make:
                # a start that was killed or ran out of disk here leaves such a file behind.
                created = _blank(path, connection)
                if not created:
                    cls._check(path, connection)
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA cache_size = -16384")
                if created:
                    schema.create(connection)
                connection.execute("PRAGMA journal_mode = WAL")
                keep_dictionary(connection)
                return cls(path, connection)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Open the journal for reading only, also where nothing may be written; None where there is none."""
        if not path.exists():
            return None
        with storage(path):
            try:
                return cls._read(path, _connect(path))
            except sqlite3.OperationalError as error:
                if not unwritable(error):
                    raise
                try:
                    connection, folder = open_apart(path, _is_todays)
                except OSError as second:
                    raise StorageError(f"{path}: the journal could not be read: {second}") from error
                return cls._read(path, connection, folder)

    @classmethod
    def _read(
        cls, path: Path, connection: sqlite3.Connection, folder: TemporaryDirectory[str] | None = None
    ) -> Self | None:
        with _closed_on_error(connection, folder):
            if _blank(path, connection):
                connection.close()
                return None
            cls._check(path, connection)
            connection.execute("PRAGMA query_only = ON")
            return cls(path, connection, folder)

    def asked(self, run_id: str) -> bool:
        """Whether the run of this id has asked or taken over anything."""
        with storage(self.path):
            (found,) = self._db.execute(
                "SELECT EXISTS (SELECT 1 FROM attempt JOIN run ON run.id = attempt.run WHERE name = ?1)"
                " OR EXISTS (SELECT 1 FROM reuse JOIN run ON run.id = reuse.run WHERE name = ?1)",
                (run_id,),
            ).fetchone()
        return bool(found)

    @staticmethod
    def _check(path: Path, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != schema.APPLICATION_ID:
            raise JobError(f"{path}: this SQLite file is not a journal of this program; move it away, or set `state:`")
        if version > schema.VERSION:
            raise JobError(
                f"{path}: written by a newer version of this program (format {version}, this one knows "
                f"{schema.VERSION}); upgrade the program"
            )
        schema.migrate(connection, version)

    def close(self) -> None:
        """Close the file; the WAL is folded in by SQLite where it can be."""
        self._db.close()
        if self._folder is not None:
            self._folder.cleanup()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, durable when the block has ended.

        Raises:
            StorageError: it could not be made durable; nothing of it is kept.
        """
        with storage(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    # Runs and starts

    def begin(self, stamp: JobStamp, now: datetime) -> tuple[RunRecord, int]:
        """Find or make the run, and record a start of it; returns the run and the start's id."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO run (name, job, run_date, scope, params, tags, started_at, month_nanos)"
                " VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (name) DO UPDATE SET params = excluded.params,"
                " tags = excluded.tags, month_nanos = excluded.month_nanos",
                (
                    stamp.run_id,
                    stamp.job,
                    stamp.run_date.isoformat() if stamp.run_date else None,
                    stamp.scope,
                    json.dumps(dict(stamp.params), sort_keys=True, default=str),
                    json.dumps(dict(stamp.tags), sort_keys=True),
                    micros(now),
                    stamp.month_nanos,
                ),
            )
            run = self.run(stamp.run_id)
            assert run is not None
            cursor = self._db.execute("INSERT INTO start (run, started_at) VALUES (?,?)", (run.id, micros(now)))
            assert cursor.lastrowid is not None
            return run, cursor.lastrowid

    def end(self, start: int, now: datetime, exit_code: int, reason: str) -> None:
        """Record how a start ended."""
        with self.transaction():
            self._db.execute(
                "UPDATE start SET ended_at = ?, exit_code = ?, reason = ? WHERE id = ?",
                (micros(now), exit_code, reason, start),
            )

    def run(self, run_id: str) -> RunRecord | None:
        """The run of this id, if there is one."""
        return next(iter(self.runs("name = ?", (run_id,))), None)

    def runs(self, where: str = "1", values: Sequence[Any] = ()) -> list[RunRecord]:
        """Runs that match, the newest start first."""
        with storage(self.path):
            rows = self._db.execute(
                "SELECT id, name, job, run_date, scope, plan, started_at, completed_at, published,"
                f" reopened, settled_attempt FROM run WHERE {where}"
                " ORDER BY (SELECT max(start.id) FROM start WHERE start.run = run.id) DESC, id DESC",
                values,
            ).fetchall()
        return [
            RunRecord(
                id=row[0],
                run_id=row[1],
                job=row[2],
                run_date=date.fromisoformat(row[3]) if row[3] else None,
                scope=row[4],
                plan=row[5],
                started_at=moment(row[6]),
                completed_at=moment(row[7]) if row[7] is not None else None,
                published=json.loads(row[8]) if row[8] else None,
                reopened=json.loads(row[9]),
                settled_attempt=row[10],
            )
            for row in rows
        ]

    def set_plan(self, run: int, plan: str) -> None:
        """Name the plan that the run works by."""
        with self.transaction():
            self._db.execute("UPDATE run SET plan = ? WHERE id = ?", (plan, run))

    def set_open(self, run: int) -> None:
        """Say that the run has calls to make again, so a crash from here on leaves it unfinished."""
        with self.transaction():
            self._db.execute("UPDATE run SET completed_at = NULL WHERE id = ?", (run,))

    def set_completed(self, run: int, now: datetime | None, published: Mapping[str, Any]) -> None:
        """Record the published output; with `now`, that the run is complete too."""
        with self.transaction():
            self._db.execute(
                "UPDATE run SET completed_at = coalesce(?, completed_at), published = ? WHERE id = ?",
                (micros(now) if now else None, json.dumps(dict(published), sort_keys=True), run),
            )
            if now is not None:
                self._db.execute(
                    "UPDATE run SET settled_attempt = (SELECT coalesce(max(id), 0) FROM attempt) WHERE id = ?", (run,)
                )

    def reopen(self, run: int, statuses: Iterable[str]) -> None:
        """Open every outcome of these statuses that the run has now; one durable step.

        What an earlier call opened and nobody has asked since stays open.
        """
        with self.transaction():
            (text,) = self._db.execute("SELECT reopened FROM run WHERE id = ?", (run,)).fetchone()
            (newest,) = self._db.execute("SELECT coalesce(max(id), 0) FROM attempt").fetchone()
            marks = {**json.loads(text), **dict.fromkeys(statuses, newest)}
            self._db.execute("UPDATE run SET reopened = ? WHERE id = ?", (json.dumps(marks, sort_keys=True), run))

    # While a run is under way

    def control(self, run: int, settings: Mapping[str, float], now: datetime) -> None:
        """Ask the process that works on the run to change its limits; anybody may, its lock or not."""
        with self.transaction():
            self._db.executemany(
                "INSERT INTO control (run, setting, value, at) VALUES (?,?,?,?)",
                [(run, name, value, micros(now)) for name, value in settings.items()],
            )

    def controls(self, run: int, after: int) -> list[tuple[int, str, float]]:
        """What was asked so since the one of this id: ids, settings and values, in order."""
        with storage(self.path):
            return self._db.execute(
                "SELECT id, setting, value FROM control WHERE run = ? AND id > ? ORDER BY id", (run, after)
            ).fetchall()

    def last_control(self) -> int:
        """The id of the last one asked, for a start that begins after it."""
        with storage(self.path):
            (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM control").fetchone()
        return int(last)

    def set_bound(self, start: int, bound_by: str | None) -> None:
        """Record what limits a start's speed now."""
        with self.transaction():
            self._db.execute("UPDATE start SET bound_by = ? WHERE id = ?", (bound_by, start))

    def pulse(self, run: int, now: datetime) -> Pulse:
        """How fast the run goes, over the last minute, and what limits it."""
        since = micros(now) - 60_000_000
        with storage(self.path):
            answered, taken, made = self._db.execute(
                "SELECT count(*), coalesce(sum(input_tokens + cache_write_5m_tokens + cache_write_1h_tokens), 0),"
                " coalesce(sum(output_tokens), 0)"
                " FROM (SELECT * FROM attempt WHERE run = ? AND answered ORDER BY id DESC LIMIT 50000)"
                " WHERE started_at + latency_ms * 1000 > ?",
                (run, since),
            ).fetchone()
            row = self._db.execute(
                "SELECT started_at, ended_at IS NULL, bound_by FROM start WHERE run = ? ORDER BY id DESC LIMIT 1",
                (run,),
            ).fetchone()
        if row is None:
            return Pulse(0.0, 0.0, 0.0, None)
        started_at, under_way, bound_by = row
        per_minute = 60e6 / min(60e6, max(1e6, micros(now) - started_at))
        return Pulse(answered * per_minute, taken * per_minute, made * per_minute, bound_by if under_way else None)

    # Claims

    def recover(self, now: datetime, max_tokens: int) -> list[int]:
        """Turn claims whose call is gone into attempts that may have been billed; returns the run of each.

        Only the holder of the journal's lock may call this, while it has no call in flight: then every claim in it
        is an orphan, of a process that was killed or of a call that was cut off.
        """
        with self.transaction():
            orphans = self._db.execute(
                "SELECT id, run, start, key, owner, claimed_at, reserved FROM claim WHERE NOT parked"
            ).fetchall()
            for claim, run, start, key, endpoint, claimed_at, reserved in orphans:
                self._db.execute(
                    "INSERT OR IGNORE INTO attempt (id, run, start, request_key, error_type, error_message, max_tokens,"
                    " answered, maybe_billed, maybe_nanos, endpoint, started_at, latency_ms)"
                    " VALUES (?,?,?,?,'connection',?,?,0,1,?,?,?,?)",
                    (
                        claim * ATTEMPTS_PER_CLAIM + ATTEMPTS_PER_CLAIM - 1,
                        run,
                        start,
                        key,
                        "the run ended while this call was in flight",
                        max_tokens,
                        reserved,
                        endpoint,
                        claimed_at,
                        max(0, (micros(now) - claimed_at) // 1000),
                    ),
                )
            self._db.execute("DELETE FROM claim")
            return [orphan[1] for orphan in orphans]

    def add_claims(
        self,
        run: int,
        start: int,
        keys: Sequence[Key],
        owner: str,
        now: datetime,
        secs: float,
        reserved: Sequence[int] | None = None,
    ) -> list[Claim | None]:
        """Claim keys; None for a key that somebody holds. Call inside `transaction`.

        Args:
            run: id of the run.
            start: id of this start.
            keys: the requests' keys.
            owner: the endpoint they go to, which an orphan's record shows.
            now: the time of the claim.
            secs: after this many seconds another owner may take the claim over.
            reserved: nano-dollars that each may cost at worst; nothing by default.
        """
        claims: list[Claim | None] = []
        cursor = self._db.cursor()
        at, until = micros(now), micros(now) + int(secs * 1e6)
        for key, nanos in zip(keys, reserved or [0] * len(keys), strict=True):
            claim = self._last_claim + 1
            cursor.execute(
                "INSERT OR IGNORE INTO claim (id, key, run, start, owner, expires_at, claimed_at, reserved)"
                " VALUES (?,?,?,?,?,?,?,?)",
                (claim, key, run, start, owner, until, at, nanos),
            )
            if cursor.rowcount:
                self._last_claim = claim
                claims.append(Claim(claim, key, nanos))
            else:
                claims.append(None)
        begun = self._begun(keys)
        return [claim if claim is None or claim.key not in begun else replace(claim, begun=True) for claim in claims]

    def _begun(self, keys: Sequence[Key]) -> set[Key]:
        """Those of the keys that have an answer without a verdict."""
        found: set[Key] = set()
        for part in _parts(keys):
            marks = ",".join("?" * len(part))
            rows = self._db.execute(
                f"SELECT request_key FROM attempt WHERE answered AND status IS NULL AND request_key IN ({marks})", part
            )
            found.update(key for (key,) in rows)
        return found

    def turns(self, key: Key) -> list[Turn]:
        """The answered turns of a conversation that has no verdict yet, in order, without damaged ones.

        What came before a verdict belongs to another conversation; only a truncated answer and a failure leave the
        turns before them good.
        """
        with storage(self.path):
            rows = self._db.execute(
                "SELECT a.id, a.key, r.body, r.checksum FROM attempt a JOIN response r ON r.attempt = a.id"
                " WHERE a.request_key = ?1 AND a.answered AND a.status IS NULL AND a.id > coalesce((SELECT max(id)"
                " FROM attempt WHERE request_key = ?1 AND status IN ('ok', 'refused', 'invalid')), 0) ORDER BY a.id",
                (key,),
            ).fetchall()
        turns: list[Turn] = []
        for attempt, asked, compressed, stored in rows:
            with suppress(DamagedError):
                turns.append(Turn(attempt, asked, self._body(key, compressed, stored)))
        return turns

    def judge(self, judgements: Iterable[Judgement]) -> None:
        """Put verdicts on answers that are kept already. Call inside `transaction`."""
        self._db.executemany(
            "UPDATE attempt SET status = ?, error_type = ?, error_message = ?, rules = ? WHERE id = ?",
            [(new.status, new.error_type, new.error_message, new.rules, new.attempt) for new in judgements],
        )

    def reserve(self, claims: Iterable[tuple[int, int]]) -> None:
        """Reserve so many nano-dollars more for each claim, whose call is made again. Call inside `transaction`."""
        self._db.executemany("UPDATE claim SET reserved = reserved + ?2 WHERE id = ?1", claims)

    def park(self, claims: Iterable[tuple[int, bool]]) -> None:
        """Say of claims whether they wait between two attempts, with nothing in flight. Call inside `transaction`."""
        self._db.executemany("UPDATE claim SET parked = ?2 WHERE id = ?1", claims)

    def release(self, claims: Iterable[int]) -> None:
        """Give claims up that have no call in flight. Call inside `transaction`."""
        self._db.executemany("DELETE FROM claim WHERE id = ?", [(claim,) for claim in claims])

    def keep(
        self, outcomes: Sequence[Outcome], *, run: int, start: int, model: str, max_tokens: int, endpoint: str
    ) -> None:
        """Record outcomes and settle their claims; the same outcome twice is kept once. Call inside `transaction`."""
        attempts: list[tuple[Any, ...]] = []
        responses: list[tuple[int, bytes, bytes]] = []
        for outcome in outcomes:
            last = len(outcome.attempts) - 1
            for nth, (attempt, price) in enumerate(outcome.attempts):
                identity = attempt_id(outcome.claim, nth)
                decided = outcome if nth == last else None
                attempts.append(
                    (
                        *(identity, run, start, outcome.key, decided.status if decided else None),
                        *_columns(attempt, price, decided, model),
                        outcome.worst_nanos if _may_cost(attempt, price) else 0,
                        *(max_tokens, endpoint, outcome.asked, outcome.continues),
                        decided.rules if decided else None,
                        *_charged_by(attempt, model),
                    )
                )
                if attempt.response is not None:
                    raw = attempt.response.raw
                    responses.append((identity, *self._bodies.pack(raw)))
        self._db.executemany(KEEP_ATTEMPT, attempts)
        self._db.executemany("INSERT OR REPLACE INTO response (attempt, body, checksum) VALUES (?,?,?)", responses)
        for outcome in outcomes:
            if outcome.decided is not None:
                self._decide(outcome, run, start)
        self.release(outcome.claim for outcome in outcomes)

    def _decide(self, outcome: Outcome, run: int, start: int) -> None:
        """Put the verdict on a copy of the answer that decides, free and the newest: later ones may have one too."""
        new = attempt_id(outcome.claim, 0)
        self._db.execute(
            "INSERT OR REPLACE INTO attempt (id, run, start, request_key, key, status, error_type, error_message,"
            " answered, request_id, stop_reason, model, max_tokens, maybe_billed, endpoint, started_at, latency_ms,"
            " continues, rules) SELECT ?, ?, ?, request_key, key, ?, ?, ?, 0, request_id, stop_reason, model,"
            " max_tokens, 0, endpoint, started_at, latency_ms, continues, ? FROM attempt WHERE id = ?",
            (
                new,
                run,
                start,
                outcome.status,
                outcome.error_type,
                outcome.error_message,
                outcome.rules,
                outcome.decided,
            ),
        )
        self._db.execute(
            "INSERT OR REPLACE INTO response SELECT ?, body, checksum FROM response WHERE attempt = ?",
            (new, outcome.decided),
        )

    # Looking up

    def find(self, keys: Sequence[Key]) -> dict[Key, list[Known]]:
        """Every outcome of these keys, of whatever run; oldest first."""
        found: dict[Key, list[Known]] = defaultdict(list)
        with storage(self.path):
            for part in _parts(keys):
                marks = ",".join("?" * len(part))
                for key, *known in self._db.execute(
                    "SELECT request_key, id, run, start, status, error_type, max_tokens, rules FROM attempt"
                    f" WHERE request_key IN ({marks}) AND status IS NOT NULL ORDER BY id",
                    part,
                ):
                    found[key].append(Known(*known))
        return found

    def reused(self, run: int, keys: Sequence[Key]) -> dict[Key, int]:
        """The attempts that this run took from other runs, by key."""
        found: dict[Key, int] = {}
        with storage(self.path):
            for part in _parts(keys):
                marks = ",".join("?" * len(part))
                found.update(
                    self._db.execute(f"SELECT key, attempt FROM reuse WHERE run = ? AND key IN ({marks})", [run, *part])
                )
        return found

    def set_reused(self, run: int, taken: Iterable[tuple[Key, int]]) -> None:
        """Remember which attempts of other runs this run refers to. Call inside `transaction`."""
        self._db.executemany(
            "INSERT OR REPLACE INTO reuse (run, key, attempt) VALUES (?,?,?)", [(run, key, at) for key, at in taken]
        )

    def answers(self, used: Mapping[Key, int]) -> dict[Key, Answer]:
        """The outcomes that decided, with their raw responses, for the attempts a run refers to.

        One whose stored response is damaged is left out (`maintenance.open_again` has its row asked again).

        Raises:
            StorageError: the journal cannot be read.
        """
        found: dict[Key, Answer] = {}
        with storage(self.path):
            for part in _parts(list(used.values())):
                marks = ",".join("?" * len(part))
                rows = self._db.execute(
                    "SELECT a.request_key, a.id, a.run, a.start, a.status, a.error_type, a.max_tokens, a.rules,"
                    " a.error_message, a.stop_reason, a.model, a.request_id, a.endpoint,"
                    " a.started_at + a.latency_ms * 1000, a.latency_ms, a.continues, r.body, r.checksum"
                    f" FROM attempt a LEFT JOIN response r ON r.attempt = a.id WHERE a.id IN ({marks})",
                    part,
                )
                for key, *decided, continues, compressed, stored in rows:
                    *known, error_message, stop_reason, model, request_id, endpoint, completed_at, latency_ms = decided
                    try:
                        body = None if compressed is None else self._body(key, compressed, stored)
                        earlier = () if continues is None else tuple(self._paused(key, continues))
                    except DamagedError:
                        continue
                    found[key] = Answer(
                        Known(*known),
                        error_message,
                        stop_reason,
                        model,
                        request_id,
                        endpoint,
                        moment(completed_at),
                        latency_ms,
                        body,
                        earlier,
                    )
        return found

    def _paused(self, key: Key, attempt: int) -> list[bytes]:
        """The bodies of the paused answers up to this one, the first one first."""
        bodies: list[bytes] = []
        earlier: int | None = attempt
        while earlier is not None:
            row = self._db.execute(
                "SELECT a.continues, r.body, r.checksum FROM attempt a JOIN response r ON r.attempt = a.id"
                " WHERE a.id = ?",
                (earlier,),
            ).fetchone()
            if row is None:
                raise DamagedError(f"{self.path}: a part of the stored response of {key_text(key)} is missing")
            earlier, compressed, stored = row
            bodies.insert(0, self._body(key, compressed, stored))
        return bodies

    def _body(self, key: Key, compressed: bytes, stored: bytes | None) -> bytes:
        body = self._bodies.unpack(compressed, stored)
        if body is None:
            raise DamagedError(f"{self.path}: the stored response of {key_text(key)} is damaged")
        return body

    def calls(self, used: Mapping[Key, int]) -> dict[Key, Call]:
        """What the rows of these attempts took in the runs that asked them, repairs counted."""
        found: dict[Key, Call] = {}
        with storage(self.path):
            for part in _parts(list(used.values())):
                marks = ",".join("?" * len(part))
                for key, latency_ms, *tokens in self._db.execute(
                    "SELECT b.request_key, sum(b.latency_ms), sum(b.input_tokens), sum(b.output_tokens),"
                    " sum(b.cache_write_5m_tokens), sum(b.cache_write_1h_tokens), sum(b.cache_read_tokens)"
                    " FROM attempt a JOIN attempt b ON b.request_key = a.request_key AND b.run = a.run AND b.answered"
                    f" WHERE a.id IN ({marks}) GROUP BY b.request_key",
                    part,
                ):
                    found[key] = Call(None if tokens[0] is None else Usage(*tokens), latency_ms)
        return found

    def bills(self, run: int, keys: Sequence[Key]) -> dict[Key, Bill]:
        """What this run paid for each of these keys; keys without an attempt in this run are left out."""
        found: dict[Key, Bill] = {}
        with storage(self.path):
            for part in _parts(keys):
                marks = ",".join("?" * len(part))
                for row in self._db.execute(
                    "SELECT request_key, model, input_tokens, output_tokens, cache_write_5m_tokens,"
                    " cache_write_1h_tokens, cache_read_tokens, cost_nanos, priced_by, answered FROM attempt"
                    f" WHERE request_key IN ({marks}) AND run = ? AND {CALLED} ORDER BY id",
                    [*part, run],
                ):
                    bill = found.setdefault(row[0], Bill(by_model={}))
                    bill.attempts += 1
                    if row[9]:
                        _add(bill, row)
        return found

    def in_flight(self, run: int) -> int:
        """Calls of the run that may be in flight now."""
        with storage(self.path):
            (number,) = self._db.execute("SELECT count(*) FROM claim WHERE run = ? AND NOT parked", (run,)).fetchone()
        assert isinstance(number, int)
        return number

    def totals(self, run: int, start: int | None = None) -> RunTotals:
        """Everything a run (or one start of it) has paid."""
        where, values = ("run = ?", [run]) if start is None else ("run = ? AND start = ?", [run, start])
        with storage(self.path):
            row = self._db.execute(
                f"SELECT sum({SENT}), sum(answered), count(*) - count(DISTINCT id / 1024), sum(maybe_billed),"
                " sum(maybe_billed AND status IS NULL), sum(maybe_nanos), sum(input_tokens), sum(output_tokens),"
                " sum(cache_write_5m_tokens), sum(cache_write_1h_tokens), sum(cache_read_tokens), sum(cost_nanos),"
                f" sum(answered AND cost_nanos IS NULL) FROM attempt WHERE {where}",
                values,
            ).fetchone()
            by_model = dict(
                self._db.execute(
                    f"SELECT model, sum(cost_nanos) FROM attempt WHERE {where} AND cost_nanos > 0 GROUP BY model",
                    values,
                ).fetchall()
            )
            cached = {
                model: (calls, Usage(*tokens))
                for model, calls, *tokens in self._db.execute(
                    "SELECT model, count(*), sum(input_tokens), sum(output_tokens), sum(cache_write_5m_tokens),"
                    f" sum(cache_write_1h_tokens), sum(cache_read_tokens) FROM attempt WHERE {where}"
                    " AND cache_write_5m_tokens + cache_write_1h_tokens + cache_read_tokens > 0 GROUP BY model",
                    values,
                )
            }
        numbers = [value or 0 for value in row]
        sent, answered, retried, maybe_billed, lost, maybe_nanos, *tokens, cost, unpriced = numbers
        return RunTotals(
            sent=sent,
            answered=answered,
            retried=retried,
            maybe_billed=maybe_billed,
            maybe_billed_retried=lost,
            maybe_nanos=maybe_nanos,
            usage=Usage(*tokens),
            cost_nanos=cost,
            unpriced=unpriced,
            by_model=by_model,
            cached=cached,
        )

    def spent(self, run: RunRecord) -> int:
        """Nano-dollars that the run has paid, or may have paid, since it was last complete."""
        with storage(self.path):
            row = self._db.execute(
                f"SELECT {_SPENT} FROM attempt WHERE run = ? AND id > ?", (run.id, run.settled_attempt)
            ).fetchone()
        return int(row[0])

    def reported(self, scope: str, newest: int = 1000) -> list[tuple[str, Usage, datetime, int]]:
        """Model, tokens, time and cost of the last answers whose cost the server reported."""
        with storage(self.path):
            rows = self._db.execute(
                "SELECT model, input_tokens, output_tokens, cache_write_5m_tokens, cache_write_1h_tokens,"
                " cache_read_tokens, attempt.started_at, cost_nanos FROM attempt JOIN run ON run.id = attempt.run"
                " WHERE run.scope = ? AND priced_by = 'server' AND input_tokens IS NOT NULL"
                " ORDER BY attempt.id DESC LIMIT ?",
                (scope, newest),
            ).fetchall()
        return [(model, Usage(*tokens), moment(at), cost) for model, *tokens, at, cost in rows]

    def spent_since(self, scope: str, since: datetime) -> int:
        """Nano-dollars that all runs of an endpoint scope have paid, or may have paid, for calls made since then."""
        with storage(self.path):
            row = self._db.execute(
                f"SELECT {_SPENT} FROM attempt JOIN run ON run.id = attempt.run"
                " WHERE run.scope = ? AND attempt.started_at >= ?",
                (scope, micros(since)),
            ).fetchone()
        return int(row[0])


def _may_cost(attempt: Attempt, price: Price) -> bool:
    """Whether nobody knows what an attempt cost: it was lost, or its answer has no price."""
    return attempt.maybe_billed or (attempt.response is not None and price.nanos is None)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=TIMEOUT_SECS)


@contextmanager
def _closed_on_error(connection: sqlite3.Connection, folder: TemporaryDirectory[str] | None = None) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        if folder is not None:
            folder.cleanup()
        raise


def _is_todays(connection: sqlite3.Connection) -> bool:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return bool(version == schema.VERSION)


def _blank(path: Path, connection: sqlite3.Connection) -> bool:
    """Whether nothing was ever laid in the database."""
    try:
        (marked,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # The disk is full, or may not be written: that says nothing of what the file is.
        raise
    except sqlite3.DatabaseError as error:
        raise JobError(f"{path}: this is not a journal of this program ({error}); move it away") from error
    return bool(marked == 0 and tables == 0)


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Parts for one query each, filled up with their last value: lists of few lengths are few statements to compile."""
    for at in range(0, len(values), KEYS_PER_QUERY):
        part = list(values[at : at + KEYS_PER_QUERY])
        yield part + part[-1:] * (-len(part) % KEYS_STEP)


def _charged_by(attempt: Attempt, asked: str) -> tuple[str | None, str | None]:
    """The model that was asked, where another one answered, and the terms: what a price is found by beside tokens."""
    response = attempt.response
    if response is None:
        return None, None
    return None if response.model in (None, asked) else asked, terms_text(response.terms)


def _columns(attempt: Attempt, price: Price, decided: Outcome | None, asked: str) -> tuple[Any, ...]:
    response = attempt.response
    usage = response.usage if response else None
    return (
        decided.error_type if decided else attempt.error_type,
        decided.error_message if decided else attempt.error_message,
        attempt.http_status,
        int(response is not None),
        response.request_id if response else attempt.request_id,
        response.stop_reason if response else None,
        (response.model if response else None) or asked,
        usage.input_tokens if usage else None,
        usage.output_tokens if usage else None,
        usage.cache_write_5m_tokens if usage else None,
        usage.cache_write_1h_tokens if usage else None,
        usage.cache_read_tokens if usage else None,
        price.nanos,
        price.priced_by,
        price.source,
        int(attempt.maybe_billed),
        micros(attempt.started_at),
        attempt.latency_ms,
    )


def _add(bill: Bill, row: Sequence[Any]) -> None:
    """Add one answered attempt to a bill; an unknown part makes the whole unknown, never smaller."""
    _, model, *tokens, cost, priced_by, _ = row
    assert bill.by_model is not None
    if tokens[0] is None:
        bill.usage = None
    elif bill.usage is not None:
        bill.usage = bill.usage + Usage(*tokens)
    if cost is None:
        bill.cost_nanos = None
        return
    bill.by_model[model] = bill.by_model.get(model, 0) + cost
    if bill.cost_nanos is not None:
        bill.cost_nanos += cost
        bill.priced_by = priced_by

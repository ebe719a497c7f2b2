"""A run's attempts and rows in scratch tables of SQLite: sums are made there, on disk, however large the run is.

The journal is opened for reading only. The scratch tables are temporary, of this connection, and go with it: `mine`
holds the run's calls, `uncalled` its other attempts, `line` the plan's rows, `span` the stretches of calls of its
starts.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.errors import StorageError
from pipeline.records import Key
from pipeline.report.run.sample import Spread
from pipeline.report.run.span import Clock, Work
from pipeline.report.run.told import Line, Stretch

UNCALLED = """
CREATE TEMP TABLE uncalled AS SELECT id, status = 'failed' AS unsent FROM main.attempt
WHERE run = ? AND NOT answered AND (status <> 'failed' OR status = 'failed' AND http_status IS NULL
  AND NOT maybe_billed AND (error_type GLOB 'image_*' OR error_type = 'over_limit'))
"""
"""Attempts that were no calls: verdicts on an earlier answer, and rows that failed before anything was sent."""

MINE = """
CREATE TEMP TABLE mine AS SELECT id, start, request_key, status, error_type, error_message, http_status, answered,
  model, input_tokens, output_tokens, cache_write_5m_tokens + cache_write_1h_tokens AS cache_write_tokens,
  cache_read_tokens, cost_nanos, priced_by, price_source, maybe_billed, maybe_nanos, endpoint, started_at, latency_ms,
  started_at + latency_ms * 1000 AS ended_at
FROM main.attempt WHERE run = ? AND id NOT IN (SELECT id FROM uncalled)
"""
LINE = """
CREATE TEMP TABLE line (at INTEGER PRIMARY KEY, row TEXT, status TEXT, key BLOB, attempt INTEGER, error_type TEXT,
  error_message TEXT, repeats INTEGER)
"""
# A call that was cut off by the end of its process is recorded by the next start, with the time up to that: it ends
# with the last call of its own start that anything was heard of.
SPAN = """
CREATE TEMP TABLE span AS SELECT m.start, min(m.started_at) AS first, max(min(m.started_at), CASE
  WHEN s.ended_at IS NULL THEN max(CASE WHEN answered OR http_status IS NOT NULL THEN m.ended_at ELSE m.started_at END)
  ELSE max(m.ended_at) END) AS last, 0 AS before
FROM mine m LEFT JOIN main.start s ON s.id = m.start GROUP BY m.start
"""
STEP = "min((s.before + min(max({at}, s.first), s.last) - s.first) * :steps / :total, :steps - 1)"
"""The step of the working time that a moment falls into."""

COARSE = """
CASE WHEN latency_ms < 1000 THEN latency_ms WHEN latency_ms < 10000 THEN latency_ms / 10 * 10
  WHEN latency_ms < 100000 THEN latency_ms / 100 * 100 ELSE latency_ms / 1000 * 1000 END
"""
"""Three digits of a latency: what a chart can show, and few enough to count each."""

ENDED = """
SELECT {step}, CASE WHEN answered THEN 'answered' ELSE coalesce(error_type, '?') END, count(*)
FROM mine m JOIN span s ON s.start = m.start GROUP BY 1, 2 ORDER BY 1, 2
""".format(step=STEP.format(at="m.ended_at"))
LATENCIES = """
SELECT {step}, {coarse}, count(*)
FROM mine m JOIN span s ON s.start = m.start WHERE answered GROUP BY 1, 2 ORDER BY 1, 2
""".format(step=STEP.format(at="m.ended_at"), coarse=COARSE)
PAID = """
SELECT CASE WHEN :whole AND request_key NOT IN (SELECT key FROM line WHERE key IS NOT NULL) THEN 'superseded'
    WHEN id IN (SELECT attempt FROM line WHERE attempt IS NOT NULL) THEN 'decided' ELSE 'asked again' END,
  model, count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),
  coalesce(sum(cache_write_tokens), 0), coalesce(sum(cache_read_tokens), 0), coalesce(sum(cost_nanos), 0),
  sum(cost_nanos IS NULL)
FROM mine WHERE answered GROUP BY 1, 2 ORDER BY 2
"""
SPREAD = """
WITH chosen AS (
  SELECT *, row_number() OVER (ORDER BY at) - 1 AS nth FROM line WHERE status = :status
)
SELECT l.at - 1, l.row, l.status, l.key, l.attempt, coalesce(l.error_type, a.error_type), a.stop_reason,
  coalesce(l.error_message, a.error_message), l.repeats, coalesce(a.run <> :run, 0), count(b.id), sum(b.cost_nanos),
  coalesce(sum(b.id IS NOT NULL AND b.cost_nanos IS NULL), 0), l.attempt IN (SELECT id FROM uncalled WHERE unsent)
FROM chosen l LEFT JOIN main.attempt a ON a.id = l.attempt
  LEFT JOIN main.attempt b ON b.request_key = l.key AND b.run = :run AND b.answered
WHERE l.nth = 0 OR l.nth * :wanted / :of <> (l.nth - 1) * :wanted / :of
GROUP BY l.at ORDER BY l.at
"""
"""The first of each of so many equal parts."""

STARTS = """
SELECT s.id, s.started_at, s.ended_at, s.exit_code, s.reason, count(m.id), coalesce(sum(m.answered), 0),
  coalesce(sum(m.cost_nanos), 0)
FROM main.start s LEFT JOIN mine m ON m.start = s.id WHERE s.run = ? GROUP BY s.id ORDER BY s.id
"""


@dataclass(frozen=True, slots=True)
class Paid:
    """Answered calls: how many, tokens by kind, nano-dollars, and how many of them have no known price."""

    calls: int = 0
    tokens: tuple[int, int, int, int] = (0, 0, 0, 0)
    nanos: int = 0
    unpriced: int = 0

    def __add__(self, other: Paid) -> Paid:
        both = tuple(a + b for a, b in zip(self.tokens, other.tokens, strict=True))
        return Paid(self.calls + other.calls, both, self.nanos + other.nanos, self.unpriced + other.unpriced)  # type: ignore[arg-type] # zip forgets the length


@dataclass(frozen=True, slots=True)
class Trouble:
    """Calls that ended with an error of one kind.

    Attributes:
        kind: the error type.
        http_status: None where there was none.
        calls: how many.
        rows: how many different rows they were made for.
        final: how many of them decided their row; the others were asked again.
        examples: the most frequent messages, with how often each came and the name of a row.
    """

    kind: str
    http_status: int | None
    calls: int
    rows: int
    final: int
    examples: Sequence[tuple[str, int, str]]


@dataclass(frozen=True, slots=True)
class Fallen:
    """A row that is not ok.

    Attributes:
        place: in the plan, from 0.
        row: its name.
        status: as the output's column has it.
        kind: the error type.
        stop_reason: of its answer.
        message: of the error.
        calls: that this run made for it.
    """

    place: int
    row: str
    status: str
    kind: str | None
    stop_reason: str | None
    message: str | None
    calls: int


@dataclass(frozen=True, slots=True)
class Picked:
    """A row chosen to be shown, with its kept input columns."""

    line: Line
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bill:
    """A row to be shown, with what became of it.

    Attributes:
        place: in the plan, from 0.
        row: its name.
        status: as the output's column has it.
        key: None where it failed before sending.
        attempt: the one whose outcome the run refers to.
        kind: the error type; None for a row that is ok.
        stop_reason: of its answer.
        message: of the error.
        repeats: it shares the outcome of an earlier equal row.
        reused: its answer came from another run.
        calls: answered ones that this run made for it.
        nanos: what they cost; None where a price is not known.
        unsent: its outcome came before anything was sent.
    """

    place: int
    row: str
    status: str
    key: Key | None
    attempt: int | None
    kind: str | None
    stop_reason: str | None
    message: str | None
    repeats: bool
    reused: bool
    calls: int
    nanos: int | None
    unsent: bool


@contextmanager
def ledger(journal: Path, run: int) -> Iterator[Ledger]:
    """Open the journal and lay the run's attempts out.

    Raises:
        StorageError: the journal cannot be read.
    """
    with _reading(journal) as connection:
        yield Ledger(connection, run)


@contextmanager
def _reading(journal: Path) -> Iterator[sqlite3.Connection]:
    try:
        connection = sqlite3.connect(
            f"{journal.absolute().as_uri()}?mode=ro", uri=True, timeout=30, isolation_level=None
        )
        try:
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StorageError(f"{journal}: the journal could not be read: {error}") from error


class Ledger:
    """Sums over a run."""

    def __init__(self, connection: sqlite3.Connection, run: int) -> None:
        self._db = connection
        self._run = run
        # Each attempt of the journal is looked at twice, whatever number of runs it holds.
        connection.execute(UNCALLED, (run,))
        connection.execute(MINE, (run,))
        connection.execute(LINE)

    def _all(self, sql: str, values: Mapping[str, Any] | Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, values: Mapping[str, Any] | Sequence[Any] = ()) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self._db.execute(sql, values).fetchone()
        return found

    def params_and_tags(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The params and tags that the run was started with last."""
        params, tags = self._one("SELECT params, tags FROM main.run WHERE id = ?", (self._run,))
        return json.loads(params), json.loads(tags)

    # Rows

    def take(self, stretches: Iterable[Stretch], wanted: Mapping[str, int]) -> dict[str, list[Picked]]:
        """Write the plan's rows down, and pick so many of each wanted status, evenly spread."""
        spreads = {status: Spread[Picked](most) for status, most in wanted.items()}
        self._db.execute("BEGIN")
        for stretch in stretches:
            self._db.executemany(
                "INSERT INTO line (row, status, key, attempt, error_type, error_message, repeats)"
                " VALUES (?,?,?,?,?,?,?)",
                [
                    (each.row, each.status, each.key, each.attempt, *(each.error or (None, None)), each.repeats)
                    for each in stretch.lines
                ],
            )
            for nth, each in enumerate(stretch.lines):
                spread = spreads.get(each.status)
                if spread is not None and each.attempt is not None and not each.repeats and spread.wants():
                    spread.keep(Picked(each, stretch.kept.slice(nth, 1).to_pylist()[0]))
        self._db.execute("COMMIT")
        return {status: spread.chosen for status, spread in spreads.items()}

    def outcomes(self, asked: str) -> dict[str, dict[str, int]]:
        """Rows by model and status; a row that nothing answered counts for the model that was asked."""
        found: dict[str, dict[str, int]] = {}
        for model, status, number in self._all(
            "SELECT coalesce(a.model, ?), l.status, count(*) FROM line l LEFT JOIN main.attempt a ON a.id = l.attempt"
            " GROUP BY 1, 2 ORDER BY 1, 2",
            (asked,),
        ):
            found.setdefault(model, {})[status] = number
        return found

    def shared(self) -> tuple[int, int, int]:
        """Rows that cost nothing: answered by another run, sharing an equal row's outcome, failed before sending."""
        (reused,) = self._one(
            "SELECT count(*) FROM line l JOIN main.attempt a ON a.id = l.attempt WHERE a.run <> ? AND NOT l.repeats",
            (self._run,),
        )
        repeats, unsent = self._one(
            "SELECT coalesce(sum(repeats), 0),"
            " coalesce(sum(key IS NULL OR attempt IN (SELECT id FROM uncalled WHERE unsent)), 0) FROM line"
        )
        return reused, repeats, unsent

    def reasons(self) -> list[tuple[str, str, int]]:
        """Rows that are not ok by status and reason, the most frequent first."""
        return [
            (status, reason or "", number)
            for status, reason, number in self._all(
                "SELECT l.status, coalesce(l.error_type, a.error_type, a.stop_reason), count(*) FROM line l"
                " LEFT JOIN main.attempt a ON a.id = l.attempt WHERE l.status NOT IN ('ok', 'pending')"
                " GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
            )
        ]

    def fallen(self, most: int, statuses: Sequence[str]) -> list[Fallen]:
        """Rows of these statuses: the first ones of each reason, each reason as many as any other, `most` at most."""
        rows = self._all(
            "SELECT at - 1, row, status, kind, stop_reason, message,"
            " (SELECT count(*) FROM main.attempt b WHERE b.request_key = ranked.key AND b.run = :run"
            "  AND b.id NOT IN (SELECT id FROM uncalled)) FROM ("
            "  SELECT l.at, l.row, l.status, l.key, coalesce(l.error_type, a.error_type) AS kind, a.stop_reason,"
            "  coalesce(l.error_message, a.error_message) AS message,"
            "  row_number() OVER (PARTITION BY l.status, coalesce(l.error_type, a.error_type) ORDER BY l.at) AS nth"
            "  FROM line l LEFT JOIN main.attempt a ON a.id = l.attempt"
            "  WHERE l.status IN (SELECT value FROM json_each(:statuses)) ORDER BY nth, at LIMIT :most"
            ") AS ranked ORDER BY status, kind, at",
            {"run": self._run, "most": most, "statuses": json.dumps(list(statuses))},
        )
        return [Fallen(*row) for row in rows]

    def spread(self, status: str, wanted: int, of: int) -> list[Bill]:
        """Rows of a status, so many of all that there are, evenly spread from the first on, in order."""
        rows = self._all(SPREAD, {"run": self._run, "status": status, "wanted": wanted, "of": of})
        found = []
        for *told, repeats, reused, calls, nanos, unpriced, unsent in rows:
            values = (*told, bool(repeats), bool(reused), calls, None if unpriced else nanos or 0, bool(unsent))
            found.append(Bill(*values))
        return found

    def told(self, attempts: Sequence[int]) -> dict[int, tuple[str | None, str | None, int | None, int]]:
        """Of some attempts: model, stop reason, output tokens, latency in ms."""
        return {
            row[0]: (row[1], row[2], row[3], row[4])
            for row in self._all(
                "SELECT id, model, stop_reason, output_tokens, latency_ms FROM main.attempt"
                " WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(attempts)),),
            )
        }

    # Money

    def paid(self, *, whole: bool) -> dict[str, dict[str, Paid]]:
        """Answered calls by what became of them and by model.

        What became: `decided` their row, were `asked again` (repairs, pauses, retries of what could not be read, what
        was decided anew), or are `superseded`: their row is wanted no more.

        Args:
            whole: the plan is a whole one; of a trial nobody knows which rows are wanted no more.
        """
        found: dict[str, dict[str, Paid]] = {}
        rows = self._all(PAID, {"whole": whole})
        for became, model, calls, *tokens, nanos, unpriced in rows:
            found.setdefault(became, {})[model or "?"] = Paid(calls, tuple(tokens), nanos, unpriced)
        return found

    def maybe(self) -> tuple[int, int]:
        """Calls that may have been billed, and what they may have cost at worst, nano-dollars."""
        calls, nanos = self._one("SELECT coalesce(sum(maybe_billed), 0), coalesce(sum(maybe_nanos), 0) FROM mine")
        return calls, nanos

    def prices(self) -> list[tuple[str, str, str, int, int]]:
        """Model, by what it was priced, the price's identity, calls, nano-dollars; the dearest first."""
        rows = self._all(
            "SELECT coalesce(model, '?'), coalesce(priced_by, 'no price is known'), coalesce(price_source, ''),"
            " count(*), coalesce(sum(cost_nanos), 0) FROM mine WHERE answered GROUP BY 1, 2, 3 ORDER BY 5 DESC, 1, 3"
        )
        return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]

    # Calls

    def calls(self) -> tuple[int, int]:
        """Calls that ended, and those of them that were answered."""
        ended, answered = self._one("SELECT count(*), coalesce(sum(answered), 0) FROM mine")
        return ended, answered

    def calls_per_row(self) -> list[tuple[int, int]]:
        """How many rows took how many calls."""
        rows = self._all(
            "SELECT calls, count(*) FROM (SELECT count(*) AS calls FROM mine GROUP BY request_key)"
            " GROUP BY 1 ORDER BY 1"
        )
        return [(calls, number) for calls, number in rows]

    def endpoints(self) -> list[str]:
        """Where the calls went, the most frequent first."""
        return [name for (name,) in self._all("SELECT endpoint FROM mine GROUP BY 1 ORDER BY count(*) DESC")]

    def starts(self) -> list[tuple[int, int, int | None, int | None, str | None, int, int, int]]:
        """The run's starts: id, begin, end, exit code, reason, calls, answered, nano-dollars."""
        return [
            (row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7]) for row in self._all(STARTS, (self._run,))
        ]

    def trouble(self, most: int) -> list[Trouble]:
        """Calls that ended with an error, by kind, the most frequent first, with the most frequent messages."""
        rows = self._all(
            "SELECT error_type, http_status, count(*), count(DISTINCT request_key), sum(status IS NOT NULL) FROM mine"
            " WHERE error_type IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
        )
        return [
            Trouble(kind, http_status, calls, different, final, self._examples(kind, http_status, most))
            for kind, http_status, calls, different, final in rows
        ]

    def _examples(self, kind: str, http_status: int | None, most: int) -> list[tuple[str, int, str]]:
        rows = self._all(
            "SELECT message, calls, (SELECT row FROM line WHERE line.key = told.key LIMIT 1) FROM ("
            "  SELECT error_message AS message, count(*) AS calls, min(request_key) AS key FROM mine"
            "  WHERE error_type = ? AND http_status IS ? AND error_message IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
            "  LIMIT ?"
            ") AS told",
            (kind, http_status, most),
        )
        return [(message, number, row or "") for message, number, row in rows]

    def latencies(self) -> dict[str, list[tuple[int, int]]]:
        """By model, the latencies in ms of answered calls with how often each came, ascending."""
        found: dict[str, list[tuple[int, int]]] = {}
        for model, latency, number in self._all(
            "SELECT coalesce(model, '?'), latency_ms, count(*) FROM mine WHERE answered GROUP BY 1, 2 ORDER BY 1, 2"
        ):
            found.setdefault(model, []).append((latency, number))
        return found

    # Time

    def clock(self, most: int) -> Clock:
        """The run's working time; call before what goes by its steps."""
        self._db.execute(SPAN)
        works = [Work(*row) for row in self._all("SELECT start, first, last FROM span ORDER BY first")]
        clock = Clock.of(works, self.calls()[0], most)
        self._db.executemany(
            "UPDATE span SET before = ? WHERE start = ?",
            [(offset, work.start) for work, offset in zip(works, clock.offsets, strict=True)],
        )
        return clock

    def ended(self, clock: Clock) -> list[tuple[int, str, int]]:
        """Step, what calls ended with (`answered`, else the error type), how many."""
        rows = self._all(ENDED, {"steps": clock.steps, "total": clock.total})
        return [(step, kind, number) for step, kind, number in rows]

    def latencies_by_step(self, clock: Clock) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """By step, the latencies in ms of answered calls to three digits, with how often each came, ascending."""
        rows = self._db.execute(LATENCIES, {"steps": clock.steps, "total": clock.total})
        step, found = None, list[tuple[int, int]]()
        for at, latency, number in chain(rows, [(None, 0, 0)]):
            if at != step:
                if step is not None:
                    yield step, found
                step, found = at, []
            found.append((latency, number))

    def busiest(self) -> tuple[int, int, int]:
        """The most requests sent, and input and output tokens answered, in any minute of the wall clock."""
        requests, tokens_in, tokens_out = self._one(
            "SELECT max(calls), max(tokens_in), max(tokens_out) FROM (SELECT count(*) AS calls,"
            " sum(coalesce(input_tokens, 0) + coalesce(cache_write_tokens, 0)) AS tokens_in,"
            " sum(coalesce(output_tokens, 0)) AS tokens_out FROM mine GROUP BY started_at / 60000000)"
        )
        return requests or 0, tokens_in or 0, tokens_out or 0

    def in_flight(self) -> int:
        """Milliseconds that all calls were under way, added up."""
        (found,) = self._one(
            "SELECT coalesce(sum(min(m.latency_ms, max(0, (s.last - m.started_at) / 1000))), 0) FROM mine m"
            " JOIN span s ON s.start = m.start"
        )
        return int(found)

    def under_way(self) -> int:
        """Calls that may be in flight now."""
        (found,) = self._one("SELECT count(*) FROM main.claim WHERE run = ? AND NOT parked", (self._run,))
        return int(found)


def keys_of(picked: Iterable[Picked]) -> dict[Key, int]:
    """The keys of rows to be shown, with the attempts they refer to."""
    return {p.line.key: p.line.attempt for p in picked if p.line.key is not None and p.line.attempt is not None}

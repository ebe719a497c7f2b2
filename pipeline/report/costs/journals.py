"""Bill lines from journals, which also know what was paid for answers that no output holds any more."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.errors import JobError, StorageError
from pipeline.journal.apart import open_apart, unwritable
from pipeline.journal.schema import APPLICATION_ID, VERSION
from pipeline.journal.terms import add_terms_of
from pipeline.records import NANOS_PER_USD
from pipeline.report.costs.lines import MOMENT, REHEARSALS, SCHEMA, TAG, Lines, empty
from pipeline.report.words import many

STATE = ".pipeline"
ROWS_AT_ONCE = 20_000
ROW = ("run", "request_key")
"""What the attempts of a row have in common."""

Wanted = Callable[[Path, str], Iterable[bytes] | None]
"""Of a journal and the plan that a run works by: the keys the run wants answered; None where that is not known."""

Named = Callable[[Path, str], Iterable[tuple[bytes, str]]]
"""Of a journal and the plan that a run works by: keys, each with the id of its row."""

ATTEMPTS = """
SELECT a.id, a.run, a.request_key, a.status, a.answered, a.model, a.endpoint, a.input_tokens, a.output_tokens,
  a.cache_write_5m_tokens + a.cache_write_1h_tokens AS cache_write_tokens, a.cache_write_1h_tokens,
  a.cache_read_tokens, a.cost_nanos, a.maybe_billed AS maybe_requests, {maybe_nanos} AS maybe_nanos,
  a.started_at + a.latency_ms * 1000 AS completed_at, {asked}, {terms},
  a.status = 'refused' AND a.cost_nanos = 0 AS unbilled
FROM attempt a WHERE a.run IN (SELECT value FROM json_each(?)) ORDER BY a.id
"""
REUSED = """
SELECT u.run, u.key AS request_key, a.status, a.model, a.endpoint,
  a.started_at + a.latency_ms * 1000 AS completed_at,
  (SELECT sum(p.cost_nanos) FROM attempt p WHERE p.request_key = u.key AND p.run = a.run) AS reuse_saved_nanos
FROM reuse u JOIN attempt a ON a.id = u.attempt WHERE u.run IN (SELECT value FROM json_each(?))
"""
ATTEMPT_TYPES = {
    "id": pl.Int64,
    "run": pl.Int64,
    "request_key": pl.Binary,
    "status": pl.String,
    "answered": pl.Int64,
    "model": pl.String,
    "endpoint": pl.String,
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "cache_write_tokens": pl.Int64,
    "cache_write_1h_tokens": pl.Int64,
    "cache_read_tokens": pl.Int64,
    "cost_nanos": pl.Int64,
    "maybe_requests": pl.Int64,
    "maybe_nanos": pl.Int64,
    "completed_at": pl.Int64,
    "asked": pl.String,
    "terms": pl.String,
    "unbilled": pl.Int64,
}
REUSED_TYPES = {
    "run": pl.Int64,
    "request_key": pl.Binary,
    "status": pl.String,
    "model": pl.String,
    "endpoint": pl.String,
    "completed_at": pl.Int64,
    "reuse_saved_nanos": pl.Int64,
}
TOKENS = ("input_tokens", "output_tokens", "cache_write_tokens", "cache_write_1h_tokens", "cache_read_tokens")
NOTHING = ("cost_nanos", "superseded_nanos", "unpriced_requests", "maybe_requests", "maybe_nanos")
"""What a reused row has none of, beside tokens."""


@dataclass(frozen=True, slots=True)
class _Run:
    id: int
    name: str
    job: str
    run_date: str | None
    scope: str
    tags: str
    plan: str | None
    superseded: bool
    month_nanos: int | None


def _no_names(_: Path, __: str) -> Iterable[tuple[bytes, str]]:
    return ()


def read_journals(
    folder: Path, tags: Sequence[str], *, rehearsals: bool, wanted: Wanted, named: Named = _no_names
) -> Lines:
    """Read the bill lines of every journal in a ``.pipeline`` folder at any depth under this one; changes nothing.

    Raises:
        JobError: there is none, or one was written by a newer version of this program.
        StorageError: one cannot be read.
    """
    paths = _journals(folder)
    if not paths:
        raise JobError(
            f"no journal ({STATE}/*.sqlite) under {folder}; name outputs or directories: pipeline costs out/"
        )
    notes: list[str] = []
    frames, left, runs = [empty([TAG + tag for tag in tags])], 0, 0
    budgets: dict[str, int | None] = {}
    plans: dict[str, tuple[Path, str]] = {}
    for path in paths:
        with _reading(path) as connection:
            known = _runs(connection)
            counted = [run for run in known if rehearsals or run.scope not in REHEARSALS]
            left += len(known) - len(counted)
            runs += len(counted)
            budgets |= {run.job: run.month_nanos for run in counted}
            plans |= {run.name: (path, run.plan) for run in counted if run.plan is not None}
            if counted:
                frames.append(_lines(path, connection, counted, tags, wanted))
    if left:
        notes.append(f"{many(left, 'rehearsal')} left out; --rehearsals counts them")
    source = f"{many(len(paths), 'journal')}, {many(runs, 'run')}"

    def names(rows: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        return _row_names(rows, plans, named)

    stated = {job: nanos / NANOS_PER_USD for job, nanos in budgets.items() if nanos is not None}
    return Lines(pl.concat(frames, how="vertical"), notes, source, budgets=stated, attempts=True, names=names)


def tags_of(folder: Path) -> frozenset[str]:
    """The names of all tags that the runs in the journals under a folder have.

    Raises:
        JobError, StorageError: as `read_journals`, but there may be no journal.
    """
    found: set[str] = set()
    for path in _journals(folder):
        with _reading(path) as connection:
            for run in _runs(connection):
                found |= json.loads(run.tags).keys()
    return frozenset(found)


def _journals(folder: Path) -> list[Path]:
    # A job's name has no dot: what has one, such as bilder.pictures.sqlite, lies beside a journal and is none.
    return [path for path in sorted(folder.rglob(f"{STATE}/*.sqlite")) if path.is_file() and "." not in path.stem]


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    with ExitStack() as stack:
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
            stack.callback(connection.close)
            try:
                _check(path, connection)
            except sqlite3.OperationalError as error:
                if not unwritable(error):
                    raise
                # An archive: a WAL cannot be shared where nothing can be made beside it.
                connection, folder = open_apart(path)
                if folder is not None:
                    stack.callback(folder.cleanup)
                stack.callback(connection.close)
                _check(path, connection)
            yield connection
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"{path}: the journal could not be read: {error}") from error


def _row_names(
    rows: Collection[tuple[str, str]], plans: Mapping[str, tuple[Path, str]], named: Named
) -> dict[tuple[str, str], str]:
    """The ids of rows by run and request key, as the runs' plans have them; of equal rows the first."""
    found: dict[tuple[str, str], str] = {}
    for run in {run for run, _ in rows} & plans.keys():
        left = {key for name, key in rows if name == run}
        for raw, row in named(*plans[run]):
            key = f"k1-{raw.hex()}"
            if key in left:
                found[run, key] = row
                left.remove(key)
            if not left:
                break
    return found


def _check(path: Path, connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise JobError(f"{path}: this SQLite file is not a journal of this program; move it away")
    # Older formats have every column that is read here, and a report changes no file.
    if version > VERSION:
        raise JobError(
            f"{path}: written by a newer version of this program (format {version}, this one knows {VERSION}); "
            "upgrade the program"
        )


def _runs(connection: sqlite3.Connection) -> list[_Run]:
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(run)")}
    month = "month_nanos" if "month_nanos" in columns else "NULL"
    found = connection.execute(
        f"SELECT id, name, job, run_date, scope, tags, plan, published, {month} FROM run"  # noqa: S608 - ours
        " ORDER BY (SELECT max(start.id) FROM start WHERE start.run = run.id), id"
    )
    return [
        _Run(number, name, job, run_date, scope, tags, plan, _has_superseded(published), month_nanos)
        for number, name, job, run_date, scope, tags, plan, published, month_nanos in found
    ]


def _has_superseded(published: str | None) -> bool:
    """Whether a run may have paid for answers it no longer wants: it was told, or nothing was published yet."""
    records = json.loads(published) if published else {}
    return not records or any(record["summary"]["superseded_usd"] for record in records.values())


def _lines(
    path: Path, connection: sqlite3.Connection, runs: Sequence[_Run], tags: Sequence[str], wanted: Wanted
) -> pl.LazyFrame:
    """Give the lines of some runs of a journal; what is read is kept as it was stored, which is least."""
    ids = json.dumps([run.id for run in runs])
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(attempt)")}
    # Older formats did not keep what a lost call may have cost, nor by which terms a call was charged.
    add_terms_of(connection)
    sql = ATTEMPTS.format(
        maybe_nanos="a.maybe_nanos" if "maybe_nanos" in columns else "0",
        asked="a.asked" if "asked" in columns else "NULL",
        terms="a.terms" if "terms" in columns else "terms_of((SELECT body FROM response WHERE attempt = a.id))",
    )
    attempts = _frame(connection.execute(sql, (ids,)), ATTEMPT_TYPES)
    reused = _frame(connection.execute(REUSED, (ids,)), REUSED_TYPES)
    gone = _unwanted(path, runs, attempts, wanted)
    told = pl.DataFrame(
        [
            {
                "id": run.id,
                "name": run.name,
                "job": run.job,
                "run_date": run.run_date,
                **{TAG + tag: _tag(run.tags, tag) for tag in tags},
            }
            for run in runs
        ],
        schema={
            "id": pl.Int64,
            "name": pl.String,
            "job": pl.String,
            "run_date": pl.String,
            **{TAG + tag: pl.String for tag in tags},
        },
    ).with_columns(pl.col("run_date").str.to_date())
    both = pl.concat([_attempt_lines(attempts, gone), _reused_lines(reused)], how="diagonal")
    lines = both.join(told.lazy(), left_on="run", right_on="id", how="left").with_columns(
        pl.col("name").alias("run"),
        pl.col("completed_at").cast(MOMENT),
        ("k1-" + pl.col("request_key").bin.encode("hex")).alias("request_key"),
        pl.lit(None, pl.String).alias("recipe"),
        pl.col("unbilled").cast(pl.Boolean).fill_null(value=False),
    )
    return lines.select([*SCHEMA, *(TAG + tag for tag in tags)])


def _frame(rows: sqlite3.Cursor, types: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """Read rows in pieces: as Python's values a million of them would take a GiB."""
    pieces = [pl.DataFrame(schema=types)]
    while piece := rows.fetchmany(ROWS_AT_ONCE):
        pieces.append(pl.DataFrame(piece, types, orient="row"))
    return pl.concat(pieces)


def _attempt_lines(attempts: pl.DataFrame, gone: pl.DataFrame) -> pl.LazyFrame:
    """One line an attempt; the row itself is counted on the attempt that decided it, or on the last one."""
    decided = pl.col("id").filter(pl.col("status").is_not_null()).max().over(ROW)
    status = pl.col("status").filter(pl.col("status").is_not_null()).last().over(ROW)
    known = attempts.join(gone, on=ROW, how="left").with_columns(
        pl.col("gone").fill_null(value=False),
        (pl.col("id") == pl.coalesce(decided, pl.col("id").max().over(ROW))).alias("decides"),
        status.fill_null("pending").alias("status"),
        # A call that was cut off when its run died does not know whom it asked: whom the run asked before.
        pl.col("model").forward_fill().backward_fill().over("run"),
    )
    counted = pl.col("decides") & ~pl.col("gone")
    billed = pl.col("answered") > 0
    cost = pl.when(billed).then(pl.col("cost_nanos")).otherwise(0)
    return (
        known.lazy()
        .with_columns(
            counted.cast(pl.Int64).alias("rows"),
            (counted & (pl.col("status") == "ok")).cast(pl.Int64).alias("ok_rows"),
            pl.lit(1, pl.Int64).alias("requests"),
            *(pl.col(name).fill_null(0) for name in TOKENS),
            pl.when("gone").then(0).otherwise(cost).alias("cost_nanos"),
            pl.when("gone").then(cost.fill_null(0)).otherwise(0).alias("superseded_nanos"),
            pl.lit(0, pl.Int64).alias("reuse_saved_nanos"),
            (billed & pl.col("cost_nanos").is_null()).cast(pl.Int64).alias("unpriced_requests"),
        )
        .drop("id", "answered", "decides", "gone")
    )


def _reused_lines(reused: pl.DataFrame) -> pl.LazyFrame:
    zero = [pl.lit(0, pl.Int64).alias(name) for name in ("requests", *TOKENS, *NOTHING)]
    return reused.lazy().with_columns(
        *zero,
        pl.lit(1, pl.Int64).alias("rows"),
        (pl.col("status") == "ok").fill_null(value=False).cast(pl.Int64).alias("ok_rows"),
        pl.col("reuse_saved_nanos").fill_null(0),
    )


def _unwanted(path: Path, runs: Sequence[_Run], attempts: pl.DataFrame, wanted: Wanted) -> pl.DataFrame:
    """Give the (run, request_key) pairs that were paid for and that the run's plan no longer names."""
    none = pl.DataFrame(schema={"run": pl.Int64, "request_key": pl.Binary, "gone": pl.Boolean})
    found = [none]
    for run in runs:
        keys = wanted(path, run.plan) if run.superseded and run.plan is not None else None
        if keys is None:
            continue
        plan = pl.DataFrame({"request_key": pl.Series(list(keys), dtype=pl.Binary)})
        asked = attempts.filter(pl.col("run") == run.id).select("run", "request_key").unique()
        found.append(asked.join(plan, on="request_key", how="anti").with_columns(pl.lit(value=True).alias("gone")))
    return pl.concat(found)


def _tag(tags: str, name: str) -> str | None:
    value = json.loads(tags).get(name)
    return None if value is None else str(value)

"""The journal's tables, and how an older journal is brought to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from pipeline.journal.terms import add_terms_of

APPLICATION_ID = 0x6D736770  # "msgp": tells a journal of ours from any other SQLite file
VERSION = 4

TABLES = """
CREATE TABLE run (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,      -- run_id, as columns show it
  job TEXT NOT NULL,
  run_date TEXT,                  -- ISO date
  scope TEXT NOT NULL,            -- embedded, simulator, local, public
  params TEXT NOT NULL,           -- JSON
  tags TEXT NOT NULL,             -- JSON
  plan TEXT,                      -- the plan's folder, relative to the state folder
  started_at INTEGER NOT NULL,    -- all times: microseconds since 1970, UTC
  completed_at INTEGER,           -- NULL while anything may be open
  published TEXT,                 -- JSON: the outputs as they were published, by plan: path, size, mtime, summary
  reopened TEXT NOT NULL DEFAULT '{}',  -- JSON, of --retry-failed: by status, the attempt up to which it is open again
  settled_attempt INTEGER NOT NULL DEFAULT 0,  -- the newest when the run was last complete: a budget counts later ones
  month_nanos INTEGER              -- the job's budget.month_usd as of the run's last start, nano-dollars
);
CREATE TABLE start (               -- one process that worked on a run
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES run(id),
  started_at INTEGER NOT NULL,
  ended_at INTEGER,
  exit_code INTEGER,
  reason TEXT,
  bound_by TEXT                    -- what limits its speed, as of some seconds ago
);
CREATE TABLE control (             -- limits that somebody set while a run was under way
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL,
  setting TEXT NOT NULL,           -- a key of the job's limits
  value REAL NOT NULL,
  at INTEGER NOT NULL
);
CREATE TABLE claim (               -- a call that may be in flight; settled claims are deleted
  id INTEGER PRIMARY KEY,
  key BLOB NOT NULL UNIQUE,        -- the row's first key
  run INTEGER NOT NULL,
  start INTEGER NOT NULL,
  owner TEXT NOT NULL,
  parked INTEGER NOT NULL DEFAULT 0,  -- between two attempts: nothing of it is in flight
  expires_at INTEGER NOT NULL,
  claimed_at INTEGER NOT NULL,
  reserved INTEGER NOT NULL DEFAULT 0  -- nano-dollars: the worst case of its calls
);
CREATE TABLE attempt (             -- one call that ended
  id INTEGER PRIMARY KEY,          -- claim * 1024 + its place in the claim: keeping twice is keeping once
  run INTEGER NOT NULL,
  start INTEGER NOT NULL,
  request_key BLOB NOT NULL,       -- the row's first key
  key BLOB,                        -- what this call asked, where it is not request_key
  status TEXT,                     -- the verdict, on the attempt that decided; NULL on those that were retried
  error_type TEXT,
  error_message TEXT,
  http_status INTEGER,
  answered INTEGER NOT NULL,       -- it has a response, and so a bill
  request_id TEXT,
  stop_reason TEXT,
  model TEXT,                      -- that answered, else asked
  max_tokens INTEGER NOT NULL,
  input_tokens INTEGER,            -- NULL: the server gave no usable count
  output_tokens INTEGER,
  cache_write_5m_tokens INTEGER,
  cache_write_1h_tokens INTEGER,
  cache_read_tokens INTEGER,
  cost_nanos INTEGER,              -- nano-dollars; NULL: no price is known
  priced_by TEXT,
  price_source TEXT,
  maybe_billed INTEGER NOT NULL,   -- it was sent and ended without an answer
  maybe_nanos INTEGER NOT NULL DEFAULT 0,  -- nano-dollars that it may have cost, if so
  endpoint TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  latency_ms INTEGER NOT NULL,
  continues INTEGER,               -- the attempt whose paused answer this one goes on from
  rules BLOB,                      -- hash of the reading rules that gave the status; NULL: the stop reason alone did
  asked TEXT,                      -- the model that was asked, where another one answered
  terms TEXT                       -- JSON: what of batch, us, fast, web_searches it was charged by; NULL: nothing
);
CREATE INDEX attempt_request_key ON attempt(request_key);
CREATE INDEX attempt_turn ON attempt(request_key) WHERE answered AND status IS NULL;
CREATE TABLE response (            -- apart from attempt, so that sums over attempts read little
  attempt INTEGER PRIMARY KEY,
  body BLOB NOT NULL,              -- zstd, by one of the dictionaries or by none
  checksum BLOB NOT NULL           -- blake2b-8 of the body before compression
);
CREATE TABLE dictionary (          -- what responses are compressed by
  id INTEGER PRIMARY KEY,          -- as they name it
  words BLOB NOT NULL
);
CREATE TABLE reuse (               -- answers that a run took from another run
  run INTEGER NOT NULL,
  key BLOB NOT NULL,
  attempt INTEGER NOT NULL,
  PRIMARY KEY (run, key)
) WITHOUT ROWID;
"""

MIGRATIONS: Mapping[int, str] = {
    1: """
ALTER TABLE start ADD COLUMN bound_by TEXT;
CREATE TABLE control (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, setting TEXT NOT NULL, value REAL NOT NULL,
  at INTEGER NOT NULL);
ALTER TABLE run ADD COLUMN settled_attempt INTEGER NOT NULL DEFAULT 0;
UPDATE run SET settled_attempt = (SELECT coalesce(max(id), 0) FROM attempt WHERE attempt.run = run.id)
  WHERE completed_at IS NOT NULL;
ALTER TABLE claim ADD COLUMN reserved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN maybe_nanos INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN continues INTEGER;
ALTER TABLE attempt ADD COLUMN rules BLOB;
CREATE INDEX attempt_turn ON attempt(request_key) WHERE answered AND status IS NULL;
""",
    2: """
ALTER TABLE run ADD COLUMN month_nanos INTEGER;
ALTER TABLE attempt ADD COLUMN asked TEXT;
ALTER TABLE attempt ADD COLUMN terms TEXT;
UPDATE attempt SET terms = terms_of((SELECT body FROM response WHERE response.attempt = attempt.id)) WHERE answered;
""",
    3: """
CREATE TABLE dictionary (id INTEGER PRIMARY KEY, words BLOB NOT NULL);
""",
}
"""SQL that brings a journal of the version to the next one; statements end in a semicolon, and hold no other."""


def create(connection: sqlite3.Connection) -> None:
    """Lay the tables in an empty database."""
    connection.executescript(
        f"BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
    )


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a journal of an older version to this one, each step in a transaction of its own.

    Args:
        connection: to the journal, in autocommit mode.
        version: what it was found to be; a step that another process takes meanwhile is not taken again.
    """
    if version < VERSION:
        add_terms_of(connection)
    for step in range(version, VERSION):
        connection.execute("BEGIN IMMEDIATE")
        try:
            (now,) = connection.execute("PRAGMA user_version").fetchone()
            if now == step:
                # Not executescript, which would commit before it begins.
                for statement in MIGRATIONS[step].split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {step + 1}")
            connection.execute("COMMIT")
        except BaseException:
            # On a full disk SQLite has rolled back by itself, and would say so instead of what is wrong.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

"""An older journal is brought to today's tables: what is spent stays spent, once, and two who open it lose nothing."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.journal import Journal
from pipeline.journal.schema import MIGRATIONS, VERSION

DATA = Path(__file__).parent / "data"
OLDEST = min(MIGRATIONS)
PAID_NANOS = 1_080_000  # twenty answers of 54,000 nano-dollars
ONE_NANOS = 54_000
BEFORE_ANY = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def oldest(tmp_path: Path) -> Path:
    """A journal of the oldest format, with one run that is complete and twenty answers."""
    path = tmp_path / "small.sqlite"
    shutil.copy(DATA / "small-v1.sqlite", path)
    with closing(sqlite3.connect(path)) as opened:
        assert opened.execute("PRAGMA user_version").fetchone() == (OLDEST,)
    return path


def reopened(path: Path) -> None:
    """As a start that is under way leaves it: not complete."""
    with closing(sqlite3.connect(path)) as opened, opened:
        opened.execute("UPDATE run SET completed_at = NULL, published = NULL")


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All that was paid for and kept, in the columns that every format has."""
    with closing(sqlite3.connect(path)) as opened:
        return {
            "attempts": opened.execute(
                "SELECT id, run, request_key, status, request_id, input_tokens, output_tokens, cost_nanos, maybe_billed"
                " FROM attempt ORDER BY id"
            ).fetchall(),
            "responses": opened.execute("SELECT attempt, body, checksum FROM response ORDER BY attempt").fetchall(),
        }


def test_what_a_complete_run_has_spent_counts_against_a_month_once_and_against_its_next_budget_not(
    oldest: Path,
) -> None:
    journal = Journal.open(oldest)
    (run,) = journal.runs()
    assert journal.spent(run) == 0
    assert journal.spent_since(run.scope, BEFORE_ANY) == PAID_NANOS
    assert journal.totals(run.id).cost_nanos == PAID_NANOS
    journal.close()


def test_what_a_run_under_way_has_spent_counts_against_its_budget_once(oldest: Path) -> None:
    reopened(oldest)
    for _ in range(2):  # the second opens a journal that is brought up already
        journal = Journal.open(oldest)
        (run,) = journal.runs()
        assert journal.spent(run) == PAID_NANOS
        assert journal.spent_since(run.scope, BEFORE_ANY) == PAID_NANOS
        journal.close()


def test_what_was_spent_after_a_run_was_complete_counts_alone(oldest: Path) -> None:
    """A complete run of one table, and a later start of another run beside it."""
    with closing(sqlite3.connect(oldest)) as opened, opened:
        opened.execute("UPDATE run SET name = 'first'")
        columns = [name for _, name, *_ in opened.execute("PRAGMA table_info(run)")]
        others = ", ".join(name for name in columns if name not in {"id", "name", "completed_at"})
        opened.execute(
            f"INSERT INTO run (id, name, completed_at, {others}) SELECT 2, 'second', NULL, {others} FROM run"
        )
        opened.execute("UPDATE attempt SET run = 2 WHERE id >= (SELECT id FROM attempt ORDER BY id LIMIT 1 OFFSET 15)")
    journal = Journal.open(oldest)
    spent = {run.run_id: journal.spent(run) for run in journal.runs()}
    assert spent == {"first": 0, "second": 5 * ONE_NANOS}
    assert journal.spent_since("simulator", BEFORE_ANY) == PAID_NANOS
    journal.close()


def test_a_call_that_was_in_flight_when_an_old_start_was_killed_is_told_and_its_row_open_again(oldest: Path) -> None:
    reopened(oldest)
    with closing(sqlite3.connect(oldest)) as opened, opened:
        (last,) = opened.execute("SELECT max(id) / 1024 FROM attempt").fetchone()
        opened.execute(
            "INSERT INTO claim (id, key, run, start, owner, expires_at, claimed_at) VALUES (?, ?, 1, 1, 'api', 0, 0)",
            (last + 1, b"k" * 16),
        )
    journal = Journal.open(oldest)
    assert journal.recover(datetime(2026, 11, 22, tzinfo=UTC), 200) == [1]
    totals = journal.totals(1)
    assert (totals.maybe_billed, totals.cost_nanos, journal.in_flight(1)) == (1, PAID_NANOS, 0)
    assert journal.find([b"k" * 16]) == {}
    journal.close()


def test_nothing_that_was_kept_changes(oldest: Path) -> None:
    before = content(oldest)
    Journal.open(oldest).close()
    assert content(oldest) == before


OPENER = """
import sys
from pathlib import Path
from pipeline.journal import Journal
print("ready", flush=True)
sys.stdin.readline()
journal = {how}(Path(sys.argv[1]))
print(journal.totals(1).cost_nanos, flush=True)
journal.close()
"""


def opener(path: Path, how: str) -> subprocess.Popen[str]:
    """A process of its own that opens the journal when it is told to."""
    started = subprocess.Popen(
        [sys.executable, "-c", OPENER.format(how=how), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def test_processes_that_open_an_old_journal_at_once_all_succeed_and_lose_nothing(oldest: Path, tmp_path: Path) -> None:
    before = content(oldest)
    opening = [opener(oldest, how) for how in ("Journal.open", "Journal.read", "Journal.open")]
    # All of them see the old version while somebody else is about to write, and then wait for each other.
    with closing(sqlite3.connect(oldest, isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        for process in opening:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(0.3)
        busy.execute("ROLLBACK")
    ends = [process.communicate(timeout=120) for process in opening]
    assert [process.returncode for process in opening] == [0, 0, 0]
    assert [out for out, _ in ends] == [f"{PAID_NANOS}\n"] * 3
    assert content(oldest) == before
    with closing(sqlite3.connect(oldest)) as opened:
        assert opened.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_step_that_fails_half_way_leaves_the_journal_as_it_was_and_is_taken_later(oldest: Path, nth: int) -> None:
    """Whichever statement fails: the step is one transaction."""
    before = content(oldest)
    names = ["bound_by", "settled_attempt", "reserved", "rules"]
    tables = {"bound_by": "start", "settled_attempt": "run", "reserved": "claim", "rules": "attempt"}
    name = names[nth - 1]
    with closing(sqlite3.connect(oldest)) as opened, opened:
        opened.execute(f"ALTER TABLE {tables[name]} ADD COLUMN {name} TEXT")
    with pytest.raises(Exception, match="duplicate column"):
        Journal.open(oldest)
    with closing(sqlite3.connect(oldest)) as opened, opened:
        assert opened.execute("PRAGMA user_version").fetchone() == (OLDEST,)
        opened.execute(f"ALTER TABLE {tables[name]} DROP COLUMN {name}")
    Journal.open(oldest).close()
    assert content(oldest) == before

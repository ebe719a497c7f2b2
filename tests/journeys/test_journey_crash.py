"""Whatever kills a run, running it again completes it, and pays for nothing that was answered."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from desk import Desk, Simulator, job_text, rows_text, stable

CONCURRENCY = 8


def wait_until(check: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Poll, for a minute at most, while the process lives."""
    deadline = time.monotonic() + 60
    while not check() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def unbroken(desk: Desk, server: Simulator, rows: int) -> pl.DataFrame:
    """What a run that nothing disturbs would have written."""
    other = Desk(desk.folder / "unbroken")
    other.write("rows.csv", rows_text(rows))
    job = other.write("job.yaml", job_text(server.url))
    assert other.pipeline("run", job).code == 0
    return stable(other.folder / "out/answers.parquet")


@pytest.mark.parametrize("seed", range(4))
def test_kill_9_in_the_middle_loses_nothing_and_pays_nothing_journalled_again(desk: Desk, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    server = desk.simulator("--latency", "20", "--seed", str(seed))
    desk.write("rows.csv", rows_text(300))
    job = desk.write("job.yaml", job_text(server.url, more=f"limits: {{concurrency: {CONCURRENCY}}}"))
    kills = 0
    for _ in range(3):
        running = desk.start("run", job)
        goal = len(server.requests) + chance.randrange(20, 80)
        wait_until(lambda goal=goal: len(server.requests) >= goal, running)  # type: ignore[misc] # a default binds the loop's value
        if running.poll() is None:
            running.kill()
            kills += 1
        running.communicate()
    kept = journalled(desk.folder / ".pipeline/small.sqlite")

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 0, ended.err
    assert kills > 0
    assert 0 < kept < 300
    assert len(server.answered) == 300
    assert sum(server.answered.values()) - 300 <= kills * CONCURRENCY
    assert ended.summary["answered_before"] == kept
    # The servers' ports differ, and so does the column that names them.
    ours = stable(desk.folder / "out/answers.parquet").drop("endpoint")
    assert ours.equals(unbroken(desk, desk.simulator(ledger="b.jsonl"), 300).drop("endpoint"))


def journalled(path: Path) -> int:
    """Answers that are durable, counted apart from the program."""
    with sqlite3.connect(path) as raw:
        (number,) = raw.execute("SELECT count(*) FROM response").fetchone()
    raw.close()
    assert isinstance(number, int)
    return number


def test_a_source_that_changes_after_the_kill_costs_only_its_new_rows(desk: Desk) -> None:
    server = desk.simulator("--latency", "20")
    desk.write("rows.csv", rows_text(200))
    job = desk.write("job.yaml", job_text(server.url, more=f"limits: {{concurrency: {CONCURRENCY}}}"))
    running = desk.start("run", job)
    wait_until(lambda: len(server.requests) >= 60, running)
    running.kill()
    running.communicate()
    kept = journalled(desk.folder / ".pipeline/small.sqlite")
    desk.write("rows.csv", rows_text(200, first=20))

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 0, ended.err
    assert ended.summary["answered_before"] <= kept
    assert len(server.answered) <= 220
    assert sum(server.answered.values()) - len(server.answered) <= CONCURRENCY
    output = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert output["name"].to_list() == [f"row-{n:05}" for n in range(20, 220)]
    assert all(name in text for name, text in output.select("name", "response_text").iter_rows())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_calls_in_flight_finish_and_the_rest_is_resumed(
    desk: Desk, number: signal.Signals, code: int
) -> None:
    server = desk.simulator("--latency", "100")
    desk.write("rows.csv", rows_text(200))
    job = desk.write("job.yaml", job_text(server.url, more=f"limits: {{concurrency: {CONCURRENCY}}}"))
    running = desk.start("run", job, "--json")
    wait_until(lambda: len(server.requests) >= 30, running)
    os.kill(running.pid, number)
    stopped = desk.finish(running)

    assert stopped.code == code, stopped.err
    assert not (desk.folder / "out/answers.parquet").exists()
    assert stopped.summary["reason"] == "interrupted"
    assert "pipeline export" in stopped.err + stopped.out
    assert journalled(desk.folder / ".pipeline/small.sqlite") == len(server.answered)
    assert stopped.summary["rows"]["ok"] == len(server.answered)
    assert desk.pipeline("run", job).code == 0
    assert set(server.answered.values()) == {1}


def test_a_second_signal_stops_at_once(desk: Desk) -> None:
    server = desk.simulator("--latency", "30000")
    desk.write("rows.csv", rows_text(50))
    job = desk.write("job.yaml", job_text(server.url))
    running = desk.start("run", job)
    assert running.stderr is not None
    while "to ask" not in running.stderr.readline():
        pass
    time.sleep(1.0)
    os.kill(running.pid, signal.SIGINT)
    while "once more" not in running.stderr.readline():
        pass
    os.kill(running.pid, signal.SIGINT)
    assert desk.finish(running).code == 130


def test_a_second_run_leaves_at_once_while_the_first_holds_the_journal(desk: Desk) -> None:
    server = desk.simulator("--latency", "200")
    desk.write("rows.csv", rows_text(200))
    job = desk.write("job.yaml", job_text(server.url, more="limits: {concurrency: 2}"))
    first = desk.start("run", job)
    wait_until(lambda: len(server.requests) >= 2, first)
    before = len(server.requests)

    second = desk.pipeline("run", job, "--json", "--endpoint", "simulator")

    assert second.code == 75, second.err
    assert second.summary["reason"] == "locked"
    assert f"process {first.pid}" in second.err
    assert first.poll() is None
    status = desk.pipeline("status", job)
    assert "unfinished" in status.out, status.err
    first.kill()
    first.communicate()
    assert before > 0


def test_after_a_signal_no_new_call_leaves_and_none_is_thought_lost(desk: Desk) -> None:
    server = desk.simulator("--latency", "300")
    desk.write("rows.csv", rows_text(200))
    more = f"limits: {{concurrency: {CONCURRENCY}, requests_per_minute: 120}}"
    job = desk.write("job.yaml", job_text(server.url, more=more))
    running = desk.start("run", job, "--json")
    wait_until(lambda: len(server.requests) >= 3, running)
    os.kill(running.pid, signal.SIGTERM)
    stopped = desk.finish(running)

    assert stopped.code == 143, stopped.err
    assert stopped.summary["calls"]["sent"] == len(server.requests) == stopped.summary["rows"]["ok"]
    assert len(server.requests) <= 3 + CONCURRENCY // 2
    again = desk.pipeline("run", job, "--limit", "4", "--json")
    assert "killed" not in again.err
    assert again.summary["calls"]["maybe_billed_twice"] == 0
    assert set(server.answered.values()) == {1}

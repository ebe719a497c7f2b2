"""Limits: kept without a refusal, learnt where none are stated, changed on the way; and what a run would take."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl
import pytest
from desk import Desk, Simulator, job_text, rows_text
from scripted import message, scripted


def answered_at(server: Simulator) -> list[float]:
    """When each answered request came in, seconds since the first."""
    moments = [datetime.fromisoformat(entry["at"]).timestamp() for entry in server.requests if entry["status"] == 200]
    return [moment - min(moments) for moment in moments]


def mixed_rows(number: int) -> str:
    return "name,text\n" + "".join(f"row-{n:05},{'word ' * (5, 40, 300)[n % 3]}\n" for n in range(number))


@pytest.mark.parametrize("stated", [True, False])
def test_a_server_that_enforces_its_limits_refuses_next_to_nothing(desk: Desk, stated: bool) -> None:
    limits = "{requests_per_minute: 1200, input_tokens_per_minute: 200000, output_tokens_per_minute: 60000}"
    server = desk.simulator("--rpm", "1200", "--itpm", "200000", "--otpm", "60000", "--latency", "50")
    desk.write("rows.csv", mixed_rows(260))
    more = f"limits: {limits}" if stated else ""
    job = desk.write("job.yaml", job_text(server.url, prompt="Describe <<name>> <<text>>", more=more))
    ended = desk.pipeline("run", job, "--json")
    assert ended.code == 0, ended.err
    statuses = Counter(entry["status"] for entry in server.requests)
    assert statuses[200] == 260
    assert statuses[429] <= (0 if stated else 5)
    if stated:
        # In any second at most what the limit allows in it, and a burst of 0.2 s worth.
        at = answered_at(server)
        assert max(sum(start <= moment < start + 1.0 for moment in at) for start in at) <= 20 + 4 + 1
        assert ended.summary["bound_by"] == "requests_per_minute"


def test_a_request_that_no_minute_lets_pass_is_that_row_s_failure(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", "name,text\nsmall,a\nlarge," + "many words " * 20_000 + "\n")
    limits = "limits: {input_tokens_per_minute: 10000}"
    job = desk.write("job.yaml", job_text(server.url, prompt="Describe <<text>>", more=limits))
    ended = desk.pipeline("run", job, "--json")
    assert ended.code == 3
    frame = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert frame["status"].to_list() == ["ok", "failed"]
    assert frame["error_type"].to_list() == [None, "over_limit"]
    assert frame["attempts"].to_list() == [1, 0]  # it was never sent
    assert len(server.requests) == 1


def test_to_be_done_by_a_time_starts_nothing_that_would_be_late_and_goes_on_another_day(desk: Desk) -> None:
    server = desk.simulator("--latency", "200")
    desk.write("rows.csv", rows_text(200))
    limits = "limits: {concurrency: 4, finish_by: 3s, grace_secs: 2}"
    job = desk.write("job.yaml", job_text(server.url, more=limits))
    ended = desk.pipeline("run", job, "--json")
    assert (ended.code, ended.summary["reason"]) == (4, "finish_by")
    asked = len(server.requests)
    assert 0 < asked < 200
    assert ended.summary["rows"]["ok"] == len(server.answered) == asked
    assert ended.summary["maybe_usd"] == 0
    job.write_text(job.read_text().replace(", finish_by: 3s", ""))
    assert desk.pipeline("run", job).code == 0
    assert max(server.answered.values()) == 1


def test_limits_of_a_run_under_way_change_when_somebody_asks(desk: Desk) -> None:
    server = desk.simulator("--latency", "20")
    desk.write("rows.csv", rows_text(150))
    limits = "limits: {requests_per_minute: 300, concurrency: 4}"
    job = desk.write("job.yaml", job_text(server.url, more=limits))
    running = desk.start("run", job, "--json")
    deadline = time.monotonic() + 30
    while len(server.requests) < 10 and time.monotonic() < deadline:
        time.sleep(0.05)
    status = desk.pipeline("status", job, "--json")
    assert status.code == 0, status.err
    assert json.loads(status.out)["in_flight"] >= 1
    assert json.loads(status.out)["rate"]["answers_per_minute"] > 0
    asked = desk.pipeline("limits", job, "requests_per_minute=60000", "concurrency=16")
    assert asked.code == 0, asked.err
    ended = desk.finish(running)
    assert ended.code == 0, ended.err
    assert "limits are now requests_per_minute 60000, concurrency 16" in ended.err
    # At five a second all of them would have taken half a minute.
    assert ended.summary["seconds"] < 25
    late = desk.pipeline("limits", job, "concurrency=2")
    assert (late.code, "no run is under way" in late.err) == (2, True)


@dataclass
class Crowd:
    """Answers each call after a while, or at once when so many have been there together."""

    wanted: int
    secs: float
    most: int = 0
    there: threading.Event = field(default_factory=threading.Event)
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, _: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            if self._now >= self.wanted:
                self.there.set()
        self.there.wait(self.secs)
        with self._lock:
            self._now -= 1
        return message("fine")


def test_more_calls_at_once_than_the_job_says_are_made_when_somebody_asks_for_them(desk: Desk) -> None:
    crowd = Crowd(wanted=12, secs=0.5)
    with scripted(crowd.answer) as server:
        desk.write("rows.csv", rows_text(300))
        job = desk.write("job.yaml", job_text(server.url, more="limits: {concurrency: 2}"))
        running = desk.start("run", job, "--json")
        while len(server.asked) < 4 and running.poll() is None:
            time.sleep(0.02)
        assert crowd.most == 2
        asked = desk.pipeline("limits", job, "concurrency=12")
        assert asked.code == 0, asked.err
        ended = desk.finish(running)
    assert ended.code == 0, ended.err
    assert crowd.most == 12


def test_limits_that_are_set_while_the_run_is_still_planning_are_taken_over(desk: Desk) -> None:
    crowd = Crowd(wanted=12, secs=0.5)
    with scripted(crowd.answer) as server:
        desk.write("rows.csv", rows_text(20_000))
        job = desk.write("job.yaml", job_text(server.url, more="limits: {concurrency: 2}"))
        running = desk.start("run", job)
        while not list(desk.folder.glob(".pipeline/small.plans/**/*.arrow")) and running.poll() is None:
            time.sleep(0.001)
        os.kill(running.pid, signal.SIGSTOP)
        assert server.asked == []
        asked = desk.pipeline("limits", job, "concurrency=12")
        assert asked.code == 0, asked.err
        os.kill(running.pid, signal.SIGCONT)
        together = crowd.there.wait(60)
        running.kill()
        running.communicate()
    assert together
    assert crowd.most == 12


@pytest.mark.parametrize("setting", ["speed=5", "concurrency=1.5", "requests_per_minute=0", "concurrency"])
def test_a_limit_that_cannot_be_set_is_said(desk: Desk, setting: str) -> None:
    desk.write("rows.csv", rows_text(2))
    ended = desk.pipeline("limits", desk.write("job.yaml", job_text(None)), setting)
    assert ended.code == 2
    assert "KEY=VALUE" in ended.err


def test_an_estimate_reaches_around_what_the_run_then_costs_and_sends_nothing(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(120))
    job = desk.write("job.yaml", job_text(server.url, more="limits: {requests_per_minute: 6000, concurrency: 8}"))
    wide = json.loads(desk.pipeline("estimate", job, "--json").out)
    assert (wide["rows"], wide["answered"], wide["to_ask"], wide["answers"]) == (120, 0, 120, 0)
    assert server.requests == []
    assert not (desk.folder / ".pipeline").exists()

    sampled = desk.pipeline("estimate", job, "--sample", "20", "--json")
    assert sampled.code == 0, sampled.err
    near = json.loads(sampled.out.splitlines()[-1])
    assert (near["answered"], near["to_ask"], near["answers"], len(server.requests)) == (20, 100, 20, 20)
    assert near["bound_by"] == "requests_per_minute"
    assert near["seconds"] == [1.0, 1.0]

    ended = desk.pipeline("run", job, "--json")
    assert (ended.code, len(server.requests)) == (0, 120)
    paid = ended.summary["paid_now_usd"]
    assert near["usd"][0] <= paid <= near["usd"][1]
    assert wide["usd"][0] <= ended.summary["cost_usd"] <= wide["usd"][1]
    assert near["usd"][1] - near["usd"][0] < wide["usd"][1] - wide["usd"][0]
    done = desk.pipeline("estimate", job)
    assert "120 answered, 0 to ask" in done.out

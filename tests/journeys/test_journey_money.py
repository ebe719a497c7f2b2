"""Money: what the API's cache saves, and a budget that no run passes, whatever happens to it."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from desk import Desk, Simulator, job_text, rows_text
from scripted import message, scripted

RULES = " ".join(f"Rule {n}, consider the size of item {n} with care." for n in range(120))
INPUT_NANOS, OUTPUT_NANOS = 1_000, 5_000  # claude-haiku-4-5, a token


def cached_job(desk: Desk, server: Simulator, cache: str) -> Path:
    text = job_text(server.url).replace("You are a test.", f"You are a test. {RULES}")
    text = text.replace('"\nrequest', f'"\n  cache: {cache}\nrequest')
    thinks_not = "{model: claude-haiku-5-5, max_tokens: 200, thinking: {type: disabled}}"
    return desk.write("job.yaml", text.replace("{model: claude-haiku-4-5, max_tokens: 200}", thinks_not))


def ledger_nanos(server: Simulator) -> int:
    """What the simulator was paid, by the list price."""
    used = [entry["usage"] for entry in server.requests if entry.get("usage")]
    return sum(usage["input_tokens"] * INPUT_NANOS + usage["output_tokens"] * OUTPUT_NANOS for usage in used)


@pytest.mark.parametrize(("cache", "split"), [("true", "5m"), ("1h", "1h")])
def test_the_first_row_writes_the_cache_alone_and_all_others_read_it(desk: Desk, cache: str, split: str) -> None:
    server = desk.simulator("--latency", "30")
    desk.write("rows.csv", rows_text(40))
    ended = desk.pipeline("run", cached_job(desk, server, cache), "--json")
    assert ended.code == 0, ended.err
    usages = [entry["usage"] for entry in server.requests]
    assert [usage["cache_creation_input_tokens"] > 0 for usage in usages] == [True] + [False] * 39
    assert all(usage["cache_read_input_tokens"] > 500 for usage in usages[1:])
    frame = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert frame["cache_write_tokens"].sum() == ended.summary["tokens"]["cache_write"] > 0
    assert frame["cache_read_tokens"].sum() == ended.summary["tokens"]["cache_read"]
    assert ended.summary["cache_saved_usd"] > 0
    with sqlite3.connect(desk.folder / ".pipeline/small.sqlite") as journal:
        written = journal.execute(f"SELECT sum(cache_write_{split}_tokens) FROM attempt").fetchone()[0]
    journal.close()
    assert written == ended.summary["tokens"]["cache_write"]


def test_the_cache_is_no_part_of_the_question(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(5))
    assert desk.pipeline("run", cached_job(desk, server, "false")).code == 0
    ended = desk.pipeline("run", cached_job(desk, server, "true"), "--json")
    assert (ended.code, ended.summary["calls"]["sent"], len(server.requests)) == (0, 0, 5)


def test_the_first_row_goes_alone_until_one_is_answered(desk: Desk) -> None:
    server = desk.simulator("--fault", "contains:row-00000=529,500,ok", "--latency", "20")
    desk.write("rows.csv", rows_text(20))
    ended = desk.pipeline("run", cached_job(desk, server, "true"), "--json")
    assert ended.code == 0, ended.err
    written = [entry["usage"]["cache_creation_input_tokens"] for entry in server.requests if entry["status"] == 200]
    assert sum(tokens > 0 for tokens in written) == 1


def test_a_prefix_too_short_for_the_model_is_said_by_check_and_run(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(2))
    job = desk.write("job.yaml", job_text(None).replace('"\nrequest', '"\n  cache: true\nrequest'))
    for command in ("check", "run"):
        ended = desk.pipeline(command, job)
        assert ended.code == 0, ended.err
        assert "claude-haiku-4-5 keeps none below 4,096" in ended.err


@pytest.mark.parametrize("concurrency", ["1", "4", "16", "auto"])
def test_a_run_stops_before_its_budget_and_goes_on_with_a_larger_one(desk: Desk, concurrency: str) -> None:
    server = desk.simulator("--latency", "5")
    desk.write("rows.csv", rows_text(200))
    more = f"limits: {{concurrency: {concurrency}}}\nbudget: {{run_usd: 0.006}}\n"
    job = desk.write("job.yaml", job_text(server.url, more=more))
    stopped = desk.pipeline("run", job, "--json")
    assert (stopped.code, stopped.summary["reason"]) == (4, "budget")
    assert "budget.run_usd of $0.0060 is reached" in stopped.err
    assert "--budget" in stopped.err
    worst = (300 * INPUT_NANOS + 200 * OUTPUT_NANOS) / 1e9
    assert 0.006 - worst <= ledger_nanos(server) / 1e9 <= 0.006
    assert stopped.summary["cost_usd"] == pytest.approx(ledger_nanos(server) / 1e9)
    assert stopped.summary["rows"]["pending"] > 0
    assert not (desk.folder / "out/answers.parquet").exists()

    again = desk.pipeline("run", job, "--json")
    assert (again.code, again.summary["calls"]["sent"]) == (4, 0)

    ended = desk.pipeline("run", job, "--budget", "1", "--json")
    assert (ended.code, len(server.answered)) == (0, 200)
    assert max(server.answered.values()) == 1


def test_kill_9_and_lost_calls_never_let_a_run_pass_its_budget(desk: Desk) -> None:
    seed = 7
    chance = random.Random(seed)
    faults = ("--fault", "reset=0.05", "--fault", "529=0.05")
    server = desk.simulator("--latency", "15", "--seed", str(seed), *faults)
    desk.write("rows.csv", rows_text(300))
    # Lost calls stay reserved at their worst, which is some twenty times what an answer costs here.
    more = "limits: {concurrency: 8}\nbudget: {run_usd: 0.05}\n"
    job = desk.write("job.yaml", job_text(server.url, more=more))
    for _ in range(4):
        running = desk.start("run", job)
        goal = len(server.requests) + chance.randrange(10, 50)
        deadline = time.monotonic() + 30
        while len(server.requests) < goal and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        running.kill()
        running.communicate()
    ended = desk.pipeline("run", job, "--json")
    assert ended.code in (0, 4), ended.err
    assert ledger_nanos(server) / 1e9 <= 0.05
    assert ended.summary["cost_usd"] + ended.summary["maybe_usd"] <= 0.05 + 1e-9
    assert ended.summary["maybe_usd"] > 0
    assert ended.summary["cost_usd"] <= ledger_nanos(server) / 1e9 + 1e-9


def test_a_month_s_budget_holds_over_all_its_runs(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows-2026-11-01.csv", rows_text(30))
    desk.write("rows-2026-11-02.csv", rows_text(30, first=30))
    more = "budget: {month_usd: 0.004}\nlimits: {concurrency: 2}\n"
    job = desk.write("job.yaml", job_text(server.url, rows="'rows-${date}.csv'", more=more))
    assert desk.pipeline("run", job, "--date", "2026-11-01").code == 0
    ended = desk.pipeline("run", job, "--date", "2026-11-02", "--json")
    assert (ended.code, ended.summary["reason"]) == (4, "budget")
    assert "budget.month_usd" in ended.err
    assert ledger_nanos(server) / 1e9 <= 0.004


def test_a_finished_run_starts_a_new_budget(desk: Desk) -> None:
    server = desk.simulator()
    job = desk.write("job.yaml", job_text(server.url, more="budget: {run_usd: 0.004}\nlimits: {concurrency: 2}\n"))
    for part in range(3):
        desk.write("rows.csv", rows_text(30 * (part + 1)))
        assert desk.pipeline("run", job).code == 0
    assert ledger_nanos(server) / 1e9 > 0.004


def test_without_a_known_price_a_budget_cannot_be_held(desk: Desk) -> None:
    with scripted(lambda _: message("fine")) as server:
        desk.write("rows.csv", rows_text(2))
        text = job_text(server.url, more="budget: {run_usd: 1}\n").replace("claude-haiku-4-5", "my-own-model")
        ended = desk.pipeline("run", desk.write("job.yaml", text), "--json")
        assert (ended.code, ended.summary["reason"], server.asked) == (2, "broken_job", [])
        assert "no price is known for my-own-model" in ended.err
        priced = text + "prices: {my-own-model: {input: 1, output: 5}}\n"
        assert desk.pipeline("run", desk.write("job.yaml", priced)).code == 0


def test_a_server_dearer_than_the_list_does_not_break_the_budget_nor_does_a_second_start(desk: Desk) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        # The first answer is short, so that only its price in proportion shows what the others may cost.
        long = "row-00000" not in str(body["messages"])
        usage = {"input_tokens": 10, "output_tokens": 200 if long else 5}
        listed = (usage["input_tokens"] * INPUT_NANOS + usage["output_tokens"] * OUTPUT_NANOS) / 1e9
        return message("fine", usage=usage, meta={"usage": {"usd_spent": round(3 * listed, 9)}})

    with scripted(answer) as server:
        desk.write("rows.csv", rows_text(50))
        more = "limits: {concurrency: 8}\nbudget: {run_usd: 0.02}\n"
        job = desk.write("job.yaml", job_text(server.url, more=more))
        ended = desk.pipeline("run", job, "--json")
        assert ended.code == 4, ended.err
        assert 0.01 < ended.summary["cost_usd"] <= 0.02
        asked = len(server.asked)
        again = desk.pipeline("run", job, "--json")
        assert (again.code, len(server.asked)) == (4, asked)


def test_calls_that_were_lost_before_a_kill_9_stay_on_the_books_while_their_row_waits(desk: Desk) -> None:
    server = desk.simulator("--fault", "contains:row-00000=reset,reset,reset,ok")
    desk.write("rows.csv", rows_text(1))
    job = desk.write("job.yaml", job_text(server.url, more="limits: {concurrency: 1}\n"))
    running = desk.start("run", job)
    deadline = time.monotonic() + 30
    while len(server.requests) < 2 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    running.kill()
    running.communicate()
    ended = desk.pipeline("run", job, "--json")
    assert ended.code == 0, ended.err
    worst = 200 * OUTPUT_NANOS / 1e9
    assert ended.summary["maybe_usd"] >= 2 * worst
    assert len(server.answered) == 1


def killed_when(running: subprocess.Popen[str], came: Callable[[], bool]) -> None:
    """Let it run until then, and kill -9."""
    deadline = time.monotonic() + 60
    while not came() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert came()
    running.kill()
    running.communicate()


def test_a_conversation_that_a_kill_9_broke_off_goes_on_only_if_the_budget_has_room_for_its_longer_turn(
    desk: Desk,
) -> None:
    """An invalid answer of 20,000 characters is sent back with the question, which costs ten times what it did."""

    def answer(body: dict[str, Any]) -> dict[str, Any] | None:
        if len(body["messages"]) == 1:
            return message("not an object " * 1_500)
        return message('{"n": 3}') if held.is_set() else None

    held = threading.Event()
    with scripted(answer) as server:
        desk.write("rows.csv", rows_text(1))
        schema = "answer: {schema: {type: object, properties: {n: {type: integer}}, required: [n]}, repair: 1}"
        job = desk.write("job.yaml", job_text(server.url, more=f"{schema}\nlimits: {{attempts: 1}}\n"))
        killed_when(desk.start("run", job, "--budget", "1"), lambda: len(server.asked) == 2)
        held.set()
        with closing(sqlite3.connect(desk.folder / ".pipeline/small.sqlite")) as journal:
            (paid,) = journal.execute("SELECT sum(cost_nanos) FROM attempt").fetchone()
            (longer,) = journal.execute("SELECT reserved FROM claim").fetchone()
        first_worst = 300 * INPUT_NANOS + 200 * OUTPUT_NANOS
        assert longer > 5 * first_worst
        # What the killed turn may have cost is on the books; what is left would do for a first turn.
        cap = (paid + longer + 2 * first_worst) / 1e9
        stopped = desk.pipeline("run", job, "--budget", f"{cap:.9f}", "--json")
        assert (stopped.code, stopped.summary["reason"]) == (4, "budget"), stopped.err
        assert len(server.asked) == 2
        ended = desk.pipeline("run", job, "--budget", "1", "--json")
        assert (ended.code, len(server.asked)) == (0, 3), ended.err
    assert ended.summary["rows"]["ok"] == 1


def test_near_its_budget_a_lost_call_keeps_its_reservation_and_the_others_wait_for_room(desk: Desk) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any] | None:
        lost = any(name in str(body["messages"]) for name in ("row-00001", "row-00002"))
        return None if lost else message("fine", usage={"input_tokens": 10, "output_tokens": 100})

    with scripted(answer) as server:
        desk.write("rows.csv", rows_text(12))
        # Room for three calls at their worst: two are lost, and what is left is no room for another after some answers.
        more = "limits: {concurrency: 6, attempts: 1, timeout_secs: 3}\nbudget: {run_usd: 0.004}\n"
        job = desk.write("job.yaml", job_text(server.url, more=more))
        ended = desk.pipeline("run", job, "--json")
        answered = len(server.asked) - 2
        assert (ended.code, ended.summary["reason"]) == (4, "budget"), ended.err
        with closing(sqlite3.connect(desk.folder / ".pipeline/small.sqlite")) as journal:
            lost = [nanos for (nanos,) in journal.execute("SELECT maybe_nanos FROM attempt WHERE maybe_billed")]
    worst, other = lost
    assert worst == other > 200 * OUTPUT_NANOS
    assert ended.summary["maybe_usd"] == pytest.approx(2 * worst / 1e9)
    assert ended.summary["cost_usd"] == pytest.approx(answered * (10 * INPUT_NANOS + 100 * OUTPUT_NANOS) / 1e9)
    known = ended.summary["cost_usd"] + ended.summary["maybe_usd"]
    assert 0.004 - worst / 1e9 < known <= 0.004
    assert answered >= 2


CACHED_NANOS = {"input": 1_000, "output": 5_000, "cache_read": 100, "cache_write": 1_250}
"""A token of the model under a cache."""


def ledger_cached_nanos(server: Simulator) -> int:
    """What the simulator was paid, cache and all, by the prices that the job states."""
    nanos = CACHED_NANOS
    return sum(
        usage["input_tokens"] * nanos["input"]
        + usage["output_tokens"] * nanos["output"]
        + usage["cache_read_input_tokens"] * nanos["cache_read"]
        + usage["cache_creation_input_tokens"] * nanos["cache_write"]
        for entry in server.requests
        if (usage := entry.get("usage"))
    )


def estimated(desk: Desk, job: Path, *arguments: object) -> tuple[float, float]:
    """The low and the high end of what is still to pay, USD."""
    ended = desk.pipeline("estimate", job, "--json", *arguments)
    assert ended.code == 0, ended.err
    low, high = json.loads(ended.out.splitlines()[-1])["usd"]
    return low, high


def test_what_cached_prompts_then_cost_lies_within_the_estimate_before_and_after_a_sample(desk: Desk) -> None:
    server = desk.simulator("--latency", "5")
    desk.write("rows.csv", rows_text(120))
    job = cached_job(desk, server, "true")
    prices = "{input: 1, output: 5, cache_read: 0.1, cache_write: 1.25}"
    job.write_text(job.read_text() + f"prices: {{claude-haiku-5-5: {prices}}}\n")
    wide = estimated(desk, job)
    near = estimated(desk, job, "--sample", "20")
    sample = ledger_cached_nanos(server)
    assert desk.pipeline("run", job).code == 0
    billed = ledger_cached_nanos(server)
    assert wide[0] <= billed / 1e9 <= wide[1]
    assert near[0] <= (billed - sample) / 1e9 <= near[1]
    assert near[1] - near[0] < wide[1] - wide[0]

"""Costs, end to end: a month of nightly runs, whose every report equals what the server was paid, to the nano-dollar.

The ledger is the simulator's. It is priced here by hand, from the provider's list, by nothing of ours.

Two kinds of days are told apart: `run_date` is the night that a run is for (here in October), while `day`, `week` and
`month` go by `completed_at`, when an answer came and was paid for (here whenever the tests run).
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from desk import Desk, Ended, Simulator

NIGHTS = [date(2026, 10, 1) + timedelta(days=night) for night in range(10)]
CHANGED = 5  # the night in which a prompt is changed

# Nano-dollars a token: input, output, 5-minute cache write, cache read (messages-api §9, USD per million times 1,000).
LIST = {
    "claude-haiku-5-5": (100, 500, 125, 10),
    "claude-sonnet-5": (2_000, 10_000, 2_500, 200),
    "claude-opus-5-5": (4_000, 20_000, 5_000, 200),
}
OFFER = {
    "claude-haiku-5-5": (70, 300, 90, 7),
    "claude-sonnet-5": (1_500, 7_000, 1_800, 150),
    "claude-opus-5-5": (3_000, 11_000, 3_300, 170),
}
KINDS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
RULES = " ".join(f"Rule {n}, consider the size of item {n} with care." for n in range(120))
SCHEMA = "{type: object, properties: {label: {type: string}}, required: [label], additionalProperties: false}"


def job_yaml(name: str, url: str, *, changed: bool = False) -> str:
    model = {"captions": "claude-haiku-5-5", "triage": "claude-sonnet-5", "audit": "claude-opus-5-5"}[name]
    system = f"You write captions. {RULES}" if name == "captions" else "You are a test."
    verb = "Say once more what <<name>> is." if changed else "Describe <<name>>."
    more = {
        "captions": "",
        "triage": f"answer: {{schema: {SCHEMA}, repair: 1}}\n",
        "audit": "budget: {month_usd: 40}\n",
    }[name]
    return f"""\
name: {name}
tags: {{team: {"quality" if name == "audit" else "growth"}}}
source: {{path: "in/{name}-${{date}}.csv"}}
prompt:
  system: "{system}"
  user: "{verb}"
  cache: {"true" if name == "captions" else "false"}
request: {{model: {model}, max_tokens: 200{"" if name == "audit" else ", thinking: {type: disabled}"}}}
endpoint: {{url: {url}, api_key_env: NIGHT_KEY, scope: public}}
limits: {{attempts: 2, concurrency: 8}}
expect: {{max_failed_ratio: 1}}
output: {{path: "out/{name}/${{date}}.parquet"}}
{more}"""


def nanos(entry: dict[str, Any], prices: dict[str, tuple[int, int, int, int]] = LIST) -> int:
    """What a line of the ledger was paid; a refusal before any output is not billed."""
    if entry["usage"] is None or entry["stop_reason"] == "refusal":
        return 0
    return sum(entry["usage"].get(kind, 0) * price for kind, price in zip(KINDS, prices[entry["model"]], strict=True))


@dataclass
class Month:
    """A folder with a month of runs in it, and the lines of the ledger that each of them caused."""

    desk: Desk
    server: Simulator
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    reports: dict[tuple[object, ...], dict[str, Any]] = field(default_factory=dict)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def one_day(self) -> date | None:
        """The UTC day in which all of it was paid; None where midnight came between."""
        today = datetime.now(UTC).date()
        return today if self.began.date() == today else None

    def paid(self, prices: dict[str, tuple[int, int, int, int]] = LIST) -> int:
        return sum(nanos(entry, prices) for entry in self.server.requests)

    def costs(self, *arguments: object) -> Ended:
        return self.desk.pipeline("costs", *arguments, XDG_CONFIG_HOME=str(self.desk.folder / "config"))

    def groups(self, *arguments: object) -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
        """A report as json: its groups by their key, and the total."""
        if arguments not in self.reports:
            ended = self.costs(*arguments, "--format", "json")
            assert ended.code == 0, ended.err
            self.reports[arguments] = json.loads(ended.out)
        found = self.reports[arguments]
        return {each[found["by"][0]]: each for each in found["groups"]}, found["total"]


def billed(sums: dict[str, Any]) -> int:
    return sum(round(float(sums[name]) * 1e9) for name in ("cost_usd", "superseded_usd"))


def rows_of(name: str, night: int) -> list[str]:
    rows = [f"{name}-{night}-{n}" for n in range(4)]
    if night % 3 == 0:
        rows += ["evergreen"]  # asked in the first night, taken over by the later ones
    special = {
        "captions": {2: "xflaky", 4: "xbroken", 6: "xlost"},
        "triage": {1: "xrepair", 3: "xhopeless", 5: "xlongish", 7: "xsecret", 8: "xrepair"},
        "audit": {3: "xstuck", 6: "xbroken", 8: "xlost"},
    }[name]
    return [*rows, f"{special[night]}-{name}-{night}"] if night in special else rows


class Nights:
    """The nights of one job, one after another."""

    def __init__(self, month: Month, name: str) -> None:
        self._month, self._name = month, name
        self._model = {"captions": "haiku", "triage": "sonnet", "audit": "opus"}[name]
        self._seen = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        desk, name = self._month.desk, self._name
        desk.write(f"{name}.yaml", job_yaml(name, self._month.server.url))
        for night, day in enumerate(NIGHTS):
            desk.write(f"in/{name}-{day}.csv", "name\n" + "".join(f"{row}\n" for row in rows_of(name, night)))
            if (name, night) == ("audit", 2):
                self._go(day, "--limit", "2")
            if (name, night) == ("audit", 3):
                self._killed(day)
            self._go(day)
            if (name, night) == ("captions", 4):
                self._go(day, "--retry-failed")
            if (name, night) == ("audit", CHANGED):
                desk.write(f"{name}.yaml", job_yaml(name, self._month.server.url, changed=True))
                self._go(day)

    def _go(self, day: date, *more: str) -> None:
        ended = self._month.desk.pipeline("run", f"{self._name}.yaml", "--date", day, "--quiet", *more, NIGHT_KEY="k")
        if ended.code:
            self.wrong.append(f"{self._name} {day}: {ended.code}: {ended.err}")
        self._note(day)

    def _killed(self, day: date) -> None:
        """Kill the run while one call of it hangs and all others are answered and kept."""
        desk = self._month.desk
        running = desk.start("run", f"{self._name}.yaml", "--date", day, "--quiet", NIGHT_KEY="k")
        journal, deadline = desk.folder / f".pipeline/{self._name}.sqlite", time.monotonic() + 30
        wanted = len(rows_of(self._name, 3)) - 2  # one hangs, one is taken over
        while time.monotonic() < deadline:
            with closing(sqlite3.connect(journal)) as opened:
                query = "SELECT count(*) FROM attempt JOIN run ON run.id = attempt.run WHERE run_date = ? AND answered"
                if opened.execute(query, (str(day),)).fetchone()[0] >= wanted:
                    break
            time.sleep(0.02)
        running.kill()
        running.communicate()
        self._note(day)

    def _note(self, day: date) -> None:
        mine = [entry for entry in self._month.server.requests if self._model in (entry["model"] or "")]
        self._month.lines[f"{self._name}@{day}"] += mine[self._seen :]
        self._seen = len(mine)


def live(desk: Desk) -> Month:
    """Let the three jobs go through their nights, side by side."""
    faults = {
        "xflaky": "529,ok",
        "xbroken": "500,500,ok",
        "xlost": "reset,ok",
        "xstuck": "stall,ok",
        "xrepair": "invalid",
        "xhopeless": "invalid-always",
        "xlongish": "max_tokens",
        "xsecret": "refusal",
    }
    server = desk.simulator(*(word for name, script in faults.items() for word in ("--fault-when", f"{name}={script}")))
    month = Month(desk, server)
    nights = [Nights(month, name) for name in ("captions", "triage", "audit")]
    threads = [threading.Thread(target=each.run) for each in nights]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.wrong for each in nights] == [[], [], []]
    # A rehearsal is no part of the month.
    ended = desk.pipeline("run", "audit.yaml", "--date", NIGHTS[0], "--endpoint", "simulator", "--quiet")
    assert ended.code == 0, ended.err
    return month


def test_every_report_of_a_month_of_nights_is_what_the_server_was_paid_to_the_nano_dollar(desk: Desk) -> None:
    # One test: the month takes as long as all the looks at it together, and none of them changes it.
    month = live(desk)
    it_had_everything_that_a_month_has(month)
    for source in (["out"], ["out/*/*.parquet"], []):
        outputs_and_journals_tell_it_by_run_model_and_night(month, source)
        days_are_those_of_payment_not_the_nights_that_runs_are_for(month, source)
    what_was_paid_for_the_prompt_that_was_changed_is_superseded(month)
    tokens_are_the_ledgers(month)
    calls_without_an_answer_are_told_and_are_in_no_total(month)
    a_trial_and_a_rehearsal_count_no_cent_twice(month)
    repricing_gives_the_ledger_at_other_prices(month)
    the_bill_of_the_provider_agrees_and_one_cent_more_does_not(month)
    the_page_says_the_same(month)


def it_had_everything_that_a_month_has(month: Month) -> None:
    _, total = month.groups("out")
    scan = pl.scan_parquet(month.desk.folder / "out/*/????-??-??.parquet", extra_columns="ignore")
    frame = scan.select("status", "reused", "attempts").collect()
    assert len(month.lines) == 30
    assert set(frame["status"].unique()) == {"ok", "failed", "invalid", "truncated", "refused"}
    assert frame["reused"].sum() > 0
    assert frame.select(pl.col("attempts").max()).item() >= 2
    assert min(total["cache_write_tokens"], total["cache_read_tokens"], total["superseded_usd"]) > 0


def outputs_and_journals_tell_it_by_run_model_and_night(month: Month, source: list[str]) -> None:
    by_run, total = month.groups(*source, "--by", "run")
    assert billed(total) == month.paid() > 0
    assert total["unpriced_requests"] == 0
    expected = {run: sum(map(nanos, lines)) for run, lines in month.lines.items()}
    assert {run: billed(sums) for run, sums in by_run.items()} == expected
    by_model: Counter[str] = Counter()
    by_night: Counter[str] = Counter()
    for run, lines in month.lines.items():
        for entry in lines:
            by_model[entry["model"]] += nanos(entry)
            by_night[run.partition("@")[2]] += nanos(entry)
    assert {name: billed(sums) for name, sums in month.groups(*source, "--by", "model")[0].items()} == by_model
    assert {day: billed(sums) for day, sums in month.groups(*source, "--by", "run_date")[0].items()} == by_night


def days_are_those_of_payment_not_the_nights_that_runs_are_for(month: Month, source: list[str]) -> None:
    by_day, total = month.groups(*source, "--by", "day")
    days = {str(month.began.date()), str(datetime.now(UTC).date())}
    assert {day for day in by_day if day is not None} <= days
    assert sum(billed(sums) for sums in by_day.values()) == billed(total) == month.paid()
    of_october = month.groups(*source, "--by", "day", "--month", "2026-10")[1]
    if datetime.now(UTC).date() > date(2026, 11, 1):
        assert billed(of_october) == 0


def what_was_paid_for_the_prompt_that_was_changed_is_superseded(month: Month) -> None:
    run = f"audit@{NIGHTS[CHANGED]}"
    old = sum(nanos(entry) for entry in month.lines[run] if entry["text_head"].startswith("Describe"))
    for source in (["out"], []):
        groups, total = month.groups(*source, "--by", "run")
        assert round(groups[run]["superseded_usd"] * 1e9) == old > 0
        assert round(total["superseded_usd"] * 1e9) == old


def tokens_are_the_ledgers(month: Month) -> None:
    counted = [entry for entry in month.server.requests if entry["usage"] is not None]
    for source in (["out"], []):
        _, total = month.groups(*source, "--by", "run")
        gone = [entry for entry in month.lines[f"audit@{NIGHTS[CHANGED]}"] if entry["text_head"].startswith("Describe")]
        # What is superseded is in no row, so outputs know its cost alone.
        told = [entry for entry in counted if not source or entry not in gone]
        names = ("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens")
        expected = {
            name: sum(entry["usage"].get(kind, 0) for entry in told) for name, kind in zip(names, KINDS, strict=True)
        }
        assert {name: total[name] for name in names} == expected


def calls_without_an_answer_are_told_and_are_in_no_total(month: Month) -> None:
    ended = month.costs()
    assert "calls that ended without an answer after they were sent: 3; they may have been billed" in ended.err
    assert "it is in no total" in month.costs("out").err


def a_trial_and_a_rehearsal_count_no_cent_twice(month: Month) -> None:
    ended = month.costs("out")
    assert "2 rows of a run seen in more than one file, counted once" in ended.err
    assert "1 rehearsal left out (simulator)" in ended.err
    assert (month.desk.folder / f"out/audit/{NIGHTS[2]}.first-2.parquet").exists()


def repricing_gives_the_ledger_at_other_prices(month: Month) -> None:
    offer = "".join(
        f"{model}: {{input: {a / 1000}, output: {b / 1000}, cache_write: {c / 1000}, cache_read: {d / 1000}}}\n"
        for model, (a, b, c, d) in OFFER.items()
    )
    path = month.desk.write("offer.yaml", offer)
    _, total = month.groups("--by", "run", "--reprice", "--prices", path)
    assert billed(total) == month.paid(OFFER)
    _, same = month.groups("--by", "run", "--reprice")
    assert billed(same) == month.paid()
    # An output knows of superseded answers only what they were billed.
    _, outputs = month.groups("out", "--by", "run", "--reprice", "--prices", path)
    gone = [entry for entry in month.lines[f"audit@{NIGHTS[CHANGED]}"] if entry["text_head"].startswith("Describe")]
    assert billed(outputs) == month.paid(OFFER) - sum(nanos(entry, OFFER) - nanos(entry) for entry in gone)


def the_bill_of_the_provider_agrees_and_one_cent_more_does_not(month: Month) -> None:
    day = month.one_day or month.began.date()
    paid: Counter[str] = Counter()
    for entry in month.server.requests:
        paid[entry["model"]] += nanos(entry)
    head = "usage_date_utc,model,cost_usd\n"
    lines = [f"{day},{model},{amount / 1e9:.9f}\n" for model, amount in paid.items() if amount]
    bill = month.desk.write("bill.csv", head + "".join(lines))
    for source in (["out"], []):
        ended = month.costs(*source, "--reconcile", bill, "--tolerance", "0")
        if month.one_day:
            assert ended.code == 0, ended.out + ended.err
        month.desk.write("more.csv", head + "".join(lines) + f"{day},claude-opus-5-5,0.01\n")
        more = month.costs(*source, "--reconcile", "more.csv", "--tolerance", "0.1%")
        assert (more.code, "off" in more.out) == (3, True)


def the_page_says_the_same(month: Month) -> None:
    ended = month.costs("out", "--by", "run_date,job,model", "-o", "costs.html")
    assert ended.code == 0, ended.err
    text = Path(month.desk.folder / "costs.html").read_text()
    assert "<script" not in text
    assert f"{round(month.groups('out')[1]['cost_usd'] * 1e9) / 1e9:,.4f}" in text

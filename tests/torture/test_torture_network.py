"""The network's and the server's bad days: every row ends, none is asked again too early, and the others go on."""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from desk import Desk, Ended, Simulator
from torture_between import Between, between
from torture_checker import check, entries, reading
from torture_network import came, ended, switch
from torture_rig import IN_FLIGHT, bench, memory_mib, until

pytest_plugins = ("torture_fixtures",)

SCHEDULING_SECS = 0.15
"""By so much a shared machine's scheduling moves what it does."""


# --- N1 ---------------------------------------------------------------------------------------------------------------

ASKED_SECS = {"429-ms": 0.2505, "429-float": 0.5, "429-int": 1.0}
WEATHER = {"429-ms": 0.1, "429-float": 0.1, "429-int": 0.1, "529": 0.1, "500": 0.05, "reset": 0.02}


def early(ledger: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """How many retries of a row were asked to wait, and those that did not."""
    by_row = defaultdict(list)
    for entry in sorted(ledger, key=came):
        by_row[entry["prompt_digest"]].append(entry)
    waits, wrong = 0, []
    for calls in by_row.values():
        for refused, again in itertools.pairwise(calls):
            if asked := ASKED_SECS.get(refused["fault"], 0.0):
                waits += 1
                waited = came(again) - ended(refused)
                # The ledger's times are in microseconds and milliseconds, on two clocks.
                if waited < asked - 0.005:
                    wrong.append(f"{again['text_head']}: after {waited:.3f} s of {asked} s")
    return waits, wrong


def strays(ledger: list[dict[str, Any]]) -> int:
    """Calls of any row that left while a 429 had asked everybody to wait."""
    closed = [(ended(entry), ASKED_SECS[entry["fault"]]) for entry in ledger if entry["fault"] in ASKED_SECS]
    moments = [came(entry) for entry in ledger]
    return sum(
        any(since + SCHEDULING_SECS < moment < since + secs - 0.005 for since, secs in closed) for moment in moments
    )


STATED = f"limits: {{concurrency: {IN_FLIGHT}, requests_per_minute: 6000}}"
"""With a limit of its own, a job takes no refusal for a hint at another."""


@pytest.mark.parametrize(
    ("rows", "limits"),
    [
        pytest.param(30, STATED, id="30"),
        pytest.param(200, STATED, id="200", marks=pytest.mark.long),
        pytest.param(60, "limits: {}", id="60-learning", marks=pytest.mark.long),
    ],
)
def test_n1_refused_by_half_every_row_is_answered_and_none_asks_again_too_early(
    desk: Desk, torture_seed: int, rows: int, limits: str
) -> None:
    made = bench(desk, torture_seed, rows, more=limits)
    switch(made, *(part for kind, share in WEATHER.items() for part in ("--fault", f"{kind}={share}")))
    running = made.start()
    # Every refusal is a pause for all; where nobody states a limit, some are taken for one at first.
    out, err = running.communicate(timeout=600)
    result = Ended(running.returncode, out, err)
    assert result.code == 0, result.err
    figures = check(made.scene)
    ledger = entries(made.server.ledger)
    waits, wrong = early(ledger)
    assert not wrong, wrong
    assert waits
    stray = strays(ledger)
    kinds = Counter(entry["fault"] or "answered" for entry in ledger)
    print(
        f"N1 {dict(kinds)}: {figures}; {waits} were asked to wait, 0 came too early; "
        f"{stray} of other rows left meanwhile; {result.summary['seconds']:.0f} s"
    )
    assert stray <= len(ledger) * 0.02
    assert figures.repaid == 0


def test_n1_a_pause_uses_up_no_turns_of_those_who_wait_in_line(desk: Desk, torture_seed: int) -> None:
    """With as many calls in line as a slow pace has, turns that nobody leaves on would be seconds of nothing."""
    per_second = 4
    more = f"limits: {{concurrency: {IN_FLIGHT}, requests_per_minute: {60 * per_second}}}"
    made = bench(desk, torture_seed, 30, more=more)
    # Whoever goes after the first refusal is refused, too: from then on calls go out singly until one is answered.
    rows = [part for nth in range(8, 13) for part in ("--fault-when", f"row-{nth:05}=429-ms,ok")]
    switch(made, *rows)
    result = made.run()
    assert result.code == 0, result.err
    check(made.scene)
    moments = sorted(came(entry) for entry in entries(made.server.ledger))
    longest = max(later - earlier for earlier, later in itertools.pairwise(moments))
    print(f"N1 some refusals in a row at {per_second} calls a second: the longest time without a call {longest:.2f} s")
    # What was asked for, and a backoff of at most a second; not a turn for each of those in line.
    assert longest < 2.5


# --- N2 ---------------------------------------------------------------------------------------------------------------

ROW_S_OWN = {
    "400": "bad_request",
    "413": "too_long",
    "413-text": "too_long",
    "too-long": "too_long",
    "422": "bad_request",
}
EVERYBODY_S = ["spend-cap"]
EVERYBODY_S_TOO = ["401", "402", "403", "404", "credit", "spend-limit", "529-no-retry"]


def test_n2_what_a_row_is_refused_for_is_never_sent_again(desk: Desk, torture_seed: int) -> None:
    made = bench(desk, torture_seed, 60)
    chosen = {f"row-{7 * nth + 3:05}": kind for nth, kind in enumerate(ROW_S_OWN)}
    switch(made, *(part for name, kind in chosen.items() for part in ("--fault-when", f"{name}={kind}")))
    made.scene.statuses = frozenset({"ok", "failed"})
    result = made.run()
    assert result.code == 3, result.err
    figures = check(made.scene)
    rows = {row["name"]: row for row in pl.read_parquet(desk.folder / made.scene.output).to_dicts()}
    assert {name: rows[name]["error_type"] for name in chosen} == {
        name: ROW_S_OWN[kind] for name, kind in chosen.items()
    }
    assert result.summary["rows"]["failed"] == len(chosen)
    assert len(entries(made.server.ledger)) == 60
    again = made.run()
    assert (again.code, again.summary["calls"]["sent"]) == (3, 0)
    print(f"N2 {', '.join(ROW_S_OWN)}: one call each, also with a second start: {figures}")


@pytest.mark.parametrize(
    "kind", [*EVERYBODY_S, *(pytest.param(kind, marks=pytest.mark.long) for kind in EVERYBODY_S_TOO)]
)
def test_n2_what_everybody_is_refused_for_ends_the_run_within_the_calls_in_flight(
    desk: Desk, torture_seed: int, kind: str
) -> None:
    made = bench(desk, torture_seed, 80)
    switch(made, "--fault-when", f"row-00030={kind},ok")
    result = made.run()
    assert (result.code, result.summary["reason"]) == (5, "api_rejected"), result.err
    made.scene.mark()
    check(made.scene, complete=False)
    ledger = entries(made.server.ledger)
    (refused,) = [entry for entry in ledger if entry["fault"] == kind]
    late = sum(came(entry) > ended(refused) for entry in ledger)
    print(f"N2 {kind}: {late} calls came after it, of {IN_FLIGHT} in flight")
    assert late <= IN_FLIGHT
    assert len(ledger) < 80
    assert not (desk.folder / made.scene.output).exists()
    resumed = made.run()
    assert resumed.code == 0, resumed.err
    assert check(made.scene).repaid == 0


# --- N3, N4 -----------------------------------------------------------------------------------------------------------


def treated(fates: Mapping[str, str], name: str) -> str:
    """What becomes of a row's calls."""
    return fates.get(name, "pass")


DEADLINE_SECS = 3.0
TIMEOUT_SECS = 2.0
SLOTS = 64
PATIENCE = f"limits: {{concurrency: %s, timeout_secs: {TIMEOUT_SECS}, row_deadline_secs: {DEADLINE_SECS}, attempts: 6}}"


def per_second(served: Between) -> float:
    """The pace at which rows that are treated well came."""
    moments = sorted(seen.at for seen in served.seen if seen.fate == "pass")
    return (len(moments) - 1) / (moments[-1] - moments[0])


@pytest.mark.parametrize(
    ("rows", "concurrency", "least"),
    [
        (320, str(SLOTS), 0.75),
        pytest.param(2_400, str(SLOTS), 0.9, marks=pytest.mark.long),
        pytest.param(2_400, "auto", 0.9, marks=pytest.mark.long),
    ],
)
def test_n3_rows_of_which_nothing_is_heard_end_in_their_time_and_the_others_keep_their_pace(
    desk: Desk, torture_seed: int, rows: int, concurrency: str, least: float
) -> None:
    for _ in range(3):  # on a machine that is busy with something else, one of the two runs has less of it
        if paced(desk, torture_seed, rows, concurrency) >= least:
            return
    pytest.fail(f"in none of three pairs of runs the others kept {least:.0%} of their pace")


def paced(desk: Desk, torture_seed: int, rows: int, concurrency: str) -> float:
    """Run without and with three rows of which nothing is heard; the share of their pace that the others kept."""
    victims = {f"row-{rows // 4 + 5 * nth:05}": fate for nth, fate in enumerate(["mute", "headers", "middle"])}
    folder = Path(tempfile.mkdtemp(dir=desk.folder))
    paces = []
    for fates in ({}, victims):
        other = Desk(folder / ("hurt" if fates else "sound"))
        other.folder.mkdir()
        try:
            made = bench(other, torture_seed, rows, latency_ms=0, more=PATIENCE % concurrency)
            with between(made.server.url, partial(treated, fates), fast=0.4) as served:
                made.job.write_text(made.job.read_text().replace(made.server.url, served.url))
                made.scene.in_flight = SLOTS
                made.scene.statuses = frozenset({"ok", "failed"})
                result = made.run()
            assert result.code == (3 if fates else 0), result.err
            check(made.scene)
            paces.append(per_second(served))
        finally:
            other.close()
    first = {name: min(seen.at for seen in served.seen if seen.name == name) for name in victims}
    frame = pl.read_parquet(other.folder / made.scene.output)
    took = {}
    for row in frame.filter(pl.col("name").is_in(list(victims))).to_dicts():
        assert (row["status"], row["error_type"]) in {("failed", "timeout"), ("failed", "deadline")}, row
        took[row["name"]] = row["completed_at"].timestamp() - first[row["name"]]
    assert result.summary["rows"]["failed"] == len(victims) == len(took)
    assert max(took.values()) <= DEADLINE_SECS + 1.0, took
    ratio = paces[1] / paces[0]
    print(
        f"N3 {', '.join(victims.values())} at concurrency {concurrency}: ended after "
        f"{', '.join(f'{secs:.1f}' for secs in took.values())} s of {DEADLINE_SECS:g}; the other {rows - 3} rows came "
        f"at {paces[1]:.0f} a second, without them at {paces[0]:.0f}: {ratio:.1%}"
    )
    return ratio


@pytest.mark.parametrize(("fate", "stream"), [("trickle", False), ("pings", True)])
def test_n4_an_answer_that_never_ends_is_ended(desk: Desk, torture_seed: int, fate: str, stream: bool) -> None:
    patience = "limits: {concurrency: 4, timeout_secs: 2.5, attempts: 1}"
    made = bench(desk, torture_seed, 8, more=patience)
    with between(made.server.url, lambda name: fate if name == "row-00003" else "pass") as served:
        text = made.job.read_text().replace(made.server.url, served.url)
        made.job.write_text(text.replace("max_tokens: 200", f"max_tokens: 200, stream: {str(stream).lower()}"))
        made.scene.statuses = frozenset({"ok", "failed"})
        result = made.run()
    assert result.code == 3, result.err
    check(made.scene)
    (row,) = pl.read_parquet(desk.folder / made.scene.output).filter(status="failed").to_dicts()
    assert (row["name"], row["error_type"]) == ("row-00003", "timeout"), row
    print(f"N4 {fate}: ended after {row['latency_ms']} ms of 2,500")
    assert 2_000 <= row["latency_ms"] <= 4_000


# --- N9 ---------------------------------------------------------------------------------------------------------------


FIRST_SECS = 5.0
"""Until an outage has been told from a few failures, and those in flight have failed twice."""


@pytest.mark.parametrize(
    ("fate", "out_secs"),
    [
        ("503", 2.0),
        pytest.param("503", 60.0, marks=pytest.mark.long),
        pytest.param("529", 60.0, marks=pytest.mark.long),
        pytest.param("reset", 60.0, marks=pytest.mark.long),
    ],
)
def test_n9_an_outage_is_waited_out_with_few_calls_and_spoils_no_row(
    desk: Desk, torture_seed: int, fate: str, out_secs: float
) -> None:
    made = bench(desk, torture_seed, 200, latency_ms=100)
    state = {"fate": "pass"}
    with between(made.server.url, lambda _: state["fate"], fast=0.1) as served:
        made.job.write_text(made.job.read_text().replace(made.server.url, served.url))
        running = made.start()
        assert until(lambda: made.journalled() >= 30, running)
        state["fate"] = fate
        time.sleep(out_secs)
        state["fate"] = "pass"
        back = time.time()
        result = made.desk.finish(running)
    assert result.code == 0, result.err
    figures = check(made.scene)
    during = [seen for seen in served.seen if seen.fate == fate]
    per_row = Counter(seen.name for seen in during)
    gentle = sum(seen.at > during[0].at + FIRST_SECS for seen in during)
    again = min(seen.at for seen in served.seen if seen.fate == "pass" and seen.at > back) - back
    print(
        f"N9 {fate} for {out_secs:g} s: {len(during)} calls meanwhile, {gentle} of them after the first "
        f"{FIRST_SECS:g} s, at most "
        f"{max(per_row.values())} of a row; the next {again:.1f} s after its end: {figures}"
    )
    assert figures.repaid == 0
    # What was in flight fails, and once more after the first pause; then calls go out singly, ever more rarely.
    assert len(during) <= 3 * IN_FLIGHT + out_secs / 3
    assert gentle <= out_secs / 3


@pytest.mark.long
@pytest.mark.parametrize("out_secs", [3.0, 60.0])
def test_n9_a_server_that_is_gone_and_comes_back_is_waited_for(desk: Desk, torture_seed: int, out_secs: float) -> None:
    made = bench(desk, torture_seed, 200, latency_ms=100)
    running = made.start()
    assert until(lambda: made.journalled() >= 30, running)
    made.server.process.kill()
    made.server.process.wait()
    # Whatever was in flight there died with it, and may be in its ledger.
    made.scene.crashes += 1
    time.sleep(out_secs)
    port = made.server.url.rpartition(":")[2].partition("/")[0]
    revived: Simulator = desk.simulator("--latency", "100", "--port", port)
    assert revived.url == made.server.url
    result = made.desk.finish(running)
    assert result.code == 0, result.err
    tried = unreached(made.scene.journal)
    print(f"N9 gone for {out_secs:g} s: {tried} calls meanwhile found nobody; {Counter(result.summary['rows'])}")
    assert tried <= 3 * IN_FLIGHT + out_secs / 3
    assert result.summary["rows"]["ok"] == 200


def unreached(journal: Path) -> int:
    """Calls that the journal says reached nobody."""
    with closing(reading(journal)) as db:
        (number,) = db.execute("SELECT count(*) FROM attempt WHERE error_type = 'connection'").fetchone()
    return int(number)


# --- N11 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [300, pytest.param(12_000, marks=pytest.mark.long)])
def test_n11_a_third_of_the_calls_twenty_times_slower_takes_no_more_memory(
    desk: Desk, torture_seed: int, rows: int
) -> None:
    peaks = []
    chance = random.Random(torture_seed)
    slow = {f"row-{n:05}" for n in range(rows) if chance.random() < 1 / 3}
    for nth, chosen in enumerate((set[str](), slow)):
        other = Desk(desk.folder / str(nth))
        other.folder.mkdir()
        try:
            made = bench(other, torture_seed, rows, latency_ms=0, more="limits: {concurrency: 64}")
            made.scene.in_flight = 64
            with between(
                made.server.url, partial(treated, dict.fromkeys(chosen, "slow")), fast=0.02, slow=0.4
            ) as served:
                made.job.write_text(made.job.read_text().replace(made.server.url, served.url))
                code, mib, _ = memory_mib(other, "run", made.job, "--json")
            assert code == 0, (other.folder / "stderr.txt").read_text()
            peaks.append(mib)
            figures = check(made.scene)
        finally:
            other.close()
    print(
        f"N11 {len(slow)} of {rows} calls 20 times slower: {peaks[1]:.0f} MiB at most, {peaks[0]:.0f} without: "
        f"{figures}"
    )
    assert peaks[1] - peaks[0] < 32

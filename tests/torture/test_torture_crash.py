"""kill -9, whenever and wherever it strikes: nothing lost, nothing doubled, at most the calls in flight paid again."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from desk import Desk
from torture_checker import check
from torture_rig import IN_FLIGHT, Bench, Gate, Points, bench, every_operation, memory_mib, more_rows, serving, until

pytest_plugins = ("torture_fixtures",)

ROWS = 300


def random_kills(made: Bench, wanted: int) -> int:
    """Kill so many starts: a fourth in their first moments, a fourth once they know what to ask, half while they ask.

    Whoever completes before its time is given more rows to do.
    """
    kills = 0
    while kills < wanted:
        running = made.start()
        assert running.stderr is not None
        moment = made.chance.random()
        if moment < 0.25:
            time.sleep(made.chance.uniform(0.1, 0.7))
        else:
            while (line := running.stderr.readline()) and "to ask" not in line:
                pass
            if moment > 0.5:
                until(lambda: made.in_flight() > 0, running)
            time.sleep(made.chance.uniform(0.0, 0.35))
        kills += made.kill(running)
        if running.returncode == 0:
            more_rows(made)
    return kills


def test_c1_twenty_kills_at_random_times(desk: Desk, torture_seed: int) -> None:
    made = bench(desk, torture_seed, ROWS, latency_ms=200)
    kills = random_kills(made, 20)
    ended = made.run()
    assert ended.code == 0, ended.err
    figures = check(made.scene)
    print(f"C1 {kills} kills: {figures}; {figures.repaid / kills:.2f} a kill")
    assert figures.answered > figures.rows, "no kill struck a call in flight: this run proves nothing"


@pytest.mark.long
@pytest.mark.parametrize("part", range(10))
def test_c1_two_hundred_kills_at_random_times(desk: Desk, torture_seed: int, part: int) -> None:
    made = bench(desk, torture_seed + part, ROWS, latency_ms=200, fault="529=0.03")
    kills = random_kills(made, 20)
    ended = made.run()
    assert ended.code == 0, ended.err
    figures = check(made.scene)
    print(f"C1 {kills} kills: {figures}; {figures.repaid / kills:.2f} a kill")


@pytest.mark.parametrize(
    ("point", "nth", "repaid"),
    [
        ("before_send", 1, (0, IN_FLIGHT)),
        pytest.param("before_send", 25, (0, IN_FLIGHT), marks=pytest.mark.long),
        ("answer_before_journal", 25, (1, IN_FLIGHT)),
    ],
)
def test_c2_killed_around_a_call(desk: Desk, torture_seed: int, point: str, nth: int, repaid: tuple[int, int]) -> None:
    made = bench(desk, torture_seed, 40)
    gate = Gate(made.server.url, point, nth)
    with serving(gate.pass_on) as url:
        made.job.write_text(made.job.read_text().replace(made.server.url, url))
        gate.victim = running = made.start()
        assert until(lambda: running.poll() is not None, running) or running.returncode == -9
        made.kill(running)
        ended = made.run()
    assert ended.code == 0, ended.err
    figures = check(made.scene)
    print(f"C2 {point} of call {nth}: {figures}")
    assert made.scene.crashes == 1
    assert repaid[0] <= figures.repaid <= repaid[1]
    assert ended.summary["calls"]["maybe_billed_twice"] >= figures.repaid


def test_c2_killed_right_after_an_answer_was_journalled(desk: Desk, torture_seed: int) -> None:
    made = bench(desk, torture_seed, 60, latency_ms=60)
    running = made.start()
    assert until(lambda: made.journalled() >= 5, running, every_secs=0.001)
    made.kill(running)
    kept = made.journalled()
    ended = made.run()
    assert ended.code == 0, ended.err
    assert ended.summary["answered_before"] == kept >= 5
    print(f"C2 after the journal: {check(made.scene)}")


NAMED: list[tuple[str, tuple[str, str, int, str]]] = [
    ("while_the_journal_is_made", ("fsync", "small.sqlite-journal", 2, "before")),
    ("while_the_plan_is_written", ("write", "plan.arrow", 3, "after")),
    ("before_the_plan_is_named", ("rename", "small.plans", 1, "before")),
    ("before_a_commit_is_durable", ("fsync", "small.sqlite-wal", 9, "before")),
    ("after_a_commit_is_durable", ("fsync", "small.sqlite-wal", 9, "after")),
    ("in_the_temporary_output", ("write", "out/.answers.parquet.", 2, "after")),
    ("before_fsync_of_the_output", ("fsync", "out/.answers.parquet.", 1, "before")),
    ("after_fsync_of_the_output", ("fsync", "out/.answers.parquet.", 1, "after")),
    ("before_the_output_is_renamed", ("rename", "out/answers.parquet", 1, "before")),
    ("after_the_output_is_renamed", ("rename", "out/answers.parquet", 1, "after")),
    ("after_the_summary_is_renamed", ("rename", "answers.parquet.summary.json", 1, "after")),
]


def test_c2_killed_at_one_named_point_after_the_other(desk: Desk, torture_seed: int, points: Points) -> None:
    """Each start gets further than the one before, up to the next point."""
    # So many rows that two starts which die at their ninth commit have not answered all, however many a commit holds.
    made = bench(desk, torture_seed, 120)
    old = published_before(made)
    for name, (operation, part, nth, act) in NAMED:
        killed = made.start(**points.at(operation, part, nth, act))
        made.desk.finish(killed)
        assert killed.returncode == -9, f"{name} was never reached"
        made.kill(killed)
        assert_old_or_whole(made, old)
        check(made.scene, complete=False)
    ended = made.run()
    assert ended.code == 0, ended.err
    print(f"C2 {len(NAMED)} named points in a row: {check(made.scene)}")


@pytest.mark.long
@pytest.mark.parametrize(("operation", "part", "nth", "act"), [at for _, at in NAMED], ids=[name for name, _ in NAMED])
def test_c2_killed_at_a_named_point(
    desk: Desk, torture_seed: int, points: Points, operation: str, part: str, nth: int, act: str
) -> None:
    made = bench(desk, torture_seed, 40)
    old = published_before(made)
    killed = made.start(**points.at(operation, part, nth, act))
    made.desk.finish(killed)
    assert killed.returncode == -9, "the point was never reached"
    made.kill(killed)
    assert_old_or_whole(made, old)
    ended = made.run()
    assert ended.code == 0, ended.err
    print(f"C2 {operation} {part} {nth} {act}: {check(made.scene)}")


def published_before(made: Bench) -> bytes:
    """A file of an earlier night stands where the output goes."""
    old = made.desk.folder / "out/answers.parquet"
    old.parent.mkdir(exist_ok=True)
    old.write_bytes(b"an earlier night's")
    return old.read_bytes()


def assert_old_or_whole(made: Bench, old: bytes) -> None:
    path = made.desk.folder / made.scene.output
    if path.read_bytes() != old:
        assert pq.ParquetFile(path).read().num_rows == len(made.scene.names)


@pytest.mark.long
@pytest.mark.parametrize("act", ["before", "after"])
def test_c2_killed_at_every_lasting_operation_of_a_run(
    desk: Desk, torture_seed: int, points: Points, act: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    every_operation(desk, torture_seed, points, act, tmp_path_factory, lambda code: code == -9)


def test_c3_ten_kills_while_resuming_converge(desk: Desk, torture_seed: int) -> None:
    # So many rows that a busy machine, which looks and kills a second late, does not let ten starts answer them all.
    made = bench(desk, torture_seed, 500, latency_ms=100)
    progress = [0]
    for _ in range(10):
        running = made.start()
        goal = progress[-1] + made.chance.randrange(3, 12)
        until(lambda goal=goal: made.journalled() >= goal, running)  # type: ignore[misc] # binds the loop's value
        assert made.kill(running), "it completed between two kills"
        progress.append(made.journalled())
    assert progress == sorted(progress)
    assert progress[-1] > progress[1]
    assert made.run().code == 0
    print(f"C3 answers kept after each kill {progress[1:]}: {check(made.scene)}")


def test_c10_a_second_run_leaves_and_a_killed_first_holds_nothing(desk: Desk, torture_seed: int) -> None:
    made = bench(desk, torture_seed, 60, latency_ms=100)
    first = made.start()
    assert until(lambda: made.journalled() >= 1, first)
    # Frozen, it holds the journal for as long as the second one takes.
    first.send_signal(signal.SIGSTOP)
    before = time.monotonic()
    code, _, cpu_secs = memory_mib(desk, "run", made.job, "--json")
    secs = time.monotonic() - before
    summary = json.loads((desk.folder / "stdout.txt").read_text().splitlines()[-1])
    assert (code, summary["exit_code"], summary["calls"]["sent"]) == (75, 75, 0)
    # It waits for nothing: what it takes is its processor's time, whatever else the machine does.
    assert cpu_secs <= 2.0
    assert first.poll() is None
    made.kill(first)
    third = made.run()
    assert third.code == 0, third.err
    print(f"C10 the second left after {secs:.1f} s, {cpu_secs:.1f} of the processor: {check(made.scene)}")


def test_c12_a_journal_of_every_released_format_still_answers(desk: Desk, torture_seed: int, journals: Path) -> None:
    made = bench(desk, torture_seed, 12)
    assert made.run().code == 0
    kept = sorted(journals.glob("*.sqlite"))
    # Each format before today's: whoever makes a new one keeps a journal of the last.
    assert [version_of(journal) for journal in kept] == list(range(1, version_of(made.scene.journal)))
    for journal in kept:
        other = Desk(desk.folder / journal.stem)
        other.write("rows.csv", (desk.folder / "rows.csv").read_text())
        job = other.write("job.yaml", made.job.read_text())
        state = other.folder / ".pipeline"
        state.mkdir(mode=0o700)
        (state / "small.sqlite").write_bytes(journal.read_bytes())
        ended = other.pipeline("run", job, "--json")
        assert ended.code == 0, (journal.name, ended.err)
        assert ended.summary["answered_before"] == 12, journal.name
        assert len(made.server.requests) == 12, journal.name
        assert version_of(state / "small.sqlite") == version_of(made.scene.journal)


def version_of(journal: Path) -> int:
    """As its header says, without opening it: SQLite would lay files of its own beside it."""
    return int.from_bytes(journal.read_bytes()[60:64])

"""Size: memory does not grow with the table, a finished run costs little to look at, and what commits cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from desk import Desk
from torture_checker import check
from torture_rig import IN_FLIGHT, Points, bench, memory_mib, names, operations

pytest_plugins = ("torture_fixtures",)

TEXT = "The quick brown fox jumps over the lazy dog. " * 22


def large_rows(path: Path, number: int) -> None:
    """So many rows of about a KB."""
    with path.open("w") as file:
        file.write("name,size,text\n")
        file.writelines(f"{name},1.5,{TEXT}\n" for name in names(number))


@pytest.mark.parametrize("rows", [2_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_s1_memory_is_the_same_for_a_larger_table_and_a_finished_run_is_cheap(
    desk: Desk, torture_seed: int, rows: int
) -> None:
    made = bench(desk, torture_seed, 1, latency_ms=0, more="limits: {concurrency: 32}")
    made.job.write_text(made.job.read_text().replace("Describe <<name>>.", "Describe <<name>>. <<text>>"))
    made.scene.prompt = lambda name: f"Describe {name}. {TEXT}"
    made.scene.in_flight = 32
    peaks, cpu = {}, {}
    for number in (rows // 10, rows):
        large_rows(desk.folder / "rows.csv", number)
        code, peaks[number], cpu[number] = memory_mib(desk, "run", made.job, "--quiet")
        assert code == 0, (desk.folder / "stderr.txt").read_text()
        made.scene.names = names(number)
    code, again_mib, again_cpu = memory_mib(desk, "run", made.job, "--json")
    assert code == 0
    summary = json.loads((desk.folder / "stdout.txt").read_text().splitlines()[-1])
    assert summary["calls"]["sent"] == 0
    print(
        f"S1 {rows:,} rows of 1 KB: {peaks[rows]:.0f} MiB at most, {peaks[rows // 10]:.0f} with {rows // 10:,}; "
        f"{1e3 * cpu[rows] / (rows - rows // 10):.2f} CPU ms a row; again {again_cpu:.2f} CPU s, {again_mib:.0f} MiB"
    )
    check(made.scene)
    assert again_cpu < 10
    assert peaks[rows] - peaks[rows // 10] < 60


def test_s3_what_commits_cost(desk: Desk, torture_seed: int, points: Points) -> None:
    made = bench(desk, torture_seed, 300, latency_ms=10)
    log = desk.folder / "operations"
    ended = made.run(**points.log(log))
    assert ended.code == 0, ended.err
    wal = [found for found in operations(log) if found.path.endswith("-wal")]
    commits = sum(found.name == "fsync" for found in wal)
    writes = sum(found.name == "write" for found in wal)
    print(
        f"S3 300 answers, {IN_FLIGHT} in flight: {commits} commits, {300 / commits:.1f} answers each, {writes} writes"
    )
    assert check(made.scene).rows == 300
    # Never more than one for each answer, and some for the run itself.
    assert commits <= 300 + 30

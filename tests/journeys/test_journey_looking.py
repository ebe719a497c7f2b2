"""Looking back at a run by half of the words it was started with, and exporting what there is so far."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from desk import Desk, Ended, job_text, rows_text

ROWS = 8


def started(desk: Desk) -> Path:
    desk.write("rows.csv", rows_text(ROWS))
    return desk.write("job.yaml", job_text(None, more="params: {region: eu}\n").replace("endpoint: simulator\n", ""))


def run_of(ended: Ended) -> str:
    """The run that a command says it looked at."""
    assert ended.code == 0, ended.err
    return (ended.out if ended.out.startswith("run ") else ended.err).splitlines()[0].split()[1].rstrip(":")


def test_a_run_is_found_by_its_endpoint_alone_and_by_a_param_alone(desk: Desk) -> None:
    server = desk.simulator()
    job = started(desk)
    named = ("--endpoint", server.url)
    for day in ("2026-11-01", "2026-11-02"):
        assert desk.pipeline("run", job, *named, "--date", day).code == 0
    assert desk.pipeline("run", job, *named, "--date", "2026-11-03", "--param", "region=us").code == 0

    for command in ("status", "report", "export"):
        assert run_of(desk.pipeline(command, job, *named)).startswith("small@2026-11-02~")
        assert run_of(desk.pipeline(command, job, *named, "--date", "2026-11-01")).startswith("small@2026-11-01~")
        assert run_of(desk.pipeline(command, job, "--date", "2026-11-01")).startswith("small@2026-11-01~")
        assert run_of(desk.pipeline(command, job, "--param", "region=us")).startswith("small@2026-11-03~")
        assert run_of(desk.pipeline(command, job)).startswith("small@2026-11-03~")
    # The last one went to the run's own output, which lies where a run of that endpoint publishes.
    exported = pl.read_parquet(desk.folder / "out/answers.local.parquet")
    assert set(exported["run_id"]) == {run_of(desk.pipeline("status", job))}
    assert not (desk.folder / "out/answers.parquet").exists()


def test_where_several_runs_fit_the_message_says_what_to_add(desk: Desk) -> None:
    server = desk.simulator()
    job = started(desk)
    assert desk.pipeline("run", job, "--param", "region=us", "--endpoint", server.url).code == 0
    assert (
        desk.pipeline("run", job, "--param", "region=us", "--endpoint", "simulator", "--date", "2026-11-01").code == 0
    )
    ended = desk.pipeline("status", job, "--param", "region=us")
    assert ended.code == 2
    assert "several runs fit; add what tells them apart" in ended.err
    assert "--date 2026-11-01 --endpoint simulator" in ended.err
    assert "--endpoint URL" in ended.err

    none = desk.pipeline("status", job, "--param", "region=asia")
    assert none.code == 2
    assert "there is no run" in none.err


def test_after_a_stop_the_hint_exports_beside_the_output_and_says_how_many_rows_are_pending(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(ROWS))
    job = desk.write("job.yaml", job_text(server.url, more="limits: {concurrency: 1}\n"))
    own = desk.folder / "mine.parquet"
    stopped = desk.pipeline("run", job, "--budget", "0.0013", "--output", own)
    assert stopped.code == 4, stopped.err
    hint = (stopped.out + stopped.err).partition("to see what is there: ")[2].splitlines()[0]
    assert hint == f"pipeline export {job} --output so-far.parquet"

    exported = desk.pipeline(*hint.split()[1:])
    assert exported.code == 0, exported.err
    pending = int((pl.read_parquet(desk.folder / "so-far.parquet")["status"] == "pending").sum())
    assert 0 < pending < ROWS
    assert f"warning: {pending} of {ROWS} rows are pending: {desk.folder / 'so-far.parquet'}" in exported.err
    assert not own.exists()

    assert desk.pipeline("run", job, "--budget", "1", "--output", own).code == 0
    whole = desk.pipeline("export", job, "--output", "so-far.parquet")
    assert "pending" not in whole.err

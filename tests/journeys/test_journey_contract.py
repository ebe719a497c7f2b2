"""Promises of the job file and the command line that are easily broken without anybody noticing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from desk import Desk, job_text, rows_text

PHOTOS = Path(__file__).parents[2] / "data/photos"


def test_an_empty_night_is_accepted_where_the_job_says_so(desk: Desk) -> None:
    """A glob that matches nothing is a broken job, unless `expect.min_rows: 0` awaits such nights."""
    text = job_text(None).replace("rows.csv", "'nights/*.csv'")
    refused = desk.pipeline("run", desk.write("job.yaml", text))
    assert refused.code == 2
    assert "to accept an empty night set expect.min_rows: 0" in refused.err
    accepted = desk.pipeline("run", desk.write("job.yaml", text + "expect: {min_rows: 0}\n"), "--json")
    assert (accepted.code, accepted.summary["rows"]["total"]) == (0, 0), accepted.err
    assert pl.read_parquet(desk.folder / "out/answers.parquet").height == 0


def test_values_of_the_environment_are_masked_in_paths_too(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(2))
    text = job_text(None).replace("out/answers.parquet", '"${env:PLACE}/answers.parquet"')
    job = desk.write("job.yaml", text)
    place = "hidden-folder-4711"
    for words in (["check", job], ["run", job, "--json"], ["export", job]):
        ended = desk.pipeline(*words, PLACE=place)
        assert ended.code == 0, ended.err
        assert place not in ended.out + ended.err
    assert pl.read_parquet(desk.folder / place / "answers.parquet").height == 2
    assert place not in (desk.folder / place / "answers.parquet.summary.json").read_text()


def test_an_output_on_the_command_line_may_be_a_directory_of_parts(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(3))
    ended = desk.pipeline("run", desk.write("job.yaml", job_text(None)), "--output", "parts/")
    assert ended.code == 0, ended.err
    assert pl.read_parquet(desk.folder / "parts/part-*.parquet").height == 3
    assert (desk.folder / "parts.summary.json").exists()


def test_files_that_are_no_pictures_are_left_out_with_a_count(desk: Desk) -> None:
    shutil.copytree(PHOTOS, desk.folder / "photos")
    (desk.folder / "photos/notes.txt").write_text("not a picture")
    text = "name: look\nsource: {path: photos}\nprompt: {user: 'What is <<name>>?'}\n"
    text += "request: {model: claude-haiku-4-5}\nendpoint: simulator\noutput: {path: out.parquet}\n"
    checked = desk.pipeline("check", desk.write("job.yaml", text))
    assert checked.code == 0, checked.err
    assert "1 file there is no picture, and is left out" in checked.err


def test_a_job_none_of_whose_rows_can_be_asked_is_not_sound(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(3))
    job = desk.write("job.yaml", job_text(None, prompt="<<name + 1>>"))
    checked = desk.pipeline("check", job)
    assert checked.code == 2
    assert "none of the first 3 requests can be made" in checked.err


def test_dataset_shows_all_columns_but_binary_ones_and_numbers_as_they_are_meant(desk: Desk) -> None:
    columns = {"id": [1], "raw": pa.array([b"\xff"]), "share": pa.array([0.1], pa.float32())}
    pq.write_table(pa.table(columns), desk.folder / "rows.parquet")
    job = desk.write("job.yaml", job_text(None, prompt="<<DATASET>>").replace("rows.csv, id: [name]", "rows.parquet"))
    shown = desk.pipeline("preview", job, "-n", "1")
    assert shown.code == 0, shown.err
    assert json.dumps("id,share\n1,0.1")[1:-1] in shown.out


@pytest.mark.parametrize("written", ["0x2", "0o2", "2"])
def test_a_whole_number_may_be_written_in_any_way_of_yaml(desk: Desk, written: str) -> None:
    desk.write("rows.csv", rows_text(5))
    text = job_text(None).replace("rows.csv", f"rows.csv, limit: {written}")
    ended = desk.pipeline("run", desk.write("job.yaml", text), "--json")
    assert ended.summary["rows"]["total"] == 2, ended.err


def test_a_start_that_ends_before_its_run_still_says_which_run_it_was(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(2))
    job = desk.write("job.yaml", job_text(None).replace("endpoint: simulator\n", ""))
    ended = desk.pipeline("run", job, "--json", "--date", "2026-11-22")
    assert (ended.code, ended.summary["reason"]) == (2, "broken_job")
    told = [ended.summary[name] for name in ("job", "run_id", "run_date", "output")]
    assert told == ["small", "small@2026-11-22", "2026-11-22", str(desk.folder / "out/answers.parquet")]


def test_a_month_s_budget_is_not_raised_by_the_option_for_a_run(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(40))
    server = desk.simulator()
    job = desk.write("job.yaml", job_text(server.url, more="budget: {month_usd: 0.002}"))
    ended = desk.pipeline("run", job, "--json")
    assert (ended.code, ended.summary["reason"]) == (4, "budget"), ended.err
    assert "next: raise budget.month_usd, or wait for the next month" in ended.err
    assert "--budget" not in ended.err


def test_costs_as_csv_have_every_key_column(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(3))
    assert desk.pipeline("run", desk.write("job.yaml", job_text(None))).code == 0
    words = ["costs", "out/answers.parquet", "--rehearsals", "--format", "csv", "--by", "job,model,status"]
    ended = desk.pipeline(*words)
    assert ended.code == 0, ended.err
    assert [line.split(",")[:3] for line in ended.out.splitlines()] == [
        ["job", "model", "status"],
        ["small", "claude-haiku-4-5", "ok"],
    ]

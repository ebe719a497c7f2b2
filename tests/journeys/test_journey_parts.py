"""An output that is a directory of parts, from the command line to the reader."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from desk import VOLATILE, Desk, job_text, rows_text

ROWS = 40
PARTS = "output: {path: out/d/, rows_per_file: 15}"


def job_in(
    desk: Desk, url: str | None, *, more: str = "", prompt: str = "Describe <<name>>.", rows: int = ROWS
) -> Path:
    desk.write("rows.csv", rows_text(rows))
    text = job_text(url, prompt=prompt, more=more).replace("output: {path: out/answers.parquet}", PARTS)
    return desk.write("job.yaml", text)


def scanned(desk: Desk, folder: str = "out/d") -> pl.DataFrame:
    return pl.scan_parquet(desk.folder / folder / "part-*.parquet").collect()


def manifest(desk: Desk) -> list[str]:
    described = json.loads((desk.folder / "out/d/_manifest.json").read_text())
    return [part["name"] for part in described["parts"]]


def test_parts_hold_exactly_the_rows_that_one_file_would(desk: Desk) -> None:
    server = desk.simulator()
    job = job_in(desk, server.url)

    ended = desk.pipeline("run", job, "--json")
    one = desk.pipeline("export", job, "--output", "one.parquet")

    assert (ended.code, one.code) == (0, 0), ended.err + one.err
    assert ended.summary["output"] == str(desk.folder / "out/d")
    assert json.loads((desk.folder / "out/d.summary.json").read_text())["rows"]["ok"] == ROWS
    assert [len(pl.read_parquet(desk.folder / "out/d" / name)) for name in manifest(desk)] == [15, 15, 10]
    assert scanned(desk).equals(pl.read_parquet(desk.folder / "one.parquet"))


def test_a_finished_run_leaves_the_parts_and_a_harmed_one_is_mended_for_nothing(desk: Desk) -> None:
    server = desk.simulator()
    job = job_in(desk, server.url)
    desk.pipeline("run", job)
    before, names = scanned(desk), manifest(desk)

    again = desk.pipeline("run", job, "--json")
    assert "is up to date" in again.err
    assert manifest(desk) == names

    (desk.folder / "out/d" / names[1]).unlink()
    mended = desk.pipeline("run", job, "--json")
    assert mended.code == 0, mended.err
    assert mended.summary["calls"]["sent"] == 0
    assert scanned(desk).equals(before)
    assert len(server.requests) == ROWS


def test_trials_and_rehearsals_have_directories_of_their_own(desk: Desk) -> None:
    job = job_in(desk, None)
    assert desk.pipeline("run", job, "--limit", "5", "--show", "1").code == 0
    assert len(scanned(desk, "out/d.first-5")) == 5
    assert (desk.folder / "out/d.first-5.summary.json").exists()
    assert not (desk.folder / "out/d").exists()


def test_failed_rows_can_be_exported_beside_them(desk: Desk) -> None:
    job = job_in(desk, None)
    assert desk.pipeline("run", job).code == 0
    ended = desk.pipeline("export", job, "--status", "failed,ok")
    assert ended.code == 0, ended.err
    assert len(scanned(desk, "out/d.failed-ok")) == ROWS


def test_an_export_never_replaces_answered_parts_by_pending_ones(desk: Desk) -> None:
    server = desk.simulator()
    job = job_in(desk, server.url)
    assert desk.pipeline("run", job).code == 0
    with closing(sqlite3.connect(desk.folder / ".pipeline/small.sqlite")) as db, db:
        db.execute("UPDATE attempt SET status = NULL WHERE id IN (SELECT id FROM attempt LIMIT 3)")
    refused = desk.pipeline("export", job)
    assert refused.code == 6, refused.err
    assert "40 answered rows, the export would have 37" in refused.err
    assert desk.pipeline("export", job, "--yes").code == 0
    assert scanned(desk)["status"].value_counts().sort("count")["count"].to_list() == [3, 37]


def test_kill_9_at_any_moment_leaves_whole_parts_and_the_next_run_completes_them(desk: Desk) -> None:
    server = desk.simulator("--latency", "5")
    job = job_in(desk, server.url, rows=120)
    assert desk.pipeline("run", job).code == 0
    before = scanned(desk)
    desk.write("rows.csv", rows_text(160))
    for wait in (0.8, 1.0, 1.2, 1.4):
        running = desk.start("run", job)
        time.sleep(wait)
        running.kill()
        running.communicate()
        names = manifest(desk)
        seen = pl.concat([pl.read_parquet(desk.folder / "out/d" / name) for name in names])
        assert len(seen) in (120, 160)
        assert seen.head(120).drop(VOLATILE).equals(before.drop(VOLATILE))
    ended = desk.pipeline("run", job, "--json")
    assert ended.code == 0, ended.err
    assert len(scanned(desk)) == 160
    assert sorted(path.name for path in (desk.folder / "out/d").iterdir()) == ["_manifest.json", *manifest(desk)]
    assert max(server.answered.values()) == 1 or sum(server.answered.values()) <= 160 + 4 * 64


def test_a_journal_that_was_lost_is_noticed_by_the_parts(desk: Desk) -> None:
    server = desk.simulator()
    job = job_in(desk, server.url)
    assert desk.pipeline("run", job).code == 0
    for path in (desk.folder / ".pipeline").glob("small.sqlite*"):
        path.unlink()
    refused = desk.pipeline("run", job)
    assert refused.code == 6
    assert "every row would be paid for again" in refused.err


def test_a_damaged_answer_is_reported_and_asked_again(desk: Desk) -> None:
    server = desk.simulator()
    job = job_in(desk, server.url)
    assert desk.pipeline("run", job).code == 0
    with closing(sqlite3.connect(desk.folder / ".pipeline/small.sqlite")) as db, db:
        db.execute("UPDATE response SET checksum = x'00' WHERE attempt IN (SELECT attempt FROM response LIMIT 2)")
    assert desk.pipeline("journal", "check", job).code == 1
    for name in manifest(desk):
        (desk.folder / "out/d" / name).unlink()

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 0, ended.err
    assert "2 stored answers found damaged" in ended.err
    assert ended.summary["calls"]["sent"] == 2
    assert ended.summary["rows"]["ok"] == ROWS
    assert len(server.requests) == ROWS + 2
    assert desk.pipeline("journal", "check", job).code == 0
    assert desk.pipeline("verify", desk.folder / "out/d").code == 0


@pytest.mark.parametrize("change", ["prompt", "model"])
def test_a_changed_prompt_or_model_is_not_paid_for_at_large_without_consent(desk: Desk, change: str) -> None:
    server = desk.simulator()
    job = job_in(desk, server.url, rows=1_100)
    assert desk.pipeline("run", job, "--quiet").code == 0
    changed = job.read_text().replace(
        *(("Describe", "Summarise") if change == "prompt" else ("claude-haiku-4-5", "claude-sonnet-4-5"))
    )
    original = job.read_text()
    job.write_text(changed)

    for _ in range(2):  # asking once more is no consent
        refused = desk.pipeline("run", job)
        assert refused.code == 6, refused.err
        assert "1,100 rows are answered as it was, and 1,100 would be paid for again" in refused.err
        assert ("prompt" if change == "prompt" else "request.model (was claude-haiku-4-5)") in refused.err
    assert len(server.requests) == 1_100

    job.write_text(original)
    assert desk.pipeline("run", job).code == 0
    job.write_text(changed)
    assert desk.pipeline("run", job, "--yes", "--quiet").code == 0
    assert len(server.requests) == 2_200
    job.write_text(original)
    back = desk.pipeline("run", job)
    assert back.code == 0, back.err
    assert len(server.requests) == 2_200

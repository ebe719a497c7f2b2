"""`pipeline verify` of outputs that nobody has touched: whatever the run went through, they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from desk import Desk, Ended, job_text, rows_text
from PIL import Image

ROWS = 12
TYPED = """\
answer:
  schema: {type: object, properties: {label: {type: string}, score: {type: number}}, required: [label, score]}
  repair: 1
"""
UNTIDY = (
    *("--fault", "contains:row-00001=529,ok"),
    *("--fault", "contains:row-00002=400"),
    *("--fault", "contains:row-00003=refusal"),
    *("--fault", "contains:row-00004=max_tokens"),
    *("--fault", "contains:row-00005=pause_turn"),
)
DATED = "output: {path: 'out/${date}.parquet'}"
PARTS = "output: {path: out/d/, rows_per_file: 5}"
OUTPUT = "output: {path: out/answers.parquet}"


def holds(desk: Desk, output: Path | str, *arguments: object) -> dict[str, Any]:
    """Verify, and say what it notes."""
    ended = desk.pipeline("verify", desk.folder / output, "--json", *arguments)
    assert ended.out, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    assert (ended.code, found["problems"]) == (0, []), ended.out
    return found


def ran(desk: Desk, *arguments: object, codes: tuple[int, ...] = (0,)) -> Ended:
    ended = desk.pipeline("run", *arguments)
    assert ended.code in codes, ended.err
    return ended


def test_a_run_named_on_the_command_line_is_compared_with_its_source(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(ROWS))
    desk.write("rows-us.csv", rows_text(ROWS, 100))
    text = job_text(None, rows='"rows${suffix}.csv"').replace("endpoint: simulator", "params: {suffix: '', top: 3}")
    job = desk.write("job.yaml", text)
    named = ("--endpoint", server.url, "--date", "2026-11-01", "--param", "suffix=-us", "--param", "top=7")
    ran(desk, job, *named)

    assert holds(desk, "out/answers.local.parquet")["notes"] == []

    desk.write("rows-us.csv", rows_text(ROWS + 1))
    (note,) = holds(desk, "out/answers.local.parquet")["notes"]
    assert "the source was changed since" in note


def test_what_is_not_known_of_a_run_is_named(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(ROWS))
    job = desk.write("job.yaml", job_text(None, more="params: {region: eu}"))
    ran(desk, job, "--param", "region=us")
    job.write_text(job.read_text().replace("region: eu", "place: eu"))
    (note,) = holds(desk, "out/answers.parquet")["notes"]
    assert "has no param region any more" in note
    assert "not with the source" in note


def test_neighbours_that_are_broken_or_of_the_same_name_are_passed_over(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(ROWS))
    job = desk.write("zz.yaml", job_text(None))
    ran(desk, job)
    desk.write("a.yaml", "name: [small")
    desk.write("b.yaml", "name: other\nsource: 3\n")
    desk.write("c.yaml", "name: small\nsource: 3\n")
    desk.write("d.yaml", job_text(None).replace("Describe", "Name"))
    (desk.folder / "e.yaml").write_bytes(b"\xff\xfe\x00")
    (desk.folder / "f.yaml").mkdir()
    # Nearer to the output than the right one.
    desk.write("out/job.yaml", job.read_text())
    desk.write("out/.pipeline/small.sqlite", "no journal")

    assert holds(desk, "out/answers.parquet")["notes"] == []

    job.write_text("name: small\nsource: 3\n")
    (desk.folder / "d.yaml").unlink()
    ended = desk.pipeline("verify", "out/answers.parquet")
    assert ended.code == 2
    assert "c.yaml:2" in ended.err


def test_retried_refused_truncated_paused_failed_and_equal_rows_hold_before_and_after_another_try(desk: Desk) -> None:
    server = desk.simulator(*UNTIDY)
    desk.write("rows.csv", rows_text(ROWS) + "row-00006,9.5\nrow-00002,9.5\nrow-00006,1.5\n")
    text = job_text(server.url).replace(", id: [name]", "") + "limits: {attempts: 3}\n"
    job = desk.write("job.yaml", text)
    ran(desk, job, codes=(3,))
    assert holds(desk, "out/answers.parquet")["rows"] == ROWS + 3
    statuses = set(pl.read_parquet(desk.folder / "out/answers.parquet")["status"])
    assert statuses >= {"ok", "failed", "refused", "truncated"}
    ran(desk, job, "--retry-failed", codes=(3,))
    assert holds(desk, "out/answers.parquet")["notes"] == []


@pytest.mark.parametrize("more", ["", "reuse: false\n", OUTPUT.replace("}", ", keep: none, prefix: llm_}")])
def test_typed_and_repaired_answers_hold(desk: Desk, more: str) -> None:
    server = desk.simulator("--fault", "contains:row-00003=invalid", "--fault", "contains:row-00004=invalid-always")
    desk.write("rows.csv", rows_text(ROWS) + "row-00003,2.5\n")
    text = job_text(server.url, more=TYPED).replace(", id: [name]", "")
    text = text.replace(OUTPUT, more) if more.startswith("output") else text + more
    ran(desk, desk.write("job.yaml", text), codes=(0, 3))
    assert holds(desk, "out/answers.parquet")["notes"] == []


def test_runs_that_took_answers_from_each_other_hold_each(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(ROWS))
    job = desk.write("job.yaml", job_text(None).replace(OUTPUT, DATED))
    ran(desk, job, "--date", "2026-11-01", "--limit", "4")
    ran(desk, job, "--date", "2026-11-01")
    desk.write("rows.csv", rows_text(ROWS + 3))
    ran(desk, job, "--date", "2026-11-02")
    assert holds(desk, "out/2026-11-02.parquet")["notes"] == []
    for name in ("2026-11-01", "2026-11-01.first-4"):
        (note,) = holds(desk, f"out/{name}.parquet")["notes"]
        assert "the source was changed since" in note


def test_several_runs_that_share_a_directory_hold(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(ROWS))
    job = desk.write("job.yaml", job_text(None).replace(OUTPUT, PARTS))
    for day in ("2026-11-01", "2026-11-02"):
        ran(desk, job, "--date", day)
        found = holds(desk, "out/d")
        assert (found["run_id"], found["rows"], found["files"], found["notes"]) == (f"small@{day}", ROWS, 3, [])


def test_an_export_holds_while_the_run_is_under_way_and_after_it_has_gone_on(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(ROWS))
    job = desk.write("job.yaml", job_text(server.url, more="limits: {concurrency: 1}\n"))
    ended = desk.pipeline("run", job, "--budget", "0.0016")
    assert ended.code == 4, ended.err
    assert desk.pipeline("export", job, "--output", "so-far.parquet").code == 0
    pending = int((pl.read_parquet(desk.folder / "so-far.parquet")["status"] == "pending").sum())
    assert 0 < pending < ROWS
    assert holds(desk, "so-far.parquet")["notes"] == ["there is no summary beside it"]

    ran(desk, job, "--budget", "5")
    notes = holds(desk, "so-far.parquet")["notes"]
    assert f"{pending} rows were pending when it was written, and asked since" in notes
    assert holds(desk, "out/answers.parquet")["notes"] == []


def test_an_export_of_what_failed_holds_before_and_after_it_is_mended(desk: Desk) -> None:
    server = desk.simulator("--fault", "contains:row-00002=400,ok")
    desk.write("rows.csv", rows_text(ROWS))
    job = desk.write("job.yaml", job_text(server.url))
    ran(desk, job, codes=(3,))
    assert desk.pipeline("export", job, "--status", "failed").code == 0
    assert desk.pipeline("export", job, "--output", "first.parquet").code == 0
    assert "only the rows are compared that were failed" in str(holds(desk, "out/answers.failed.parquet")["notes"])
    ran(desk, job, "--retry-failed")
    assert holds(desk, "out/answers.parquet")["notes"] == []
    assert "1 row was asked again since it was written" in str(holds(desk, "first.parquet")["notes"])


@pytest.mark.parametrize("output", [OUTPUT, PARTS])
def test_an_empty_night_holds(desk: Desk, output: str) -> None:
    desk.write("rows.csv", "name,size\n")
    ran(desk, desk.write("job.yaml", job_text(None, more="expect: {min_rows: 0}\n").replace(OUTPUT, output)))
    assert holds(desk, "out/d" if output == PARTS else "out/answers.parquet")["rows"] == 0


def test_groups_hold_in_their_chunks(desk: Desk) -> None:
    desk.write("rows.csv", "region,n\n" + "".join(f"{'ab'[n % 2]},{n}\n" for n in range(20)))
    source = "source: {path: rows.csv, group_by: [region], rows_per_request: 3, sort_by: [-n]}"
    text = job_text(None, prompt="Look at <<DATASET>>.").replace("source: {path: rows.csv, id: [name]}", source)
    ran(desk, desk.write("job.yaml", text))
    assert holds(desk, "out/answers.parquet")["rows"] == 8


def test_pictures_hold_and_one_that_was_changed_since_is_a_note_and_no_fault(desk: Desk) -> None:
    (desk.folder / "photos").mkdir()
    for nth in range(4):
        Image.new("RGB", (40 + nth, 30), "#804020").save(desk.folder / f"photos/{nth}.png")
    (desk.folder / "photos/3.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    desk.write("rows.csv", "name,photo\n" + "".join(f"row-{nth},photos/{nth}.png\n" for nth in range(5)))
    text = job_text(None).replace("prompt:\n", "prompt:\n  images: [photo]\n")
    ran(desk, desk.write("job.yaml", text), codes=(3,))
    assert holds(desk, "out/answers.parquet")["notes"] == []

    Image.new("RGB", (64, 30), "#204080").save(desk.folder / "photos/1.png")
    (note,) = holds(desk, "out/answers.parquet")["notes"]
    assert note.startswith("1 row has a picture changed since")

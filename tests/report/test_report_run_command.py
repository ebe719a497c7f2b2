"""`pipeline report` on real runs against the simulator: the page says what summary, output and ledger say."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from desk import Desk, job_text, rows_text
from test_report_costs_page import Seen

from pipeline.cli.report import report_command
from pipeline.cost import usd_text
from pipeline.errors import JobError, StorageError
from pipeline.records import NANOS_PER_USD

FAULTS = {
    "row-00003": "400",
    "row-00005": "529,429,ok",
    "row-00007": "invalid-always",
    "row-00009": "invalid",
    "row-00011": "refusal",
    "row-00013": "max_tokens",
    "row-00015": "reset-body,ok",
}
ANSWER = """\
answer:
  schema:
    type: object
    properties: {label: {type: string, enum: [good, bad]}, score: {type: integer}}
    required: [label, score]
  repair: 1
expect: {max_failed_ratio: 0.5}
"""


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> Path:
    """Run the command; the page it names."""
    report_command.main([str(word) for word in arguments], standalone_mode=False)
    return Path(capsys.readouterr().out.strip())


def after(cells: list[str], *words: str) -> list[str]:
    at = next(nth for nth in range(len(cells)) if tuple(cells[nth : nth + len(words)]) == words)
    return cells[at + len(words) :]


@dataclass(frozen=True)
class Run:
    folder: Path
    job: Path
    summary: dict[str, Any]
    ledger: list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    desk = Desk(tmp_path_factory.mktemp("run"))
    try:
        server = desk.simulator(*(w for text, script in FAULTS.items() for w in ("--fault-when", f"{text}={script}")))
        desk.write("rows.csv", rows_text(30))
        job = desk.write("job.yaml", job_text(server.url, more=ANSWER))
        summary = desk.pipeline("run", job, "--json").summary
        return Run(desk.folder, job, summary, server.requests)
    finally:
        desk.close()


def test_the_page_says_what_summary_output_and_ledger_say(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    page = report(capsys, run.job)
    assert page == run.folder / "out/answers.report.html"
    cells = Seen(page.read_text()).cells
    rows = {name: number for name, number in run.summary["rows"].items() if number and name != "total"}
    assert rows == {"ok": 26, "truncated": 1, "refused": 1, "invalid": 1, "failed": 1}
    for status, number in rows.items():
        assert after(cells, status, str(number)), status
    output = pl.read_parquet(run.folder / "out/answers.parquet")
    assert round(output["cost_usd"].sum() * NANOS_PER_USD) == round(run.summary["cost_usd"] * NANOS_PER_USD)
    assert after(cells, "spent")[0] == usd_text(round(run.summary["cost_usd"] * NANOS_PER_USD))
    answered = sum(each["status"] == 200 for each in run.ledger)
    # Of an answer that was cut off on its way nobody knows: it is no answer, and may have been billed.
    billed = after(cells, "billed in all")
    assert int(billed[1]) == answered - 1 == run.summary["calls"]["answered"]
    tokens = run.summary["tokens"]
    assert billed[2:4] == [f"{tokens['input']:,}", f"{tokens['output']:,}"]
    assert after(cells, "maybe billed")[1] == "at most, 1 lost call"


def test_the_page_says_what_was_asked_and_answered(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    text = report(capsys, run.job).read_text()
    cells = Seen(text).cells
    assert after(cells, "model")[0] == "claude-haiku-4-5"
    assert any("user:\nDescribe row-00000." in cell for cell in cells)
    assert any("answers.parquet" in cell and "prompt:\n  system: You are a test." in cell for cell in cells)
    assert after(cells, "row-00000", "ok", "name", "row-00000", "size")[1:2] == ["→ label"]
    output = pl.read_parquet(run.folder / "out/answers.parquet")
    assert after(cells, "→ label")[0] == output["label"][0]
    assert output["response_text"][0] in cells
    for kind, status in (("overloaded", "529"), ("rate_limit", "429"), ("bad_request", "400")):
        assert after(cells, kind, status)[:2] == ["1", "1"]
    for name, status, reason in (
        ("row-00003", "failed", "bad_request"),
        ("row-00007", "invalid", "schema_mismatch"),
        ("row-00011", "refused", "refusal"),
        ("row-00013", "truncated", "max_tokens"),
    ):
        heads = ["row", "name", "input", "status", "reason", "message", "calls"]
        assert after(cells, "Which rows")[:7] == heads
        number = int(name.removeprefix("row-"))
        assert after(cells, f"{number + 1}", name, f"size {number % 7}.5", status)[0] == reason


def test_it_reads_alone_and_goes_where_it_is_told(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(run.folder.rglob("*.parquet"))}
    page = report(capsys, run.job, "--output", tmp_path / "deep/er/night.html")
    assert page == tmp_path / "deep/er/night.html"
    assert list(page.parent.iterdir()) == [page]
    with pytest.raises(JobError, match=r"should end in \.html"):
        report(capsys, run.job, "--output", run.folder / "out/answers.parquet")
    assert before == {path: path.stat().st_mtime_ns for path in sorted(run.folder.rglob("*.parquet"))}
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written there"):
        report(capsys, run.job, "--output", tmp_path / "file/night.html")


def test_without_its_plan_the_rows_are_the_outputs(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_plan = Seen(report(capsys, run.job, "--output", tmp_path / "a.html").read_text()).cells
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    shutil.rmtree(run.folder / ".pipeline/small.plans")
    try:
        without = Seen(report(capsys, run.job, "--output", tmp_path / "b.html").read_text()).cells
        assert any(cell.startswith("The plan of this run is gone") for cell in without)
        assert not any("user:\nDescribe" in cell for cell in without)
        for words in (("Outcome",), ("Spend and tokens",), ("Which rows",), ("Answers, a sample",)):
            assert after(without, *words)[:40] == after(with_plan, *words)[:40], words
        (run.folder / "out/answers.parquet").rename(tmp_path / "away.parquet")
        with pytest.raises(JobError, match="has no plan on disk"):
            report(capsys, run.job, "--output", tmp_path / "c.html")
    finally:
        shutil.copytree(copy, run.folder, dirs_exist_ok=True)


def test_an_unfinished_run_has_a_page(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    server = desk.simulator("--fault-when", "row-00008=credit")
    desk.write("rows.csv", rows_text(40))
    job = desk.write("job.yaml", job_text(server.url, more="limits: {concurrency: 1}"))
    assert desk.pipeline("run", job).code == 5
    page = report(capsys, job)
    assert page == desk.folder / "out/answers.report.html"
    cells = Seen(page.read_text()).cells
    assert any(cell.startswith("no outcome yet: ") for cell in cells)
    assert any("unfinished" in cell for cell in cells)


def test_without_words_it_is_the_latest_run_with_its_own_date_and_params(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.write("rows.csv", rows_text(3))
    text = job_text(None, prompt="Describe <<name>> of <<params.region>>.", more="params: {region: eu}")
    job = desk.write("job.yaml", text.replace("out/answers.parquet", '"out/${date}-${region}.parquet"'))
    for date in ("2026-11-01", "2026-11-02"):
        assert desk.pipeline("run", job, "--date", date, "--param", "region=us").code == 0
    assert report(capsys, job) == desk.folder / "out/2026-11-02-us.report.html"
    cells = Seen((desk.folder / "out/2026-11-02-us.report.html").read_text()).cells
    assert after(cells, "date")[0] == "2026-11-02"
    assert after(cells, "params")[0] == "region us"
    assert not any(cell.startswith("The job file, what it names") for cell in cells)
    earlier = report(capsys, job, "--date", "2026-11-01", "--param", "region=us")
    assert earlier == desk.folder / "out/2026-11-01-us.report.html"
    with pytest.raises(JobError, match="there is no run"):
        report(capsys, job, "--date", "2026-10-01")


def test_a_job_that_changed_since_is_said(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.write("rows.csv", rows_text(3))
    job = desk.write("job.yaml", job_text(None))
    assert desk.pipeline("run", job).code == 0
    desk.write("job.yaml", job_text(None, prompt="Say more of <<name>>."))
    cells = Seen(report(capsys, job).read_text()).cells
    assert any(cell.startswith("The job file, what it names") for cell in cells)
    assert any("user:\nDescribe row-00000." in cell for cell in cells)


def test_a_job_that_never_ran_is_said(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.write("rows.csv", rows_text(3))
    job = desk.write("job.yaml", job_text(None))
    with pytest.raises(JobError, match="the job never ran"):
        report(capsys, job)
    assert not (desk.folder / ".pipeline").exists()

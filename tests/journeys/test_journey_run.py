"""A row's way from YAML to Parquet, through the real command line and a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from desk import Desk, job_text, rows_text, stable

OWN = {
    "response_text": pl.String,
    "status": pl.String,
    "error_type": pl.String,
    "error_message": pl.String,
    "stop_reason": pl.String,
    "model": pl.String,
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "cache_write_tokens": pl.Int64,
    "cache_read_tokens": pl.Int64,
    "cost_usd": pl.Float64,
    "priced_by": pl.String,
    "attempts": pl.Int32,
    "latency_ms": pl.Int64,
    "reused": pl.Boolean,
    "request_key": pl.String,
    "request_id": pl.String,
    "endpoint": pl.String,
    "job": pl.String,
    "run_id": pl.String,
    "run_date": pl.Date,
    "completed_at": pl.Datetime("us", "UTC"),
}


def test_rows_go_out_and_come_back_in_order_with_their_bill(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(300))
    job = desk.write("job.yaml", job_text(server.url))

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 0, ended.err
    output = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert dict(output.schema) == {"name": pl.String, "size": pl.Float64, **OWN}
    assert output["name"].to_list() == [f"row-{n:05}" for n in range(300)]
    assert all(f"Describe {name}." in text for name, text in output.select("name", "response_text").iter_rows())
    assert output["status"].unique().to_list() == ["ok"]
    ledger = [entry for entry in server.requests if entry["status"] == 200]
    assert len(ledger) == 300
    assert output["input_tokens"].sum() == sum(entry["usage"]["input_tokens"] for entry in ledger)
    assert output["output_tokens"].sum() == sum(entry["usage"]["output_tokens"] for entry in ledger)
    dollars = Decimal(int(output["input_tokens"].sum()) + 5 * int(output["output_tokens"].sum())) / 1_000_000
    assert round(Decimal(str(output["cost_usd"].sum())), 9) == dollars
    summary = ended.summary
    assert summary["rows"]["ok"] == summary["rows"]["total"] == 300
    assert summary["calls"] == {"sent": 300, "answered": 300, "retried": 0, "maybe_billed_twice": 0}
    assert summary["paid_now_usd"] == summary["cost_usd"]
    assert (summary["reason"], summary["exit_code"]) == ("complete", 0)


def test_a_second_run_asks_nothing_and_leaves_the_output_as_it_was(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(50))
    job = desk.write("job.yaml", job_text(server.url))
    first = desk.pipeline("run", job, "--json")
    output = desk.folder / "out/answers.parquet"
    before = (output.read_bytes(), output.stat().st_mtime_ns)

    again = desk.pipeline("run", job, "--json")

    assert (first.code, again.code) == (0, 0), again.err
    assert "all 50 rows were answered before" in again.err
    assert (output.read_bytes(), output.stat().st_mtime_ns) == before
    assert len(server.requests) == 50
    assert again.summary["calls"]["sent"] == 0
    assert again.summary["paid_now_usd"] == 0
    assert again.summary["cost_usd"] == first.summary["cost_usd"]


def test_a_lost_output_is_written_again_without_a_call_and_byte_for_byte(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(50))
    job = desk.write("job.yaml", job_text(server.url))
    desk.pipeline("run", job)
    output = desk.folder / "out/answers.parquet"
    before = output.read_bytes()
    output.unlink()

    assert desk.pipeline("run", job).code == 0
    assert output.read_bytes() == before
    assert len(server.requests) == 50


def test_changed_moved_and_new_rows_cost_only_what_is_new(desk: Desk) -> None:
    server = desk.simulator()
    rows = desk.write("rows.csv", rows_text(40))
    job = desk.write("job.yaml", job_text(server.url))
    desk.pipeline("run", job)
    header, *lines = rows_text(40).splitlines()
    desk.write("rows.csv", "\n".join([header, *reversed(lines[5:]), "row-new,1.5"]) + "\n")

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 0, ended.err
    assert "36 rows: 35 answered, 1 to ask" in ended.err
    assert len(server.requests) == 41
    assert rows.exists()
    output = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert all(name in text for name, text in output.select("name", "response_text").iter_rows())
    assert ended.summary["superseded_usd"] > 0
    paid = output["cost_usd"].sum() + ended.summary["superseded_usd"]
    prices = sum(e["usage"]["input_tokens"] + 5 * e["usage"]["output_tokens"] for e in server.requests)
    assert paid == pytest.approx(prices / 1e6, abs=1e-12)


def test_a_prompt_edited_and_edited_back_finds_its_answers(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(20))
    job = desk.write("job.yaml", job_text(server.url))
    desk.pipeline("run", job)
    before = stable(desk.folder / "out/answers.parquet")
    desk.write("job.yaml", job_text(server.url, prompt="Explain <<name>>."))
    desk.pipeline("run", job)
    assert len(server.requests) == 40
    desk.write("job.yaml", job_text(server.url))

    assert desk.pipeline("run", job).code == 0
    assert len(server.requests) == 40
    assert stable(desk.folder / "out/answers.parquet").equals(before)


def test_equal_rows_are_asked_once_and_the_first_bears_the_cost(desk: Desk) -> None:
    server = desk.simulator("--latency", "30")
    desk.write("rows.csv", "name,size\n" + "same,1\n" * 20 + "other,2\n" + "same,3\n" * 20)
    job = desk.write("job.yaml", job_text(server.url).replace(", id: [name]", ""))

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 0, ended.err
    assert len(server.requests) == 2
    output = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert output["reused"].to_list() == [False, *[True] * 19, False, *[True] * 20]
    assert output.filter("reused")["cost_usd"].sum() == 0
    assert output.filter("reused")["attempts"].sum() == 0
    assert output["response_text"].n_unique() == 2


def test_without_reuse_equal_rows_are_asked_each_and_a_second_run_still_asks_nothing(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", "name,size\n" + "same,1\n" * 5)
    text = job_text(server.url, more="reuse: false").replace(", id: [name]", "")
    job = desk.write("job.yaml", text)
    assert desk.pipeline("run", job).code == 0
    assert len(server.requests) == 5
    assert desk.pipeline("run", job).code == 0
    (desk.folder / "out/answers.parquet").unlink()
    assert desk.pipeline("run", job).code == 0
    assert len(server.requests) == 5


def test_groups_become_one_request_each_with_their_rows_as_a_dataset(desk: Desk) -> None:
    server = desk.simulator()
    rows = "sensor,ts,value\n" + "".join(f"{s},{t},{t * 1.5}\n" for t in (3, 1, 2) for s in "cab")
    desk.write("rows.csv", rows)
    text = job_text(server.url, prompt="<<sensor>> has <<row_count>> rows: <<DATASET>>").replace(
        "id: [name]", "group_by: [sensor], sort_by: [ts]"
    )
    job = desk.write("job.yaml", text)

    assert desk.pipeline("run", job).code == 0
    output = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert output["sensor"].to_list() == ["a", "b", "c"]
    assert output["row_count"].to_list() == [3, 3, 3]
    assert output.select("ts_first", "ts_last").rows() == [(1, 3)] * 3
    assert "a has 3 rows: sensor,ts,value" in output["response_text"][0]


def test_a_dated_job_is_a_run_per_date_and_takes_yesterdays_answers_free(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("in/2026-11-21.csv", rows_text(10))
    desk.write("in/2026-11-22.csv", rows_text(10, first=5))
    text = job_text(server.url, rows='"in/${date}.csv"').replace("out/answers.parquet", '"out/${date}.parquet"')
    job = desk.write("job.yaml", text)

    first = desk.pipeline("run", job, "--date", "2026-11-21", "--json")
    second = desk.pipeline("run", job, "--date", "2026-11-22", "--json")

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert first.summary["run_id"] == "small@2026-11-21"
    assert len(server.requests) == 15
    output = pl.read_parquet(desk.folder / "out/2026-11-22.parquet")
    assert output["reused"].to_list() == [True] * 5 + [False] * 5
    assert output["run_date"].unique().to_list() == [date(2026, 11, 22)]
    assert second.summary["answered_before"] == 5
    assert output.filter("reused")["cost_usd"].sum() == 0


def test_a_trial_is_the_beginning_of_the_run_and_has_an_output_of_its_own(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(30))
    job = desk.write("job.yaml", job_text(server.url))

    assert desk.pipeline("run", job, "--limit", "4").code == 0
    assert not (desk.folder / "out/answers.parquet").exists()
    assert pl.read_parquet(desk.folder / "out/answers.first-4.parquet").height == 4
    full = desk.pipeline("run", job, "--json")
    assert full.summary["answered_before"] == 4
    assert len(server.requests) == 30
    output = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert not output["reused"].any()


def test_a_failed_row_is_a_row_and_retry_failed_asks_it_again(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(20))
    failing = desk.simulator("--fault-when", "row-00007=400")
    job = desk.write("job.yaml", job_text(failing.url))

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 3, ended.err
    assert ended.summary["reason"] == "rows_failed"
    output = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert output.height == 20
    row = output.row(7, named=True)
    assert (row["status"], row["error_type"], row["attempts"]) == ("failed", "bad_request", 1)
    assert row["error_message"]
    assert (row["cost_usd"], row["input_tokens"]) == (0, 0)

    mended = desk.simulator(ledger="mended.jsonl")
    again = job_text(mended.url)
    desk.write("job.yaml", again)
    kept = desk.pipeline("run", job, "--json")
    assert (kept.code, mended.requests) == (3, [])
    retried = desk.pipeline("run", job, "--json", "--retry-failed")
    assert retried.code == 0, retried.err
    assert len(mended.requests) == 1
    assert pl.read_parquet(desk.folder / "out/answers.parquet")["status"].unique().to_list() == ["ok"]


def test_a_template_error_fails_its_row_before_sending(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", "name,size\na,1\nb,0\nc,2\n")
    job = desk.write("job.yaml", job_text(server.url, prompt="<<name>>: << 6 / size >>"))

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 3, ended.err
    output = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert output["status"].to_list() == ["ok", "failed", "ok"]
    assert output["error_type"].to_list() == [None, "template", None]
    assert output["request_key"][1] is None
    assert len(server.requests) == 2


def test_faults_are_retried_and_every_row_ends_answered(desk: Desk) -> None:
    server = desk.simulator("--fault", "529=0.05", "--fault", "500=0.05", "--fault", "reset=0.02", "--seed", "7")
    desk.write("rows.csv", rows_text(120))
    job = desk.write("job.yaml", job_text(server.url, more="limits: {attempts: 20}"))

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 0, ended.err
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == 120
    assert ended.summary["calls"]["retried"] > 0


def test_a_truncated_answer_is_asked_again_only_when_the_limit_is_raised(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(5))
    short = job_text(server.url).replace("max_tokens: 200", "max_tokens: 2")
    job = desk.write("job.yaml", short)
    assert desk.pipeline("run", job).code == 0
    output = desk.folder / "out/answers.parquet"
    assert pl.read_parquet(output)["status"].unique().to_list() == ["truncated"]
    assert desk.pipeline("run", job).code == 0
    assert len(server.requests) == 5
    desk.write("job.yaml", job_text(server.url))
    assert desk.pipeline("run", job).code == 0
    assert pl.read_parquet(output)["status"].unique().to_list() == ["ok"]
    assert len(server.requests) == 10
    # Both calls were this run's, so both stand in the row's bill.
    assert pl.read_parquet(output)["attempts"].to_list() == [2] * 5


def test_openai_like_answers_are_read_the_same(desk: Desk) -> None:
    server = desk.simulator("--dialect", "openai")
    desk.write("rows.csv", rows_text(5))
    job = desk.write("job.yaml", job_text(server.url))
    assert desk.pipeline("run", job).code == 0
    output = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert output["stop_reason"].unique().to_list() == ["end_turn"]
    assert output["input_tokens"].min() > 0  # type: ignore[operator] # polars types min() of any column widely
    assert all(name in text for name, text in output.select("name", "response_text").iter_rows())


def test_the_output_says_of_itself_what_it_is(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(3))
    text = job_text(None, more="tags: {team: quality}").replace("answers.parquet}", "answers.parquet, prefix: llm_}")
    job = desk.write("job.yaml", text)
    assert desk.pipeline("run", job).code == 0
    schema = pq.read_schema(desk.folder / "out/answers.parquet")
    stored = pq.read_metadata(desk.folder / "out/answers.parquet").metadata
    metadata = {k.decode(): v.decode() for k, v in stored.items() if k.startswith(b"pipeline.")}
    # Arrow's readers take it from the schema, others from the footer.
    assert {k.decode(): v.decode() for k, v in schema.metadata.items()} == metadata
    assert metadata["pipeline.job"] == "small"
    assert metadata["pipeline.scope"] == "simulator"
    assert metadata["pipeline.tags"] == '{"team": "quality"}'
    assert metadata["pipeline.superseded"] == "{}"
    assert "llm_status" in schema.names
    assert "status" not in schema.names
    summary = (desk.folder / "out/answers.parquet.summary.json").read_text()
    assert '"reason": "complete"' in summary
    assert datetime.now().astimezone().strftime("%Y-") in summary


def test_the_same_output_opens_in_duckdb_and_arrow(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(3))
    job = desk.write("job.yaml", job_text(None))
    assert desk.pipeline("run", job).code == 0
    path = Path(desk.folder / "out/answers.parquet")
    with duckdb.connect() as database:
        found = database.execute(f"SELECT count(*), sum(cost_usd) > 0 FROM '{path}'").fetchall()
    assert found == [(3, True)]
    assert pq.read_table(path)["status"].to_pylist() == ["ok"] * 3


def test_a_trial_after_the_run_leaves_plan_and_output_alone(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(30))
    job = desk.write("job.yaml", job_text(server.url))
    assert desk.pipeline("run", job).code == 0
    trial = desk.pipeline("run", job, "--limit", "5", "--json")
    assert trial.summary["superseded_usd"] == 0
    assert desk.pipeline("export", job).code == 0
    assert pl.read_parquet(desk.folder / "out/answers.parquet").height == 30
    desk.write("rows.csv", "name,size\n")
    assert desk.pipeline("run", job).code == 6
    assert desk.pipeline("export", job).code == 0
    assert pl.read_parquet(desk.folder / "out/answers.parquet").height == 30


def test_an_export_goes_to_the_output_of_the_run_that_it_shows(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(6))
    job = desk.write("job.yaml", job_text(server.url))
    out = desk.folder / "out"
    assert desk.pipeline("run", job, "--limit", "2").code == 0
    assert desk.pipeline("export", job).code == 0
    assert sorted(path.name for path in out.glob("*.parquet")) == ["answers.first-2.parquet"]
    assert desk.pipeline("run", job).code == 0
    paid = (out / "answers.parquet").read_bytes()
    assert desk.pipeline("run", job, "--endpoint", "simulator").code == 0
    (out / "answers.simulator.parquet").unlink()
    assert desk.pipeline("export", job).code == 0
    assert (out / "answers.parquet").read_bytes() == paid
    assert set(pl.read_parquet(out / "answers.simulator.parquet")["endpoint"]) == {"simulator"}


def test_an_export_of_the_latest_night_goes_to_that_night_s_output(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(3))
    job = desk.write("job.yaml", job_text(None).replace("out/answers.parquet", "'out/${date}.parquet'"))
    assert desk.pipeline("run", job, "--date", "2026-11-21").code == 0
    night = desk.folder / "out/2026-11-21.parquet"
    night.unlink()
    assert desk.pipeline("export", job).code == 0
    assert [path.name for path in (desk.folder / "out").glob("*.parquet")] == [night.name]


def test_an_interrupted_retry_is_not_forgotten_by_the_next(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(6))
    failing = desk.simulator("--fault-when", "row-=400")
    job = desk.write("job.yaml", job_text(failing.url))
    assert desk.pipeline("run", job).code == 3
    locked = desk.simulator("--key", "x", ledger="b.jsonl")
    desk.write("job.yaml", job_text(locked.url))
    assert desk.pipeline("run", job, "--retry-failed").code == 5
    mended = desk.simulator(ledger="c.jsonl")
    desk.write("job.yaml", job_text(mended.url))
    again = desk.pipeline("run", "--retry-failed=truncated", job, "--json")
    assert again.code == 0, again.err
    assert len(mended.requests) == 6


def test_what_failed_is_said_with_a_reason_and_the_command_that_asks_again(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(6))
    server = desk.simulator("--fault-when", "row-00002=400")
    job = desk.write("job.yaml", job_text(None))
    ended = desk.pipeline("run", job, "--endpoint", server.url)
    assert ended.code == 3
    assert "1 row failed: bad_request, such as:" in ended.err
    assert f"pipeline run {job} --endpoint {server.url} --retry-failed" in ended.out


def test_an_unknown_price_is_null_and_said(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(3))
    job = desk.write("job.yaml", job_text(server.url).replace("claude-haiku-4-5", "my-model-9"))
    ended = desk.pipeline("run", job, "--json")
    assert ended.code == 0, ended.err
    assert ended.summary["cost_usd"] is None
    assert ended.summary["paid_now_usd"] is None
    assert "no price is known for my-model-9" in ended.err
    assert pl.read_parquet(desk.folder / "out/answers.parquet")["cost_usd"].to_list() == [None] * 3


def test_another_jobs_output_is_not_replaced_without_consent(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(3))
    first = desk.write("job.yaml", job_text(None))
    assert desk.pipeline("run", first).code == 0
    second = desk.write("other.yaml", job_text(None).replace("name: small", "name: other"))
    refused = desk.pipeline("run", second)
    assert refused.code == 6, refused.err
    assert "job small" in refused.err
    assert desk.pipeline("run", second, "--yes").code == 0


def test_a_table_of_somebody_else_is_not_replaced_without_consent(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(3))
    job = desk.write("job.yaml", job_text(None))
    output = desk.folder / "out/answers.parquet"
    output.parent.mkdir(exist_ok=True)
    theirs = pl.DataFrame({"x": [1]})
    theirs.write_parquet(output)
    refused = desk.pipeline("run", job)
    assert (refused.code, "no output of this program" in refused.err) == (6, True), refused.err
    assert pl.read_parquet(output).equals(theirs)
    assert desk.pipeline("run", job, "--yes").code == 0
    # What was published there and rewritten since is the run's own: another program may have dropped our metadata.
    theirs.write_parquet(output)
    assert desk.pipeline("run", job).code == 0
    assert pl.read_parquet(output)["status"].to_list() == ["ok"] * 3


def test_answers_are_not_replaced_by_rows_that_all_fail_before_sending(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(3))
    sound, broken = job_text(None), job_text(None, prompt="<< 6 / (size - size) >>")
    job = desk.write("job.yaml", sound)
    output = desk.folder / "out/answers.parquet"
    assert desk.pipeline("run", job).code == 0
    before = output.read_bytes()
    desk.write("job.yaml", broken)
    refused = desk.pipeline("run", job, "--json")
    assert refused.code == 6, refused.err
    assert "all 3 requests fail before sending, such as row row-00000: " in refused.err
    assert (json.loads(refused.out.splitlines()[-1])["reason"], output.read_bytes()) == ("guard", before)
    trial = desk.pipeline("run", job, "--limit", "2")
    assert (trial.code, output.read_bytes()) == (3, before)
    desk.write("job.yaml", sound)
    assert desk.pipeline("run", job).code == 0
    assert output.read_bytes() == before
    desk.write("job.yaml", broken)
    assert desk.pipeline("run", job, "--yes").code == 3
    assert pl.read_parquet(output)["status"].to_list() == ["failed"] * 3


def test_a_run_that_never_had_an_answer_writes_rows_that_all_fail(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(2))
    job = desk.write("job.yaml", job_text(None, prompt="<< 6 / (size - size) >>"))
    assert [desk.pipeline("run", job).code for _ in range(2)] == [3, 3]
    assert pl.read_parquet(desk.folder / "out/answers.parquet")["error_type"].to_list() == ["template"] * 2


def test_a_renamed_job_is_told_where_its_answers_are(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(3))
    job = desk.write("job.yaml", job_text(None))
    assert desk.pipeline("run", job).code == 0
    desk.write("job.yaml", job_text(None).replace("name: small", "name: renamed"))
    refused = desk.pipeline("run", job)
    assert refused.code == 6, refused.err
    assert "small.sqlite, and `name: small` finds them" in refused.err
    assert "under the name renamed every row is asked and paid for again" in refused.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
@pytest.mark.parametrize("command", [["schema"], ["check", "job.yaml"], ["costs", "out", "--rehearsals"]])
def test_a_full_stdout_is_one_line_and_no_success(desk: Desk, command: list[str]) -> None:
    desk.write("rows.csv", rows_text(3))
    job = desk.write("job.yaml", job_text(None))
    assert desk.pipeline("run", job).code == 0
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "pipeline", *command],
            cwd=desk.folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "error: stdout: No space left on device"
    assert "Traceback" not in ended.stderr


def test_a_reader_that_goes_away_does_not_stop_a_run(desk: Desk) -> None:
    server = desk.simulator("--latency", "100")
    desk.write("rows.csv", rows_text(40))
    job = desk.write("job.yaml", job_text(server.url, more="limits: {concurrency: 4}"))
    running = desk.start("run", job, "--json")
    assert running.stderr is not None
    assert running.stdout is not None
    assert "to ask" in running.stderr.readline()
    running.stderr.close()
    running.stdout.close()
    assert running.wait(60) == 0
    assert pl.read_parquet(desk.folder / "out/answers.parquet")["status"].to_list() == ["ok"] * 40


@pytest.mark.parametrize("more", ["stream: true", "max_tokens: 30000"])
def test_streamed_answers_are_the_plain_ones(desk: Desk, more: str) -> None:
    server = desk.simulator("--fault", "cut=0.1", "--fault", "error-event=0.1", "--seed", "3")
    desk.write("rows.csv", rows_text(40))
    limits = "limits: {attempts: 20}"
    plain = desk.write("plain.yaml", job_text(server.url, more=limits).replace("answers", "plain"))
    request = "{model: claude-haiku-4-5, max_tokens: 200}"
    streamed = job_text(server.url, more=limits).replace("name: small", "name: streamed")
    streamed = streamed.replace(request, request.replace("max_tokens: 200", f"max_tokens: 200, {more}"))
    streamed = streamed.replace("max_tokens: 200, max_tokens: 30000", "max_tokens: 30000")
    job = desk.write("job.yaml", streamed)

    assert desk.pipeline("run", plain).code == 0
    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 0, ended.err
    assert json.loads(desk.pipeline("preview", job, "-n", "1").out)["body"]["stream"] is True
    columns = ["name", "response_text", "status", "stop_reason", "model", "input_tokens", "output_tokens"]
    if more == "stream: true":
        ours = pl.read_parquet(desk.folder / "out/answers.parquet").select(*columns)
        assert ours.equals(pl.read_parquet(desk.folder / "out/plain.parquet").select(*columns))
    output = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert all(f"Describe {name}." in text for name, text in output.select("name", "response_text").iter_rows())
    assert ended.summary["calls"]["retried"] > 0

"""Bad input of every kind: one clear error, the exit code of the contract, nothing sent, nothing half-written."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from desk import Desk, job_text, rows_text


def edit(desk: Desk, change: Callable[[str], str]) -> None:
    path = desk.folder / "job.yaml"
    path.write_text(change(path.read_text()))


def missing_file(desk: Desk) -> None:
    (desk.folder / "rows.csv").rename(desk.folder / "row.csv")


def empty_glob(desk: Desk) -> None:
    edit(desk, lambda text: text.replace("rows.csv", "nothing/*.csv"))


def header_only(desk: Desk) -> None:
    desk.write("rows.csv", "name,size\n")


def no_bytes(desk: Desk) -> None:
    desk.write("rows.csv", "")


def ragged(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(3) + "row-x,1,2,3\n")


def not_parquet(desk: Desk) -> None:
    desk.write("rows.parquet", "PAR1 this is no Parquet file PAR1")
    edit(desk, lambda text: text.replace("rows.csv", "rows.parquet"))


def unknown_column(desk: Desk) -> None:
    edit(desk, lambda text: text.replace("<<name>>", "<<nane>>"))


def clash(desk: Desk) -> None:
    desk.write("rows.csv", "name,status\na,1\n")


def unknown_key(desk: Desk) -> None:
    edit(desk, lambda text: text.replace("max_tokens", "max_tokns"))


def two_mistakes(desk: Desk) -> None:
    edit(desk, lambda text: text.replace("max_tokens", "max_tokns").replace("name: small", "name: Small!"))


def not_yaml(desk: Desk) -> None:
    desk.write("job.yaml", "name: [small\n")


def output_is_a_folder(desk: Desk) -> None:
    (desk.folder / "out/answers.parquet").mkdir(parents=True)


def duplicate_id(desk: Desk) -> None:
    desk.write("rows.csv", "name,size\na,1\nb,2\na,3\n")


def syntax(desk: Desk) -> None:
    edit(desk, lambda text: text.replace("<<name>>", "<<name"))


TABLE: list[tuple[Callable[[Desk], None], int, list[str]]] = [
    (missing_file, 2, ["job.yaml:2:", "rows.csv", "row.csv"]),
    (empty_glob, 2, ["job.yaml:2:", "nothing/*.csv"]),
    (header_only, 6, ["0 rows", "expect.min_rows"]),
    (no_bytes, 2, ["rows.csv", "empty"]),
    (ragged, 2, ["rows.csv", "4", "2"]),
    (not_parquet, 2, ["rows.parquet"]),
    (unknown_column, 2, ["job.yaml:", "nane", "name"]),
    (clash, 2, ["status", "output.prefix", "output.keep"]),
    (unknown_key, 2, ["job.yaml:6:", "max_tokns", "max_tokens"]),
    (two_mistakes, 2, ["job.yaml:1:", "Small!", "job.yaml:6:", "max_tokns"]),
    (not_yaml, 2, ["job.yaml:"]),
    (output_is_a_folder, 2, ["job.yaml:8:", "output.path", "directory"]),
    (duplicate_id, 2, ["a"]),
    (syntax, 2, ["job.yaml:", "delimiters"]),
]


@pytest.mark.parametrize(("spoil", "code", "words"), TABLE, ids=lambda value: getattr(value, "__name__", ""))
def test_bad_input_is_one_clear_error_and_nothing_is_sent(
    desk: Desk, spoil: Callable[[Desk], None], code: int, words: list[str]
) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(5))
    job = desk.write("job.yaml", job_text(server.url))
    spoil(desk)

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == code, ended.err
    assert all(word in ended.err for word in words), ended.err
    assert "Traceback" not in ended.err
    assert server.requests == []
    assert not list(desk.folder.glob("out/*.parquet")) or spoil is output_is_a_folder
    assert ended.summary["exit_code"] == code
    assert ended.summary["calls"]["sent"] == 0


def test_a_missing_key_is_named_with_its_variable(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(5))
    text = job_text(None).replace("endpoint: simulator\n", "")
    ended = desk.pipeline("run", desk.write("job.yaml", text))
    assert ended.code == 2
    assert "ANTHROPIC_API_KEY" in ended.err
    assert not (desk.folder / "out").exists()


def test_a_wrong_key_stops_the_run_within_the_calls_in_flight(desk: Desk) -> None:
    server = desk.simulator("--key", "right-key")
    desk.write("rows.csv", rows_text(200))
    text = job_text(None).replace("endpoint: simulator", f"endpoint: {{url: {server.url}, api_key_env: TEST_KEY}}")
    job = desk.write("job.yaml", text + "limits: {concurrency: 4}\n")
    ended = desk.pipeline("run", job, "--json", TEST_KEY="canary-0123456789")
    assert ended.code == 5, ended.err
    assert ended.summary["reason"] == "api_rejected"
    assert "TEST_KEY" in ended.err or "key" in ended.err
    assert len(server.requests) == ended.summary["calls"]["sent"] <= 4
    assert "canary" not in ended.err + ended.out
    everything = b"".join(path.read_bytes() for path in desk.folder.rglob("*") if path.is_file())
    assert b"canary" not in everything
    again = desk.pipeline("run", job, "--json", TEST_KEY="right-key")
    assert again.code == 0, again.err


def test_an_endpoint_that_refuses_connections_is_given_up_with_exit_75(desk: Desk) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    desk.write("rows.csv", rows_text(5))
    job = desk.write("job.yaml", job_text(url, more="limits: {give_up_after_secs: 3}"))
    ended = desk.pipeline("run", job, "--json")
    assert ended.code == 75, ended.err
    assert ended.summary["reason"] == "outage"
    assert "127.0.0.1" in ended.err
    assert ended.summary["rows"]["pending"] + ended.summary["rows"]["failed"] == 5
    assert not (desk.folder / "out/answers.parquet").exists()


def test_an_output_whose_journal_is_gone_is_not_paid_for_again_without_consent(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(5))
    job = desk.write("job.yaml", job_text(server.url))
    assert desk.pipeline("run", job).code == 0
    for path in (desk.folder / ".pipeline").glob("*.sqlite*"):
        path.unlink()
    refused = desk.pipeline("run", job)
    assert refused.code == 6, refused.err
    assert "--yes" in refused.err
    assert len(server.requests) == 5
    assert desk.pipeline("run", job, "--yes").code == 0
    assert len(server.requests) == 10


def test_too_many_failed_rows_are_exit_3_and_the_allowed_share_is_not(desk: Desk) -> None:
    server = desk.simulator("--fault-when", "row-00003=400")
    desk.write("rows.csv", rows_text(10))
    job = desk.write("job.yaml", job_text(server.url, more="expect: {max_failed_ratio: 0.1}"))
    assert desk.pipeline("run", job).code == 0
    desk.write("job.yaml", job_text(server.url, more="expect: {max_failed_ratio: 0.05}"))
    assert desk.pipeline("run", job).code == 3


def test_looking_commands_send_nothing_and_teach(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(5))
    tests = 'tests: [{name: reaches, row: {name: Ada, size: 1}, prompt: "Describe Ada."}]'
    job = desk.write("job.yaml", job_text(server.url, more=tests))
    checked = desk.pipeline("check", job)
    assert (checked.code, "1 passed" in checked.out) == (0, True), checked.err
    shown = desk.pipeline("preview", job, "-n", "1")
    body = json.loads(shown.out)["body"]
    assert body["messages"] == [{"role": "user", "content": "Describe row-00000."}]
    assert (body["system"], body["model"], body["max_tokens"]) == ("You are a test.", "claude-haiku-4-5", 200)
    never = desk.pipeline("status", job)
    assert never.code == 2
    assert "never ran" in never.err
    assert server.requests == []
    assert not (desk.folder / ".pipeline").exists()
    assert desk.pipeline("run", job).code == 0
    status = json.loads(desk.pipeline("status", job, "--json").out)
    assert (status["rows"]["ok"], status["state"], status["in_flight"]) == (5, "complete", 0)


def test_a_failing_example_is_said_with_what_was_found(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(5))
    tests = 'tests: [{name: reaches, row: {name: Ada, size: 1}, prompt: "Describe Bob."}]'
    ended = desk.pipeline("check", desk.write("job.yaml", job_text(None, more=tests)))
    assert ended.code == 2
    assert "Ada" in ended.err
    assert "Bob" in ended.err


def test_export_writes_what_is_there_and_never_replaces_answers_by_pending_rows(desk: Desk) -> None:
    server = desk.simulator()
    desk.write("rows.csv", rows_text(10))
    job = desk.write("job.yaml", job_text(server.url))
    assert desk.pipeline("run", job).code == 0
    assert desk.pipeline("export", job, "--output", "copy.parquet").code == 0
    import polars as pl

    output = pl.read_parquet(desk.folder / "out/answers.parquet")
    assert pl.read_parquet(desk.folder / "copy.parquet").equals(output)
    failed = desk.pipeline("export", job, "--status", "failed")
    assert failed.code == 0, failed.err
    assert pl.read_parquet(desk.folder / "out/answers.failed.parquet").height == 0
    desk.write("rows.csv", rows_text(12))
    stopping = desk.simulator("--key", "x", ledger="b.jsonl")
    desk.write("job.yaml", job_text(stopping.url))
    assert desk.pipeline("run", job).code == 5
    assert desk.pipeline("export", job).code == 0
    statuses = pl.read_parquet(desk.folder / "out/answers.parquet")["status"].to_list()
    assert statuses == ["ok"] * 10 + ["pending"] * 2
    desk.write("job.yaml", job_text(stopping.url, prompt="Explain <<name>>."))
    assert desk.pipeline("run", job).code == 5
    refused = desk.pipeline("export", job)
    assert refused.code == 6, refused.err
    assert "--yes" in refused.err
    assert pl.read_parquet(desk.folder / "out/answers.parquet")["status"].to_list() == statuses
    assert desk.pipeline("export", job, "--yes").code == 0
    assert pl.read_parquet(desk.folder / "out/answers.parquet")["status"].to_list() == ["pending"] * 12


def test_the_starter_job_runs_as_it_says(desk: Desk) -> None:
    made = desk.pipeline("init", "first")
    assert made.code == 0
    assert desk.pipeline("check", "first/job.yaml").code == 0
    ended = desk.pipeline("run", "first/job.yaml", "--endpoint", "simulator", "--show", "2")
    assert ended.code == 0, ended.err
    assert "ticket=T-1" in ended.out
    assert (desk.folder / "first/answers.simulator.parquet").exists()
    assert desk.pipeline("init", "first").code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "job.yaml", "--limit", "0"],
        ["run", "job.yaml", "--param", "region"],
        ["run", "job.yaml", "--date", "yesterday"],
        ["run", "job.yaml", "--retry-failed=ok"],
        ["serve", "simulator", "--fault", "nonsense"],
        ["no-such-command"],
        ["run", "no-such-job.yaml"],
    ],
)
def test_usage_errors_are_exit_2_with_words(desk: Desk, arguments: list[str]) -> None:
    desk.write("rows.csv", rows_text(5))
    desk.write("job.yaml", job_text(None))
    ended = desk.pipeline(*arguments)
    assert ended.code == 2
    assert ended.err
    assert "Traceback" not in ended.err


def test_every_command_explains_itself(desk: Desk) -> None:
    for command in ["run", "check", "preview", "status", "export", "schema", "init", "serve"]:
        ended = desk.pipeline(command, "--help")
        assert ended.code == 0
        assert "xample" in ended.out, command
    assert "Exit codes" in desk.pipeline("--help").out
    assert Path(desk.folder).exists()

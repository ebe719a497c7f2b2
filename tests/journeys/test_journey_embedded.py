"""The shipped job on a real model: the embedded one, on this machine, without a key."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from desk import VOLATILE, Desk

ROOT = Path(__file__).parents[2]


@pytest.mark.embedded
def test_the_shipped_job_is_answered_by_a_real_model_and_only_once(desk: Desk) -> None:
    for folder in ("configs", "data"):
        shutil.copytree(ROOT / folder, desk.folder / folder, ignore=shutil.ignore_patterns(".pipeline"))

    first = desk.pipeline("run", "configs/anomaly.yaml", "--endpoint", "embedded", "--limit", "2", "--json")
    again = desk.pipeline("run", "configs/anomaly.yaml", "--endpoint", "embedded", "--limit", "2", "--json")

    assert (first.code, again.code) == (0, 0), first.err + again.err
    assert "starting the embedded server" in first.err
    assert "starting the embedded server" not in again.err
    assert first.summary["calls"]["answered"] == 2
    assert again.summary["calls"]["sent"] == 0
    output = pl.read_parquet(desk.folder / "out/anomaly.embedded.first-2.parquet")
    assert output["station"].to_list() == ["EWR", "EWR"]
    assert set(output["status"]) <= {"ok", "truncated"}
    assert all(output["response_text"].str.len_chars() > 0)
    assert all(output["input_tokens"] + output["cache_read_tokens"] > 200)
    assert output["cost_usd"].to_list() == [0, 0]
    assert output["endpoint"].to_list() == ["embedded"] * 2
    assert output["model"].to_list() == ["smollm2-135m-instruct"] * 2


@pytest.mark.embedded
def test_a_real_server_is_read_alike_plain_and_streamed(desk: Desk) -> None:
    # Greedy and one at a time, so that the model says the same twice.
    job = """\
name: small
source: {path: rows.csv, id: [name]}
prompt: {system: You answer in one short sentence., user: "What is <<name>>?"}
request: {model: smollm2-135m-instruct, max_tokens: 12, temperature: 0, stop_sequences: [" Paris"], stream: STREAM}
endpoint: embedded
limits: {concurrency: 1}
output: {path: out.parquet}
answer: {columns: {word: stop_sequence, shape: type}}
"""
    rows = f"name\nthe capital of France\nthe sun\n{'so long a name ' * 1000}\n"
    frames = []
    for stream in ("false", "true"):
        folder = Desk(desk.folder / stream, desk.children)
        folder.write("rows.csv", rows)
        ended = folder.pipeline("run", folder.write("job.yaml", job.replace("STREAM", stream)), "--json")
        assert ended.code == 3, ended.err
        frames.append(pl.read_parquet(folder.folder / "out.parquet").drop(VOLATILE))
    plain, streamed = frames
    assert streamed.drop("error_message").equals(plain.drop("error_message"))  # it names the port
    stopped, cut, refused = plain.rows(named=True)
    assert (stopped["status"], stopped["stop_reason"], stopped["word"]) == ("ok", "end_turn", " Paris")
    assert stopped["response_text"] == "The capital of France is"
    assert (cut["status"], cut["stop_reason"], cut["output_tokens"]) == ("truncated", "max_tokens", 12)
    assert (refused["status"], refused["error_type"]) == ("failed", "too_long")
    assert "exceeds the available context size (2048 tokens)" in refused["error_message"]
    assert plain["shape"].to_list() == ["message", "message", None]

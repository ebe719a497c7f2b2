"""The shipped job on a real model: the embedded one, on this machine, without a key."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from desk import Desk

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

"""A server that lies: each lie is one row's failure with its reason, memory stays flat, and the key goes nowhere."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from desk import Desk, job_text
from torture_liar import PLAIN, Liar
from torture_rig import memory_mib, serving

pytest_plugins = ("torture_fixtures",)

FAILED: dict[str, str] = {
    "html": "html",
    "cut": "json",
    "nothing": "empty body",
    "null": "no object",
    "list": "no object",
    "deep": "depth",
    "not-utf-8": "utf-8",
    "text-content": "without content",
    "surrogate": "surrogate",
}
"""Lies that leave nothing to read, and a word of the reason."""

UNCOUNTED = ["no-usage", "negative-usage", "text-usage", "huge-usage"]
"""An answer is there, and paid for, but nobody knows what it cost: that is null, never 0."""

HARMLESS = ["honest", "nul", "empty-content", "no-content"]
"""Whole answers with a bill, be they empty."""


def lay(desk: Desk, url: str, kinds: list[str], *, concurrency: int = 2) -> None:
    """Honest rows stand between the lies: a server that only lies is an outage, and another case."""
    lines = [f"{n:02}_{kind}\n{n:02}a_honest\n{n:02}b_honest\n" for n, kind in enumerate(kinds)]
    desk.write("rows.csv", "name\n" + "".join(lines))
    desk.write("job.yaml", job_text(url, more=f"limits: {{concurrency: {concurrency}, attempts: 1}}"))


def rows_of(desk: Desk) -> dict[str, dict[str, Any]]:
    rows = pl.read_parquet(desk.folder / "out/answers.parquet").to_dicts()
    return {row["name"].partition("_")[2]: row for row in reversed(rows)}


def test_n5_each_lie_is_its_own_rows_failure_with_its_reason(desk: Desk) -> None:
    liar = Liar()
    with serving(liar.lie) as url:
        lay(desk, url, list(PLAIN))
        ended = desk.pipeline("run", "job.yaml", "--json")
    assert ended.code == 3, ended.err
    assert "Traceback" not in ended.err
    rows = rows_of(desk)
    assert set(rows) == set(PLAIN)
    assert ended.summary["rows"]["total"] == 3 * len(PLAIN)
    for kind, word in FAILED.items():
        row = rows[kind]
        assert (row["status"], row["error_type"]) == ("failed", "server_error"), (kind, row)
        assert word in row["error_message"].lower(), (kind, row["error_message"])
        assert row["response_text"] is None, kind
    for kind in UNCOUNTED:
        row = rows[kind]
        assert row["status"] == "ok", (kind, row)
        assert (row["input_tokens"], row["output_tokens"], row["cost_usd"]) == (None, None, None), (kind, row)
    for kind in HARMLESS:
        assert rows[kind]["cost_usd"] == 5.4e-05, (kind, rows[kind])
    assert rows["honest"]["status"] == "ok"
    print(f"N5 {len(PLAIN)} lies: {ended.summary['rows']}")


@pytest.mark.parametrize("kind", ["huge", "bomb"])
def test_n5_answers_of_100_mb_are_left_unread_and_memory_stays_flat(desk: Desk, kind: str) -> None:
    liar, most = Liar(), {}
    with serving(liar.lie) as url:
        for lies in (1, 4):
            lay(desk, url, [kind] * lies, concurrency=1)
            code, most[lies], _ = memory_mib(desk, "run", "job.yaml", "--json")
            assert code == 3, (desk.folder / "stderr.txt").read_text()
            summary = json.loads((desk.folder / "stdout.txt").read_text().splitlines()[-1])
            assert (summary["rows"]["ok"], summary["rows"]["failed"]) == (2 * lies, lies)
            row = rows_of(desk)[kind]
            assert (row["status"], row["error_type"]) == ("failed", "server_error")
            assert "more than" in row["error_message"]
    print(f"N5 {kind}: {most[1]:.0f} MiB at most with one such row, {most[4]:.0f} with four")
    # One call at a time: what a row read in vain is gone before the next one reads.
    assert most[4] - most[1] < 48


def test_n5_a_redirect_elsewhere_ends_the_run_and_the_key_does_not_follow(desk: Desk) -> None:
    liar, other = Liar(), Liar()
    with serving(liar.lie) as url, serving(other.lie) as elsewhere:
        liar.elsewhere = elsewhere + "/v1/messages"
        lay(desk, url, ["redirect"])
        text = (desk.folder / "job.yaml").read_text().replace(f"url: {url}", f"url: {url}, api_key_env: TEST_KEY")
        desk.write("job.yaml", text)
        ended = desk.pipeline("run", "job.yaml", "--json", TEST_KEY="canary-0123456789")
    assert ended.code in (3, 5), ended.err
    assert "redirect" in ended.err.lower()
    assert any("canary-0123456789" in value for value in liar.headers[0].values())
    assert other.headers == []

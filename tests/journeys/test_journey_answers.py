"""Answers become columns: asked for by a schema, read back, repaired, gone on from, and read again for nothing."""

from __future__ import annotations

import json
import shutil
import time
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from desk import Desk, job_text, rows_text
from scripted import message, scripted

SCHEMA = """\
answer:
  schema:
    type: object
    properties:
      label: {enum: [small, large]}
      score: {type: number, minimum: 0, maximum: 1}
      seen: {type: string, format: date}
      parts:
        type: array
        items: {type: object, properties: {n: {type: integer}}, required: [n], additionalProperties: false}
      note: {type: [string, "null"]}
    required: [label, score]
    additionalProperties: false
"""
GOOD = {"label": "small", "score": 0.5, "seen": "2026-11-22", "parts": [{"n": 1}, {"n": 2}], "note": None}
BAD = {"label": "huge", "score": 2}


def typed_job(desk: Desk, url: str | None, rows: int, more: str = "") -> Path:
    desk.write("rows.csv", rows_text(rows))
    return desk.write("job.yaml", job_text(url, more=SCHEMA + more))


def output(desk: Desk) -> pl.DataFrame:
    return pl.read_parquet(desk.folder / "out/answers.parquet")


def is_repair(body: dict[str, Any]) -> bool:
    return len(body["messages"]) > 1


def test_an_answer_becomes_columns_of_real_types(desk: Desk) -> None:
    with scripted(lambda _: message("Here it is:\n```json\n" + json.dumps(GOOD) + "\n```")) as server:
        job = typed_job(desk, server.url, 3)
        ended = desk.pipeline("run", job, "--json")
        assert (ended.code, ended.summary["rows"]["ok"]) == (0, 3)
        assert "JSON Schema" in server.asked[0]["system"]
        frame = output(desk)
        assert frame.columns[:7] == ["name", "size", "label", "score", "seen", "parts", "note"]
        assert dict(frame.schema) | {
            "label": pl.String,
            "score": pl.Float64,
            "seen": pl.Date,
            "parts": pl.List(pl.Struct({"n": pl.Int64})),
            "note": pl.String,
        } == dict(frame.schema)
        assert frame["seen"].to_list() == [date(2026, 11, 22)] * 3
        assert frame["parts"].to_list() == [[{"n": 1}, {"n": 2}]] * 3
        assert frame["response_text"][0].startswith("Here it is")


def test_an_invalid_answer_is_sent_back_and_every_turn_is_on_the_bill(desk: Desk) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return message(json.dumps(GOOD if is_repair(body) else BAD))

    with scripted(answer) as server:
        ended = desk.pipeline("run", typed_job(desk, server.url, 4), "--json")
        assert ended.code == 0, ended.err
        assert len(server.asked) == 8
        frame = output(desk)
        assert frame.select("status", "label", "attempts", "input_tokens", "output_tokens").unique().rows() == [
            ("ok", "small", 2, 20, 10)
        ]
        assert frame["cost_usd"].to_list() == [2 * (10 * 1 + 5 * 5) / 1e6] * 4
        calls = ended.summary["calls"]
        assert (calls["sent"], calls["answered"], calls["retried"]) == (8, 8, 0)
        said = server.about("row-00000")[1]["messages"]
        assert [turn["role"] for turn in said] == ["user", "assistant", "user"]
        assert '"huge" is not one of' in said[2]["content"]


def test_an_answer_that_never_fits_is_invalid_keeps_its_text_and_is_asked_anew_only_on_demand(desk: Desk) -> None:
    with scripted(lambda _: message("I would rather not.")) as server:
        job = typed_job(desk, server.url, 2, "  repair: 2\n")
        ended = desk.pipeline("run", job, "--json")
        assert (ended.code, ended.summary["rows"]["invalid"], len(server.asked)) == (3, 2, 6)
        row = output(desk).row(0, named=True)
        assert (row["status"], row["error_type"], row["attempts"]) == ("invalid", "schema_mismatch", 3)
        assert (row["response_text"], row["label"]) == ("I would rather not.", None)
        assert desk.pipeline("run", job).code == 3
        assert len(server.asked) == 6
        again = desk.pipeline("run", job, "--retry-failed", "--json")
        assert (again.code, len(server.asked)) == (3, 12)
        assert sum(not is_repair(body) for body in server.asked) == 4
        assert again.summary["cost_usd"] == pytest.approx(2 * ended.summary["cost_usd"])


def test_kill_9_between_two_turns_pays_for_no_turn_twice(desk: Desk) -> None:
    dead = False

    def answer(body: dict[str, Any]) -> dict[str, Any] | None:
        if not is_repair(body):
            return message(json.dumps(BAD))
        return message(json.dumps(GOOD)) if dead else None

    with scripted(answer) as server:
        job = typed_job(desk, server.url, 5, "limits: {concurrency: 5}\n")
        running = desk.start("run", job)
        deadline = time.monotonic() + 60
        while sum(map(is_repair, server.asked)) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        running.kill()
        running.communicate()
        assert len(server.asked) == 10
        dead = True
        ended = desk.pipeline("run", job, "--json")
        assert ended.code == 0, ended.err
        # The five repairs were in flight; the five first answers were not.
        assert [is_repair(body) for body in server.asked[10:]] == [True] * 5
        assert ended.summary["calls"]["maybe_billed_twice"] == 5
        frame = output(desk)
        assert frame["label"].to_list() == ["small"] * 5
        assert frame["input_tokens"].to_list() == [20] * 5


def test_a_paused_answer_is_gone_on_from_and_read_as_one(desk: Desk) -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    whole = json.dumps(GOOD)

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return message(whole[20:]) if is_repair(body) else message(whole[:20], search, stop="pause_turn")

    with scripted(answer) as server:
        ended = desk.pipeline("run", typed_job(desk, server.url, 2), "--json")
        assert ended.code == 0, ended.err
        assert len(server.asked) == 4
        assert server.about("row-00001")[1]["messages"][1]["content"] == [{"type": "text", "text": whole[:20]}, search]
        frame = output(desk)
        assert frame.select("status", "response_text", "label", "attempts").rows() == [("ok", whole, "small", 2)] * 2


def test_other_columns_are_read_out_of_the_kept_answers_for_nothing(desk: Desk) -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    with scripted(lambda _: message(thought, json.dumps(GOOD))) as server:
        job = typed_job(desk, server.url, 2)
        assert desk.pipeline("run", job).code == 0
        columns = """\
  columns:
    thought: "content[?type=='thinking'].thinking | [0]"
    used: {path: usage.output_tokens, type: integer}
    id: {path: id, type: integer}
"""
        job.write_text(job_text(server.url, more=SCHEMA + columns))
        ended = desk.pipeline("run", job, "--json")
        assert (ended.code, len(server.asked), ended.summary["calls"]["sent"]) == (0, 2, 0)
        assert output(desk).select("thought", "used", "id", "label").rows() == [("hm", 5, None, "small")] * 2
        assert "answer.columns.id: null in 2 rows" in ended.err


def test_another_schema_is_another_question(desk: Desk) -> None:
    with scripted(lambda _: message(json.dumps(GOOD))) as server:
        job = typed_job(desk, server.url, 2)
        assert desk.pipeline("run", job).code == 0
        job.write_text(job.read_text().replace("maximum: 1}", "maximum: 3}"))
        ended = desk.pipeline("run", job, "--json")
        assert (ended.summary["calls"]["sent"], len(server.asked)) == (2, 4)
        assert ended.summary["superseded_usd"] > 0


def test_an_export_has_the_typed_columns_too(desk: Desk) -> None:
    with scripted(lambda _: message(json.dumps(GOOD))) as server:
        job = typed_job(desk, server.url, 2)
        assert desk.pipeline("run", job).code == 0
        ended = desk.pipeline("export", job, "--output", desk.folder / "again.parquet")
        assert ended.code == 0, ended.err
        assert pl.read_parquet(desk.folder / "again.parquet").equals(output(desk))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('note: {type: [string, "null"]}', "size: {type: number}"), "the answer has a column size, and the input too"),
        (('note: {type: [string, "null"]}', "status: {type: string}"), "the answer has a column status, as the output"),
        (
            ("label: {enum: [small, large]}", "kind: {enum: [small, large]}"),
            "answer.schema.required: names label, which is",
        ),
        (("type: number, minimum", "type: numbre, minimum"), "answer.schema.properties.score.type: is no JSON Schema"),
        (
            ("max_tokens: 200", "max_tokens: 200, output_config: {format: {type: json_schema, schema: {}}}"),
            "request.output_config.format: stands beside answer.schema",
        ),
    ],
)
def test_a_schema_that_cannot_be_had_is_a_broken_job(desk: Desk, change: tuple[str, str], words: str) -> None:
    with scripted(lambda _: message("{}")) as server:
        job = typed_job(desk, server.url, 2)
        job.write_text(job.read_text().replace(*change))
        for command in ("check", "run"):
            ended = desk.pipeline(command, job)
            assert ended.code == 2
            assert words in ended.err
        assert server.asked == []


def test_words_put_into_the_answer_s_mouth_are_part_of_it_and_must_not_vary(desk: Desk) -> None:
    desk.write("rows.csv", rows_text(1))

    def job(prefill: str) -> Path:
        turns = (
            "  messages: [{role: user, content: 'Describe <<name>>.'}, {role: assistant, content: '" + prefill + "'}]"
        )
        text = job_text(server.url, more=SCHEMA).replace('  user: "Describe <<name>>."', turns)
        return desk.write("job.yaml", text)

    with scripted(lambda _: message(json.dumps(GOOD)[1:])) as server:
        ended = desk.pipeline("run", job("<<name>>"))
        assert (ended.code, server.asked) == (2, [])
        assert "begins the answer with words that vary" in ended.err
        ended = desk.pipeline("run", job("{"))
        assert ended.code == 0, ended.err
        assert output(desk)["label"].to_list() == ["small"]


def test_check_says_how_answers_are_asked_for_and_what_columns_they_make(desk: Desk) -> None:
    ended = desk.pipeline("check", typed_job(desk, None, 2))
    assert ended.code == 0, ended.err
    assert "output_config.format" in ended.out
    assert "the API takes no maximum, minimum" in ended.out
    assert "parts: list<" in ended.out


def test_a_journal_of_the_first_version_still_answers_every_row(desk: Desk) -> None:
    (desk.folder / ".pipeline").mkdir(mode=0o700)
    kept = Path(__file__).parents[1] / "journal/data/small-v1.sqlite"
    shutil.copy(kept, desk.folder / ".pipeline/small.sqlite")
    desk.write("rows.csv", rows_text(20))
    ended = desk.pipeline("run", desk.write("job.yaml", job_text(None)), "--json")
    assert (ended.code, ended.summary["answered_before"], ended.summary["calls"]["sent"]) == (0, 20, 0)
    assert ended.summary["cost_usd"] == pytest.approx(0.00108)

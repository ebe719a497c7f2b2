"""From a response to status and cells."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.answer import Read, Reading, Rule
from pipeline.errors import JobError
from pipeline.records import Response

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}, "year": {"type": ["integer", "null"]}},
    "required": ["color"],
    "additionalProperties": False,
}


def response(text: str = "", stop_reason: str | None = "end_turn", content: Any = None, **more: Any) -> Response:
    blocks = [{"type": "text", "text": text}] if content is None else content
    raw = {"type": "message", "content": blocks, "stop_reason": stop_reason, **more}
    return Response(orjson.dumps(raw), text, stop_reason, None, None)


def test_a_valid_answer_becomes_cells() -> None:
    reading = Reading(SCHEMA)
    assert reading.fields == pa.schema([("color", pa.string()), ("year", pa.int64())])
    assert reading.read(response('```json\n{"color":"red","year":1999.0}\n```')) == Read("ok", ("red", 1999))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I cannot tell.", "the answer holds no JSON object"),
        ('{"color":"green"}', '$.color: "green" is not one of "red" or "blue"'),
        ('{"color":"red","year":18446744073709551615}', "$.year: is an integer of more than 64 bits"),
    ],
)
def test_an_answer_that_does_not_satisfy_the_schema_is_invalid(text: str, message: str) -> None:
    assert Reading(SCHEMA).read(response(text)) == Read("invalid", (None, None), "schema_mismatch", message)


def test_an_aside_is_not_taken_for_the_answer() -> None:
    found = Reading(SCHEMA).read(response('{"color":"red"} (I left out {"reason": "unknown"} as you asked)'))
    assert (found.status, found.values) == ("ok", ("red", None))


def test_a_draft_never_stands_in_for_a_final_answer_that_is_invalid() -> None:
    found = Reading(SCHEMA).read(response('First {"color":"red"}. On reflection: {"color":"green"}'))
    assert found.status == "invalid"


@pytest.mark.parametrize(
    ("stop_reason", "text", "status", "billed"),
    [
        ("max_tokens", '{"color":"red"} and', "truncated", True),
        ("pause_turn", '{"color":"red"}', "truncated", True),
        ("refusal", '{"color":"red"}', "refused", True),
        ("refusal", "", "refused", False),
    ],
)
def test_an_answer_that_did_not_end_by_itself_keeps_its_status_and_has_no_cells(
    stop_reason: str, text: str, status: str, *, billed: bool
) -> None:
    found = Reading(SCHEMA).read(response(text, stop_reason))
    assert (found.status, found.values, found.billed, found.error_type) == (status, (None, None), billed, None)


def test_the_input_of_the_forced_tool_is_the_answer() -> None:
    call = {"type": "tool_use", "id": "t", "name": "answer", "input": {"color": "blue"}}
    reading = Reading(SCHEMA, way="tool")
    assert reading.read(response("Well, {}", "tool_use", [call])).values == ("blue", None)
    openai = {"message": {"tool_calls": [{"function": {"name": "answer", "arguments": '{"color":"red"}'}}]}}
    assert reading.read(response("", "tool_use", [], choices=[openai])).values == ("red", None)
    assert reading.read(response('{"color":"red"}')).values == ("red", None)


def test_what_the_conversation_began_is_part_of_the_answer() -> None:
    reading = Reading(SCHEMA, prefill='{"color":')
    assert reading.read(response('"red"}')).values == ("red", None)
    assert reading.read(response('{"color":"blue"}')).values == ("blue", None)
    assert reading.verdict_hash != Reading(SCHEMA).verdict_hash


THINKING = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "x"}]


@pytest.mark.parametrize(
    ("path", "type_", "cell", "fits"),
    [
        ("content[?type=='thinking'].thinking | [0]", "string", "hm", True),
        ("content[?type=='thinking'].thinking", "json", '["hm"]', True),
        ("content[?type=='thinking'].thinking", "string", None, False),
        ("usage.output_tokens", "integer", 7, True),
        ("usage.output_tokens", "number", 7.0, True),
        ("usage.output_tokens", "string", "7", True),
        ("usage.output_tokens", "boolean", None, False),
        ("stop_reason", "integer", None, False),
        ("usage.output_tokens > `5`", "boolean", True, True),
        ("nothing.here", "integer", None, True),
        ("stop_details", "json", None, True),
        ("sum(content)", "number", None, False),
        ("max_by(mixed, &x)", "json", None, False),
    ],
)
def test_a_column_is_read_from_the_raw_response(path: str, type_: Any, cell: Any, *, fits: bool) -> None:
    answer = response("x", content=THINKING, usage={"output_tokens": 7}, mixed=[{"x": 1}, {"x": "a"}])
    found = Reading(columns={"a": Rule(path, type_)}).read(answer)
    assert found == Read("ok", (cell,), misfits=() if fits else ("a",))


def test_columns_are_read_from_answers_of_every_status_and_stand_after_the_schemas() -> None:
    reading = Reading(SCHEMA, {"why": Rule("stop_details.category")})
    assert reading.fields.names == ["color", "year", "why"]
    found = reading.read(response("", "refusal", [], stop_details={"category": "bio"}))
    assert (found.status, found.values) == ("refused", (None, None, "bio"))


def test_without_rules_a_response_is_judged_by_its_stop_reason_alone() -> None:
    reading = Reading()
    assert reading.fields.names == []
    assert reading.read(response("anything")) == Read("ok")
    assert reading.read(Response(b"never parsed", "", "refusal", None, None)) == Read("refused", billed=False)


def test_every_complaint_is_told_at_once() -> None:
    columns = {"a": Rule("content["), "b": Rule("nope(@)"), "": Rule("id")}
    with pytest.raises(JobError) as caught:
        Reading({"type": "objekt"}, columns)
    assert [found.path for found in caught.value.complaints] == [
        "answer.schema.type",
        "answer.columns.a.path",
        "answer.columns.b.path",
        "answer.columns",
    ]


def test_a_column_of_a_propertys_name_is_a_broken_job() -> None:
    with pytest.raises(JobError, match=r"answer\.columns\.year: is a property of answer\.schema too"):
        Reading(SCHEMA, {"year": Rule("id")})


def test_the_hashes_tell_what_changed() -> None:
    reading = Reading(SCHEMA)
    same = Reading(dict(SCHEMA))
    assert (reading.rules_hash, reading.verdict_hash) == (same.rules_hash, same.verdict_hash)
    more = Reading(SCHEMA, {"a": Rule("id")})
    assert more.rules_hash != reading.rules_hash
    assert more.verdict_hash == reading.verdict_hash
    others = [Reading(), Reading({**SCHEMA, "required": []}), Reading(SCHEMA, way="tool")]
    assert len({found.verdict_hash for found in [reading, *others]}) == 4
    assert Reading().verdict_hash == Reading(way="tool").verdict_hash


@given(st.text(), st.binary(max_size=20), st.sampled_from(["format", "tool", "prompt"]))
def test_no_answer_is_an_error(text: str, raw: bytes, way: Any) -> None:
    found = Reading(SCHEMA, {"a": Rule("content[0].text")}, way).read(Response(raw, text, None, None, None))
    assert found.status in {"ok", "invalid"}
    assert len(found.values) == 3
    assert (found.status == "invalid") == (found.error_type == "schema_mismatch")


VALUES = st.none() | st.booleans() | st.integers() | st.sampled_from(["red", "blue", "x"]) | st.lists(st.none())


@given(st.dictionaries(st.sampled_from(["color", "year", "z"]), VALUES))
def test_cells_of_any_answer_go_into_their_columns(value: dict[str, Any]) -> None:
    reading = Reading(SCHEMA)
    found = reading.read(response(json.dumps(value)))  # it writes integers of any length
    table = pa.table(
        [pa.array([cell], field.type) for cell, field in zip(found.values, reading.fields, strict=True)],
        schema=reading.fields,
    )
    if found.status == "ok":
        assert table.to_pylist() == [{"color": value["color"], "year": value.get("year")}]


def test_an_input_nested_too_deeply_to_be_written_is_an_invalid_answer() -> None:
    deep: Any = {}
    for _ in range(400):
        deep = {"a": deep}
    call = {"type": "tool_use", "id": "t", "name": "answer", "input": {"color": deep}}
    raw = json.dumps({"type": "message", "content": [call], "stop_reason": "tool_use"}).encode()
    reading = Reading(SCHEMA, way="tool")
    found = Response(raw, "", "tool_use", None, None)
    assert (reading.read(found).status, reading.text(found)) == ("invalid", "")

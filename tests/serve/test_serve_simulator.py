"""The simulator: as strict as the API, sure of its answers, honest in its ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_clients import VERSION, Client, body_of, run, serving

from pipeline.errors import JobError
from pipeline.serve import answers
from pipeline.serve.buckets import Bucket, Limits
from pipeline.serve.dialects import DIALECTS, NATIVE, OPENAI
from pipeline.serve.faults import FaultPlan
from pipeline.serve.models import rules_of
from pipeline.serve.refusals import REFUSALS
from pipeline.serve.simulator import (
    Fault,
    FaultWhen,
    SimulatorOptions,
    parse_fault,
    parse_fault_when,
    run_simulator,
)
from pipeline.serve.validation import ApiError, check
from pipeline.wire import Stream

# --- strictness ------------------------------------------------------------------------------------------------------

IMAGE = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
OBJECT = {"type": "object", "additionalProperties": False}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
BUDGET = {"type": "enabled", "budget_tokens": 1024}
CLOSED = "For 'object' type, 'additionalProperties' must be explicitly set to false"
CALL: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]},
]
UNANSWERED = (
    "`tool_use` ids were found without `tool_result` blocks immediately after: t1. Each `tool_use` block must have a "
    "corresponding `tool_result` block in the next message."
)
UNCALLED = (
    "unexpected `tool_use_id` found in `tool_result` blocks: t2. Each `tool_result` block must have a corresponding "
    "`tool_use` block in the previous message."
)


def result(id_: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id_, "content": "x"}]}


def holding(schema: dict[str, Any]) -> dict[str, Any]:
    return {**OBJECT, "properties": {"a": schema}, "required": ["a"]}


def forced_with(name: str = "f", **members: Any) -> dict[str, Any]:
    return {"tools": [TOOL], "tool_choice": {"type": "tool", "name": name}, "max_tokens": 4096, **members}


LONG_TEXT = "x" * (10 * 1024 * 1024 + 1)
CACHED = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
EMPTY_MESSAGE = "all messages must have non-empty content except for the optional final assistant message"

REFUSED: list[tuple[dict[str, Any], str]] = [
    (body_of(foo=1), "foo: Extra inputs are not permitted"),
    (body_of(max_tokens="512"), "max_tokens: Input should be a valid integer"),
    (body_of(max_tokens=True), "max_tokens: Input should be a valid integer"),
    (body_of(max_tokens=-1), "max_tokens: Input should be greater than or equal to 0"),
    (
        body_of(max_tokens=64_001),
        "max_tokens: 64001 > 64000, which is the maximum allowed number of output tokens for claude-sonnet-4-5",
    ),
    (body_of(model=7), "model: Input should be a valid string"),
    (body_of(messages="hi"), "messages: Input should be a valid list"),
    (body_of(messages=[]), "messages: at least one message is required"),
    (body_of(messages=["hi"]), "messages.0: Input should be a valid dictionary"),
    (body_of(messages=[{"content": "hi"}]), "messages.0.role: Field required"),
    (body_of(messages=[{"role": "user"}]), "messages.0.content: Field required"),
    (body_of(messages=[{"role": "user", "content": 5}]), "messages.0.content: Input should be a valid string or list"),
    (
        body_of(messages=[{"role": "user", "content": "hi", "name": "ann"}]),
        "messages.0.name: Extra inputs are not permitted",
    ),
    (body_of(""), f"messages.0: {EMPTY_MESSAGE}"),
    (body_of(messages=[{"role": "user", "content": []}]), f"messages.0: {EMPTY_MESSAGE}"),
    (body_of(" \n"), "messages: text content blocks must contain non-whitespace text"),
    (
        body_of(messages=[{"role": "user", "content": [{"type": "text", "text": ""}]}]),
        "messages: text content blocks must be non-empty",
    ),
    (
        body_of(messages=[{"role": "user", "content": [{"type": "text"}]}]),
        "messages.0.content.0.text.text: Field required",
    ),
    (
        body_of(messages=[{"role": "tool", "content": "hi"}]),
        'messages: Unexpected role "tool". Allowed roles are "user" or "system" or "assistant"',
    ),
    (
        body_of(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b "}]),
        "messages: final assistant content cannot end with trailing whitespace",
    ),
    (
        body_of(
            model="claude-opus-4-6",
            messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        ),
        "This model does not support assistant message prefill. The conversation must end with a user message.",
    ),
    (
        body_of(messages=[{"role": "user", "content": [{"type": "image", "source": {**IMAGE, "media_type": "a/b"}}]}]),
        (
            "messages.0.content.0.image.source.base64.media_type: "
            "Input should be 'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"
        ),
    ),
    (
        body_of(messages=[{"role": "user", "content": [{"type": "image", "source": {**IMAGE, "data": LONG_TEXT}}]}]),
        "messages.0.content.0.image.source.base64: image exceeds 10 MB maximum: 10485761 bytes > 10485760 bytes",
    ),
    (body_of(system=[CACHED] * 5), "A maximum of 4 blocks with cache_control may be provided. Found 5."),
    (body_of(system=5), "system: Input should be a valid string or list"),
    (body_of(temperature=1.5), "temperature: Input should be less than or equal to 1"),
    (body_of(top_k=0.5), "top_k: Input should be a valid integer"),
    (body_of(stop_sequences="END"), "stop_sequences: Input should be a valid list"),
    (body_of(stop_sequences=[" "]), "stop_sequences: each stop sequence must contain non-whitespace"),
    (body_of(metadata={"team": "q"}), "metadata.team: Extra inputs are not permitted"),
    (body_of(service_tier="fast"), "service_tier: Input should be 'auto' or 'standard_only'"),
    (body_of(inference_geo="us"), "inference_geo: this model does not support inference_geo"),
    (
        body_of(output_config={"effort": "huge"}),
        "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'",
    ),
    (body_of(output_config={"format": {"type": "json_schema"}}), "output_config.format.schema: Field required"),
    (body_of(thinking={"type": "enabled"}), "thinking.enabled.budget_tokens: Field required"),
    (
        body_of(thinking={"type": "enabled", "budget_tokens": 1023}, max_tokens=4096),
        "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
    ),
    (
        body_of(thinking={"type": "enabled", "budget_tokens": 2048}, max_tokens=2048),
        "`max_tokens` must be greater than `thinking.budget_tokens`.",
    ),
    (body_of(thinking={"type": "adaptive"}), "adaptive thinking is not supported on this model"),
    (
        body_of(model="claude-opus-4-7", thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=4096),
        (
            '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
            '"output_config.effort" to control thinking behavior.'
        ),
    ),
    (
        body_of(model="claude-opus-5-5", thinking={"type": "disabled"}),
        '"thinking.type.disabled" is not supported for this model.',
    ),
    (
        body_of(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2048, temperature=0.5),
        "`temperature` may only be set to 1 when thinking is enabled.",
    ),
    (body_of(model="claude-opus-4-7", temperature=0.5), "`temperature` is deprecated for this model."),
    (body_of(stream="yes"), "stream: Input should be a valid boolean"),
    (body_of(stream=True, stream_options={}), "stream_options: Extra inputs are not permitted"),
    (
        body_of(model="claude-opus-5-5", tool_choice={"type": "any"}, tools=[TOOL]),
        'tool_choice: "any" is not supported for this model.',
    ),
    (body_of(**forced_with(thinking=BUDGET)), "Thinking may not be enabled when tool_choice forces tool use."),
    (body_of(**forced_with(name="g")), "Tool 'g' not found in provided tools"),
    (body_of(tool_choice={"type": "auto"}), "tool_choice: tool_choice may only be specified while providing tools."),
    (
        body_of(tool_choice={"type": "auto", "name": "f"}, tools=[TOOL]),
        "tool_choice.auto.name: Extra inputs are not permitted",
    ),
    (body_of(tools=[{"input_schema": {"type": "object"}}]), "tools.0.custom.name: Field required"),
    (body_of(tools=[{"name": "f"}]), "tools.0.custom.input_schema: Field required"),
    (body_of(tools=[{"name": "f", "input_schema": {}}]), "tools.0.custom.input_schema.type: Field required"),
    (
        body_of(tools=[{"name": "f", "input_schema": {"type": "string"}}]),
        "tools.0.custom.input_schema.type: Input should be 'object'",
    ),
    (
        body_of(tools=[{"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "colour"}}}}]),
        "tools.0.custom.input_schema: JSON schema is invalid. It must match JSON Schema draft 2020-12",
    ),
    (body_of(tools=[TOOL, TOOL]), "tools: Tool names must be unique."),
    (
        body_of(tools=[{"type": "function", "function": {"name": "f"}}]),
        "tools.0: Input tag 'function' found using 'type' does not match any of the expected tags: 'custom'",
    ),
    (
        body_of(tools=[{**TOOL, "strict": True}]),
        "tools.0.custom: For 'object' type, 'additionalProperties' must be explicitly set to false",
    ),
    (
        body_of(tools=[{"name": f"f{k}", "strict": True, "input_schema": OBJECT} for k in range(21)]),
        "Schema is too complex for compilation.",
    ),
    (body_of(messages=[*CALL, {"role": "user", "content": "b"}]), f"messages.1: {UNANSWERED}"),
    (body_of(messages=CALL), f"messages.1: {UNANSWERED}"),
    (body_of(messages=[*CALL, result("t2")]), f"messages.2.content.0: {UNCALLED}"),
    (body_of(messages=[result("t2")]), f"messages.0.content.0: {UNCALLED}"),
    (
        body_of(messages=[CALL[0], {**CALL[1], "content": [*CALL[1]["content"]] * 2}, result("t1")]),
        "messages.1.content: `tool_use` ids must be unique",
    ),
    *(
        (
            body_of(output_config={"format": {"type": "json_schema", "schema": schema}}),
            f"output_config.format.{message}",
        )
        for schema, message in (
            ({"type": "object"}, f"schema: {CLOSED}"),
            ({**OBJECT, "properties": {"a": {"type": "object"}}}, f"schema: {CLOSED}"),
            (
                holding({"type": "integer", "maximum": 5, "minimum": 1}),
                "schema: For 'integer' type, properties 'maximum', 'minimum' are not supported",
            ),
            (
                holding({"type": ["number", "null"], "multipleOf": 2}),
                "schema: For 'number' type, property 'multipleOf' is not supported",
            ),
            (
                holding({"type": "string", "maxLength": 5}),
                "schema: For 'string' type, property 'maxLength' is not supported",
            ),
            (
                holding({"type": "array", "items": {}, "minItems": 2}),
                "schema: For 'array' type, 'minItems' values other than 0 or 1 are not supported",
            ),
            (holding({"$ref": "#"}), "schema: Circular reference '#' is not supported"),
            (
                {**holding({"$ref": "#/$defs/b"}), "$defs": {"b": {"type": "array", "items": {"$ref": "#/$defs/b"}}}},
                "schema: Circular reference '#/$defs/b' is not supported",
            ),
            (holding({"type": "colour"}), "schema: Invalid JSON schema"),
            (holding({"oneOf": [{"type": "null"}]}), "schema: 'oneOf' is not supported"),
            (
                holding({"type": "string", "pattern": "(?=a)"}),
                "schema: Pattern '(?=a)' is not supported: no look-around, no back-references, no word boundaries",
            ),
        )
    ),
    *(
        (
            body_of(output_config={"format": {"type": "json_schema", "schema": schema}}),
            "Schema is too complex for compilation.",
        )
        for schema in (
            {**OBJECT, "properties": {f"p{k}": {"type": "string"} for k in range(25)}},
            holding({"anyOf": [{"type": ["string", "null"]} for _ in range(16)]}),
        )
    ),
    ({"max_tokens": 5, "messages": [{"role": "user", "content": "a"}]}, "model: Field required"),
    ({"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "a"}]}, "max_tokens: Field required"),
    ({"model": "claude-haiku-4-5", "max_tokens": 5}, "messages: Field required"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_what_the_api_refuses_is_refused_in_its_words(body: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as refused:
        check(body, "2023-06-01", NATIVE.rules)
    assert (refused.value.status, refused.value.message) == (400, message)


ACCEPTED: list[dict[str, Any]] = [
    body_of(),
    body_of(max_tokens=0),
    body_of(system="You are brief."),
    body_of(system=[CACHED] * 4),
    body_of(temperature=0, top_p=0.5, top_k=0),
    body_of(model="claude-opus-4-7", temperature=1),
    body_of(model="claude-opus-4-7", max_tokens=128_000),
    body_of(model="my-model", temperature=0.3, max_tokens=500_000),
    body_of(model="claude-opus-4-6", thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2048),
    body_of(model="claude-sonnet-5", thinking={"type": "disabled"}),
    body_of(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
    body_of(messages=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
    body_of(messages=[{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]),
    body_of(messages=[{"role": "user", "content": [{"type": "image", "source": IMAGE}, CACHED]}]),
    body_of(metadata={"user_id": "u"}, service_tier="auto", stop_sequences=["END"], stream=False),
    body_of(stream=True),
    body_of(output_config={"format": {"type": "json_schema", "schema": OBJECT}}),
    body_of(tools=[TOOL], tool_choice={"type": "auto"}),
    body_of(tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True}),
    body_of(tools=[TOOL], tool_choice={"type": "none"}),
    body_of(tools=[{"type": "web_search_20260318", "name": "web_search", "max_uses": 2}, TOOL]),
    body_of(messages=[*CALL, result("t1")], tools=[TOOL]),
    body_of(messages=[*CALL, result("t1"), {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]),
    body_of(output_config={"format": {"type": "json_schema", "schema": holding({"type": ["string", "null"]})}}),
    body_of(model="claude-haiku-5-5", tools=[TOOL], tool_choice={"type": "any"}),
    body_of(
        model="claude-opus-5-5",
        messages=[
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}],
            },
        ],
    ),
]


@pytest.mark.parametrize("body", ACCEPTED, ids=range(len(ACCEPTED)))
def test_what_the_api_accepts_is_accepted(body: dict[str, Any]) -> None:
    assert check(body, "2023-06-01", NATIVE.rules) is body


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "anthropic-version: header is required"),
        ("2023-10-01", 'anthropic-version: "2023-10-01" is not a valid version'),
    ],
)
def test_the_version_header_must_be_there_and_known(version: str | None, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        check(body_of(), version, NATIVE.rules)
    assert (refused.value.status, refused.value.message) == (400, message)


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
def test_the_newest_version_knows_no_sampling_at_all(name: str) -> None:
    with pytest.raises(ApiError) as refused:
        check({**body_of(), name: 1}, "2026-10-21", NATIVE.rules)
    assert refused.value.message == f"{name}: Extra inputs are not permitted"


@pytest.mark.parametrize(
    ("model", "retired"),
    [
        ("claude-3-5-sonnet-20240620", True),
        ("claude-3-5-sonnet-latest", True),
        ("claude-3-opus-20240229", True),
        ("claude-opus-4-20250514", True),
        ("claude-opus-4-1", True),
        ("claude-sonnet-4-0", True),
        ("claude-sonnet-4-5-20250929", False),
        ("anthropic/claude-sonnet-4.5", False),
        ("claude-haiku-5-5", False),
        ("claude-something-new", False),
        ("gpt-oss", False),
    ],
)
def test_retired_models_are_not_found(model: str, *, retired: bool) -> None:
    assert rules_of(model).retired is retired
    if retired:
        with pytest.raises(ApiError) as refused:
            check(body_of(model=model), "2023-06-01", NATIVE.rules)
        assert (refused.value.status, refused.value.message) == (404, f"model: {model}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2000) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(
    ["type", "text", "content", "role", "source", "name", "budget_tokens", "cache_control", "format", "function"]
)
KINDS = st.sampled_from(
    ["text", "image", "user", "assistant", "enabled", "tool_result", "base64", "url", "any", "json_schema", "tool"]
)
SHAPED = st.recursive(
    JSON | KINDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.dictionaries(
        st.sampled_from([*OPENAI.rules.fields, "other"]) | st.text(max_size=4), SHAPED, min_size=1, max_size=3
    ),
    message=SHAPED,
    dialect=st.sampled_from(list(DIALECTS.values())),
)
def test_any_json_is_either_refused_or_answered(changes: dict[str, Any], message: Any, dialect: Any) -> None:
    body = {**body_of(messages=[{"role": "user", "content": message}]), **changes}
    try:
        body = check(body, "2023-06-01", dialect.rules)
    except ApiError as error:
        status = error.status
    else:
        status = 200
        said = answers.answer(answers.read(body, answers.digest_of(body), dialect.reading))
        assert said.output_tokens <= body.get("max_tokens", said.output_tokens)
        orjson.dumps(dialect.write_answer(said))
    assert status in {200, 400, 404}


# --- answers ---------------------------------------------------------------------------------------------------------


def said_to(body: dict[str, Any]) -> answers.Answer:
    return answers.answer(answers.read(body, answers.digest_of(body)))


def test_an_answer_names_its_request_and_repeats_the_last_user_text() -> None:
    body = body_of(
        messages=[
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "mine"},
            {"role": "user", "content": "r" * 100},
        ]
    )
    assert said_to(body).text == f"answer {answers.digest_of(body).hex()[:8]}: {'r' * 80}"


@given(st.permutations(list(body_of(system="s", temperature=0.5).items())))
def test_the_order_of_members_changes_no_answer(items: list[tuple[str, Any]]) -> None:
    assert said_to(dict(items)) == said_to(body_of(system="s", temperature=0.5))


@pytest.mark.parametrize(
    ("members", "stop_reason", "output_tokens", "text"),
    [
        ({"max_tokens": 512}, "end_turn", 7, ": hello there"),
        ({"max_tokens": 2}, "max_tokens", 2, "answer "),
        ({"max_tokens": 0}, "max_tokens", 0, None),
        ({"stop_sequences": ["there"]}, "stop_sequence", 6, ": hello "),
        ({"model": "claude-opus-5-5"}, "end_turn", 31, ": hello there"),
        ({"model": "claude-opus-5-5", "max_tokens": 10}, "max_tokens", 10, None),
    ],
)
def test_usage_and_stop_reason_follow_the_request(
    members: dict[str, Any], stop_reason: str, output_tokens: int, text: str | None
) -> None:
    said = said_to(body_of(**members))
    assert (said.stop_reason, said.output_tokens) == (stop_reason, output_tokens)
    assert said.text == text if text is None else text in (said.text or "")
    assert said.input_tokens == 3  # 11 characters, 4 to a token


def test_the_same_request_gets_the_same_answer_in_whatever_order() -> None:
    async def journey() -> None:
        bodies = [body_of(f"row {k}") for k in range(30)]
        async with serving(latency_ms=5) as client:
            there = await asyncio.gather(*(client.post(body) for body in bodies))
            back = await asyncio.gather(*(client.post(body, path="/messages") for body in reversed(bodies)))
        assert [got.raw for got in there] == [got.raw for got in reversed(back)]
        assert all(f": row {k}" in got.json["content"][0]["text"] for k, got in enumerate(there))
        assert len({got.headers["request-id"] for got in [*there, *back]}) == 60

    run(journey())


def test_the_native_shape_is_the_api_s() -> None:
    async def journey() -> None:
        async with serving() as client:
            got = await client.post(body_of(model="claude-opus-5-5"))
        assert got.status == 200
        message = got.json
        assert message["id"].startswith("msg_")
        assert [block["type"] for block in message["content"]] == ["thinking", "text"]
        assert {name: message[name] for name in ("type", "role", "model", "stop_reason", "stop_sequence")} == {
            "type": "message",
            "role": "assistant",
            "model": "claude-opus-5-5",
            "stop_reason": "end_turn",
            "stop_sequence": None,
        }
        assert message["usage"]["input_tokens"] == 3
        assert message["usage"]["output_tokens_details"] == {"thinking_tokens": 24}

    run(journey())


def test_the_openai_like_shape_has_choices_and_prompt_tokens() -> None:
    async def journey() -> None:
        body = body_of(model="m", messages=[{"role": "developer", "content": "d"}, {"role": "user", "content": "hi"}])
        del body["max_tokens"]
        async with serving(dialect="openai") as client:
            got = await client.post(body, headers={})
            cut = await client.post({**body, "max_tokens": 3}, headers={})
            refused = await client.post({**body, "foo": 1}, headers={})
        choice = got.json["choices"][0]
        assert (choice["finish_reason"], choice["message"]["role"]) == ("stop", "assistant")
        assert choice["message"]["content"].endswith(": hi")
        assert got.json["usage"]["prompt_tokens"] == 1
        assert got.json["usage"]["total_tokens"] == 1 + got.json["usage"]["completion_tokens"]
        assert cut.json["choices"][0]["finish_reason"] == "length"
        assert refused.json["error"]["message"] == "Unrecognized request argument supplied: foo"

    run(journey())


def test_only_the_required_key_is_let_in_by_either_header() -> None:
    async def journey() -> None:
        async with serving(key="k1") as client:
            tried = {
                "none": {},
                "wrong": {"x-api-key": "k2"},
                "wrong bearer": {"authorization": "Bearer k2"},
                "right": {"x-api-key": "k1"},
                "right bearer": {"authorization": "Bearer k1"},
                "x-api-key wins": {"x-api-key": "k2", "authorization": "Bearer k1"},
            }
            got = {name: await client.post(body_of(), {**VERSION, **headers}) for name, headers in tried.items()}
            ledger = await client.ledger()
        assert {name: answer.status for name, answer in got.items()} == {
            "none": 401,
            "wrong": 401,
            "wrong bearer": 401,
            "right": 200,
            "right bearer": 200,
            "x-api-key wins": 401,
        }
        assert got["none"].json["error"] == {"type": "authentication_error", "message": "x-api-key header is required"}
        assert got["none"].json["request_id"] == got["none"].headers["request-id"]
        assert b"k1" not in orjson.dumps([{**line, "prompt_digest": None, "api_key_digest": None} for line in ledger])
        assert ledger[3]["api_key_digest"] == ledger[4]["api_key_digest"] != ledger[1]["api_key_digest"]

    run(journey())


def test_what_is_no_json_no_message_or_too_large_is_refused() -> None:
    async def journey() -> None:
        async with serving(models=("claude-haiku-4-5",)) as client:
            broken = await client.post(None, raw=b'{"model": ')
            listed = await client.post([])
            surrogate = await client.post(None, raw=orjson.dumps(body_of("@")).replace(b"@", b"\\ud800"))
            wrong_type = await client.post(body_of(), {**VERSION, "content-type": "text/plain"})
            unserved = await client.post(body_of())
            lost = await client.get("/v2/messages")
            method = await client.get("/v1/messages")
            huge = await client.post(None, raw=b'"' + b"x" * (33 * 1024 * 1024) + b'"')
        assert [got.status for got in (broken, listed, surrogate, wrong_type)] == [400] * 4
        assert broken.json["error"]["message"].startswith("The request body is not valid JSON")
        assert unserved.status == 404
        assert unserved.json["error"] == {"type": "not_found_error", "message": "model: claude-sonnet-4-5"}
        assert (lost.status, method.status) == (404, 405)
        assert (huge.status, huge.headers["content-type"]) == (413, "text/html")

    run(journey())


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_bucket_gives_a_second_s_worth_at_once_and_then_its_rate() -> None:
    bucket = Bucket(600, now=0.0)
    passed = 0
    for tick in range(1001):
        now = tick / 100
        while bucket.wait_secs(1, now) == 0:
            bucket.take(1, now)
            passed += 1
    assert passed == 10 + 100


@pytest.mark.parametrize(("per_minute", "capacity"), [(600, 10), (60, 1), (6, 1)])
def test_a_bucket_holds_at_least_one(per_minute: float, capacity: float) -> None:
    assert Bucket(per_minute, now=0.0).capacity == capacity


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 40)), max_size=60))
def test_no_window_ever_passes_more_than_its_rate_and_one_bucket(arrivals: list[tuple[float, int]]) -> None:
    bucket, now, passed = Bucket(600, now=0.0), 0.0, []
    for pause, amount in arrivals:
        now += pause
        if bucket.wait_secs(amount, now) == 0:
            bucket.take(amount, now)
            passed.append((now, amount))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            window = passed[last][0] - passed[first][0]
            # Only the last one may be larger than what was left; it is paid off afterwards.
            assert sum(amount for _, amount in passed[first:last]) <= 10 + 10 * window + 40 + 1e-6


def test_a_prompt_larger_than_the_bucket_passes_and_is_paid_off() -> None:
    limits = Limits(None, 600, None, now=0.0)
    assert limits.admit(100, 0.0) is None
    shortage = limits.admit(1, 0.0)
    assert shortage is not None
    assert shortage.limit == "input tokens"
    assert shortage.wait_secs == pytest.approx(9.1)
    assert limits.admit(1, 9.2) is None


def test_output_shuts_the_door_after_it_was_produced() -> None:
    limits = Limits(None, None, 60, now=0.0)
    assert limits.admit(5, 0.0) is None
    limits.produced(31, 0.0)
    shortage = limits.admit(5, 0.0)
    assert shortage is not None
    assert shortage.wait_secs == pytest.approx(31)


def test_a_burst_above_the_limit_gets_429_with_the_time_to_wait() -> None:
    async def journey() -> None:
        # One request a minute and a bucket of one: whatever the machine's speed, exactly one passes.
        async with serving(rpm=1, itpm=60_000_000) as client:
            got = await asyncio.gather(*(client.post(body_of(f"row {k}")) for k in range(8)))
        assert sorted(answer.status for answer in got) == [200] + [429] * 7
        refused = next(answer for answer in got if answer.status == 429)
        assert refused.json["error"] == {
            "type": "rate_limit_error",
            "message": "This request would exceed your organization's rate limit of 1 requests per minute.",
        }
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        passed = next(answer for answer in got if answer.status == 200)
        assert passed.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert passed.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert passed.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert passed.headers["anthropic-ratelimit-input-tokens-limit"] == "60000000"
        assert passed.headers["anthropic-ratelimit-input-tokens-remaining"] == "1000000"

    run(journey())


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("529=0.02", Fault("529", 0.02)),
        ("reset=1", Fault("reset", 1.0)),
        ("html=0", Fault("html", 0.0)),
        ("400=1e-3", Fault("400", 0.001)),
    ],
)
def test_a_fault_is_read(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("529", "no '='"),
        ("529=often", "'often' is not a number from 0 to 1"),
        ("529=1.5", "the rate 1.5 is not from 0 to 1"),
        ("529=nan", "the rate nan is not from 0 to 1"),
        ("200=0.1", "'200' is unknown"),
        ("explode=0.1", "'explode' is unknown"),
        ("²99=0.1", "is unknown"),
    ],
)
def test_a_fault_that_makes_no_sense_says_why(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="fault") as refused:
        parse_fault(text)
    assert words in str(refused.value)


def test_a_fault_for_a_text_may_hold_an_equals_sign() -> None:
    assert parse_fault_when("a=b=400") == FaultWhen("a=b", "400")
    with pytest.raises(ValueError, match="expected TEXT=NAME"):
        parse_fault_when("=400")


def test_a_script_says_what_befalls_each_sending_of_a_prompt() -> None:
    assert parse_fault_when("row-1 = 529, 529 ,ok") == FaultWhen("row-1 ", "529,529,ok")
    assert [FaultWhen("a", "529,500,ok").at(nth) for nth in (1, 2, 3, 9)] == ["529", "500", None, None]
    assert [FaultWhen("a", "ok,429-none").at(nth) for nth in (1, 2, 9)] == [None, "429-none", "429-none"]
    with pytest.raises(ValueError, match="'200' is unknown"):
        parse_fault_when("a=529,200")


def test_each_prompt_that_a_script_is_for_goes_through_it_by_itself() -> None:
    async def journey() -> None:
        async with serving(fault_whens=(FaultWhen("row", "529,429,ok"),), faults=(Fault("500", 1),)) as client:
            rows = [(await client.post(body_of(f"row {k % 2}"))).status for k in range(8)]
            streamed = await client.post(body_of("row 0", stream=True))
            other = (await client.post(body_of("none of them"))).status
            matched = {line["matched"] for line in await client.ledger() if line["text_head"].startswith("row")}
        assert rows == [529, 529, 429, 429, 200, 200, 200, 200]
        assert (streamed.status, other, matched) == (200, 500, {"row"})

    run(journey())


def test_rates_above_one_in_sum_are_no_rehearsal() -> None:
    with pytest.raises(ValueError, match="add up to"):
        SimulatorOptions(faults=(Fault("529", 0.6), Fault("500", 0.6)))


@given(st.integers(), st.binary(min_size=16, max_size=16), st.integers(1, 1000))
def test_a_draw_is_decided_by_seed_request_and_turn_alone(seed: int, digest: bytes, nth: int) -> None:
    faults = (Fault("529", 0.3), Fault("reset", 0.3))
    assert FaultPlan(faults, (), seed).draw(digest, nth) == FaultPlan(faults, (), seed).draw(digest, nth)


def test_faults_come_as_often_as_asked_and_differ_by_seed() -> None:
    def drawn(seed: int) -> list[str | None]:
        plan = FaultPlan((Fault("529", 0.25), Fault("cut", 0.25)), (), seed)
        return [plan.draw(k.to_bytes(16, "big"), 1) for k in range(4000)]

    first = drawn(1)
    assert 900 < first.count("529") < 1100
    assert 900 < first.count("cut") < 1100
    assert first != drawn(2)


def test_the_same_seed_replays_the_same_faults_and_a_retry_can_pass() -> None:
    async def rehearse(seed: int, order: int) -> dict[str, list[int]]:
        rows = [f"row {k}" for k in range(25)][::order]
        statuses: dict[str, list[int]] = {}
        async with serving(faults=(Fault("529", 0.5),), seed=seed) as client:
            for row in rows:
                statuses[row] = [(await client.post(body_of(row))).status for _ in range(6)]
        return statuses

    async def journey() -> None:
        first = await rehearse(7, 1)
        assert first == await rehearse(7, -1)
        assert first != await rehearse(8, 1)
        assert any(tried[0] == 529 and 200 in tried for tried in first.values())

    run(journey())


def test_each_kind_of_fault_looks_as_it_says() -> None:
    async def journey() -> None:
        whens = tuple(
            FaultWhen(f"<{kind}>", kind)
            for kind in ("400", "401", "402", "404", "413", "429", "500", "529", "html", "cut", "empty", "reset")
        )
        async with serving(fault_whens=whens, retry_after="0.25") as client:
            got = {when.kind: await client.post(body_of(f"a {when.text}")) for when in whens if when.kind != "reset"}
            with pytest.raises(aiohttp.ClientOSError):
                await client.post(body_of("a <reset>"))
            fine = await client.post(body_of("a reset"))
            ledger = await client.ledger()
        statuses = {kind: answer.status for kind, answer in got.items()}
        assert statuses == {kind: int(kind) if kind.isdigit() else 200 for kind in got}
        assert got["529"].json["error"] == {"type": "overloaded_error", "message": "Overloaded"}
        assert got["429"].headers["retry-after"] == "0.25"
        assert "credit balance is too low" in got["402"].json["error"]["message"]
        assert got["html"].headers["content-type"] == got["413"].headers["content-type"] == "text/html"
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(got["cut"].raw)
        assert (got["empty"].json["content"], got["empty"].json["usage"]["output_tokens"]) == ([], 1)
        assert fine.status == 200
        by_fault = {line["fault"]: line for line in ledger}
        assert (by_fault["reset"]["status"], by_fault["reset"]["sent"]) == (None, False)
        assert by_fault["cut"]["usage"] is not None
        assert by_fault["529"]["usage"] is None

    run(journey())


def test_refusals_by_name_say_in_many_ways_when_to_come_back() -> None:
    async def journey() -> None:
        whens = tuple(FaultWhen(f"<{kind}>", kind) for kind in REFUSALS)
        async with serving(fault_whens=whens) as client:
            got = {when.kind: await client.post(body_of(f"a {when.text}")) for when in whens}
        assert {kind: answer.status for kind, answer in got.items()} == {k: r.status for k, r in REFUSALS.items()}
        waits = {kind: answer.headers.get("retry-after") for kind, answer in got.items() if kind.startswith("429")}
        dated = waits.pop("429-date")
        assert waits == {"429-int": "1", "429-float": "0.5", "429-ms": None, "429-none": None, "429-ramp": "1"}
        assert dated is not None
        assert parsedate_to_datetime(dated).tzinfo is not None
        assert got["429-ms"].headers["retry-after-ms"] == "250.5"
        assert "retry-after" not in got["spend-cap"].headers
        assert got["spend-cap"].json["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}
        assert got["429-ramp"].json["error"]["details"] == {"error_code": "ramp_limit_exceeded"}
        assert (
            got["spend-limit"].json["error"]["message"].startswith("You have reached your specified API usage limits")
        )
        assert got["credit"].json["error"]["message"].startswith("Your credit balance is too low")
        assert got["500-html"].headers["content-type"] == "text/html"
        assert got["413-text"].headers["content-type"] == "text/plain"
        told = {kind: answer.headers["x-should-retry"] for kind, answer in got.items() if "retry" in kind}
        assert told == {"529-no-retry": "false", "400-retry": "true"}

    run(journey())


def test_a_body_can_break_off_hold_an_error_or_come_after_the_headers_never() -> None:
    async def journey() -> None:
        kinds = ("reset-body", "error-200", "no-stop", "pings")
        whens = tuple(FaultWhen(f"<{kind}>", kind) for kind in (*kinds, "stall-body"))
        async with serving(fault_whens=whens) as client:
            with pytest.raises(aiohttp.ClientError):
                await client.post(body_of("<reset-body>"))
            told = await client.post(body_of("<error-200>"))
            cut = await client.post(body_of("<no-stop>"))
            fine = await client.post(body_of("<pings>"))
            hanging = asyncio.create_task(client.post(body_of("<stall-body>")))
            await client.until_in_flight()
            ledger = {line["fault"]: line for line in await client.ledger()}
            assert not hanging.done()
            hanging.cancel()
        assert (told.status, told.json["error"]["type"]) == (200, "overloaded_error")
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(cut.raw)
        assert fine.json["stop_reason"] == "end_turn"
        assert (ledger["reset-body"]["status"], ledger["reset-body"]["usage"]) == (200, None)
        assert ledger["reset-body"]["sent"] is False

    run(journey())


@pytest.mark.parametrize(
    ("kind", "stop_reason", "types", "output_tokens"),
    [
        ("refusal", "refusal", [], 0),
        ("thinking-only", "max_tokens", ["thinking"], 512),
        ("max_tokens", "max_tokens", ["text"], 4),
        ("pause_turn", "pause_turn", ["server_tool_use"], 6),
        ("empty", "end_turn", [], 1),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_can_end_in_every_other_way(
    kind: str, stop_reason: str, types: list[str], output_tokens: int, stream: bool
) -> None:
    async def journey() -> None:
        async with serving(fault_whens=(FaultWhen("hello", kind),)) as client:
            body = body_of("hello there", stream=stream)
            got, again = await client.post(body), await client.post(body)
            first, _ = await client.ledger()
        assert again.raw == got.raw
        message = read_whole(got.raw) if stream else got.json
        assert message["stop_reason"] == stop_reason
        assert [block["type"] for block in message["content"]] == types
        assert message["usage"]["output_tokens"] == output_tokens
        assert (message["stop_details"] is not None) is (kind == "refusal")
        assert (first["stop_reason"], first["fault"]) == (stop_reason, kind)

    run(journey())


def read_whole(raw: bytes) -> dict[str, Any]:
    stream = Stream(1 << 20)
    stream.feed(raw)
    return stream.body()


def test_a_paused_answer_that_is_sent_back_is_ended() -> None:
    async def journey() -> None:
        async with serving(faults=(Fault("pause_turn", 1),)) as client:
            body = body_of(model="claude-opus-4-8")
            paused = await client.post(body)
            turn = {"role": "assistant", "content": paused.json["content"]}
            ended = await client.post({**body, "messages": [*body["messages"], turn]})
            prefilled = await client.post(
                {**body, "messages": [*body["messages"], {"role": "assistant", "content": "No"}]}
            )
        assert (paused.json["stop_reason"], ended.json["stop_reason"]) == ("pause_turn", "end_turn")
        assert prefilled.status == 400

    run(journey())


@pytest.mark.parametrize(
    ("thinking", "model", "shown"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, "claude-sonnet-4-5", True),
        ({"type": "enabled", "budget_tokens": 1024, "display": "omitted"}, "claude-sonnet-4-5", False),
        ({"type": "adaptive"}, "claude-opus-4-6", True),
        ({"type": "adaptive"}, "claude-opus-4-8", False),
        ({"type": "adaptive", "display": "summarized"}, "claude-opus-4-8", True),
        (None, "claude-sonnet-5", False),
    ],
)
def test_thoughts_are_shown_unless_the_request_or_a_new_model_omits_them(
    thinking: dict[str, Any] | None, model: str, shown: bool
) -> None:
    members: dict[str, Any] = {} if thinking is None else {"thinking": thinking}
    said = said_to(body_of(model=model, max_tokens=4096, **members))
    assert said.thought is not None
    assert bool(said.thought) is shown
    assert said.thinking_tokens == 24


def test_a_stalled_request_is_in_the_ledger_and_holds_no_shutdown() -> None:
    async def journey() -> None:
        async with serving(fault_whens=(FaultWhen("poison", "stall"),)) as client:
            hanging = asyncio.create_task(client.post(body_of("poison")))
            ledger = await client.first_entries()
            assert (ledger[0]["fault"], ledger[0]["status"], ledger[0]["sent"]) == ("stall", None, False)
            assert not hanging.done()
            hanging.cancel()
            assert (await client.post(body_of("fine"))).status == 200

    run(journey())


# --- ledger ----------------------------------------------------------------------------------------------------------


def test_the_ledger_equals_what_the_client_saw(tmp_path: Path) -> None:
    async def journey() -> None:
        faults = (Fault("529", 0.2), Fault("500", 0.1), Fault("empty", 0.1), Fault("reset", 0.1))
        seen: list[tuple[int | None, int | None]] = []

        async def ask(client: Client, row: int) -> None:
            try:
                got = await client.post(body_of(f"row {row}"))
            except aiohttp.ClientError:
                seen.append((None, None))
            else:
                seen.append((got.status, got.json["usage"]["output_tokens"] if got.status == 200 else None))

        async with serving(faults=faults, seed=3, latency_ms=2, ledger=tmp_path / "ledger.jsonl") as client:
            await asyncio.gather(*(ask(client, row) for row in range(80)))
            served = await client.ledger()
            stats = (await client.get("/debug/stats")).json
        lines = [orjson.loads(line) for line in (tmp_path / "ledger.jsonl").read_bytes().splitlines()]
        assert lines == served
        noted = [(line["status"], line["usage"] and line["usage"]["output_tokens"]) for line in lines]
        assert sorted(noted, key=str) == sorted(seen, key=str)
        assert [line["n"] for line in sorted(lines, key=lambda line: line["n"])] == list(range(1, 81))
        assert {line["text_head"] for line in lines} == {f"row {row}" for row in range(80)}
        assert stats["total"] == stats["received"] == 80
        assert stats["by_status"]["200"] == sum(status == 200 for status, _ in seen)
        assert stats["usage"]["output_tokens"] == sum(tokens or 0 for _, tokens in seen)
        assert 1 < stats["max_in_flight"] <= 80
        assert stats["in_flight"] == 0

    run(journey())


def test_a_ledger_is_continued_and_serves_only_this_start(tmp_path: Path) -> None:
    async def once(text: str) -> None:
        async with serving(ledger=tmp_path / "ledger.jsonl") as client:
            await client.post(body_of(text))
            assert [line["text_head"] for line in await client.ledger()] == [text]

    run(once("first"))
    run(once("second"))
    lines = (tmp_path / "ledger.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line)["text_head"] for line in lines] == ["first", "second"]


def test_an_answer_to_a_client_that_left_is_noted_as_not_sent() -> None:
    async def journey() -> None:
        async with serving(latency_ms=300) as client:
            leaving = asyncio.create_task(client.post(body_of("leaving")))
            await client.until_in_flight()
            leaving.cancel()
            ledger = await client.first_entries()
            assert (ledger[0]["status"], ledger[0]["sent"]) == (200, False)

    run(journey())


@pytest.mark.parametrize("bad", [{"dialect": "klingon"}, {"rpm": 0}, {"latency_ms": -1}, {"otpm": float("nan")}])
def test_impossible_options_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unknown dialect|not above 0|not a number"):
        SimulatorOptions(**bad)


# --- the process -----------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from pipeline.serve.simulator import SimulatorOptions, run_simulator
run_simulator(SimulatorOptions(ledger=Path(sys.argv[1]), latency_ms=float(sys.argv[2])), port=0,
              announce=lambda line: print(line, flush=True), stop_with_stdin=True)
print("ended")
"""


def start(ledger: Path, latency_ms: float = 0.0) -> tuple[subprocess.Popen[str], str]:
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(ledger), str(latency_ms)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening on http://127.0.0.1:")
    return process, line.split()[-1]


async def _ask(base: str, rows: int) -> list[int]:
    async with aiohttp.ClientSession() as session:
        client = Client(session, base)
        return [(await client.post(body_of(f"row {row}"))).status for row in range(rows)]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "stdin"])
def test_a_signal_or_the_end_of_stdin_ends_the_server_cleanly(tmp_path: Path, how: str) -> None:
    process, base = start(tmp_path / "ledger.jsonl")
    assert asyncio.run(_ask(base, 5)) == [200] * 5
    if how == "stdin":
        assert process.stdin is not None
        process.stdin.close()
    else:
        process.send_signal(getattr(signal, how))
    assert process.wait(20) == 0
    assert process.stdout is not None
    assert process.stdout.read() == "ended\n"
    process.stdout.close()
    if process.stdin is not None:
        process.stdin.close()
    assert len((tmp_path / "ledger.jsonl").read_bytes().splitlines()) == 5


def test_a_call_in_flight_at_the_stop_is_answered_and_noted(tmp_path: Path) -> None:
    process, base = start(tmp_path / "ledger.jsonl", latency_ms=400)

    async def journey() -> None:
        async with aiohttp.ClientSession() as session:
            client = Client(session, base)
            asked = asyncio.create_task(client.post(body_of("late")))
            await client.until_in_flight()
            process.terminate()
            assert (await asked).status == 200

    run(journey())
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert orjson.loads((tmp_path / "ledger.jsonl").read_bytes())["sent"] is True


@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_that_a_client_saw_survives_a_kill_of_the_server(tmp_path: Path, stream: bool) -> None:
    process, base = start(tmp_path / "ledger.jsonl")
    seen = 0

    async def journey() -> None:
        nonlocal seen
        async with aiohttp.ClientSession() as session:
            client = Client(session, base)

            async def ask_on(lane: int) -> None:
                nonlocal seen
                for row in range(1000):
                    try:
                        await client.post(body_of(f"row {lane} {row}", stream=stream))
                    except aiohttp.ClientError:
                        return
                    seen += 1
                    if seen == 60:
                        process.kill()

            await asyncio.gather(*(ask_on(lane) for lane in range(8)))

    run(journey())
    process.communicate(timeout=20)
    lines = [orjson.loads(line) for line in (tmp_path / "ledger.jsonl").read_bytes().splitlines()]
    assert seen <= len(lines) <= seen + 8


def test_a_taken_port_and_an_unwritable_ledger_are_said_in_words(tmp_path: Path) -> None:
    process, base = start(tmp_path / "ledger.jsonl")
    try:
        port = int(base.rpartition(":")[2])
        with pytest.raises(JobError, match=f"port {port} on 127.0.0.1: cannot be listened on"):
            run_simulator(SimulatorOptions(), port=port, announce=print)
    finally:
        process.communicate(timeout=20)
    with pytest.raises(JobError, match="cannot be written"):
        run_simulator(SimulatorOptions(ledger=tmp_path / "no" / "ledger"), port=0, announce=print)

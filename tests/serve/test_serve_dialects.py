"""Each dialect of the simulator: what it lets pass, what it says, and how it says that something went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from serve_clients import VERSION, Got, body_of, run, serving

from pipeline.serve import answers, reseller
from pipeline.serve.cache import NOTHING
from pipeline.serve.dialects import DIALECTS

NAMES = list(DIALECTS)
PLAIN_MODEL = "claude-haiku-4-5"
TOOL = {"name": "f", "input_schema": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}}
CALLED: dict[str, Any] = {"tools": [TOOL], "tool_choice": {"type": "any"}}
CALL_F = [{"role": "user", "content": "call f"}]
THINKING: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4096}
JSON_FORM: dict[str, Any] = {
    "output_config": {
        "format": {"type": "json_schema", "schema": {"type": "object", "properties": {}, "additionalProperties": False}}
    }
}


def asked(dialect: str, body: Mapping[str, Any], **options: Any) -> Got:
    """What a server of this dialect answers."""
    found: list[Got] = []

    async def journey() -> None:
        async with serving(dialect=dialect, **options) as client:
            found.append(await client.post(body))

    run(journey())
    return found[0]


def events_of(got: Got) -> list[Any]:
    data = [line.removeprefix("data: ") for line in got.raw.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else orjson.loads(line) for line in data]


# --- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "paths"),
    [
        ("native", {"/v1/messages", "/messages"}),
        ("aimlapi", {"/v1/messages", "/messages"}),
        ("openai", {"/v1/messages", "/messages", "/v1/chat/completions", "/chat/completions"}),
        *((name, {"/v1/messages"}) for name in ("vllm", "llamacpp", "ollama")),
    ],
)
def test_a_server_answers_on_its_own_paths(dialect: str, paths: set[str]) -> None:
    async def journey() -> None:
        async with serving(dialect=dialect) as client:
            for path in ("/v1/messages", "/messages", "/v1/chat/completions", "/chat/completions", "/v2/messages"):
                assert (await client.post(body_of(), path=path)).status == (200 if path in paths else 404), path

    run(journey())


@pytest.mark.parametrize(
    ("dialect", "by_name", "by_bearer"),
    [
        ("native", 200, 200),
        ("aimlapi", 401, 200),
        ("openai", 200, 200),
        ("vllm", 401, 200),
        ("llamacpp", 200, 200),
        ("ollama", 401, 200),
    ],
)
def test_a_key_is_taken_where_the_server_looks_for_it(dialect: str, by_name: int, by_bearer: int) -> None:
    async def journey() -> None:
        async with serving(dialect=dialect, key="k") as client:
            named = await client.post(body_of(), {**VERSION, "x-api-key": "k"})
            bearer = await client.post(body_of(), {**VERSION, "authorization": "Bearer k"})
            wrong = await client.post(body_of(), {**VERSION, "authorization": "Bearer q", "x-api-key": "q"})
        assert (named.status, bearer.status, wrong.status) == (by_name, by_bearer, 401)

    run(journey())


UNKNOWN: dict[str, Any] = {"foo": 1}
NO_MAX = {name: value for name, value in body_of().items() if name != "max_tokens"}
URL = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
PICTURE = body_of(messages=[{"role": "user", "content": [URL, {"type": "text", "text": "a"}]}])


@pytest.mark.parametrize(
    ("body", "accepting"),
    [
        (body_of(**UNKNOWN), {"aimlapi", "vllm", "llamacpp", "ollama"}),
        (NO_MAX, {"aimlapi", "openai", "llamacpp"}),
        (body_of(max_tokens=0), {"native", "llamacpp"}),
        (body_of(temperature=1.5), {"openai", "vllm", "llamacpp", "ollama"}),
        (body_of(tools=[TOOL], tool_choice="required"), {"aimlapi", "openai"}),
        (body_of(messages=[{"role": "developer", "content": "a"}]), {"aimlapi", "openai"}),
        (body_of(model="claude-3-opus-20240229"), {"llamacpp"}),
        (body_of(model="claude-opus-5-5", **CALLED), {"openai", "vllm", "llamacpp", "ollama"}),
        (body_of(thinking={"type": "enabled"}), {"openai", "vllm", "llamacpp", "ollama"}),
        (PICTURE, {"native", "aimlapi", "openai", "vllm", "llamacpp"}),
    ],
    ids=range(10),
)
def test_servers_differ_in_what_they_let_pass(body: dict[str, Any], accepting: set[str]) -> None:
    assert {name for name in NAMES if asked(name, body).status == 200} == accepting


def test_without_max_tokens_a_server_has_its_own() -> None:
    told = {name: answers.read(NO_MAX, b"d" * 16, DIALECTS[name].reading).max_tokens for name in NAMES}
    assert told["llamacpp"] == 4096
    assert told["aimlapi"] == 64_000


def test_only_some_servers_think_or_answer_in_json_because_a_request_says_so() -> None:
    def thinks(name: str) -> bool:
        return b"thinking_delta" in asked(name, body_of(**THINKING, stream=True)).raw

    def in_json(name: str) -> bool:
        return b'{}"' in asked(name, body_of(**JSON_FORM)).raw

    assert {name for name in NAMES if thinks(name)} == {"native", "aimlapi", "llamacpp", "ollama"}
    assert {name for name in NAMES if in_json(name)} == {"native", "openai", "vllm"}


# --- answers ---------------------------------------------------------------------------------------------------------


def test_messages_differ_in_ids_usage_and_what_stands_beside() -> None:
    plain = {name: asked(name, body_of(model=PLAIN_MODEL)).json for name in NAMES if name != "openai"}
    assert {name: found["id"].rpartition("_")[0] or found["id"].partition("-")[0] for name, found in plain.items()} == {
        "native": "msg",
        "aimlapi": "msg",
        "vllm": "chatcmpl",
        "llamacpp": "chatcmpl",
        "ollama": "msg",
    }
    assert {name: sorted(found["usage"]) for name, found in plain.items() if name not in {"native", "aimlapi"}} == {
        "vllm": ["input_tokens", "output_tokens"],
        "llamacpp": ["cache_read_input_tokens", "input_tokens", "output_tokens"],
        "ollama": ["input_tokens", "output_tokens"],
    }
    assert {name for name, found in plain.items() if "stop_sequence" not in found} == {"vllm", "ollama"}
    assert {name for name, found in plain.items() if "meta" in found} == {"aimlapi"}


@pytest.mark.parametrize(
    ("dialect", "reason", "word"),
    [
        ("native", "stop_sequence", "there"),
        ("aimlapi", "stop_sequence", "there"),
        ("vllm", "end_turn", None),
        ("llamacpp", "end_turn", "there"),
        ("ollama", "stop_sequence", "there"),
    ],
)
def test_a_word_that_ends_an_answer_is_told_in_several_ways(dialect: str, reason: str, word: str | None) -> None:
    found = asked(dialect, body_of(stop_sequences=["there"])).json
    assert (found["stop_reason"], found.get("stop_sequence")) == (reason, word)


def test_aimlapi_s_costs_are_those_of_its_own_example() -> None:
    answer = answers.Answer("ab" * 16, "claude-sonnet-4-5", "a", None, None, "end_turn", None, 27, 35, 0, NOTHING)
    assert reseller.meta(answer) == {"usage": {"credits_used": 1576, "usd_spent": 0.000788}}


def test_aimlapi_tells_costs_in_headers_of_plain_answers_and_in_the_last_chunk_of_streams() -> None:
    plain, streamed = asked("aimlapi", body_of()), asked("aimlapi", body_of(stream=True))
    spent = plain.json["meta"]["usage"]["usd_spent"]
    assert float(plain.headers["x-aimlapi-usd-spent"]) == spent > 0
    assert plain.headers["x-aimlapi-credits-used"] == str(plain.json["meta"]["usage"]["credits_used"])
    assert "x-inference-id" in plain.headers
    assert "x-inference-id" in streamed.headers
    assert "x-aimlapi-usd-spent" not in streamed.headers
    assert [event.get("type") for event in events_of(streamed)[-2:]] == ["message_stop", None]
    assert events_of(streamed)[-1] == {"meta": plain.json["meta"]}


def test_aimlapi_echoes_a_request_s_id_if_it_is_one() -> None:
    async def journey() -> None:
        async with serving(dialect="aimlapi") as client:
            for sent, echoed in (("row-17:a", "row-17:a"), ("no good", None), ("x" * 129, None)):
                got = await client.post(body_of(), {"x-client-request-id": sent})
                assert got.headers.get("x-client-request-id") == echoed

    run(journey())


# --- streams ---------------------------------------------------------------------------------------------------------


def streamed(dialect: str, **members: Any) -> list[Any]:
    return events_of(asked(dialect, body_of("hello " * 20, stream=True, **members)))


def test_streams_differ_in_pings_and_in_how_they_end() -> None:
    found = {name: streamed(name) for name in NAMES if name != "openai"}
    assert {name for name, events in found.items() if {"type": "ping"} in events} == {"native", "aimlapi", "ollama"}
    assert {name for name, events in found.items() if events[-1] == "[DONE]"} == {"vllm"}
    ends = {name: next(event for event in events if event["type"] == "message_delta") for name, events in found.items()}
    assert ends["llamacpp"]["usage"].keys() == {"output_tokens"}
    assert {name for name, end in ends.items() if "stop_sequence" not in end["delta"]} == {"vllm", "ollama"}
    assert "stop_reason" not in found["ollama"][0]["message"]
    assert found["native"][0]["message"]["stop_reason"] is None


def test_streams_differ_in_how_a_tool_is_called() -> None:
    def starts(name: str) -> list[Any]:
        events = [event for event in streamed(name, **{**CALLED, "messages": CALL_F}) if event != "[DONE]"]
        blocks = [event["content_block"] for event in events if event["type"] == "content_block_start"]
        deltas = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
        assert orjson.loads("".join(deltas)).keys() == {"a"}
        return [blocks[0].get("input"), len(deltas) == 1]

    assert starts("native") == [{}, False]
    assert starts("vllm") == [{}, False]
    assert starts("llamacpp") == [None, False]
    assert starts("ollama") == [{}, True]


def test_streams_differ_in_how_thinking_is_signed() -> None:
    def signs(name: str) -> tuple[bool, list[str]]:
        events = streamed(name, **THINKING)
        start = next(event["content_block"] for event in events if event["type"] == "content_block_start")
        kinds = [event["delta"]["type"] for event in events if event["type"] == "content_block_delta"]
        return "signature" in start, sorted({kind for kind in kinds if kind != "text_delta"})

    assert signs("native") == (True, ["signature_delta", "thinking_delta"])
    assert signs("llamacpp") == (False, ["signature_delta", "thinking_delta"])
    assert signs("ollama") == (False, ["thinking_delta"])


# --- errors ----------------------------------------------------------------------------------------------------------

NO_MODEL = body_of(messages=[])
EMPTY = "messages: at least one message is required"


def test_errors_come_in_each_server_s_envelope() -> None:
    found = {name: asked(name, NO_MODEL) for name in NAMES}
    assert {got.status for got in found.values()} == {400}
    native = {"type": "invalid_request_error", "message": EMPTY}
    assert found["native"].json.items() >= {"type": "error", "error": native}.items()
    assert found["native"].json["request_id"] == found["native"].headers["request-id"]
    assert found["ollama"].json["error"] == native
    assert found["vllm"].json == {"type": "error", "error": {"type": "BadRequestError", "message": EMPTY}}
    assert found["llamacpp"].json == {"error": {"code": 400, "message": EMPTY, "type": "invalid_request_error"}}
    assert found["openai"].json["error"].items() >= {"message": EMPTY, "type": "invalid_request_error"}.items()
    assert found["aimlapi"].json.keys() == {"message", "path", "requestId", "statusCode", "timestamp"}
    assert found["aimlapi"].json["message"] == f"Body validation error! {EMPTY}"
    assert found["aimlapi"].json["statusCode"] == 400


def test_errors_in_streams_come_in_each_server_s_form() -> None:
    written = {
        name: DIALECTS[name].write_error_event(DIALECTS[name].write_error(529, "Overloaded", "r")) for name in NAMES
    }
    assert {name for name, event in written.items() if event.startswith(b"event: error\n")} == set(NAMES) - {"openai"}
    inner = orjson.loads(written["llamacpp"].partition(b"data: ")[2])
    assert inner == {"code": 529, "message": "Overloaded", "type": "server_error"}
    assert b"request_id" not in written["native"]


# --- beside ----------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_for_free_by_those_who_count() -> None:
    async def journey(dialect: str, status: int) -> None:
        async with serving(dialect=dialect, key="k", rpm=1) as client:
            headers = {**VERSION, "authorization": "Bearer k"}
            path, body = "/v1/messages/count_tokens", {"model": PLAIN_MODEL, "messages": body_of("a" * 41)["messages"]}
            got = [await client.post(body, headers, path=path) for _ in range(3)]
            refused = await client.post(body, VERSION, path=path)
            assert [answer.status for answer in got] == [status] * 3
            assert await client.ledger() == []
            if status == 200:
                assert got[0].json == {"input_tokens": 11}
                assert refused.status == 401
                assert (await client.get("/debug/stats")).json["counted"] == 4

    for name in NAMES:
        run(journey(name, 404 if name in {"aimlapi", "openai"} else 200))


def test_a_count_takes_no_members_of_the_answer_where_strict() -> None:
    async def journey() -> None:
        async with serving() as client:
            path = "/v1/messages/count_tokens"
            refused = await client.post(body_of(), path=path)
            unserved = await client.post({**NO_MAX, "model": "claude-3-opus-20240229"}, path=path)
            newest = await client.post(
                {**NO_MAX, "temperature": 1}, {"anthropic-version": "2026-10-21"}, path="/messages/count_tokens"
            )
        assert refused.json["error"]["message"] == "max_tokens: Extra inputs are not permitted"
        assert newest.json["error"]["message"] == "temperature: Extra inputs are not permitted"
        assert unserved.status == 404

    run(journey())


def test_models_are_listed_in_pages_and_one_by_one() -> None:
    async def journey() -> None:
        async with serving(models=("claude-haiku-4-5", "claude-opus-5")) as client:
            page = (await client.get("/v1/models?limit=1")).json
            rest = (await client.get(f"/v1/models?after_id={page['last_id']}")).json
            one = await client.get("/v1/models/claude-opus-5")
            none = await client.get("/v1/models/claude-opus-4-8")
            wrong = await client.get("/v1/models?limit=x")
        assert ([model["id"] for model in page["data"]], page["has_more"]) == (["claude-haiku-4-5"], True)
        assert ([model["id"] for model in rest["data"]], rest["has_more"]) == (["claude-opus-5"], False)
        assert one.json["max_tokens"] == 128_000
        assert (none.status, wrong.status) == (404, 400)

    run(journey())


def test_only_aimlapi_lists_its_models_to_everybody() -> None:
    async def journey(dialect: str) -> int:
        async with serving(dialect=dialect, key="k") as client:
            return (await client.get("/v1/models")).status

    async def all_of_them() -> None:
        assert {name: await journey(name) for name in NAMES} == {
            name: 200 if name == "aimlapi" else 401 for name in NAMES
        }

    run(all_of_them())

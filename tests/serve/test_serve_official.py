"""The official clients talk to the simulator, and find what they expect of each server it stands in for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import orjson
import pytest
from serve_clients import run, serving

from pipeline.serve.faults import FaultWhen

NATIVE_SHAPED = ["native", "aimlapi", "vllm", "llamacpp", "ollama"]
COUNTING = ["native", "vllm", "llamacpp", "ollama"]
CALLING = ["native", "aimlapi", "vllm", "llamacpp"]
"""Where a forced tool is surely called."""

MODEL = "claude-haiku-4-5"
THINKING = {"type": "enabled", "budget_tokens": 1024}
ASKED: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 512,
    "messages": [{"role": "user", "content": "Wie warm ist es in Zürich, 68°F oder 🌍?"}],
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["city", "unit", "at"],
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "at": {"type": "string", "format": "date"},
    },
}
TOOL = {"name": "get_weather", "description": "Tell the weather.", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}


@asynccontextmanager
async def anthropic_at(dialect: str, **options: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with (
        serving(dialect=dialect, **options) as server,
        anthropic.AsyncAnthropic(base_url=server.base, api_key="k", max_retries=0) as client,
    ):
        yield client


@asynccontextmanager
async def openai_at(**options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serving(dialect="openai", **options) as server,
        openai.AsyncOpenAI(base_url=f"{server.base}/v1", api_key="k", max_retries=0) as client,
    ):
        yield client


def fits(found: Any) -> bool:
    return isinstance(found, Mapping) and found["unit"] in {"C", "F"} and len(found["at"]) == 10 and bool(found["city"])


def bare(block: Any) -> dict[str, Any]:
    """A block without the nulls that the client adds to it."""
    return {name: value for name, value in block.to_dict().items() if value is not None}


# --- anthropic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", NATIVE_SHAPED)
def test_anthropic_s_client_reads_the_same_answer_plain_and_streamed(dialect: str) -> None:
    async def journey() -> None:
        async with anthropic_at(dialect, key="k") as client:
            plain = await client.messages.create(**ASKED)
            async with client.messages.stream(**ASKED) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                streamed = await stream.get_final_message()
        (block,) = plain.content
        assert block.type == "text"
        assert block.text == text
        assert text.endswith("Zürich, 68°F oder 🌍?")
        assert (plain.role, plain.model, plain.stop_reason) == ("assistant", MODEL, "end_turn")
        assert plain.usage.input_tokens == 10
        assert plain.usage.output_tokens > 0
        assert (streamed.id, streamed.stop_reason) == (plain.id, plain.stop_reason)
        assert streamed.usage.output_tokens == plain.usage.output_tokens
        assert streamed.usage.input_tokens == plain.usage.input_tokens

    run(journey())


@pytest.mark.parametrize("dialect", CALLING)
def test_anthropic_s_client_is_called_for_a_tool_and_brings_its_result(dialect: str) -> None:
    async def journey() -> None:
        members = {**ASKED, "tools": [TOOL], "tool_choice": {"type": "tool", "name": "get_weather"}}
        async with anthropic_at(dialect) as client:
            plain = await client.messages.create(**members)
            (call,) = plain.content
            assert call.type == "tool_use"
            assert (plain.stop_reason, call.name, fits(call.input)) == ("tool_use", "get_weather", True)
            if dialect != "llamacpp":  # its start of a block has no input, which this client takes for granted
                async with client.messages.stream(**members) as stream:
                    streamed = await stream.get_final_message()
                assert list(map(bare, streamed.content)) == list(map(bare, plain.content))
            result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "20"}
            turns: Any = [
                *ASKED["messages"],
                {"role": "assistant", "content": [block.to_dict() for block in plain.content]},
                {"role": "user", "content": [result]},
            ]
            ended = await client.messages.create(**{**ASKED, "messages": turns, "tools": [TOOL]})
            assert (ended.stop_reason, [block.type for block in ended.content]) == ("end_turn", ["text"])

    run(journey())


@pytest.mark.parametrize("dialect", ["native", "aimlapi", "llamacpp", "ollama"])
def test_anthropic_s_client_reads_thinking_before_the_text(dialect: str) -> None:
    async def journey() -> None:
        members: Any = {**ASKED, "max_tokens": 4096, "thinking": THINKING}
        async with anthropic_at(dialect) as client:
            plain = await client.messages.create(**members)
            async with client.messages.stream(**members) as stream:
                streamed = await stream.get_final_message()
        assert [block.type for block in plain.content] == ["thinking", "text"]
        assert plain.content[0].type == "thinking"
        assert plain.content[0].thinking.startswith("The request begins")
        assert [block.type for block in streamed.content] == ["thinking", "text"]
        assert bare(streamed.content[1]) == bare(plain.content[1])
        if dialect == "native":
            assert bare(streamed.content[0]) == bare(plain.content[0])
            assert plain.usage.output_tokens_details is not None
            assert plain.usage.output_tokens_details.thinking_tokens == 24

    run(journey())


@pytest.mark.parametrize("dialect", ["native", "vllm"])
def test_anthropic_s_client_parses_structured_output(dialect: str) -> None:
    async def journey() -> None:
        config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
        async with anthropic_at(dialect) as client:
            answer = await client.messages.create(**ASKED, output_config=config)
        (block,) = answer.content
        assert block.type == "text"
        assert fits(orjson.loads(block.text))

    run(journey())


@pytest.mark.parametrize("dialect", COUNTING)
def test_anthropic_s_client_counts_tokens(dialect: str) -> None:
    async def journey() -> None:
        async with anthropic_at(dialect) as client:
            counted = await client.messages.count_tokens(model=MODEL, messages=ASKED["messages"])
            answered = await client.messages.create(**ASKED)
        assert counted.input_tokens == answered.usage.input_tokens

    run(journey())


def test_anthropic_s_client_lists_models() -> None:
    async def journey() -> None:
        async with anthropic_at("native") as client:
            listed = [model.id async for model in client.models.list(limit=5)]
            one = await client.models.retrieve(MODEL)
        assert len(listed) > 5
        assert MODEL in listed
        assert (one.id, one.max_tokens) == (MODEL, 64_000)

    run(journey())


def test_anthropic_s_client_reads_what_the_cache_wrote_and_gave() -> None:
    async def journey() -> None:
        system: Any = [{"type": "text", "text": "word " * 4000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
        async with anthropic_at("native") as client:
            first = (await client.messages.create(**ASKED, system=system)).usage
            second = (await client.messages.create(**ASKED, system=system)).usage
        assert (first.cache_creation_input_tokens, first.cache_read_input_tokens) == (5000, 0)
        assert first.cache_creation is not None
        assert first.cache_creation.ephemeral_1h_input_tokens == 5000
        assert (second.cache_creation_input_tokens, second.cache_read_input_tokens) == (0, 5000)
        assert first.input_tokens == second.input_tokens == 10

    run(journey())


ERRORS: list[tuple[str, type[anthropic.APIStatusError], str]] = [
    ("400", anthropic.BadRequestError, "invalid_request_error"),
    ("401", anthropic.AuthenticationError, "authentication_error"),
    ("403", anthropic.PermissionDeniedError, "permission_error"),
    ("404", anthropic.NotFoundError, "not_found_error"),
    ("429", anthropic.RateLimitError, "rate_limit_error"),
    ("spend-cap", anthropic.RateLimitError, "rate_limit_error"),
    ("500", anthropic.InternalServerError, "api_error"),
    ("529", anthropic.InternalServerError, "overloaded_error"),
]


@pytest.mark.parametrize("dialect", NATIVE_SHAPED)
def test_anthropic_s_client_raises_the_error_of_the_status(dialect: str) -> None:
    async def journey() -> None:
        whens = tuple(FaultWhen(f"<{kind}>", kind) for kind, _, _ in ERRORS)
        async with anthropic_at(dialect, fault_whens=whens) as client:
            for kind, error, name in ERRORS:
                members = {**ASKED, "messages": [{"role": "user", "content": f"a <{kind}>"}]}
                with pytest.raises(error) as raised:
                    await client.messages.create(**members)
                if dialect == "native":
                    assert raised.value.type == name
                    assert raised.value.request_id is not None

    run(journey())


def test_anthropic_s_client_obeys_what_a_refusal_says_of_sending_again() -> None:
    async def journey() -> None:
        whens = (
            FaultWhen("<twice>", "529,429-ms,ok"),
            FaultWhen("<never>", "529-no-retry,ok"),
            FaultWhen("<always>", "400-retry,ok"),
        )
        async with (
            serving(fault_whens=whens) as server,
            anthropic.AsyncAnthropic(base_url=server.base, api_key="k", max_retries=2) as client,
        ):
            for kind in ("<twice>", "<always>"):
                members = {**ASKED, "messages": [{"role": "user", "content": kind}]}
                assert (await client.messages.create(**members)).stop_reason == "end_turn"
            with pytest.raises(anthropic.InternalServerError):
                await client.messages.create(**{**ASKED, "messages": [{"role": "user", "content": "<never>"}]})
            statuses = [(line["text_head"], line["status"]) for line in await server.ledger()]
        assert statuses == [
            *(("<twice>", 529), ("<twice>", 429), ("<twice>", 200)),
            *(("<always>", 400), ("<always>", 200)),
            ("<never>", 529),
        ]

    run(journey())


def test_anthropic_s_client_takes_pauses_and_refusals_as_answers_and_an_error_in_a_stream_as_one() -> None:
    async def journey() -> None:
        whens = tuple(FaultWhen(f"<{kind}>", kind) for kind in ("pause_turn", "refusal", "error-event"))
        async with anthropic_at("native", fault_whens=whens) as client:
            turns: list[Any] = [{"role": "user", "content": "<pause_turn>"}]
            paused = await client.messages.create(**{**ASKED, "messages": turns})
            turns.append({"role": "assistant", "content": [block.to_dict() for block in paused.content]})
            ended = await client.messages.create(**{**ASKED, "messages": turns})
            refused = await client.messages.create(**{**ASKED, "messages": [{"role": "user", "content": "<refusal>"}]})
            members = {**ASKED, "messages": [{"role": "user", "content": "<error-event>"}]}
            with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
                async with client.messages.stream(**members) as stream:
                    await stream.get_final_message()
        assert (paused.stop_reason, paused.content[-1].type) == ("pause_turn", "server_tool_use")
        assert (ended.stop_reason, ended.content[-1].type) == ("end_turn", "text")
        assert (refused.stop_reason, refused.content) == ("refusal", [])
        assert refused.stop_details is not None

    run(journey())


# --- openai ----------------------------------------------------------------------------------------------------------

CHAT: dict[str, Any] = {"model": "gpt-oss", "messages": ASKED["messages"]}


def test_openai_s_client_reads_the_same_answer_plain_and_streamed() -> None:
    async def journey() -> None:
        async with openai_at(key="k") as client:
            plain = await client.chat.completions.create(**CHAT)
            stream = await client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
            chunks = [chunk async for chunk in stream]
        (choice,) = plain.choices
        said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(said) == choice.message.content
        assert choice.finish_reason == "stop"
        assert chunks[-1].usage == plain.usage
        assert plain.usage is not None
        assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens

    run(journey())


def test_openai_s_client_is_called_for_a_tool_and_brings_its_result() -> None:
    async def journey() -> None:
        members: Any = {**CHAT, "tools": [FUNCTION], "tool_choice": "required"}
        async with openai_at() as client:
            plain = (await client.chat.completions.create(**members)).choices[0]
            stream = await client.chat.completions.create(**members, stream=True)
            deltas = [chunk.choices[0].delta async for chunk in stream]
            assert plain.message.tool_calls is not None
            (call,) = plain.message.tool_calls
            assert call.type == "function"
            assert (plain.finish_reason, plain.message.content, call.function.name) == (
                "tool_calls",
                None,
                "get_weather",
            )
            assert fits(orjson.loads(call.function.arguments))
            pieces = [piece.function.arguments or "" for d in deltas for piece in d.tool_calls or [] if piece.function]
            assert "".join(pieces) == call.function.arguments
            turns: Any = [
                *CHAT["messages"],
                plain.message.to_dict(),
                {"role": "tool", "tool_call_id": call.id, "content": "20"},
            ]
            ended = await client.chat.completions.create(model="gpt-oss", messages=turns, tools=members["tools"])
            assert (ended.choices[0].finish_reason, ended.choices[0].message.tool_calls) == ("stop", None)

    run(journey())


def test_openai_s_client_parses_structured_output() -> None:
    async def journey() -> None:
        form: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
        async with openai_at() as client:
            answer = await client.chat.completions.create(**CHAT, response_format=form)
        assert fits(orjson.loads(answer.choices[0].message.content or ""))

    run(journey())


def test_openai_s_client_raises_the_error_of_the_status() -> None:
    async def journey() -> None:
        errors: dict[str, type[openai.APIStatusError]] = {
            "400": openai.BadRequestError,
            "401": openai.AuthenticationError,
            "404": openai.NotFoundError,
            "429": openai.RateLimitError,
            "500": openai.InternalServerError,
        }
        whens = tuple(FaultWhen(f"<{kind}>", kind) for kind in errors)
        async with openai_at(fault_whens=whens) as client:
            for kind, error in errors.items():
                with pytest.raises(error):
                    await client.chat.completions.create(
                        model="gpt-oss", messages=[{"role": "user", "content": f"<{kind}>"}]
                    )

    run(journey())

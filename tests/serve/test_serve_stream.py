"""Streams of the simulator: what they say together is the plain answer, and they break off as they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_clients import VERSION, Client, body_of, run, serving

from pipeline.errors import Busy
from pipeline.records import Request, Response
from pipeline.serve import answers
from pipeline.serve.dialects import DIALECTS, NATIVE, OPENAI, Dialect
from pipeline.serve.events import in_writes
from pipeline.serve.simulator import Fault, FaultWhen
from pipeline.serve.validation import ApiError, check
from pipeline.wire import Endpoint, Stream, envelope

MAX_EVENT_BYTES = 1 << 20
FULL_DISK = Path("/dev/full")
SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}
MEMBERS: list[dict[str, Any]] = [
    {},
    {"tools": [{"name": "f", "input_schema": SCHEMA}], "tool_choice": {"type": "any"}},
    {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    {"thinking": {"type": "enabled", "budget_tokens": 1024}},
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=120)


@dataclass(frozen=True)
class JobSays:
    url: str
    auth: str = "x-api-key"
    version: str | None = "2023-06-01"
    headers: Mapping[str, str] = field(default_factory=dict)


async def ask(client: Client, text: str, **fields: Any) -> Response:
    """Ask as the program does."""
    members = {"model": "claude-sonnet-4-5", "max_tokens": 512, **fields}
    prompt = b'"messages":%b' % orjson.dumps([{"role": "user", "content": text}])
    job = JobSays(f"{client.base}/v1/messages")
    async with Endpoint(job, envelope(members), api_key=None, timeout_secs=5, connections=1) as endpoint:
        return await endpoint.send(Request(b"k" * 16, "row", prompt))


def events_of(raw: bytes) -> list[tuple[str, Any]]:
    """The name and the data of each event."""
    assert raw.endswith(b"\n\n")
    found = []
    for lines in raw.decode().removesuffix("\n\n").split("\n\n"):
        name, _, data = lines.rpartition("data: ")
        found.append((name.removeprefix("event: ").strip(), data if data == "[DONE]" else orjson.loads(data)))
    return found


def read_all(pieces: list[bytes]) -> dict[str, Any]:
    stream = Stream(MAX_EVENT_BYTES)
    for piece in pieces:
        stream.feed(piece)
    assert stream.complete
    return stream.body()


def answer_to(text: str, **members: Any) -> answers.Answer:
    body = body_of(text, **members)
    return answers.answer(answers.read(body, answers.digest_of(body)))


# --- the same answer -------------------------------------------------------------------------------------------------


@given(
    text=TEXTS,
    model=st.sampled_from(["claude-sonnet-4-5", "claude-opus-5-5"]),
    max_tokens=st.integers(0, 60),
    stops=st.lists(st.sampled_from(["a", " ", "answer"]), max_size=2),
    dialect=st.sampled_from(list(DIALECTS.values())),
    size=st.integers(1, 400),
    members=st.sampled_from(MEMBERS),
)
def test_a_stream_s_pieces_make_the_plain_answer(
    text: str,
    model: str,
    max_tokens: int,
    stops: list[str],
    dialect: Dialect,
    size: int,
    members: dict[str, Any],
) -> None:
    answer = answer_to(text, model=model, max_tokens=max_tokens, stop_sequences=stops, **members)
    events = dialect.write_stream(answer, True)
    written = b"".join(events.written)
    assert read_all([written[k : k + size] for k in range(0, len(written), size)]) == dialect.write_answer(answer)


@given(text=TEXTS, max_tokens=st.integers(0, 60), dialect=st.sampled_from(list(DIALECTS.values())))
def test_a_stream_is_whole_with_the_event_after_whole_and_never_before(
    text: str, max_tokens: int, dialect: Dialect
) -> None:
    events = dialect.write_stream(answer_to(text, max_tokens=max_tokens), True)
    stream = Stream(MAX_EVENT_BYTES)
    stream.feed(b"".join(events.written[: events.whole]))
    assert not stream.complete
    stream.feed(events.written[events.whole])
    assert stream.complete


@given(text=TEXTS, dialect=st.sampled_from(list(DIALECTS.values())), digest=st.binary(min_size=16, max_size=16))
def test_a_cut_comes_after_the_first_delta_and_before_the_whole(text: str, dialect: Dialect, digest: bytes) -> None:
    events = dialect.write_stream(answer_to(text), True)
    assert 0 < events.begun <= events.cut_after(digest) <= events.whole < len(events.written)


@given(TEXTS)
def test_the_pieces_of_a_text_are_several_and_its_own(text: str) -> None:
    answer = answer_to(text)
    assert "".join(answer.pieces) == answer.text
    assert all(answer.pieces)
    assert answer.pieces == answer_to(text, stream=True).pieces


def test_writes_part_the_first_character_that_has_several_bytes() -> None:
    assert in_writes("data: Zürich".encode()) == (b"data: Z\xc3", b"\xbcrich")
    assert in_writes(b"data") == (b"da", b"ta")


@pytest.mark.parametrize("dialect", ["native", "openai"])
@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-opus-5-5"])
@pytest.mark.parametrize("max_tokens", [512, 8])
def test_the_program_reads_a_streamed_answer_as_it_reads_the_plain_one(
    dialect: str, model: str, max_tokens: int
) -> None:
    async def journey() -> None:
        text = "Wie warm ist es in Zürich, 68°F oder 🌍? " * 2
        fields = {"model": model, "max_tokens": max_tokens}
        with_usage = {"stream_options": {"include_usage": True}} if dialect == "openai" else {}
        async with serving(dialect=dialect, latency_ms=2) as client:
            plain = await ask(client, text, **fields)
            streamed = await ask(client, text, stream=True, **with_usage, **fields)
            ledger = await client.ledger()
        assert plain.usage is not None
        assert replace(streamed, raw=b"", request_id=None) == replace(plain, raw=b"", request_id=None)
        assert orjson.loads(streamed.raw) == orjson.loads(plain.raw)
        same = ("status", "fault", "prompt_digest", "text_head", "model", "usage", "sent")
        assert [ledger[0][name] for name in same] == [ledger[1][name] for name in same]
        assert (ledger[1]["status"], ledger[1]["fault"], ledger[1]["sent"]) == (200, None, True)

    run(journey())


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_native_events_come_in_the_api_s_order() -> None:
    async def journey() -> None:
        async with serving() as client:
            got = await client.post(body_of("hello " * 20, model="claude-opus-5-5", stream=True))
            plain = (await client.post(body_of("hello " * 20, model="claude-opus-5-5"))).json
        assert got.headers["content-type"].startswith("text/event-stream")
        events = events_of(got.raw)
        assert all(name == data["type"] for name, data in events)
        names = [name for name, _ in events]
        deltas = names.count("content_block_delta") - 1
        assert deltas > 1
        assert names == [
            "message_start",
            "ping",
            *("content_block_start", "content_block_delta", "content_block_stop"),
            *("content_block_start", *["content_block_delta"] * deltas, "content_block_stop"),
            *("message_delta", "message_stop"),
        ]
        message = events[0][1]["message"]
        assert (message["id"], message["content"], message["stop_reason"]) == (plain["id"], [], None)
        assert message["usage"]["input_tokens"] == plain["usage"]["input_tokens"]
        assert message["usage"]["output_tokens"] == 1 < plain["usage"]["output_tokens"]
        assert events[2][1]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
        assert events[3][1]["delta"]["type"] == "signature_delta"
        assert events[5][1] == {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "text", "text": ""},
        }
        assert events[-2][1]["delta"]["stop_reason"] == "end_turn"
        assert events[-2][1]["usage"]["output_tokens"] == plain["usage"]["output_tokens"]

    run(journey())


@pytest.mark.parametrize("include_usage", [True, False, None])
def test_openai_like_chunks_end_with_done_and_tell_usage_only_when_asked(include_usage: bool | None) -> None:
    async def journey() -> None:
        options = {} if include_usage is None else {"stream_options": {"include_usage": include_usage}}
        async with serving(dialect="openai") as client:
            got = await client.post(body_of("hello " * 20, stream=True, **options), headers={})
            plain = (await client.post(body_of("hello " * 20), headers={})).json
        assert b"event:" not in got.raw
        *chunks, last = [data for _, data in events_of(got.raw)]
        assert last == "[DONE]"
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert {chunk["id"] for chunk in chunks} == {plain["id"]}
        told = [chunk for chunk in chunks if chunk["choices"] == []]
        assert [chunk["usage"] for chunk in told] == ([plain["usage"]] if include_usage else [])
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
        assert choices[0]["delta"]["role"] == "assistant"
        assert (
            "".join(choice["delta"].get("content", "") for choice in choices)
            == (plain["choices"][0]["message"]["content"])
        )
        assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
        assert all(("usage" in chunk) is bool(include_usage) for chunk in chunks)

    run(journey())


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"stream_options": {}}, "The 'stream_options' parameter is only allowed when 'stream' is enabled."),
        ({"stream": True, "stream_options": 1}, "stream_options: Input should be a valid dictionary"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage: Input should be a valid boolean",
        ),
        ({"stream": True, "stream_options": {"foo": True}}, "stream_options.foo: Extra inputs are not permitted"),
    ],
)
def test_options_of_a_stream_are_checked(members: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as refused:
        check(body_of(**members), None, OPENAI.rules)
    assert (refused.value.status, refused.value.message) == (400, message)


# --- faults ----------------------------------------------------------------------------------------------------------

BROKEN = ("cut", "reset", "stall", "error-event")


async def first_bytes(client: Client, text: str) -> bytes:
    """What comes of a stream that stalls: read up to where nothing more does, then left."""
    body = orjson.dumps(body_of(text, stream=True))
    headers = {"content-type": "application/json", **VERSION}
    async with client.session.post(f"{client.base}/messages", data=body, headers=headers) as response:
        raw = await response.content.readuntil(b"content_block_delta")
        await client.first_entries()
        return raw


@pytest.mark.parametrize("dialect", ["native", "openai"])
def test_a_broken_stream_is_no_answer_to_the_program_nor_to_the_ledger(dialect: str) -> None:
    async def journey() -> None:
        whens = tuple(FaultWhen(f"<{kind}>", kind) for kind in BROKEN if kind != "stall")
        async with serving(dialect=dialect, fault_whens=whens) as client:
            for when in whens:
                for turn in range(8):
                    with pytest.raises(Busy) as busy:
                        await ask(client, f"{turn} {when.text}", stream=True)
                    assert busy.value.maybe_billed
            await ask(client, "fine", stream=True)
            ledger = await client.ledger()
        assert [line["text_head"] for line in ledger if line["status"] == 200 and line["fault"] is None] == ["fine"]
        broken = [line for line in ledger if line["fault"] is not None]
        assert len(broken) == 8 * len(whens)
        assert all((line["status"], line["usage"]) == (200, None) for line in broken)
        assert all(line["sent"] is (line["fault"] != "reset") for line in broken)

    run(journey())


def test_cuts_differ_by_request_and_can_leave_out_the_last_word_alone() -> None:
    async def journey() -> None:
        async with serving(faults=(Fault("cut", 1),)) as client:
            ends = [events_of((await client.post(body_of(f"row {k}", stream=True))).raw)[-1][0] for k in range(40)]
            again = [events_of((await client.post(body_of(f"row {k}", stream=True))).raw)[-1][0] for k in range(40)]
        assert ends == again
        assert set(ends) == {"content_block_delta", "content_block_stop", "message_delta"}

    run(journey())


def test_an_error_event_follows_the_first_delta_and_ends_the_stream() -> None:
    async def journey() -> None:
        async with serving(fault_whens=(FaultWhen("poison", "error-event"),)) as client:
            streamed = await client.post(body_of("poison", stream=True))
            plain = await client.post(body_of("poison"))
        names = [name for name, _ in events_of(streamed.raw)]
        assert names == ["message_start", "ping", "content_block_start", "content_block_delta", "error"]
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        assert events_of(streamed.raw)[-1][1] == error
        assert (plain.status, plain.json["error"]) == (529, error["error"])
        assert events_of(OPENAI.write_error_event(OPENAI.write_error(529, "Overloaded", "")))[0][1]["error"][
            "type"
        ] == ("overloaded_error")

    run(journey())


def test_a_stream_that_stalls_has_begun_is_in_the_ledger_and_holds_no_shutdown() -> None:
    async def journey() -> None:
        async with serving(fault_whens=(FaultWhen("poison", "stall"),)) as client:
            assert b"message_start" in await asyncio.wait_for(first_bytes(client, "poison"), 10)
            hanging = asyncio.create_task(client.post(body_of("more poison", stream=True)))
            await client.until_in_flight()
            ledger = await client.ledger()
            assert (ledger[0]["fault"], ledger[0]["status"], ledger[0]["sent"]) == ("stall", 200, False)
        with pytest.raises(aiohttp.ClientError):
            await hanging

    run(journey())


def test_errors_and_pages_come_before_any_event() -> None:
    async def journey() -> None:
        whens = tuple(FaultWhen(f"<{kind}>", kind) for kind in ("400", "429", "500", "html"))
        async with serving(fault_whens=whens) as client:
            got = [await client.post(body_of(when.text, stream=True)) for when in whens]
            refused = await client.post(body_of(" ", stream=True))
        assert [answer.status for answer in [*got, refused]] == [400, 429, 500, 200, 400]
        assert [answer.headers["content-type"] for answer in got] == ["application/json"] * 3 + ["text/html"]
        assert refused.json["error"]["type"] == "invalid_request_error"

    run(journey())


def test_an_empty_stream_is_an_answer_without_text() -> None:
    async def journey() -> None:
        async with serving(faults=(Fault("empty", 1),)) as client:
            got = await client.post(body_of(stream=True))
            (line,) = await client.ledger()
        assert read_all([got.raw])["content"] == []
        assert line["usage"] == {"input_tokens": 3, "output_tokens": 1}

    run(journey())


def test_a_client_that_leaves_a_stream_s_wait_is_noted_as_not_sent() -> None:
    async def journey() -> None:
        async with serving(latency_ms=300) as client:
            leaving = asyncio.create_task(client.post(body_of("leaving", stream=True)))
            await client.until_in_flight()
            leaving.cancel()
            assert [(line["status"], line["sent"]) for line in await client.first_entries()] == [(200, False)]

    run(journey())


@pytest.mark.skipif(not FULL_DISK.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("dialect", ["native", "openai"])
def test_no_stream_becomes_whole_before_its_line_is_in_the_ledger(dialect: str) -> None:
    async def journey() -> None:
        async with serving(dialect=dialect, ledger=FULL_DISK) as client:
            with pytest.raises(Busy) as busy:
                await ask(client, "hello", stream=True)
            assert busy.value.maybe_billed

    run(journey())


def test_streams_and_plain_answers_share_their_turns_of_the_faults() -> None:
    async def rehearse(*, stream: bool) -> list[int]:
        async with serving(faults=(Fault("529", 0.5),), seed=7) as client:
            return [(await client.post(body_of(f"row {k}", stream=stream))).status for k in range(20) for _ in "12"]

    async def journey() -> None:
        assert await rehearse(stream=True) == await rehearse(stream=False)

    run(journey())


def test_dialects_differ_in_how_a_stream_is_named() -> None:
    answer = answer_to("hello")
    assert all(event.startswith(b"event: ") for event in NATIVE.write_stream(answer, False).written)
    assert all(event.startswith(b"data: ") for event in OPENAI.write_stream(answer, False).written)

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Busy, PipelineError, Refused, RunRejected
from pipeline.records import Response, Usage
from pipeline.wire import Stream, decode, read_stream

CAP = 1_000_000
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


def read(pieces: Iterable[bytes], headers: dict[str, str] | None = None) -> Response:
    stream = Stream(CAP)
    for piece in pieces:
        stream.feed(piece)
    return read_stream(200, headers or {}, stream)


def sse(*events: Any, named: bool = True, end: str = "\n") -> bytes:
    """The events as a server writes them; text stands for itself."""
    lines: list[str] = []
    for event in events:
        if isinstance(event, str):
            lines += [event, ""]
            continue
        if named and "type" in event:
            lines.append(f"event: {event['type']}")
        lines += [f"data: {json.dumps(event, ensure_ascii=False)}", ""]
    return "".join(line + end for line in lines).encode()


def body_of(*events: Any, **how: Any) -> Any:
    return orjson.loads(read([sse(*events, **how)]).raw)


def failing(*events: Any) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        read([sse(*events)])
    assert str(caught.value).isprintable()
    return caught.value


def cut_into(said: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(said[at : at + size])
        at += size
    return [*pieces, said[at:]]


# Native

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 36, "output_tokens": 1},
    },
}
STOP = {"type": "message_stop"}
PING = {"type": "ping"}


def begins(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def adds(index: int, kind: str, **piece: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **piece}}


def stops(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ends(reason: str | None = "end_turn", usage: Any = None, **delta: Any) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None, **delta},
        "usage": {"output_tokens": 8} if usage is None else usage,
    }


HELLO = [
    begins(0, type="text", text=""),
    adds(0, "text_delta", text="Par"),
    adds(0, "text_delta", text="is."),
    stops(0),
]
WHOLE = [START, *HELLO, ends(), STOP]
MESSAGE = START["message"] | {  # type: ignore[operator]  # a dict, whatever the table says of its values
    "content": [{"type": "text", "text": "Paris."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 36, "output_tokens": 8},
}


def test_a_stream_reads_as_the_plain_answer() -> None:
    response = read([sse(*WHOLE)], {"Request-Id": "req_1"})
    assert orjson.loads(response.raw) == MESSAGE
    assert response == Response(response.raw, "Paris.", "end_turn", "claude-sonnet-4-5", Usage(36, 8), "req_1")


def with_blocks(*events: Any) -> Any:
    return body_of(START, *events, ends(), STOP)["content"]


@pytest.mark.parametrize(
    ("events", "block"),
    [
        # thinking, its signature at the end; hidden thinking has a signature alone
        (
            [
                begins(0, type="thinking", thinking="", signature=""),
                adds(0, "thinking_delta", thinking="h"),
                adds(0, "thinking_delta", thinking="m"),
                adds(0, "signature_delta", signature="Ek=="),
                stops(0),
            ],
            {"type": "thinking", "thinking": "hm", "signature": "Ek=="},
        ),
        (
            [
                begins(0, type="thinking", thinking="", signature=""),
                adds(0, "signature_delta", signature="E"),
                stops(0),
            ],
            {"type": "thinking", "thinking": "", "signature": "E"},
        ),
        # llama.cpp: no signature at the start; Ollama: none at all
        (
            [
                begins(0, type="thinking", thinking=""),
                adds(0, "thinking_delta", thinking="hm"),
                adds(0, "signature_delta", signature=""),
            ],
            {"type": "thinking", "thinking": "hm", "signature": ""},
        ),
        (
            [begins(0, type="thinking", thinking=""), adds(0, "thinking_delta", thinking="hm")],
            {"type": "thinking", "thinking": "hm"},
        ),
        # tool calls: in pieces, in one, empty, whole at the start, without input at the start, no JSON
        (
            [
                begins(0, type="tool_use", id="t", name="n", input={}),
                adds(0, "input_json_delta", partial_json=""),
                adds(0, "input_json_delta", partial_json='{"loc'),
                adds(0, "input_json_delta", partial_json='ation": "SF"}'),
                stops(0),
            ],
            {"type": "tool_use", "id": "t", "name": "n", "input": {"location": "SF"}},
        ),
        (
            [
                begins(0, type="tool_use", id="t", name="n", input={}),
                adds(0, "input_json_delta", partial_json='{"a":1}'),
            ],
            {"type": "tool_use", "id": "t", "name": "n", "input": {"a": 1}},
        ),
        (
            [begins(0, type="tool_use", id="t", name="n", input={}), adds(0, "input_json_delta", partial_json="")],
            {"type": "tool_use", "id": "t", "name": "n", "input": {}},
        ),
        (
            [begins(0, type="tool_use", id="t", name="n", input={"a": 1}), stops(0)],
            {"type": "tool_use", "id": "t", "name": "n", "input": {"a": 1}},
        ),
        (
            [
                begins(0, type="tool_use", id="t", name="n", input={"a": 1}),
                adds(0, "input_json_delta", partial_json=""),
            ],
            {"type": "tool_use", "id": "t", "name": "n", "input": {"a": 1}},
        ),
        (
            [begins(0, type="tool_use", id="t", name="n"), stops(0)],
            {"type": "tool_use", "id": "t", "name": "n", "input": {}},
        ),
        (
            [begins(0, type="tool_use", id="t", name="n", input=None), adds(0, "input_json_delta", partial_json=" ")],
            {"type": "tool_use", "id": "t", "name": "n", "input": {}},
        ),
        (
            [begins(0, type="tool_use", id="t", name="n"), adds(0, "input_json_delta", partial_json='{"a": [1,')],
            {"type": "tool_use", "id": "t", "name": "n", "input": '{"a": [1,'},
        ),
        (
            [
                begins(0, type="server_tool_use", id="s", name="web_search"),
                adds(0, "input_json_delta", partial_json="{}"),
            ],
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        ),
        # citations, with and without a list to begin with
        (
            [
                begins(0, type="text", text="", citations=None),
                adds(0, "citations_delta", citation={"cited_text": "x"}),
                adds(0, "text_delta", text="a"),
                adds(0, "citations_delta", citation={"cited_text": "y"}),
            ],
            {"type": "text", "text": "a", "citations": [{"cited_text": "x"}, {"cited_text": "y"}]},
        ),
        (
            [begins(0, type="text", text="", citations=[1]), adds(0, "citations_delta", citation=2)],
            {"type": "text", "text": "", "citations": [1, 2]},
        ),
        # what is new: kept if it is a block, passed over if it is a delta or an event
        ([begins(0, type="fallback", model="m"), stops(0)], {"type": "fallback", "model": "m"}),
        (
            [
                begins(0, type="text", text="a"),
                adds(0, "new_delta", text="b"),
                {"type": "new_event", "index": 0},
                "data: 7",
            ],
            {"type": "text", "text": "a"},
        ),
        # text that no block was begun for, or that says no index
        ([adds(0, "text_delta", text="a"), adds(0, "text_delta", text="b")], {"type": "text", "text": "ab"}),
        (
            [{"type": "content_block_start", "content_block": {"type": "text"}}, adds(None, "text_delta", text="a")],  # type: ignore[arg-type]  # a server that leaves it out
            {"type": "text", "text": "a"},
        ),
    ],
)
def test_blocks_are_put_together(events: list[Any], block: Any) -> None:
    assert with_blocks(*events) == [block]


def test_blocks_may_grow_side_by_side_and_an_index_may_come_again() -> None:
    content = with_blocks(
        begins(0, type="text", text=""),
        begins(1, type="text", text=""),
        adds(1, "text_delta", text="b"),
        adds(0, "text_delta", text="a"),
        stops(0),
        begins(0, type="text", text=""),
        adds(0, "text_delta", text="c"),
    )
    assert [block["text"] for block in content] == ["a", "b", "c"]


def test_a_tool_delta_without_its_block_is_passed_over() -> None:
    assert with_blocks(adds(3, "input_json_delta", partial_json="{}")) == []


@pytest.mark.parametrize(
    ("first", "later", "usage"),
    [
        ({"input_tokens": 36, "output_tokens": 1}, [{"output_tokens": 8}], Usage(36, 8)),
        ({"input_tokens": 36, "output_tokens": 5}, [{"output_tokens": 6}, {"output_tokens": 8}], Usage(36, 8)),
        # LiteLLM begins with zero, Ollama with an estimate
        ({"input_tokens": 0, "output_tokens": 0}, [{"input_tokens": 36, "output_tokens": 8}], Usage(36, 8)),
        (
            {"input_tokens": 36, "output_tokens": 1, "cache_read_input_tokens": 7},
            [{"input_tokens": None, "output_tokens": 8, "cache_creation_input_tokens": 3}],
            Usage(36, 8, 3, 0, 7),
        ),
        (None, [{"input_tokens": 36, "output_tokens": 8}], Usage(36, 8)),
        ({"input_tokens": 36, "output_tokens": 8}, ["none"], Usage(36, 8)),
        ({"input_tokens": 36}, ["none"], None),
    ],
)
def test_usage_is_overlaid_and_never_added(first: Any, later: list[Any], usage: Usage | None) -> None:
    start = {"type": "message_start", "message": {"content": [], "usage": first}}
    deltas = [ends("end_turn" if nth == 0 else None, each) for nth, each in enumerate(later)]
    response = read([sse(start, *HELLO, *deltas, STOP)])
    assert (response.usage, response.stop_reason, response.text) == (usage, "end_turn", "Paris.")


def test_all_that_the_end_says_is_kept() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": None}
    body = body_of(START, ends("refusal", stop_sequence="X", stop_details=details, container={"id": "c"}), STOP)
    assert body["stop_reason"] == "refusal"
    assert (body["stop_sequence"], body["stop_details"], body["container"]) == ("X", details, {"id": "c"})
    assert body["content"] == []


def test_the_end_cannot_change_what_the_message_is() -> None:
    body = body_of(START, *HELLO, ends(type="delta", content="other"), STOP)
    assert (body["type"], body["usage"], body["content"]) == ("message", MESSAGE["usage"], MESSAGE["content"])


def test_a_message_that_begins_again_drops_what_came_before() -> None:
    assert read([sse(START, *HELLO, START, *HELLO, ends(), STOP)]).text == "Paris."


QUIRKS: dict[str, list[Any]] = {
    "pings anywhere": [PING, START, PING, HELLO[0], PING, *HELLO[1:], PING, ends(), PING, STOP, PING],
    "pings that are no JSON": ["event: ping\ndata: now", *WHOLE, "event: ping\ndata:"],
    "comments": [": keep-alive", START, ":", *HELLO, ends(), STOP],
    "vLLM's last word": [*WHOLE, "data: [DONE]"],
    "a last word too early": [START, "data: [DONE]", *HELLO, ends(), STOP],
    "no stop_sequence in the delta": [
        START,
        *HELLO,
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 8}},
        STOP,
    ],
    "no blocks stopped": [START, *HELLO[:3], ends(), STOP],
    "unknown events": [START, {"type": "content_block_pause"}, *HELLO, ends(), {"type": "telemetry", "x": 1}, STOP],
    "an error after the end": [*WHOLE, {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}],
    "noise after the end": [*WHOLE, "data: {{{", adds(0, "text_delta", text="more")],
}


@pytest.mark.parametrize("events", QUIRKS.values(), ids=QUIRKS)
def test_quirks_of_servers_change_nothing(events: list[Any]) -> None:
    assert body_of(*events) == MESSAGE


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("named", [True, False])
def test_names_of_events_and_kinds_of_line_ends_do_not_matter(end: str, named: bool) -> None:
    assert body_of(*WHOLE, end=end, named=named) == MESSAGE


def test_the_name_of_an_event_does_where_its_data_have_no_type() -> None:
    untyped = [(event["type"], {k: v for k, v in event.items() if k != "type"}) for event in WHOLE]
    assert body_of(*(f"event: {name}\ndata: {json.dumps(data)}" for name, data in untyped)) == MESSAGE


@pytest.mark.parametrize("place", [1, len(WHOLE) - 1, len(WHOLE)])
def test_what_aimlapi_says_of_the_cost_is_read_wherever_it_comes(place: int) -> None:
    meta = {"meta": {"usage": {"credits_used": 1576, "usd_spent": 0.000788}}}
    response = read([sse(*WHOLE[:place], meta, *WHOLE[place:])])
    assert (response.text, response.reported_nanos) == ("Paris.", 788_000)


def test_half_a_character_in_each_of_two_events_makes_one() -> None:
    halves = [
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\ud83d"}}',
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\uDE00 \\ud83d"}}',
    ]
    assert with_blocks(HELLO[0], *halves)[0]["text"] == "a\U0001f600 \ufffd"


def test_half_a_character_in_a_tools_input_makes_one() -> None:
    halves = [
        f'data: {{"type":"content_block_delta","delta":{{"type":"input_json_delta","partial_json":"{half}"}}}}'
        for half in ('[\\"\\ud83d', '\\ude00\\"]')
    ]
    assert with_blocks(begins(0, type="tool_use", id="t", name="n"), *halves)[0]["input"] == ["\U0001f600"]


# Chunks

HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "gpt"}


def chunk(delta: Any = None, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return HEAD | {"choices": [{"index": index, "delta": delta or {}, "finish_reason": finish}]} | more


COUNTED = HEAD | {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 15, "total_tokens": 25}}
DONE = "data: [DONE]"
CHUNKS = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Par"}), chunk({"content": "is."})]
COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "created": 7,
    "model": "gpt",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 15, "total_tokens": 25},
}


def test_chunks_read_as_the_plain_answer() -> None:
    response = read([sse(*CHUNKS, chunk(finish="stop"), COUNTED, DONE)])
    assert orjson.loads(response.raw) == COMPLETION
    assert response == Response(response.raw, "Paris.", "end_turn", "gpt", Usage(10, 15))


CHUNK_QUIRKS: dict[str, list[Any]] = {
    "no last word": [*CHUNKS, chunk(finish="stop"), COUNTED],
    "usage with the last piece": [*CHUNKS, chunk(finish="stop", usage=COUNTED["usage"]), DONE],
    "usage in every chunk": [
        chunk({"content": "Paris."}, usage={"prompt_tokens": 10}),
        chunk({}, "stop"),
        COUNTED,
        DONE,
    ],
    "an empty first chunk": [
        HEAD | {"id": "", "model": "", "choices": []},
        *CHUNKS,
        chunk(finish="stop"),
        COUNTED,
        DONE,
    ],
    "null for what is missing": [
        chunk({"content": None, "refusal": None, "tool_calls": None}),
        *CHUNKS,
        chunk(finish="stop", usage=None, error=None),
        COUNTED,
        DONE,
    ],
    "comments": [": OPENROUTER PROCESSING", *CHUNKS, ": x", chunk(finish="stop"), COUNTED, DONE],
    "an error after the end": [*CHUNKS, chunk(finish="stop"), COUNTED, {"error": {"message": "late"}}, DONE],
}


@pytest.mark.parametrize("events", CHUNK_QUIRKS.values(), ids=CHUNK_QUIRKS)
def test_quirks_of_chunks_change_nothing(events: list[Any]) -> None:
    found = body_of(*events)
    found["choices"][0]["message"].pop("refusal", None)
    found["choices"][0]["message"].pop("tool_calls", None)
    assert found == COMPLETION


def call(index: int | None, call_id: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    entry = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return chunk({"tool_calls": [{k: v for k, v in entry.items() if v is not None}]})


@pytest.mark.parametrize(
    "events",
    [
        [call(0, "a", "f", ""), call(0, None, None, '{"x"'), call(0, None, None, ":1}"), call(1, "b", "g", "{}")],
        # the same id and name in every piece
        [call(0, "a", "f", '{"x"'), call(0, "a", "f", ":1}"), call(1, "b", "g", "{}")],
        # whole calls at the same index, or at none
        [call(0, "a", "f", '{"x":1}'), call(0, "b", "g", "{}")],
        [call(None, "a", "f", '{"x":1}'), call(None, "b", "g", "{}")],
        [call(None, "a", "f", '{"x"'), call(None, None, None, ":1}"), call(None, "b", "g", "{}")],
        # arguments as an object
        [call(0, "a", "f", {"x": 1}), call(1, "b", "g", {})],
    ],
)
def test_tool_calls_are_put_together(events: list[Any]) -> None:
    (choice,) = body_of(*events, chunk(finish="tool_calls"), DONE)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_what_else_a_choice_says_is_kept() -> None:
    body = body_of(
        chunk({"reasoning": "h", "reasoning_details": [1], "function_call": {"name": "f", "arguments": "{"}}),
        chunk({"reasoning": "m", "reasoning_details": [2], "function_call": {"arguments": "}"}}),
        HEAD | {"choices": [{"delta": {}, "logprobs": {"content": [{"token": "a"}]}, "native_finish_reason": None}]},
        HEAD | {"choices": [{"delta": {}, "logprobs": {"content": [{"token": "b"}]}, "native_finish_reason": "end"}]},
        chunk(finish="stop"),
        chunk({"content": "other"}, "stop", index=1),
        DONE,
    )
    first, second = body["choices"]
    assert first["message"] == {
        "role": "assistant",
        "content": None,
        "reasoning": "hm",
        "reasoning_details": [1, 2],
        "function_call": {"name": "f", "arguments": "{}"},
    }
    assert first["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}
    assert first["native_finish_reason"] == "end"
    assert second["message"]["content"] == "other"


def test_content_in_parts_is_text() -> None:
    part = {"type": "text", "text": "Paris."}
    assert read([sse(chunk({"content": ""}), chunk({"content": [part]}), chunk(finish="stop"), DONE)]).text == "Paris."


def test_a_refusal_in_pieces_is_one() -> None:
    response = read([sse(chunk({"refusal": "I can"}), chunk({"refusal": "not."}), chunk(finish="stop"), DONE)])
    assert (response.text, response.stop_reason) == ("", "refusal")


def test_chunks_that_end_without_a_reason_are_an_answer_with_none() -> None:
    response = read([sse(*CHUNKS, DONE)])
    assert (response.text, response.stop_reason, response.usage) == ("Paris.", None, None)


def test_what_aimlapi_says_of_the_cost_of_chunks_is_read() -> None:
    for events in ([chunk(finish="stop"), {"meta": {"usage": {"usd_spent": 0.5}}}, DONE], [DONE]):
        more = {"meta": {"usage": {"usd_spent": 0.5}}}
        assert read([sse(CHUNKS[1], *events, more)]).reported_nanos == 500_000_000


# Cut off, broken, refused


@pytest.mark.parametrize("kept", range(len(WHOLE)))
def test_a_native_stream_cut_before_its_last_event_may_have_been_billed(kept: int) -> None:
    error = failing(*WHOLE[:kept])
    assert isinstance(error, Busy)
    assert (error.error_type, error.maybe_billed, error.http_status) == ("server_error", True, 200)


@pytest.mark.parametrize("kept", range(len(CHUNKS) + 1))
def test_chunks_cut_before_their_end_may_have_been_billed(kept: int) -> None:
    error = failing(*CHUNKS[:kept])
    assert isinstance(error, Busy)
    assert (error.error_type, error.maybe_billed) == ("server_error", True)


@given(st.data())
def test_a_stream_cut_anywhere_is_whole_or_nothing(data: st.DataObject) -> None:
    said, text = data.draw(
        st.sampled_from([(sse(*WHOLE), "Paris."), (sse(*CHUNKS, chunk(finish="stop"), COUNTED, DONE), "Paris.")])
    )
    cut = data.draw(st.integers(0, len(said)))
    ended: Response | Busy
    try:
        ended = read([said[:cut]])
    except Busy as error:
        ended = error
    assert ended.text == text if isinstance(ended, Response) else ended.maybe_billed


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([], "a stream without an answer"),
        ([PING, ": x", "data: [DONE]"], "a stream without an answer"),
        ([START, "data: {oops"], "data that are not JSON"),
        ([START, "data: <html>busy</html>"], "data that are not JSON"),
        ([START, "data: " + "\\ud83d" + "[" * 100_000], "data that are not JSON"),
        ([START, "data: " + "a" * CAP], "an event of more than 1000000 bytes"),
        ([*WHOLE[:1], begins(0, type="x", deep=json.loads("[" * 300 + "]" * 300)), STOP], "cannot be written as JSON"),
        ([*WHOLE[:2]], "a stream that ends before its answer does"),
        ([HEAD | {"choices": []}, DONE], "`choices` without a message"),
    ],
)
def test_a_stream_that_makes_no_sense_is_worth_another_attempt(events: list[Any], why: str) -> None:
    error = failing(*events)
    assert isinstance(error, Busy)
    assert why in str(error)
    assert (error.error_type, error.maybe_billed, error.shared) == ("server_error", True, False)


def test_a_part_of_an_event_is_passed_over_at_the_end() -> None:
    with pytest.raises(Busy, match="a stream that ends before its answer does"):
        read([sse(*WHOLE[:3]), b'event: message_stop\ndata: {"type":"mess'])


def said_error(**error: Any) -> dict[str, Any]:
    return {"type": "error", "error": error}


OVERLOADED = said_error(type="overloaded_error", message="Overloaded")


@pytest.mark.parametrize(
    ("event", "kind", "error_type", "status", "shared"),
    [
        (OVERLOADED, Busy, "overloaded", 529, True),
        ("event: error\n" + sse(OVERLOADED, named=False).decode().strip(), Busy, "overloaded", 529, True),
        (said_error(type="api_error", message="x"), Busy, "server_error", 500, False),
        (said_error(type="rate_limit_error", message="x"), Busy, "rate_limit", 429, True),
        (said_error(type="invalid_request_error", message="prompt is too long"), Refused, "too_long", 400, False),
        # llama.cpp: the bare inner object
        ('event: error\ndata: {"code":500,"message":"x","type":"server_error"}', Busy, "server_error", 500, False),
        ('event: error\ndata: {"code":503,"message":"x","type":"unavailable_error"}', Busy, "server_error", 503, False),
        ('event: error\ndata: {"message":"x"}', Busy, "server_error", 500, False),
        ("event: error\ndata: Overloaded", Busy, "server_error", 500, False),
        ('event: error\ndata: "Overloaded"', Busy, "server_error", 500, False),
        # OpenAI's and aimlapi's
        ({"error": {"message": "slow down", "code": 429}}, Busy, "rate_limit", 429, True),
        ({"error": "boom"}, Busy, "server_error", 500, False),
        ({"message": "Too Many Requests", "statusCode": "429"}, Busy, "rate_limit", 429, True),
    ],
)
@pytest.mark.parametrize("before", [[], WHOLE[:1], WHOLE[:3], CHUNKS[:1], CHUNKS[:2]])
def test_an_error_after_200_means_what_it_means_with_a_status(
    event: Any, kind: type[PipelineError], error_type: str, status: int, shared: bool, before: list[Any]
) -> None:
    error = failing(*before, event, *WHOLE[3:])
    assert isinstance(error, Refused | Busy)
    assert type(error) is kind
    assert (error.error_type, error.http_status) == (error_type, status)
    assert getattr(error, "shared", False) is shared
    assert error.maybe_billed is (len(before) > 1)  # something of the answer had come


def test_an_error_that_is_about_every_row_ends_the_run() -> None:
    assert isinstance(failing(START, said_error(type="authentication_error", message="invalid x-api-key")), RunRejected)


# Laws

JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
INPUTS = st.dictionaries(TEXT, JSON_VALUE, max_size=3)
BLOCKS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}),
    st.fixed_dictionaries(
        {"type": st.just("text"), "text": TEXT, "citations": st.lists(st.fixed_dictionaries({"cited_text": TEXT}))}
    ),
    st.fixed_dictionaries({"type": st.just("thinking"), "thinking": TEXT, "signature": TEXT}),
    st.fixed_dictionaries({"type": st.just("redacted_thinking"), "data": TEXT}),
    st.fixed_dictionaries({"type": st.just("tool_use"), "id": TEXT, "name": TEXT, "input": INPUTS}),
    st.fixed_dictionaries({"type": st.just("web_search_tool_result"), "content": JSON_VALUE}),
)
COUNT = st.integers(0, 10**6)
NATIVE_USAGE = st.fixed_dictionaries(
    {"input_tokens": COUNT, "output_tokens": COUNT},
    optional={
        "cache_creation_input_tokens": COUNT,
        "cache_read_input_tokens": COUNT,
        "cache_creation": st.fixed_dictionaries({"ephemeral_1h_input_tokens": COUNT}),
        "service_tier": st.just("standard"),
    },
)
REASONS = st.sampled_from(["end_turn", "stop_sequence", "tool_use", "max_tokens", "refusal", "pause_turn"])
MESSAGES = st.fixed_dictionaries(
    {
        "id": TEXT,
        "type": st.just("message"),
        "role": st.just("assistant"),
        "model": TEXT,
        "content": st.lists(BLOCKS, max_size=4),
        "stop_reason": REASONS,
        "stop_sequence": st.none() | TEXT,
        "stop_details": st.none() | st.fixed_dictionaries({"category": TEXT}),
        "usage": NATIVE_USAGE,
    }
)


@st.composite
def split(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces, some of them perhaps empty."""
    marks = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:stop] for start, stop in zip([0, *marks], [*marks, len(text)], strict=True)]


EMPTY: dict[str, Any] = {"text": "", "thinking": "", "signature": "", "input": {}, "citations": []}
KINDS = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}


@st.composite
def native_events(draw: st.DrawFn, message: dict[str, Any]) -> list[Any]:
    """A message as the API streams it."""
    usage = message["usage"]
    early = {name: draw(st.just(count) | COUNT) if isinstance(count, int) else count for name, count in usage.items()}
    first: dict[str, Any] = {
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": early,
    }
    events: list[Any] = [{"type": "message_start", "message": message | first}]
    for index, block in enumerate(message["content"]):
        grows = {"text", "thinking", "tool_use"} & {block["type"]}
        start = {k: EMPTY.get(k, v) for k, v in block.items()} if grows else block
        events.append(begins(index, **start))
        for field in KINDS.keys() & block.keys() if grows else ():
            events += [adds(index, KINDS[field], **{field: piece}) for piece in draw(split(block[field]))]
        if block["type"] == "tool_use":
            written = draw(st.just(json.dumps(block["input"]))) if block["input"] else ""
            events += [adds(index, "input_json_delta", partial_json=piece) for piece in draw(split(written))]
        events += [adds(index, "citations_delta", citation=citation) for citation in block.get("citations", ())]
        events.append(stops(index))
    last = {name: message[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    return [*events, {"type": "message_delta", "delta": last, "usage": usage}, STOP]


@st.composite
def chunk_events(draw: st.DrawFn, completion: dict[str, Any]) -> list[Any]:
    """A completion as OpenAI-like servers stream it."""
    (choice,) = completion["choices"]
    message = choice["message"]
    head = {k: v for k, v in completion.items() if k not in {"choices", "usage"}} | {"object": "chat.completion.chunk"}
    deltas: list[Any] = [{"role": "assistant"}]
    if message["content"] is not None:
        deltas += [{"content": piece} for piece in draw(split(message["content"]))]
    for index, made in enumerate(message.get("tool_calls", ())):
        name, arguments = made["function"]["name"], made["function"]["arguments"]
        entry = {"index": index, "id": made["id"], "type": "function", "function": {"name": name, "arguments": ""}}
        deltas.append({"tool_calls": [entry]})
        for piece in draw(split(arguments)):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    events = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    return [*events, head | {"choices": [], "usage": completion["usage"]}, DONE]


CALLS = st.fixed_dictionaries(
    {
        "id": TEXT.filter(bool),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": TEXT, "arguments": TEXT}),
    }
)
PLAIN: dict[str, st.SearchStrategy[Any]] = {"role": st.just("assistant"), "content": st.none() | TEXT}
TOOL_CALLS: st.SearchStrategy[Any] = st.lists(CALLS, min_size=1, max_size=3, unique_by=lambda made: str(made["id"]))
COMPLETIONS = st.fixed_dictionaries(
    {
        "id": TEXT,
        "object": st.just("chat.completion"),
        "created": COUNT,
        "model": TEXT,
        "choices": st.lists(
            st.fixed_dictionaries(
                {
                    "index": st.just(0),
                    "message": st.fixed_dictionaries(PLAIN, optional={"tool_calls": TOOL_CALLS}),
                    "finish_reason": st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
                }
            ),
            min_size=1,
            max_size=1,
        ),
        "usage": st.fixed_dictionaries({"prompt_tokens": COUNT, "completion_tokens": COUNT}),
    }
)


def agrees(data: st.DataObject, plain: dict[str, Any], events: list[Any]) -> None:
    noises: list[list[Any]] = [[], [PING], [": keep-alive"]]
    noise = data.draw(st.sampled_from(noises))
    place = data.draw(st.integers(0, len(events)))
    said = sse(
        *events[:place],
        *noise,
        *events[place:],
        named=data.draw(st.booleans()),
        end=data.draw(st.sampled_from(["\n", "\r\n", "\r"])),
    )
    sizes = data.draw(st.lists(st.integers(0, 9), max_size=60) | st.just([1] * len(said)))
    streamed = read(cut_into(said, sizes), {"request-id": "r"})
    expected = decode(200, {"request-id": "r"}, orjson.dumps(plain))
    assert orjson.loads(streamed.raw) == plain
    assert replace(streamed, raw=b"") == replace(expected, raw=b"")


@given(st.data(), MESSAGES)
def test_any_message_streamed_in_any_pieces_reads_as_the_plain_one(
    data: st.DataObject, message: dict[str, Any]
) -> None:
    agrees(data, message, data.draw(native_events(message)))


@given(st.data(), COMPLETIONS)
def test_any_completion_streamed_in_any_pieces_reads_as_the_plain_one(
    data: st.DataObject, completion: dict[str, Any]
) -> None:
    agrees(data, completion, data.draw(chunk_events(completion)))


WORDS = [
    *(
        "message",
        "content_block",
        "delta",
        "usage",
        "index",
        "type",
        "choices",
        "error",
        "meta",
        "text",
        "partial_json",
    ),
    *("tool_calls", "function", "arguments", "finish_reason", "id", "content", "logprobs", "citation", "statusCode"),
]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | TEXT
    | st.sampled_from([*KINDS.values(), "tool_use"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)
TYPES = [event["type"] for event in WHOLE]
EVENTS = st.one_of(
    st.builds(
        lambda kind, rest: rest | {"type": kind},
        st.sampled_from(TYPES),
        st.dictionaries(st.sampled_from(WORDS), ANYTHING),
    ),
    st.builds(lambda delta, more: chunk(delta, **more), st.dictionaries(st.sampled_from(WORDS), ANYTHING), st.just({})),
    st.builds(lambda choices: HEAD | {"choices": choices}, ANYTHING),
    st.sampled_from([*WHOLE, *CHUNKS, chunk(finish="stop"), DONE, OVERLOADED]),
    ANYTHING.map(lambda found: f"data: {json.dumps(found)}"),
)


def only_ours(pieces: list[bytes]) -> None:
    words = ""
    try:
        assert orjson.loads(read(pieces).raw)
    except (Refused, Busy, RunRejected) as error:
        words = str(error)
    assert len(words) <= 300
    assert not words or words.isprintable()


@given(st.lists(EVENTS, max_size=8), st.sampled_from([[], [STOP], [chunk(finish="stop")]]))
def test_any_events_are_a_response_or_an_error_of_ours(events: list[Any], last: list[Any]) -> None:
    only_ours([sse(*events, *last)])


@given(st.lists(st.binary() | st.sampled_from([b"data: ", b"\n\n", b'{"type":"', b"event: error\n", sse(*WHOLE)])))
def test_any_bytes_are_a_response_or_an_error_of_ours(pieces: list[bytes]) -> None:
    only_ours(pieces)

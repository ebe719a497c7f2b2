from __future__ import annotations

import asyncio
import gzip
import json
import resource
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from wire_servers import ANSWER, Say, Served, http, saying, serving

from pipeline.errors import Busy, PipelineError, RunRejected
from pipeline.records import Request, Response, Usage
from pipeline.wire import Endpoint, envelope, streams_by_itself, with_stream

KEY = "sk-canary-0123456789"
PROMPT = b'"messages":[{"role":"user","content":"Capital of France?"}]'
TYPE = "content-type: text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class JobSays:
    url: str | None
    auth: str = "bearer"
    version: str | None = "2023-06-01"
    headers: Mapping[str, str] = field(default_factory=dict)


def native(text: str = "Paris, 68°F 🌍") -> list[bytes]:
    """The events of a message, a character in each delta."""
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": []}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start | {"usage": {"input_tokens": 36, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
    ]
    deltas = ({"type": "text_delta", "text": piece} for piece in text)
    events.extend({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas)
    events.append({"type": "content_block_stop", "index": 0})
    events.append({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 8}})
    events.append({"type": "message_stop"})
    return [f"event: {e['type']}\ndata: {json.dumps(e, ensure_ascii=False)}\n\n".encode() for e in events]


def chunks(text: str = "Paris.") -> list[bytes]:
    parts: list[tuple[dict[str, str], str | None]] = [({"content": piece}, None) for piece in text]
    said = [
        json.dumps({"model": "gpt", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
        for delta, reason in [*parts, ({}, "stop")]
    ]
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 36, "completion_tokens": 8}})
    return [f"data: {each}\n\n".encode() for each in [*said, usage, "[DONE]"]]


ERROR = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
META = b'data: {"meta":{"usage":{"credits_used":1576,"usd_spent":0.000788}}}\n\n'


def chunked(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def head(*headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", "transfer-encoding: chunked", *headers, "", ""]).encode()


Last = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def finish(writer: asyncio.StreamWriter) -> None:
    writer.write(b"0\r\n\r\n")


async def stall(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def ping_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(chunked(b'event: ping\ndata: {"type":"ping"}\n\n'))
        await writer.drain()
        await asyncio.sleep(0.01)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    await asyncio.sleep(0.05)
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


def streaming(
    pieces: list[bytes], last: Last = finish, *, headers: tuple[str, ...] = (TYPE,), pause_secs: float = 0.0
) -> Say:
    """A server that says the pieces one by one, and ends as `last` does."""

    async def say(writer: asyncio.StreamWriter, nth: int) -> None:
        writer.write(head(*headers))
        for piece in pieces:
            writer.write(chunked(piece))
            await writer.drain()
            await asyncio.sleep(pause_secs)
        await last(writer)

    return say


def endpoint(url: str, **changes: Any) -> Endpoint:
    settings: dict[str, Any] = {"timeout_secs": 20.0, "connections": 8, "environ": {}} | changes
    fields = settings.pop("fields", {"model": "m-1", "max_tokens": 8, "stream": True})
    says = JobSays(url, headers=settings.pop("headers", {}))
    return Endpoint(says, envelope(fields), api_key=KEY, **settings)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def against(say: Say, times: int = 1, **changes: Any) -> tuple[Response | PipelineError, Served]:
    async def story() -> tuple[Response | PipelineError, Served]:
        async with serving(say) as served, endpoint(served.url, **changes) as opened:
            try:
                for _ in range(times):
                    response = await opened.send(Request(b"k" * 16, "row", PROMPT))
            except PipelineError as error:
                return error, served
            return response, served

    ended: tuple[Response | PipelineError, Served] = run(story())
    return ended


def answered(say: Say, **changes: Any) -> Response:
    response, _ = against(say, **changes)
    assert isinstance(response, Response), response
    return response


def failing(say: Say, **changes: Any) -> Busy:
    error, _ = against(say, **changes)
    assert isinstance(error, Busy)
    assert str(error).startswith("127.0.0.1:")
    return error


def test_a_stream_is_asked_for_and_read() -> None:
    response, served = against(streaming(native(), headers=(TYPE, "request-id: req_1")))
    assert isinstance(response, Response)
    assert (response.text, response.stop_reason, response.request_id) == ("Paris, 68°F 🌍", "end_turn", "req_1")
    assert response.usage == Usage(36, 8)
    assert json.loads(response.raw)["content"] == [{"type": "text", "text": "Paris, 68°F 🌍"}]
    (seen,) = served.seen
    assert seen.headers["accept"] == ["text/event-stream"]
    assert seen.body == b'{"model":"m-1","max_tokens":8,"stream":true,' + PROMPT + b"}"


@pytest.mark.parametrize("stream", [{}, {"stream": False}])
def test_no_stream_is_asked_for_unless_the_job_wants_one(stream: dict[str, bool]) -> None:
    response, served = against(saying(http()), fields={"model": "m", "max_tokens": 8} | stream)
    assert isinstance(response, Response)
    assert served.seen[0].headers["accept"] == ["application/json"]


def test_a_slow_stream_is_read_to_its_end() -> None:
    assert answered(streaming(native("abc"), pause_secs=0.05)).text == "abc"


def test_a_stream_byte_by_byte_is_the_same() -> None:
    said = b"".join(native("é🌍"))
    assert answered(streaming([said[at : at + 1] for at in range(len(said))])).text == "é🌍"


@pytest.mark.parametrize(
    "headers", [(TYPE,), (), ("content-type: application/json",), ("content-type: text/plain; charset=latin-1",)]
)
@pytest.mark.parametrize("pieces", [native("Paris."), chunks(), [b"", b": hi\n\n", *native("Paris.")]])
def test_a_stream_is_known_by_its_type_or_by_its_first_bytes(headers: tuple[str, ...], pieces: list[bytes]) -> None:
    response = answered(streaming([piece for piece in pieces if piece], headers=headers))
    assert (response.text, response.stop_reason, response.usage) == ("Paris.", "end_turn", Usage(36, 8))


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_server_that_answers_plain_is_read_plain(kind: str) -> None:
    response = answered(saying(http(ANSWER, "200 OK", f"content-type: {kind}")))
    assert (response.text, response.raw) == ("Paris.", ANSWER)


def test_a_plain_answer_in_bytes_is_read_plain() -> None:
    pieces = [ANSWER[at : at + 1] for at in range(len(ANSWER))]
    assert answered(streaming([b" ", *pieces], headers=())).text == "Paris."


def test_a_compressed_stream_is_read() -> None:
    packed = gzip.compress(b"".join(native("Paris.")))
    assert answered(saying(http(packed, "200 OK", TYPE, "content-encoding: gzip"))).text == "Paris."


@pytest.mark.parametrize("pieces", [native(), chunks()])
def test_the_connection_is_used_again(pieces: list[bytes]) -> None:
    _, served = against(streaming(pieces), times=3)
    assert (len(served.seen), served.connections) == (3, 1)


# Streams that do not end as they should


@pytest.mark.parametrize("pieces", [[], native()[:1], native()[:5], native()[:-1], chunks()[:3]])
@pytest.mark.parametrize("last", [stall, ping_for_ever])
def test_a_stream_that_stalls_is_left_after_the_timeout(pieces: list[bytes], last: Last) -> None:
    error = failing(streaming(pieces, last), timeout_secs=0.3)
    assert (error.error_type, error.maybe_billed) == ("timeout", True)
    assert "no answer within 0.3 s" in str(error)


@pytest.mark.parametrize("pieces", [[], native()[:1], native()[:5], native()[:-1], chunks()[:3]])
@pytest.mark.parametrize(
    ("last", "error_type"), [(finish, "server_error"), (hang_up, "connection"), (reset, "connection")]
)
def test_a_stream_that_is_cut_may_have_been_billed(pieces: list[bytes], last: Last, error_type: str) -> None:
    error = failing(streaming(pieces, last))
    assert (error.error_type, error.maybe_billed) == (error_type, True)


@pytest.mark.parametrize(
    "pieces", [native("Paris."), chunks(), chunks()[:-1], [*native("Paris."), b"data: [DONE]\n\n"]]
)
@pytest.mark.parametrize("last", [hang_up, reset, stall, ping_for_ever])
def test_a_complete_answer_counts_whatever_happens_after_it(pieces: list[bytes], last: Last) -> None:
    response = answered(streaming(pieces, last), linger_secs=0.3)
    assert (response.text, response.usage) == ("Paris.", Usage(36, 8))


def test_a_complete_answer_counts_when_the_time_is_up_right_after_it() -> None:
    async def story() -> tuple[str, int]:
        async with serving(streaming(native("Paris."), stall)) as served:
            async with endpoint(served.url, timeout_secs=0.4, linger_secs=60) as opened:
                response = await opened.send(Request(b"", "row", PROMPT))
            task = asyncio.current_task()
            assert task is not None
            return response.text, task.cancelling()

    assert run(story()) == ("Paris.", 0)


def test_a_call_cancelled_while_it_lingers_is_cancelled() -> None:
    async def story() -> None:
        async with serving(streaming(native(), stall)) as served, endpoint(served.url) as opened:
            call = asyncio.create_task(opened.send(Request(b"", "row", PROMPT)))
            await asyncio.sleep(0.2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    run(story())


def test_what_comes_after_the_end_may_tell_the_cost() -> None:
    assert answered(streaming([*native(), META], pause_secs=0.02)).reported_nanos == 788_000


# Errors within streams


@pytest.mark.parametrize(("before", "billed"), [(0, False), (1, False), (4, True)])
@pytest.mark.parametrize("last", [finish, stall, ping_for_ever])
def test_an_error_within_a_stream_is_the_servers_error(before: int, billed: bool, last: Last) -> None:
    error = failing(streaming([*native()[:before], ERROR], last))
    assert (error.error_type, error.shared, error.http_status) == ("overloaded", True, 529)
    assert error.maybe_billed is billed


def test_an_error_with_a_status_is_read_as_ever() -> None:
    said = b'{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}'
    error = failing(saying(http(said, "429 Slow", "retry-after: 3")))
    assert (error.error_type, error.wait_secs, error.maybe_billed) == ("rate_limit", 3.0, False)


def test_a_stream_that_echoes_everything_gets_neither_key_nor_prompt_into_a_message() -> None:
    echo = json.dumps({"type": "error", "error": {"type": KEY, "message": f"{KEY} {PROMPT.decode()} extra-secret-1"}})
    for said in (
        f"event: error\ndata: {echo}\n\n",
        f"event: error\ndata: {KEY} {PROMPT.decode()}\n\n",
        f"data: {KEY}\n\n",
    ):
        error = failing(streaming([*native()[:4], said.encode()]), headers={"x-extra": "extra-secret-1"})
        shown = f"{error} {vars(error)}"
        assert KEY not in shown
        assert "extra-secret-1" not in shown
        assert "Capital of France" not in shown


def test_an_account_without_credit_ends_the_run_from_within_a_stream_too() -> None:
    said = b'data: {"type":"error","error":{"type":"billing_error","message":"Your credit balance is too low"}}\n\n'
    error, _ = against(streaming([native()[0], said]))
    assert isinstance(error, RunRejected)


# Size


@pytest.mark.parametrize(
    "piece",
    [
        b"a" * 1_000_000,
        b": comment\n" * 100_000,
        native("a" * 10)[3] * 5_000,
        b"\n" * 1_000_000,
        b" " * 1_000_000,
    ],
    ids=["one line", "comments", "deltas", "line ends", "spaces"],
)
@pytest.mark.parametrize("start", [native()[:2], []])
def test_an_endless_stream_is_read_to_a_cap_and_memory_stays_flat(start: list[bytes], piece: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = failing(streaming([*start, *[piece] * 100]), max_answer_bytes=300_000)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert "more than 300000 bytes" in str(error)
    assert (error.error_type, error.maybe_billed) == ("server_error", True)
    assert grown_kib < 40_000


def test_the_rest_after_a_complete_answer_is_read_to_the_cap() -> None:
    written: list[int] = []

    async def flood(writer: asyncio.StreamWriter) -> None:
        for nth in range(500):
            writer.write(chunked(b": comment\n" * 10_000))
            await writer.drain()
            written.append(nth)

    assert answered(streaming(native("Paris."), flood), max_answer_bytes=300_000).text == "Paris."
    assert len(written) < 400  # what else was written lies in the buffers of the connection


# When a stream is chosen


@pytest.mark.parametrize(("max_tokens", "streams"), [(1, False), (21_333, False), (21_334, True), (128_000, True)])
def test_long_answers_are_streamed_by_themselves(max_tokens: int, streams: bool) -> None:
    fields = {"model": "m", "max_tokens": max_tokens}
    assert streams_by_itself(max_tokens) is streams
    assert with_stream(fields) == (fields | {"stream": True} if streams else fields)


@pytest.mark.parametrize("stream", [True, False])
def test_what_the_job_says_of_streams_stays(stream: bool) -> None:
    for max_tokens in (8, 64_000):
        fields = {"model": "m", "max_tokens": max_tokens, "stream": stream}
        assert with_stream(fields) == fields

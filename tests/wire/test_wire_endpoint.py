from __future__ import annotations

import asyncio
import gc
import gzip
import inspect
import logging
import os
import resource
import socket
import ssl
import zlib
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from wire_servers import ANSWER, Say, Seen, Served, http, saying, serving
from yarl import URL

from pipeline.errors import Busy, JobError, PipelineError, RunRejected
from pipeline.records import Request, Response, Usage
from pipeline.wire import Endpoint, envelope
from pipeline.wire.endpoint import Body
from pipeline.wire.proxy import proxy_for

KEY = "sk-canary-0123456789"
PROMPT = b'"system":"be brief","messages":[{"role":"user","content":"Capital of France?"}]'
CERTIFICATE = Path(__file__).parent / "self_signed_localhost.pem"


@dataclass(frozen=True)
class JobSays:
    url: str | None
    auth: str = "bearer"
    version: str | None = "2023-06-01"
    headers: Mapping[str, str] = field(default_factory=dict)


def endpoint(job: JobSays | str, key: str | None = KEY, **changes: Any) -> Endpoint:
    says = JobSays(job) if isinstance(job, str) else job
    settings: dict[str, Any] = {"timeout_secs": 20.0, "connections": 8, "environ": {}} | changes
    return Endpoint(says, envelope({"model": "m-1", "max_tokens": 8}), api_key=key, **settings)


async def ask(where: Endpoint, prompt: bytes = PROMPT) -> Response:
    async with where as opened:
        return await opened.send(Request(b"k" * 16, "row", prompt))


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def against(say: Say, prompt: bytes = PROMPT, **changes: Any) -> tuple[Response | PipelineError, Served]:
    async with serving(say) as served:
        try:
            return await ask(endpoint(served.url, **changes), prompt), served
        except PipelineError as error:
            return error, served


def failing(say: Say, **changes: Any) -> Busy:
    error, _ = run(against(say, **changes))
    assert isinstance(error, Busy)
    assert str(error).startswith("127.0.0.1:")
    return error


def sent(auth: str, key: str | None = KEY, version: str | None = "2023-06-01", **headers: str) -> Seen:
    async def story() -> Seen:
        async with serving(saying(http())) as served:
            await ask(endpoint(JobSays(served.url, auth, version, headers), key))
            return served.seen[0]

    seen = run(story())
    assert isinstance(seen, Seen)
    return seen


def test_a_request_goes_out_and_a_response_comes_back() -> None:
    response, served = run(against(saying(http(ANSWER, "200 OK", "request-id: req_1"))))
    assert response == Response(ANSWER, "Paris.", "end_turn", "claude-sonnet-4-5", Usage(36, 8), "req_1")
    (seen,) = served.seen
    assert seen.line == "POST /v1/messages HTTP/1.1"
    assert seen.body == b'{"model":"m-1","max_tokens":8,' + PROMPT + b"}"
    assert seen.headers["content-type"] == ["application/json"]
    assert seen.headers["user-agent"][0].startswith("messages-pipeline/")
    assert "cookie" not in seen.headers


@pytest.mark.parametrize(
    ("auth", "key", "bearer", "x_api_key"),
    [
        ("bearer", KEY, [f"Bearer {KEY}"], None),
        ("x-api-key", KEY, None, [KEY]),
        ("bearer", None, None, None),
        ("x-api-key", None, None, None),
    ],
)
def test_the_key_is_sent_in_exactly_one_header(
    auth: str, key: str | None, bearer: list[str] | None, x_api_key: list[str] | None
) -> None:
    headers = sent(auth, key).headers
    assert headers.get("authorization") == bearer
    assert headers.get("x-api-key") == x_api_key


def test_a_key_among_the_headers_takes_the_place_of_the_key() -> None:
    headers = sent("bearer", KEY, **{"X-Api-Key": "from-env"}).headers
    assert headers["x-api-key"] == ["from-env"]
    assert "authorization" not in headers


@pytest.mark.parametrize("version", ["2026-10-21", None])
def test_the_version_is_sent_unless_there_is_none(version: str | None) -> None:
    assert sent("bearer", version=version).headers.get("anthropic-version") == (version and [version])


def test_further_headers_are_sent_and_may_replace_ours() -> None:
    headers = sent("bearer", **{"Anthropic-Beta": "files-api", "User-Agent": "mine/1"}).headers
    assert headers["anthropic-beta"] == ["files-api"]
    assert headers["user-agent"] == ["mine/1"]


def test_cookies_are_not_kept() -> None:
    async def story() -> Served:
        async with (
            serving(saying(http(ANSWER, "200 OK", "set-cookie: track=1; path=/"))) as served,
            # by name: jars keep nothing of bare addresses anyway
            endpoint(served.url.replace("127.0.0.1", "localhost")) as opened,
        ):
            for _ in range(2):
                await opened.send(Request(b"", "row", PROMPT))
        return served

    served = run(story())
    assert "cookie" not in served.seen[1].headers
    assert served.connections == 1  # and the connection was used again


def test_a_large_body_arrives_whole() -> None:
    picture = b'"messages":[{"role":"user","content":"' + b"iVBORw0K" * 1_000_000 + b'"}]'
    _, served = run(against(saying(http()), picture))
    assert served.seen[0].body.endswith(picture + b"}")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/v1/messages", "/v1/messages"),
        ("/a%2Fb/%7Eme/v1/messages?beta=true&x=a+b", "/a%2Fb/%7Eme/v1/messages?beta=true&x=a+b"),
        ("/münchen/messages", "/m%C3%BCnchen/messages"),
    ],
)
def test_the_url_goes_on_the_wire_as_it_is_written(path: str, line: str) -> None:
    async def story() -> str:
        async with serving(saying(http())) as served:
            await ask(endpoint(f"http://127.0.0.1:{served.port}{path}"))
            return served.seen[0].line

    assert run(story()) == f"POST {line} HTTP/1.1"


# Lying and broken servers: N3, N4, N5


async def stall(writer: asyncio.StreamWriter, nth: int) -> None:
    await asyncio.sleep(3600)


async def stall_after_headers(writer: asyncio.StreamWriter, nth: int) -> None:
    writer.write(http(b"", length=500))
    await asyncio.sleep(3600)


async def stall_mid_body(writer: asyncio.StreamWriter, nth: int) -> None:
    writer.write(http(ANSWER[:40], length=len(ANSWER)))
    await asyncio.sleep(3600)


async def trickle(writer: asyncio.StreamWriter, nth: int) -> None:
    writer.write(http(b"", length=len(ANSWER)))
    for nth_byte in range(len(ANSWER)):
        writer.write(ANSWER[nth_byte : nth_byte + 1])
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("say", [stall, stall_after_headers, stall_mid_body, trickle])
def test_a_server_that_does_not_finish_is_left_after_the_timeout(say: Say) -> None:
    error = failing(say, timeout_secs=0.3)
    assert (error.error_type, error.maybe_billed) == ("timeout", True)
    assert "no answer within 0.3 s" in str(error)


def test_a_stalled_call_does_not_disturb_the_others() -> None:
    async def story() -> list[str]:
        async def say(writer: asyncio.StreamWriter, nth: int) -> None:
            if nth % 3 == 0:
                await asyncio.sleep(3600)
            writer.write(http())

        async with serving(say) as served, endpoint(served.url, timeout_secs=0.4) as opened:
            requests = (opened.send(Request(b"", f"{nth}", PROMPT)) for nth in range(6))
            ended = await asyncio.gather(*requests, return_exceptions=True)
        return sorted(type(end).__name__ for end in ended)

    assert run(story()) == ["Busy"] * 2 + ["Response"] * 4


def test_calls_that_began_apart_are_cut_off_each_in_its_own_time() -> None:
    """The others would hang for an hour if the one timer were not set anew."""

    async def story() -> None:
        async with serving(stall) as served, endpoint(served.url, timeout_secs=0.3) as opened:

            async def call(after_secs: float) -> None:
                await asyncio.sleep(after_secs)
                with pytest.raises(Busy, match="no answer within"):
                    await opened.send(Request(b"", "row", PROMPT))

            async with asyncio.timeout(10):
                await asyncio.gather(*(call(after_secs) for after_secs in (0.0, 0.1, 0.2)))

    run(story())


async def reset(writer: asyncio.StreamWriter, nth: int) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


async def hang_up(writer: asyncio.StreamWriter, nth: int) -> None:
    writer.close()


async def hang_up_mid_body(writer: asyncio.StreamWriter, nth: int) -> None:
    writer.write(http(ANSWER[:40], length=len(ANSWER)))
    writer.close()


async def reset_mid_body(writer: asyncio.StreamWriter, nth: int) -> None:
    writer.write(http(ANSWER[:40], length=len(ANSWER)))
    await writer.drain()
    await asyncio.sleep(0.05)
    await reset(writer, nth)


@pytest.mark.parametrize("say", [reset, hang_up, hang_up_mid_body, reset_mid_body])
def test_a_connection_lost_after_sending_may_have_been_billed(say: Say) -> None:
    error = failing(say)
    assert (error.error_type, error.maybe_billed) == ("connection", True)


@pytest.mark.parametrize(
    "said",
    [
        http(ANSWER, "200 OK", "content-encoding: gzip"),
        http(gzip.compress(ANSWER)[:-20], "200 OK", "content-encoding: gzip"),
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        http(ANSWER, "200 OK", "x-long: " + "a" * 100_000),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nnonsense\r\n",
        http(b"<html>Sorry</html>", "200 OK", "content-type: text/html"),
        http(ANSWER[:-30]),
        http(b""),
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
def test_an_answer_that_is_none_is_worth_another_attempt_and_may_have_been_billed(said: bytes) -> None:
    error = failing(saying(said))
    assert error.error_type in {"server_error", "connection"}  # by whether the damage came with the headers or after
    assert error.maybe_billed


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "say",
    [
        reset,
        hang_up,
        reset_mid_body,
        stall_mid_body,
        hang_up_mid_body,
        saying(http(gzip.compress(ANSWER)[:-20] + b"?" * 20, "200 OK", "content-encoding: gzip")),
        saying(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nnonsense\r\n"),
        saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        saying(http(b"<html>oops</html>", "500 Internal Server Error")),
        saying(http(b"{}", "429 Too Many Requests", "retry-after: 1")),
    ],
)
def test_a_failed_call_leaves_nothing_of_its_request_behind_for_the_collector(say: Say, *, stream: bool) -> None:
    """While rows are asked cycles are collected rarely, and a request with pictures takes megabytes."""

    async def story() -> None:
        async with serving(say) as served:
            fields = {"model": "m-1", "max_tokens": 8} | ({"stream": True} if stream else {})
            settings: dict[str, Any] = {"timeout_secs": 0.3, "connections": 8, "environ": {}}
            async with Endpoint(JobSays(served.url), envelope(fields), api_key=KEY, **settings) as opened:
                with pytest.raises(Busy):
                    await opened.send(Request(b"", "row", PROMPT))

    with without_collector():
        run(story())
        assert [each for each in gc.get_objects() if type(each) is Body] == []


def test_an_error_page_of_the_server_is_its_error() -> None:
    error = failing(saying(http(b"<html>oops</html>", "500 Internal Server Error")))
    assert (error.error_type, error.http_status, error.maybe_billed) == ("server_error", 500, False)


@pytest.mark.parametrize("kind", ["plain", "chunked", "gzip", "deflate", "error"])
def test_an_endless_answer_is_read_to_a_cap_and_memory_stays_flat(kind: str) -> None:
    """100 MB in any wrapping, of which a few hundred kilobytes are read."""
    piece = b" " * 1_000_000

    async def say(writer: asyncio.StreamWriter, nth: int) -> None:
        status = "500 Oops" if kind == "error" else "200 OK"
        head = f"HTTP/1.1 {status}\r\n"
        if kind in {"gzip", "deflate"}:
            packer = zlib.compressobj(9, zlib.DEFLATED, 31 if kind == "gzip" else 15)
            bomb = b"".join(packer.compress(piece) for _ in range(100)) + packer.flush()
            writer.write(f"{head}content-encoding: {kind}\r\ncontent-length: {len(bomb)}\r\n\r\n".encode() + bomb)
            await writer.drain()
        elif kind == "chunked":
            writer.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
            for _ in range(100):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
        else:
            writer.write(f"{head}content-length: {100 * len(piece)}\r\n\r\n".encode())
            for _ in range(100):
                writer.write(piece)
                await writer.drain()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = failing(say, max_answer_bytes=300_000)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert "more than 300000 bytes" in str(error)
    assert (error.error_type, error.maybe_billed) == ("server_error", True)
    assert grown_kib < 40_000


def test_compressed_answers_are_read() -> None:
    response, served = run(against(saying(http(gzip.compress(ANSWER), "200 OK", "content-encoding: gzip"))))
    assert response.raw == ANSWER
    assert "gzip" in served.seen[0].headers["accept-encoding"][0]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_the_key_does_not_follow_a_redirect(status: str) -> None:
    async def story() -> tuple[PipelineError, list[Seen]]:
        async with serving(saying(http())) as elsewhere:
            location = f"location: {elsewhere.url}"
            error, _ = await against(saying(http(b"", status, location)))
            assert isinstance(error, PipelineError)
            return error, elsewhere.seen

    error, seen = run(story())
    assert isinstance(error, RunRejected)
    assert "redirects are not followed" in str(error)
    assert seen == []


def test_a_redirect_to_an_address_of_any_bytes_ends_the_run_like_another() -> None:
    answer = http(b"", "302 Found", "location: /caf?").replace(b"caf?", b"caf\xe9\xff")
    error, _ = run(against(saying(answer)))
    assert isinstance(error, RunRejected)
    assert "answered 302: redirect to /caf; redirects are not followed" in str(error)


# No connection


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:{port}/v1/messages", "the connection was refused"),
        ("https://no-such-host.invalid/v1/messages", "the host is unknown"),
    ],
)
def test_a_call_that_never_left_was_not_billed(url: str, words: str) -> None:
    with pytest.raises(Busy, match=words) as caught:
        run(ask(endpoint(url.format(port=unused_port()))))
    assert (caught.value.error_type, caught.value.maybe_billed, caught.value.http_status) == ("connection", False, None)


@contextmanager
def silent() -> Iterator[str]:
    """An https URL where connections are made, by the kernel, and nobody ever says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"https://127.0.0.1:{listening.getsockname()[1]}/v1/messages"


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"connect_secs": 0.2}, r"no connection within 0\.2 s"), ({"timeout_secs": 0.2}, r"no answer within 0\.2 s")],
)
def test_a_timeout_while_connecting_was_not_billed(changes: dict[str, float], words: str) -> None:
    """A TLS handshake belongs to connecting: nothing of the request was sent."""
    with silent() as url, pytest.raises(Busy, match=words) as caught:
        run(ask(endpoint(url, KEY, **changes)))
    assert (caught.value.error_type, caught.value.maybe_billed) == ("timeout", False)


def tls_server() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def asked_over_tls(environ: dict[str, str]) -> Response:
    async def story() -> Response:
        async with serving(saying(http()), tls=tls_server()) as served:
            return await ask(endpoint(f"https://localhost:{served.port}/v1/messages", environ=environ))

    response = run(story())
    assert isinstance(response, Response)
    return response


def test_a_certificate_that_nobody_vouches_for_ends_the_run() -> None:
    with pytest.raises(
        RunRejected, match=r"the certificate of localhost:\d+ cannot be trusted: self-signed certificate"
    ):
        asked_over_tls({})


def test_ssl_cert_file_says_whom_to_trust() -> None:
    assert asked_over_tls({"SSL_CERT_FILE": str(CERTIFICATE)}).text == "Paris."


# Another protocol than the URL says


def test_https_to_a_server_that_speaks_none_ends_the_run() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(3)
        writer.write(http(b"", "400 Bad Request"))
        await writer.drain()
        writer.close()

    async def story() -> None:
        async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
            await ask(endpoint(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/messages"))

    words = r"^the server at 127\.0\.0\.1:\d+ does not speak TLS; write http:// in endpoint\.url, or check its port$"
    with pytest.raises(RunRejected, match=words):
        run(story())


@pytest.mark.parametrize(
    "answer",
    [
        # the alert of OpenSSL's own server
        b"\x15\x03\x01\x00\x02\x02\x46",
        # nginx, and servers written in Go
        http(b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>", "400 Bad"),
        http(b"Client sent an HTTP request to an HTTPS server.\n", "400 Bad"),
    ],
)
def test_http_to_a_server_that_says_it_speaks_tls_ends_the_run(answer: bytes) -> None:
    error, _ = run(against(saying(answer)))
    assert isinstance(error, RunRejected)
    assert "speaks TLS; write https:// in endpoint.url" in str(error)


def test_http_to_a_server_that_hangs_up_for_want_of_tls_ends_the_run() -> None:
    async def story() -> None:
        async with serving(saying(http()), tls=tls_server()) as served:
            await ask(endpoint(served.url))

    with pytest.raises(
        RunRejected, match=r"^the server at 127\.0\.0\.1:\d+ speaks TLS; write https:// in endpoint\.url$"
    ):
        run(story())


def test_a_server_that_has_answered_before_does_not_end_the_run_by_a_broken_handshake() -> None:
    async def story() -> None:
        alert = b"\x15\x03\x01\x00\x02\x02\x46"
        async with serving(saying(http(), alert)) as served, endpoint(served.url) as opened:
            request = Request(b"k" * 16, "row", PROMPT)
            await opened.send(request)
            await opened.send(request)

    with pytest.raises(Busy, match="speaks TLS"):
        run(story())


# The wrong address


@pytest.mark.parametrize(
    ("path", "like"),
    [
        ("/v1/chat/completions/messages", "/v1"),
        ("/openai/v1/responses/messages", "/openai/v1"),
        ("/api/messages", "/api/v1"),
        ("/anthropic/v1/messages", "/anthropic/v1"),
    ],
)
def test_a_path_that_is_not_there_is_shown_whole_with_what_it_should_be_like(path: str, like: str) -> None:
    async def story() -> tuple[PipelineError, str]:
        async with serving(saying(http(b"404 page not found", "404 Not Found"))) as served:
            base = f"http://127.0.0.1:{served.port}"
            with pytest.raises(RunRejected) as caught:
                await ask(endpoint(f"{base}{path}?token=very-secret"))
            return caught.value, base

    error, base = run(story())
    assert f"asked was {base}{path}; endpoint.url is what stands before /messages, such as {base}{like};" in str(error)
    assert "very-secret" not in str(error)


def test_a_missing_ssl_cert_file_is_said() -> None:
    with pytest.raises(JobError, match=r"SSL_CERT_FILE: cannot read certificates from '/nowhere\.pem'"):
        endpoint("https://api.example.com/v1/messages", environ={"SSL_CERT_FILE": "/nowhere.pem"})


# Cancelling


def test_a_cancelled_call_is_cancelled_and_no_timeout() -> None:
    async def story() -> None:
        async with serving(stall) as served, endpoint(served.url, timeout_secs=0.5) as opened:
            call = asyncio.create_task(opened.send(Request(b"", "row", PROMPT)))
            await asyncio.sleep(0.1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    run(story())


def test_a_call_that_times_out_leaves_its_task_able_to_go_on() -> None:
    async def story() -> tuple[str, int]:
        async def say(writer: asyncio.StreamWriter, nth: int) -> None:
            if nth == 0:
                await asyncio.sleep(3600)
            writer.write(http())

        async with serving(say) as served, endpoint(served.url, timeout_secs=0.3) as opened:
            with pytest.raises(Busy):
                await opened.send(Request(b"", "row", PROMPT))
            response = await opened.send(Request(b"", "row", PROMPT))
            task = asyncio.current_task()
            assert task is not None
            return response.text, task.cancelling()

    assert run(story()) == ("Paris.", 0)


def test_an_endpoint_that_is_not_open_says_so() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        run(endpoint("http://127.0.0.1:1/v1/messages").send(Request(b"", "row", PROMPT)))


# What is refused before anything is sent


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (None, "nothing to send to"),
        ("ftp://host/messages", "no http:// or https:// address"),
        ("/v1/messages", "no http:// or https:// address"),
        ("http://host:port/messages", "is no address"),
        ("http://host:99999/messages", "is no address"),
        ("https://a..b/messages", "is no address"),
        (f"https://{'a' * 64}.example/messages", "is no address"),
        ("https://two words.example/messages", "is no host name"),
        ("https://me:secret@host/messages", "holds a user name or password"),
        ("http://api.example.com/messages", "over http, which would show the key"),
        ("http://10.0.0.7:8000/v1/messages", "over http, which would show the key"),
    ],
)
def test_a_url_that_cannot_be_used_is_a_broken_job(url: str | None, words: str) -> None:
    with pytest.raises(JobError, match=words):
        endpoint(JobSays(url))


@pytest.mark.parametrize("url", ["http://localhost:1/m", "http://127.3.2.1/m", "http://[::1]:80/m"])
def test_loopback_may_have_the_key_over_http(url: str) -> None:
    endpoint(url)


def test_http_without_a_key_may_go_anywhere_but_not_with_a_secret_header() -> None:
    endpoint("http://10.0.0.7:8000/v1/messages", key=None)
    with pytest.raises(JobError, match="over http"):
        endpoint(JobSays("http://10.0.0.7:8000/v1/messages", headers={"Cookie": "session=1"}), key=None)


@pytest.mark.parametrize("key", ["", "two\nlines", "sk 1", "ключ"])
def test_a_key_that_no_header_can_carry_is_said_without_showing_it(key: str) -> None:
    with pytest.raises(JobError, match=r"\$MY_KEY holds characters") as caught:
        endpoint("https://api.example.com/m", key=key, key_name="$MY_KEY")
    assert not key or key not in str(caught.value)


def test_a_header_that_cannot_be_sent_is_said() -> None:
    with pytest.raises(JobError, match=r"endpoint\.headers: 'x-y' has characters"):
        endpoint(JobSays("https://api.example.com/m", headers={"x-y": "a\r\nb"}))


# Proxies


def through(environ: dict[str, str], host: str = "api.example.com") -> list[str]:
    """What a proxy on loopback is asked for, when a key-less http API is called."""

    async def story() -> list[str]:
        async with serving(saying(http())) as proxy:
            filled = {name: value.format(port=proxy.port) for name, value in environ.items()}
            await ask(endpoint(f"http://{host}/v1/messages", key=None, environ=filled))
            return [seen.line for seen in proxy.seen]

    lines = run(story())
    assert isinstance(lines, list)
    return lines


def test_the_api_is_reached_by_the_proxy_of_the_environment() -> None:
    line = "POST http://api.example.com/v1/messages HTTP/1.1"
    assert through({"HTTP_PROXY": "http://127.0.0.1:{port}"}) == [line]
    assert through({"http_proxy": "127.0.0.1:{port}", "HTTP_PROXY": "http://127.0.0.1:9"}) == [line]


def test_an_https_api_is_reached_by_a_tunnel_that_shows_the_proxy_no_key() -> None:
    async def story() -> list[Seen]:
        async with serving(saying(http(b"", "503 Busy"))) as proxy:
            where = endpoint("https://api.example.com/m", environ={"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"})
            with pytest.raises(Busy, match=r"the proxy 127\.0\.0\.1:\d+ answered 503") as caught:
                await ask(where)
            assert not caught.value.maybe_billed
            return proxy.seen

    (seen,) = run(story())
    assert seen.line == "CONNECT api.example.com:443 HTTP/1.1"
    assert KEY not in str(seen)


def test_a_proxy_that_wants_a_password_ends_the_run() -> None:
    async def story() -> None:
        async with serving(saying(http(b"", "407 Proxy Authentication Required"))) as proxy:
            await ask(endpoint("https://api.example.com/m", environ={"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}))

    with pytest.raises(
        RunRejected, match=r"the proxy 127\.0\.0\.1:\d+ wants a user name and password; put them into HTTPS_PROXY"
    ):
        run(story())


def test_loopback_is_never_asked_for_by_a_proxy() -> None:
    response, _ = run(against(saying(http()), environ={"HTTP_PROXY": "http://127.0.0.1:9"}))
    assert response.text == "Paris."


@pytest.mark.parametrize(
    ("scheme", "proxy", "words"),
    [
        (
            "http",
            "http://user:very-secret@127.0.0.1:{port}",
            r"to the proxy 127\.0\.0\.1:\d+: the connection was refused$",
        ),
        ("https", "http://127.0.0.1:{port}", r"to the proxy 127\.0\.0\.1:\d+: the connection was refused$"),
        (
            "https",
            "http://no-such-proxy.invalid:3128",
            r"to the proxy no-such-proxy\.invalid:3128: the host is unknown$",
        ),
    ],
)
def test_a_proxy_that_cannot_be_reached_is_named(scheme: str, proxy: str, words: str) -> None:
    environ = {f"{scheme}_proxy": proxy.format(port=unused_port())}
    with pytest.raises(Busy, match=words) as caught:
        run(ask(endpoint(f"{scheme}://api.example.com/v1/messages", key=None, environ=environ)))
    assert not caught.value.maybe_billed
    assert "very-secret" not in str(caught.value)


def test_what_goes_wrong_behind_a_proxy_is_said_with_the_proxy() -> None:
    async def story() -> None:
        async with serving(saying(b"")) as proxy:
            environ = {"HTTP_PROXY": f"127.0.0.1:{proxy.port}"}
            await ask(endpoint("http://api.example.com/m", None, timeout_secs=0.3, environ=environ))

    with pytest.raises(Busy, match=r"^api\.example\.com: .*\(asked by way of the proxy 127\.0\.0\.1:\d+\)$"):
        run(story())


@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [
        ("example.com", True),
        (".example.com", True),
        ("*.example.com", True),
        ("api.example.com:8080", False),
        ("api.example.com:80", True),
        ("other.com, API.example.com", True),
        ("ample.com", False),
        ("10.0.0.0/8", False),
        ("*", True),
        ("", False),
    ],
)
def test_no_proxy_names_hosts_domains_and_ports(no_proxy: str, direct: bool) -> None:
    environ = {"HTTP_PROXY": "http://127.0.0.1:3128", "NO_PROXY": no_proxy}
    assert (proxy_for(URL("http://api.example.com/v1"), environ) is None) is direct


@pytest.mark.parametrize(("no_proxy", "direct"), [("10.0.0.0/8", True), ("10.1.2.3", True), ("10.2.0.0/16", False)])
def test_no_proxy_names_networks_too(no_proxy: str, direct: bool) -> None:
    environ = {"HTTP_PROXY": "http://127.0.0.1:3128", "NO_PROXY": no_proxy}
    assert (proxy_for(URL("http://10.1.2.3:8000/v1"), environ) is None) is direct


def test_a_proxy_of_another_kind_is_said() -> None:
    with pytest.raises(JobError, match="HTTPS_PROXY names a proxy of the kind 'socks5'"):
        endpoint("https://api.example.com/m", environ={"https_proxy": "socks5://127.0.0.1:1080"})


# Secrets


@pytest.mark.parametrize("status", ["200 OK", "400 Bad", "401 No", "429 Slow", "500 Oops", "307 There"])
def test_a_server_that_echoes_everything_gets_neither_key_nor_prompt_into_a_message_or_log(
    status: str, caplog: pytest.LogCaptureFixture
) -> None:
    """H8."""
    caplog.set_level(logging.DEBUG)

    async def story() -> PipelineError:
        seen: list[Seen] = []

        async def say(writer: asyncio.StreamWriter, nth: int) -> None:
            echo = f"{served.seen[0].headers} {served.seen[0].body!r}"
            found = orjson.dumps({"error": {"type": KEY, "message": echo, "code": KEY}, "request_id": KEY})
            writer.write(http(found, status, f"location: http://x/{KEY}", f"request-id: {KEY}"))

        async with serving(say) as served:
            seen = served.seen
            with pytest.raises(PipelineError) as caught:
                await ask(endpoint(JobSays(served.url, headers={"x-extra": "extra-secret-1"})))
            assert seen
            return caught.value

    error = run(story())
    shown = f"{error} {vars(error)} {caplog.text}"
    assert KEY not in shown
    assert "extra-secret-1" not in shown
    assert "Capital of France" not in shown


def test_environment_defaults_to_the_real_one() -> None:
    """`environ` is an argument with an honest default."""
    assert inspect.signature(Endpoint).parameters["environ"].default is os.environ

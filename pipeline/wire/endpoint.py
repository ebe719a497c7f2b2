"""The endpoint: one aiohttp session that posts requests to one URL."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from pipeline import __version__
from pipeline.errors import Busy, ErrorType, JobError, RunRejected
from pipeline.records import Request, Response
from pipeline.wire.asked import Asked
from pipeline.wire.deadlines import Deadlines, Watch
from pipeline.wire.decode import decode
from pipeline.wire.encode import body
from pipeline.wire.proxy import is_loopback, proxy_for
from pipeline.wire.ratelimits import RateReader, rate_headers
from pipeline.wire.sse import is_stream
from pipeline.wire.stream import Stream, read_stream
from pipeline.wire.unreachable import answers_in_tls, at, speaks_no_tls, speaks_tls, unreachable

USER_AGENT = f"messages-pipeline/{__version__}"
CONNECT_SECS = 10.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
LINGER_SECS = 5.0
"""After the end of its answer a stream may still say what it cost, or keep the connection open for no reason."""

WHOLE_WRITE_BYTES = 256 * 1024
"""Bodies up to this size are handed over at once; larger ones in pieces, so that they do not fill the send buffer."""

HOST = re.compile(r"[\w.:%-]+")
KEY_HEADERS = frozenset({"authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"})
MIN_SECRET_CHARS = 8
"""Shorter header values are words such as `true`, which may stand in messages."""


class JobEndpoint(Protocol):
    """What the job says of its endpoint, as far as the wire is concerned."""

    @property
    def url(self) -> str | None:
        """Where to post, ending in ``/messages``."""

    @property
    def auth(self) -> str | None:
        """How the key is sent: `bearer` or `x-api-key`."""

    @property
    def version(self) -> str | None:
        """The value of `anthropic-version`; None sends none."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Further headers; a key among them takes the place of the API key."""


class Body(aiohttp.Payload):
    """A request's body, which knows whether anything of it was handed to the connection."""

    _value: bytes
    _autoclose = True

    def __init__(self, value: bytes) -> None:
        super().__init__(value, content_type="application/json")
        self._size = len(value)
        self.sent = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text, which aiohttp's interface asks for."""
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body; from the first byte on, the call may be billed."""
        self.sent = True
        value = self._value
        if len(value) <= WHOLE_WRITE_BYTES:
            await writer.write(value)
            return
        view = memoryview(value)
        for start in range(0, len(view), WHOLE_WRITE_BYTES):
            await writer.write(view[start : start + WHOLE_WRITE_BYTES])


class Endpoint:
    """A transport over HTTP: sends each request once, with one session for all, entered with `async with`.

    Redirects are refused, so the key goes nowhere but to the job's URL. Cookies are neither kept nor sent. Proxies
    and certificates are the environment's (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE); a `.netrc` is not read.
    """

    def __init__(
        self,
        job_endpoint: JobEndpoint,
        envelope: bytes,
        *,
        api_key: str | None,
        timeout_secs: float,
        connections: int,
        key_name: str = "the key",
        connect_secs: float = CONNECT_SECS,
        linger_secs: float = LINGER_SECS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Prepare, without touching the network.

        Args:
            job_endpoint: URL, authentication and headers.
            envelope: what `envelope` made of the job's request fields; with `stream: true` among them answers are
                read as they come.
            api_key: sent as `job_endpoint.auth` says; None sends none.
            timeout_secs: for one call, from taking a connection to the last byte of the answer.
            connections: how many calls can be in flight at once.
            key_name: what messages call the place where the key comes from, such as ``$ANTHROPIC_API_KEY``.
            connect_secs: for making a connection, TLS included.
            linger_secs: for what a stream still says after its answer is complete.
            max_answer_bytes: an answer is read no further than this, decompressed.
            environ: where proxies and certificates are named.

        Raises:
            JobError: the URL, a header or the proxy cannot be used, or a key would go over http beyond this machine.
        """
        self._url = target(job_endpoint.url)
        self._envelope = envelope
        fields = fields_of(envelope)
        self._streams = fields.get("stream") is True
        self._headers = headers_for(job_endpoint, api_key, key_name, streams=self._streams)
        secret = api_key is not None or any(name.lower() in KEY_HEADERS for name in self._headers)
        if secret and self._url.scheme == "http" and not is_loopback(self._url.host or ""):
            raise JobError(f"endpoint.url: {self._url.host} is asked over http, which would show the key; use https")
        self._proxy = proxy_for(self._url, environ)
        self._ssl = trust(environ) if self._url.scheme == "https" else None
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_secs)
        self._deadlines = Deadlines(timeout_secs)
        self._timeout_secs = timeout_secs
        self._connect_secs = connect_secs
        self._linger_secs = linger_secs
        self._max_answer_bytes = max_answer_bytes
        values = [api_key or "", *job_endpoint.headers.values()]
        self._asked = Asked(
            host=host_of(self._url),
            url=str(self._url.with_query(None).with_fragment(None)),
            model=str(fields.get("model") or "none"),
            key_name=key_name,
            secrets=frozenset(value for value in values if len(value) >= MIN_SECRET_CHARS),
        )
        self._rates = RateReader(time.monotonic)
        self._session: aiohttp.ClientSession | None = None
        self._answered = False
        self._probed = False

    async def __aenter__(self) -> Self:
        """Open the session; connections are made as they are needed."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=self._ssl or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            # aiohttp repeats a session's headers to the proxy, in the clear: then each request carries its own.
            headers=None if self._proxy else self._headers,
            timeout=self._timeout,
            proxy=self._proxy,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        self._deadlines.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, request: Request) -> Response:
        """Post one request and read its answer.

        Raises:
            Refused: the server would say it again.
            Busy: worth another attempt; `maybe_billed` where the request was sent and no answer came.
            RunRejected: the API rejects every row alike, redirects, shows a certificate that nobody vouches for, or
                has never answered and speaks TLS where the URL says http, or none where it says https.
        """
        session = self._session
        if session is None:
            raise RuntimeError("the endpoint is not open: use it in `async with`")
        sent = Body(body(self._envelope, request.prompt))
        watch = self._deadlines.start()
        try:
            response = await session.post(
                self._url, data=sent, headers=self._headers if self._proxy else None, allow_redirects=False
            )
            self._answered = True
            try:
                if self._streams and 200 <= response.status < 300:
                    answer = await self._read_events(response, watch)
                else:
                    answer = await self._read(response)
            finally:
                # Once the answer is read to its end the connection is back in the pool.
                if response.connection is not None:
                    response.close()
        except asyncio.CancelledError as error:
            if not watch.took_the_blame():
                raise
            raise self._busy("timeout", f"no answer within {self._timeout_secs:g} s", sent) from error
        except (aiohttp.ClientError, OSError) as error:
            # What is found out about it takes no part of the call's time.
            self._deadlines.stop(watch)
            raise await self._lost(error, sent) from _without_frames(error)
        finally:
            self._deadlines.stop(watch)
        return self._understood(response, answer, request)

    def _understood(self, response: aiohttp.ClientResponse, answer: Stream | bytes, request: Request) -> Response:
        """The answer, or the error that it is, with what its headers say of the rate limits."""
        status, headers = response.status, response.headers
        try:
            if isinstance(answer, Stream):
                read = read_stream(status, headers, answer, asked=self._asked, prompt=request.prompt)
            else:
                read = decode(status, headers, answer, asked=self._asked, prompt=request.prompt)
        except Busy as error:
            error.rate = rate_headers(headers)
            raise
        rate = self._rates.read(headers)
        return read if rate is None else replace(read, rate=rate)

    async def _read(self, response: aiohttp.ClientResponse, start: bytes = b"") -> bytes:
        """The whole body, decompressed, in pieces as they come: a few bytes of gzip can stand for gigabytes.

        Args:
            response: what is read.
            start: what was read of it already.

        Raises:
            Busy: it is longer than the cap; the rest was not read.
        """
        content = response.content
        pieces = [start] if start else []
        size = len(start)
        while not content.at_eof():
            piece = await content.readany()
            size += len(piece)
            self._cap(size, response)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _read_events(self, response: aiohttp.ClientResponse, watch: Watch) -> Stream | bytes:
        """The answer to a request for a stream, up to its end or its failure; as bytes where the server sent it plain.

        Raises:
            Busy: it is longer than the cap; the rest was not read.
        """
        content = response.content
        declared = response.content_type == "text/event-stream"
        start = b""
        while (streamed := is_stream(start, declared=declared)) is None:
            piece = await content.readany()
            if not piece:
                return start
            start += piece
        if not streamed:
            return await self._read(response, start)
        stream = Stream(self._max_answer_bytes)
        stream.feed(start)
        size = len(start)
        while not (stream.failed or stream.complete):
            self._cap(size, response)
            piece = await content.readany()
            if not piece:
                return stream
            size += len(piece)
            stream.feed(piece)
        if stream.complete:
            await self._read_rest(content, stream, size, watch)
        return stream

    async def _read_rest(self, content: aiohttp.StreamReader, stream: Stream, size: int, watch: Watch) -> None:
        """What follows a complete answer; nothing that goes wrong here can harm it.

        Reading to the end of the body also lets the connection be used again.
        """
        try:
            async with asyncio.timeout(self._linger_secs):
                while size <= self._max_answer_bytes and (piece := await content.readany()):
                    size += len(piece)
                    stream.feed(piece)
        except (aiohttp.ClientError, OSError) as error:  # the timeout among them
            _without_frames(error)
        except asyncio.CancelledError:
            if not watch.took_the_blame():
                raise

    def _cap(self, size: int, response: aiohttp.ClientResponse) -> None:
        if size > self._max_answer_bytes:
            raise Busy(
                "server_error",
                f"{self._asked.host} answered {response.status} with more than {self._max_answer_bytes} bytes",
                http_status=response.status,
                maybe_billed=True,
            )

    async def _lost(self, error: aiohttp.ClientError | OSError, sent: Body) -> Busy | RunRejected:
        """What a call without an answer came of."""
        match error:
            case aiohttp.ConnectionTimeoutError():
                return self._busy("timeout", f"no connection within {self._connect_secs:g} s", sent)
            case aiohttp.ClientConnectorCertificateError():
                return RunRejected(self._certificate(error))
            case aiohttp.ClientHttpProxyError(status=407):
                name = f"{self._url.scheme}_proxy".upper()
                return RunRejected(f"the proxy {self._through} wants a user name and password; put them into {name}")
            case aiohttp.ClientHttpProxyError():
                return self._busy("connection", f"the proxy {self._through} answered {error.status}", sent)
            case aiohttp.ClientConnectorError() | ssl.SSLError() if speaks_no_tls(error):
                return self._misspelled("does not speak TLS; write http:// in endpoint.url, or check its port", sent)
            case aiohttp.ClientConnectorError():
                return self._busy("connection", unreachable(error, self._proxy), sent)
            case aiohttp.ClientPayloadError():
                return self._busy("connection", "the answer was cut off or damaged", sent)
            case aiohttp.ClientResponseError() if self._url.scheme == "http" and answers_in_tls(error):
                return self._misspelled("speaks TLS; write https:// in endpoint.url", sent)
            case aiohttp.ClientResponseError():
                return self._busy("server_error", f"an answer that is not HTTP: {error.message}", sent)
            case _ if await self._is_tls():
                return self._misspelled("speaks TLS; write https:// in endpoint.url", sent)
            case _:
                return self._busy("connection", "the connection was closed before an answer came", sent)

    async def _is_tls(self) -> bool:
        """Whether an http server that hung up on the first call wanted TLS; looked up once."""
        if self._url.scheme != "http" or self._proxy is not None or self._answered or self._probed:
            return False
        self._probed = True
        return await speaks_tls(self._url)

    def _misspelled(self, what: str, sent: Body) -> Busy | RunRejected:
        """The URL's scheme is not the server's; one that has answered before is only out of order."""
        words = self._asked.clean(f"the server at {at(self._url)} {what}{self._by_proxy}")
        return self._busy("connection", words, sent) if self._answered else RunRejected(words)

    @property
    def _through(self) -> str:
        return "" if self._proxy is None else at(self._proxy)

    @property
    def _by_proxy(self) -> str:
        return f" (asked by way of the proxy {self._through})" if self._proxy is not None else ""

    def _busy(self, error_type: ErrorType, why: str, sent: Body) -> Busy:
        """A call without an answer: it may have been billed if anything of it was sent."""
        by_proxy = "" if "the proxy" in why else self._by_proxy
        return Busy(error_type, self._asked.clean(f"{self._asked.host}: {why}{by_proxy}"), maybe_billed=sent.sent)

    def _certificate(self, error: aiohttp.ClientConnectorCertificateError) -> str:
        why = getattr(error.certificate_error, "verify_message", "") or "not valid"
        return self._asked.clean(
            f"the certificate of {self._asked.host} cannot be trusted: {why}; "
            "check endpoint.url, the clock, and SSL_CERT_FILE if a proxy of yours signs for it" + self._by_proxy
        )


def _without_frames(error: Exception) -> Exception:
    """The same error, which no longer holds what was sent and read.

    aiohttp keeps an error of an answer in the answer's reader. The frames of its traceback hold that reader, so they
    and the bodies in them, megabytes with pictures, would stay until somebody looks for cycles, which is rare here.
    """
    return error.with_traceback(None)


def target(url: str | None) -> URL:
    """The URL to post to, exactly as written where it can go on the wire that way.

    Raises:
        JobError: it is no http or https URL, or holds a password.
    """
    if not url:
        raise JobError("endpoint.url: nothing to send to")
    try:
        # yarl would rewrite what is quoted already; only what HTTP cannot carry is left to it.
        plain = url.isascii() and url.isprintable() and " " not in url
        found = URL(url, encoded=plain)
        if found.scheme not in {"http", "https"} or not found.host:
            raise JobError(f"endpoint.url: '{url}' is no http:// or https:// address")
        if not HOST.fullmatch(found.host):
            raise JobError(f"endpoint.url: '{found.host}' is no host name")
        found.host.encode("idna")  # what the resolver would stumble over shows here
    except ValueError as error:
        raise JobError(f"endpoint.url: '{url}' is no address: {error}") from error
    if found.user is not None or found.password is not None:
        raise JobError("endpoint.url: holds a user name or password; name the key's variable in api_key_env instead")
    return found


def headers_for(
    job_endpoint: JobEndpoint, api_key: str | None, key_name: str, *, streams: bool = False
) -> dict[str, str]:
    """The headers of every request; exactly one of them holds the key, if there is one (messages-api §2).

    Raises:
        JobError: the key or a header has characters that HTTP cannot carry.
    """
    extra = dict(job_endpoint.headers)
    accept = "text/event-stream" if streams else "application/json"
    headers = {"content-type": "application/json", "accept": accept, "user-agent": USER_AGENT}
    if job_endpoint.version is not None:
        headers["anthropic-version"] = job_endpoint.version
    if api_key is not None and not any(name.lower() in {"authorization", "x-api-key"} for name in extra):
        if not api_key or not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
            raise JobError(f"{key_name} holds characters that no key has (spaces, line ends or non-ASCII letters)")
        if job_endpoint.auth == "x-api-key":
            headers["x-api-key"] = api_key
        else:
            headers["authorization"] = f"Bearer {api_key}"
    for name, value in extra.items():
        if not value.isprintable() or not (name.isascii() and name.isprintable()):
            raise JobError(f"endpoint.headers: '{name}' has characters that no header can carry")
        headers[name.lower()] = value
    return headers


def trust(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Whose certificates are believed: the system's, or SSL_CERT_FILE's.

    Raises:
        JobError: SSL_CERT_FILE cannot be read, which OpenSSL would pass over in silence.
    """
    named = environ.get("SSL_CERT_FILE")
    try:
        return ssl.create_default_context(cafile=named or None)
    except (OSError, ssl.SSLError) as error:
        raise JobError(f"SSL_CERT_FILE: cannot read certificates from '{named}'") from error


def host_of(url: URL) -> str:
    """The host, with its port where the URL names one."""
    return f"{url.host_subcomponent}:{url.explicit_port}" if url.explicit_port else str(url.host_subcomponent)


def fields_of(envelope: bytes) -> dict[str, Any]:
    """The request's fields that the envelope was made of."""
    fields = orjson.loads(envelope.removesuffix(b",") + b"}")
    assert isinstance(fields, dict)
    return fields

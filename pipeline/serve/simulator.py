"""A server that speaks /messages without a model: strict about requests, sure of its answers, honest in its ledger."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from pipeline.errors import JobError
from pipeline.serve import answers, catalogue
from pipeline.serve.asked import Asked, conversation_digest, tokens_up
from pipeline.serve.buckets import Limits
from pipeline.serve.cache import NOTHING, Cached, PromptCache, prefixes, texts_of
from pipeline.serve.dialects import DIALECTS
from pipeline.serve.events import in_writes, with_pings
from pipeline.serve.faults import (
    LASTING,
    OF_ANSWERS,
    Conversation,
    Fault,
    FaultPlan,
    FaultWhen,
    parse_fault,
    parse_fault_when,
)
from pipeline.serve.ledger import Ledger
from pipeline.serve.models import rules_of
from pipeline.serve.refusals import MESSAGES, REFUSALS
from pipeline.serve.sights import BLIND, KINDS, Sights, look
from pipeline.serve.stopping import stopping
from pipeline.serve.validation import ApiError, check, check_count

__all__ = [
    "SIMULATOR",
    "Fault",
    "FaultWhen",
    "Simulator",
    "SimulatorOptions",
    "create_app",
    "parse_fault",
    "parse_fault_when",
    "run_simulator",
]

HOST = "127.0.0.1"
MAX_BODY_BYTES = 32 * 1024 * 1024
SHUTDOWN_SECS = 2.0
"""How long calls in flight may take to end when the server is stopped."""

_STALL_TICK_SECS = 0.2
_DELIVERY_SECS = 0.02
_JSON = "application/json"
_HTML = "text/html"
_EVENTS = "text/event-stream; charset=utf-8"
_PAGE = b"<html><head><title>%s</title></head><body><center><h1>%s</h1></center></body></html>\n"

_IN_ANSWERS = OF_ANSWERS | {"cut", "no-stop", "pings", "reset-body", "stall-body"}
_BREAKING = frozenset({"cut", "no-stop", "reset", "reset-body", "stall", "stall-body", "error-event"})
_IN_STREAMS = _IN_ANSWERS | _BREAKING
"""Faults that need an answer to befall, and those that break it off."""
_LEAVING = frozenset({"reset", "reset-body", "stall", "stall-body"})
_CACHE_MARK = b'"cache_control"'
_CLIENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True)
class SimulatorOptions:
    """What a rehearsal is like.

    Attributes:
        dialect: one of `DIALECTS`: how answers and errors are written, and how strict requests are read.
        key: the API key to require; None takes any, and none.
        models: the only models served; empty serves all but retired ones.
        latency_ms: mean time to an answer; each request has its own, from half to one and a half of it.
        rpm: requests per minute; None for no limit.
        itpm: input tokens per minute; None for no limit.
        otpm: output tokens per minute; None for no limit.
        faults: shares of the requests that go wrong.
        fault_whens: prompts that go wrong as scripted.
        retry_after: the `retry-after` header of a 429 that `faults` or `fault_whens` made; None sends none.
        seed: decides which requests the faults hit.
        ledger: the file that gets a line for every request; None for a temporary one.

    Raises:
        ValueError: an unknown dialect, a limit or latency that is no positive number, or rates above 1 in sum.
    """

    dialect: str = "native"
    key: str | None = field(default=None, repr=False)
    models: tuple[str, ...] = ()
    latency_ms: float = 0.0
    rpm: float | None = None
    itpm: float | None = None
    otpm: float | None = None
    faults: tuple[Fault, ...] = ()
    fault_whens: tuple[FaultWhen, ...] = ()
    retry_after: str | None = "1"
    seed: int = 0
    ledger: Path | None = None

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise ValueError(f"unknown dialect {self.dialect!r}: expected {', '.join(DIALECTS)}")
        if not 0 <= self.latency_ms < math.inf:
            raise ValueError(f"latency {self.latency_ms} is not a number of milliseconds")
        for name, limit in (("rpm", self.rpm), ("itpm", self.itpm), ("otpm", self.otpm)):
            if limit is not None and not 0 < limit < math.inf:
                raise ValueError(f"{name} {limit} is not above 0")
        FaultPlan(self.faults, self.fault_whens, self.seed)


@dataclass(slots=True)
class _Call:
    """One request, filled in as it is understood; `entry` is its line in the ledger."""

    n: int
    at: datetime
    started: float
    path: str
    key_digest: str | None
    digest: bytes | None = None
    text_head: str | None = None
    model: str | None = None
    status: int | None = None
    fault: str | None = None
    usage: dict[str, int] | None = None
    stop_reason: str | None = None
    matched: str | None = None
    marks: int = 0
    turns: int = 0
    pictures: tuple[str, ...] = ()
    noted: bool = False

    def entry(self, *, sent: bool, secs: float) -> dict[str, Any]:
        return {
            "n": self.n,
            "at": self.at,
            "ms": round(secs * 1000, 3),
            "path": self.path,
            "status": self.status,
            "fault": self.fault,
            "prompt_digest": None if self.digest is None else self.digest.hex(),
            "text_head": self.text_head,
            "model": self.model,
            "usage": self.usage,
            "sent": sent,
            "api_key_digest": self.key_digest,
            "stop_reason": self.stop_reason,
            "matched": self.matched,
            "marks": self.marks,
            "turns": self.turns,
            "pictures": self.pictures,
        }


@dataclass(frozen=True, slots=True)
class _Reply:
    """What goes on the wire: a body, or None for a connection that ends (`reset`) or hangs (`stall`) without one."""

    body: bytes | None
    content_type: str = _JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Stream:
    """An answer in events: what goes on the wire before its line in the ledger, and what after it."""

    opening: bytes
    closing: bytes
    headers: Mapping[str, str]


class Simulator:
    """The state of one server: its limits, its prompt cache, what it has seen, its ledger.

    Args:
        options: what the rehearsal is like.
        clock: seconds, for the times of the prompt cache.
    """

    def __init__(self, options: SimulatorOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cache = PromptCache()
        self._counted = 0
        self._options = options
        self._dialect = DIALECTS[options.dialect]
        self._models = frozenset(options.models)
        self._plan = FaultPlan(options.faults, options.fault_whens, options.seed)
        self._seen: Counter[bytes] = Counter()
        self._count = 0
        self._in_flight = 0
        self._max_in_flight = 0
        self._ledger: Ledger | None = None
        self._stopping = asyncio.Event()
        self._limits: Limits | None = None

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self, _app: web.Application) -> None:
        """Open the ledger and fill the buckets.

        Raises:
            JobError: the ledger's file cannot be written.
        """
        options = self._options
        try:
            self._ledger = Ledger(options.ledger)
        except OSError as error:
            raise JobError(f"ledger {options.ledger}: cannot be written ({error.strerror})") from error
        self._limits = Limits(options.rpm, options.itpm, options.otpm, asyncio.get_running_loop().time())

    async def shut_down(self, _app: web.Application) -> None:
        """Let go of the requests that are never answered."""
        self._stopping.set()

    async def close(self, _app: web.Application) -> None:
        """Close the ledger, after the last call has its line."""
        if self._ledger is not None:
            self._ledger.close()

    # --- requests ---------------------------------------------------------------------------------------------------

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Answer POST /messages."""
        started = asyncio.get_running_loop().time()
        self._count += 1
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        call = _Call(
            self._count,
            datetime.now(UTC),
            started,
            request.path,
            _key_digest(_key_of(request, self._dialect.key_headers)),
        )
        try:
            reply = await self._decide(request, call)
            if isinstance(reply, _Stream):
                return await self._send_events(request, call, reply)
            if reply.body is not None and call.fault in _LEAVING:
                return await self._send_part(request, call, reply)
            response, sent = self._prepare(request, call, reply)
            self._note(call, sent=sent)
            if reply.body is None:
                await self._leave_unanswered(request, call)
                return response
            # A client that has gone is no error of ours; the ledger has the call.
            with suppress(ConnectionResetError):
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            self._in_flight -= 1
            if not call.noted:
                self._note(call, sent=False)

    async def _decide(self, request: web.Request, call: _Call) -> _Reply | _Stream:
        try:
            return await self._answer(request, call)
        except ApiError as error:
            return self._error(call, error.status, error.message, error.headers)

    async def _answer(self, request: web.Request, call: _Call) -> _Reply | _Stream:
        options, dialect = self._options, self._dialect
        self._check_key(request)
        raw = await _body_of(request)
        if raw is None:
            return self._page(call, 413, b"413 Request Entity Too Large")
        body = _parsed(raw)
        call.digest = _digest_of(body)
        body = check(body, request.headers.get("anthropic-version"), dialect.rules, self._models)
        sights = await self._seen_in(body, raw)
        asked = answers.read(body, call.digest, dialect.reading, sights)
        call.pictures = sights.each
        call.text_head, call.model, call.turns = asked.text_head, asked.model, len(body["messages"])
        cached = self._look_up(body, asked) if dialect.caches and _CACHE_MARK in raw else NOTHING
        call.marks = cached.marks
        fault = self._befalls(body, asked, cached, call)
        if options.latency_ms:
            spread = 0.5 + int.from_bytes(asked.digest[-4:], "big") / 2**32
            await asyncio.sleep(options.latency_ms / 1000 * spread)
        call.fault = fault
        streams = bool(body.get("stream"))
        if fault is not None and fault not in (_IN_STREAMS if streams else _IN_ANSWERS):
            return self._fault(call, fault)
        if cached.marks:
            self._cache.begin(cached, self._clock())
        answer = answers.answer(asked, fault if fault in OF_ANSWERS else None, cached)
        call.status, call.stop_reason = 200, answer.stop_reason
        call.usage = {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens}
        if cached.marks:
            call.usage |= {"cache_creation_input_tokens": cached.created, "cache_read_input_tokens": cached.read}
        assert self._limits is not None
        self._limits.produced(answer.output_tokens, asyncio.get_running_loop().time())
        if streams:
            options_of_stream = body.get("stream_options") or {}
            return self._stream(call, answer, include_usage=options_of_stream.get("include_usage", False))
        written = orjson.dumps(dialect.write_answer(answer))
        headers = self._limit_headers()
        if dialect.answer_headers is not None:
            headers |= dialect.answer_headers(answer)
        return _Reply(written[: len(written) // 2] if fault in _BREAKING else written, _JSON, headers)

    async def _seen_in(self, body: dict[str, Any], raw: bytes) -> Sights:
        """Look at the pictures of a request, in a thread: others are answered meanwhile."""
        if not any(kind in raw for kind in KINDS):
            return BLIND
        by_model = self._dialect.rules.by_model
        return await asyncio.get_running_loop().run_in_executor(None, lambda: look(body, by_model=by_model))

    def _look_up(self, body: Mapping[str, Any], asked: Asked) -> Cached:
        least = rules_of(asked.model).least_cached_tokens
        return self._cache.look_up(prefixes(body, tokens_up, asked.sights.tokens_of), least, self._clock())

    def _befalls(self, body: Mapping[str, Any], asked: Asked, cached: Cached, call: _Call) -> str | None:
        """Let a request in and say what befalls it; one for which a script has a fault is let in by that."""
        script, scripted = self._plan.script(asked.texts), None
        if script is not None:
            call.matched = script.text
            scripted = script.at(self._nth(asked))
            if scripted is not None and scripted not in LASTING:
                return scripted
        self._admit(asked.input_tokens - cached.read, asyncio.get_running_loop().time())
        if script is None and self._plan.draws and (drawn := self._plan.draw(asked.digest, self._nth(asked))):
            return drawn
        if not self._plan.lasts or (script is not None and scripted is None):
            return None
        return self._lasting(body, asked, scripted)

    def _nth(self, asked: Asked) -> int:
        """Count the arrivals of a request."""
        short = asked.digest[:8]
        self._seen[short] += 1
        return self._seen[short]

    def _lasting(self, body: Mapping[str, Any], asked: Asked, scripted: str | None) -> str | None:
        messages = body["messages"]
        if messages[-1]["role"] == "assistant" and scripted in {None, "pause_turn"}:
            return None  # what was broken off is being ended
        now = Conversation(conversation_digest(body, messages), asked.texts)
        kind = self._plan.lasting(now, _earlier(body, messages), scripted)
        if kind is not None and kind.startswith("invalid") and asked.shape is None:
            return None  # without a schema nothing can break it
        return kind

    def _check_key(self, request: web.Request) -> None:
        if self._options.key is None:
            return
        headers = self._dialect.key_headers
        found = _key_of(request, headers)
        if found is None:
            raise ApiError(401, f"{headers[0]} header is required")
        if found != self._options.key:
            by_name = "x-api-key" in headers and request.headers.get("x-api-key") is not None
            raise ApiError(401, "invalid x-api-key" if by_name else "Invalid bearer token")

    def _admit(self, input_tokens: int, now: float) -> None:
        assert self._limits is not None
        shortage = self._limits.admit(input_tokens, now)
        if shortage is not None:
            raise ApiError(
                429,
                f"This request would exceed your organization's rate limit of {shortage.per_minute:,.0f} "
                f"{shortage.limit} per minute.",
                {"retry-after": str(max(1, math.ceil(shortage.wait_secs))), **self._limit_headers()},
            )

    def _limit_headers(self) -> dict[str, str]:
        assert self._limits is not None
        if not self._limits.any:
            return {}
        standings = self._limits.standings(asyncio.get_running_loop().time())
        return self._dialect.limit_headers(standings, datetime.now(UTC))

    # --- replies ----------------------------------------------------------------------------------------------------

    def _stream(self, call: _Call, answer: answers.Answer, *, include_usage: bool) -> _Stream:
        """Tell an answer in events, up to where the call's fault breaks it off: then nothing makes it whole."""
        events = self._dialect.write_stream(answer, include_usage)
        headers = {"cache-control": "no-cache", **self._limit_headers()}
        written, whole = events.written, events.whole
        if call.fault == "pings":
            written, whole = with_pings(written, events.ping), 2 * whole
        if call.fault not in _BREAKING:
            return _Stream(b"".join(written[:whole]), b"".join(written[whole:]), headers)
        call.usage = call.stop_reason = None
        assert call.digest is not None
        kept = {"cut": events.cut_after(call.digest), "no-stop": whole}.get(call.fault, events.begun)
        opening = b"".join(written[:kept])
        if call.fault == "error-event":
            error = self._dialect.write_error(529, MESSAGES["529"], _request_id(call))
            return _Stream(opening, self._dialect.write_error_event(error), headers)
        return _Stream(opening, b"", headers)

    async def _send_events(self, request: web.Request, call: _Call, stream: _Stream) -> web.StreamResponse:
        headers = {"content-type": _EVENTS, **self._ids(request, call), **stream.headers}
        response = web.StreamResponse(headers=headers)
        leaves = call.fault in _LEAVING
        # A client that has left is noted as such by the caller, and needs no more.
        with suppress(ConnectionError):
            await response.prepare(request)
            for piece in in_writes(stream.opening):
                await response.write(piece)
                await asyncio.sleep(0)  # so that the pieces can be read apart
            self._note(call, sent=not leaves and _is_connected(request))
            if leaves:
                # A reset may throw away what was not read yet, and then no stream would have begun.
                await asyncio.sleep(_DELIVERY_SECS)
                await self._leave_unanswered(request, call)
                return response
            if stream.closing:
                await response.write(stream.closing)
            await response.write_eof()
        return response

    async def _send_part(self, request: web.Request, call: _Call, reply: _Reply) -> web.StreamResponse:
        """Send the headers of a plain answer and half of its body, and leave it at that."""
        assert reply.body is not None
        call.usage = call.stop_reason = None
        length = str(2 * len(reply.body) + 1)
        headers = {"content-type": _JSON, "content-length": length, **self._ids(request, call), **reply.headers}
        response = web.StreamResponse(headers=headers)
        self._note(call, sent=False)
        with suppress(ConnectionError):
            await response.prepare(request)
            await response.write(reply.body)
            await asyncio.sleep(_DELIVERY_SECS)
            await self._leave_unanswered(request, call)
        return response

    def _fault(self, call: _Call, kind: str) -> _Reply:
        if kind in {"reset", "stall"}:
            return _Reply(None)
        if kind == "html":
            return self._page(call, 200, b"Please wait")
        if kind in {"error-event", "error-200"}:
            reply = self._error(call, 529, MESSAGES["529"])
            call.status = 200 if kind == "error-200" else 529
            return reply
        if kind in REFUSALS:
            return self._refusal(call, kind)
        if kind == "413":
            return self._page(call, 413, b"413 Request Entity Too Large")
        if kind == "404":
            return self._error(call, 404, f"model: {call.model}")
        headers = {}
        if kind == "429" and self._options.retry_after is not None:
            headers["retry-after"] = self._options.retry_after
        message = MESSAGES.get(kind, f"simulated fault: every such request is answered {kind}")
        return self._error(call, int(kind), message, headers)

    def _refusal(self, call: _Call, kind: str) -> _Reply:
        refusal = self._dialect.refusals[kind]
        message = refusal.message or MESSAGES[str(refusal.status)]
        if refusal.body == "html":
            return self._page(call, refusal.status, message.encode())
        now = datetime.now(UTC)
        headers = {**refusal.headers, **{name: tell(now) for name, tell in refusal.dated.items()}}
        if refusal.body == "text":
            call.status = refusal.status
            return _Reply(message.encode(), "text/plain", headers)
        return self._error(call, refusal.status, message, headers, refusal.error_code)

    def _error(
        self,
        call: _Call,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
        error_code: str | None = None,
    ) -> _Reply:
        call.status = status
        written = orjson.dumps(self._dialect.write_error(status, message, _request_id(call), error_code))
        return _Reply(written, _JSON, headers or {})

    @staticmethod
    def _page(call: _Call, status: int, title: bytes) -> _Reply:
        """Answer with HTML, as a proxy before the API does."""
        call.status = status
        return _Reply(_PAGE % (title, title), _HTML)

    def _prepare(self, request: web.Request, call: _Call, reply: _Reply) -> tuple[web.Response, bool]:
        """Make the response, and say whether there is a connection that takes it."""
        headers = {"content-type": reply.content_type, **self._ids(request, call), **reply.headers}
        response = web.Response(status=call.status or 500, body=reply.body, headers=headers)
        return response, reply.body is not None and _is_connected(request)

    def _ids(self, request: web.Request, call: _Call) -> dict[str, str]:
        dialect = self._dialect
        ids = {dialect.request_id_header: _request_id(call)}
        if dialect.echoed_header is not None:
            echoed = request.headers.get(dialect.echoed_header, "")
            if _CLIENT_ID.fullmatch(echoed):
                ids[dialect.echoed_header] = echoed
        return ids

    async def _leave_unanswered(self, request: web.Request, call: _Call) -> None:
        if call.fault in {"stall", "stall-body"}:
            # Nobody tells a handler that its client has left, so it looks now and then.
            while _is_connected(request):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _STALL_TICK_SECS)
                    break
        _reset(request)

    def _note(self, call: _Call, *, sent: bool) -> None:
        assert self._ledger is not None
        call.noted = True
        self._ledger.add(call.entry(sent=sent, secs=asyncio.get_running_loop().time() - call.started))

    # --- what is not /messages ----------------------------------------------------------------------------------------

    async def ledger(self, request: web.Request) -> web.StreamResponse:
        """Give the ledger's lines since the start: GET /debug/ledger."""
        assert self._ledger is not None
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        await response.prepare(request)
        for piece in self._ledger.chunks():
            await response.write(piece)
        await response.write_eof()
        return response

    async def stats(self, _request: web.Request) -> web.Response:
        """Give the counts since the start: GET /debug/stats."""
        assert self._ledger is not None
        stats = {
            "received": self._count,
            "in_flight": self._in_flight,
            "max_in_flight": self._max_in_flight,
            "counted": self._counted,
            **self._ledger.stats(),
        }
        return web.Response(body=orjson.dumps(stats, option=orjson.OPT_APPEND_NEWLINE), content_type=_JSON)

    async def count_tokens(self, request: web.Request) -> web.Response:
        """Count the tokens of a prompt: POST …/messages/count_tokens. It is free, so the ledger has no line of it."""
        self._counted += 1
        try:
            found = {"input_tokens": await self._count_of(request)}
        except ApiError as error:
            return self._aside(error)
        return web.Response(body=orjson.dumps(found), content_type=_JSON)

    async def _count_of(self, request: web.Request) -> int:
        self._check_key(request)
        raw = await _body_of(request)
        if raw is None:
            raise ApiError(413, "Request exceeds the maximum size")
        version, dialect = request.headers.get("anthropic-version"), self._dialect
        body = _parsed(raw)
        digest = _digest_of(body)
        body = check_count(body, version, dialect.rules, self._models)
        return answers.read(body, digest, dialect.reading, await self._seen_in(body, raw)).input_tokens

    async def models(self, request: web.Request) -> web.Response:
        """List the models: GET /v1/models, and one of them: GET /v1/models/ID."""
        try:
            if not self._dialect.lists_without_key:
                self._check_key(request)
            found = catalogue.page(self._options.models, request.query)
            if (name := request.match_info.get("name")) is not None:
                found = catalogue.item(self._options.models, name)
        except ApiError as error:
            return self._aside(error)
        return web.Response(body=orjson.dumps(found), content_type=_JSON)

    async def unknown(self, request: web.Request) -> web.Response:
        """Refuse every other path or method."""
        known = request.path in {*self._dialect.paths, *self._dialect.count_paths}
        return self._aside(ApiError(405, "Method Not Allowed") if known else ApiError(404, "Not found"))

    def _aside(self, error: ApiError) -> web.Response:
        written = orjson.dumps(self._dialect.write_error(error.status, error.message, "req_none"))
        return web.Response(status=error.status, body=written, content_type=_JSON)


def _request_id(call: _Call) -> str:
    return f"req_sim{call.n:020d}"


def _key_of(request: web.Request, headers: tuple[str, ...]) -> str | None:
    """Read the API key; the first header wins where several are sent (messages-api §0)."""
    for name in headers:
        found = request.headers.get(name)
        if found is None:
            continue
        if name != "authorization":
            return found
        scheme, _, token = found.partition(" ")
        if scheme.lower() == "bearer" and token:
            return token.strip()
    return None


def _earlier(body: Mapping[str, Any], messages: list[Any]) -> Iterator[Conversation]:
    """Give what each turn of the assistant replied to."""
    for place, message in enumerate(messages):
        if place and message["role"] == "assistant":
            said = messages[:place]
            texts = [
                *texts_of(body.get("system")),
                *(text for turn in said for text in texts_of(turn.get("content"))),
            ]
            yield Conversation(conversation_digest(body, said), texts)


@lru_cache(maxsize=64)
def _key_digest(key: str | None) -> str | None:
    return None if key is None else sha256(key.encode()).hexdigest()[:8]


async def _body_of(request: web.Request) -> bytes | None:
    """Read the body; None where it is larger than the API takes."""
    if request.content_type != _JSON:
        raise ApiError(400, f"content-type: expected application/json, found {request.content_type}")
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return None


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from error


def _digest_of(body: Any) -> bytes:
    try:
        return answers.digest_of(body)
    except orjson.JSONEncodeError as error:
        raise ApiError(400, "The request body is nested too deeply") from error


def _is_connected(request: web.Request) -> bool:
    transport = request.transport
    return transport is not None and not transport.is_closing()


def _reset(request: web.Request) -> None:
    """End the connection with a RST: a linger time of 0 throws away what a close would still deliver."""
    transport = request.transport
    if transport is None:
        return
    held = transport.get_extra_info("socket")
    if held is not None and held.fileno() >= 0:
        with socket.socket(fileno=socket.dup(held.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


SIMULATOR = web.AppKey("simulator", Simulator)


def create_app(options: SimulatorOptions, clock: Callable[[], float] = time.monotonic) -> web.Application:
    """Make the simulator's application, for aiohttp's runners; its state is under the key `SIMULATOR`."""
    simulator = Simulator(options, clock)
    dialect = DIALECTS[options.dialect]
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[SIMULATOR] = simulator
    app.on_startup.append(simulator.start)
    app.on_shutdown.append(simulator.shut_down)
    app.on_cleanup.append(simulator.close)
    for path in dialect.paths:
        app.router.add_post(path, simulator.messages)
    for path in dialect.count_paths:
        app.router.add_post(path, simulator.count_tokens)
    app.router.add_get("/v1/models", simulator.models)
    app.router.add_get("/v1/models/{name:.+}", simulator.models)
    app.router.add_get("/debug/ledger", simulator.ledger)
    app.router.add_get("/debug/stats", simulator.stats)
    app.router.add_route("*", "/{path:.*}", simulator.unknown)
    return app


def run_simulator(
    options: SimulatorOptions, *, port: int, announce: Callable[[str], None], stop_with_stdin: bool = False
) -> None:
    """Serve on 127.0.0.1 until SIGTERM, SIGINT or, with `stop_with_stdin`, the end of stdin.

    Args:
        options: what the rehearsal is like.
        port: 0 for any free one.
        announce: gets ``listening on http://127.0.0.1:PORT`` once connections are taken.
        stop_with_stdin: stop when stdin reaches its end, so that the server never outlives the process that holds it.

    Raises:
        JobError: the port is taken, or the ledger cannot be written.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(options, port, announce, stop_with_stdin=stop_with_stdin))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None  # there is none for Windows
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(
    options: SimulatorOptions, port: int, announce: Callable[[str], None], *, stop_with_stdin: bool
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def stop_soon() -> None:
        # The loop is gone when a late signal or the end of stdin finds it closed.
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    runner = web.AppRunner(create_app(options), access_log=None, shutdown_timeout=SHUTDOWN_SECS)
    with stopping(stop_soon, with_stdin=stop_with_stdin):
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, HOST, port, backlog=1024).start()
            except OSError as error:
                raise JobError(f"port {port} on {HOST}: cannot be listened on ({error.strerror})") from error
            announce(f"listening on http://{HOST}:{runner.addresses[0][1]}")
            await stop.wait()
        finally:
            await runner.cleanup()

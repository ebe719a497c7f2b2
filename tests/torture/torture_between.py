"""A proxy before the simulator that treats some calls badly: silent, cut, trickling, slow, refused, reset."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from torture_rig import WAIT_SECS, serving

TRICKLE_SECS = 1.0
ENVELOPE = '{"type":"error","error":{"type":"%s","message":"%s"},"request_id":"req_1"}'
REFUSALS = {
    "503": (503, "text/html", "<html><body>503 Service Temporarily Unavailable</body></html>"),
    "529": (529, "application/json", ENVELOPE % ("overloaded_error", "Overloaded")),
}
BEGUN = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"claude-haiku-4-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":9,'
    b'"output_tokens":1}}}\n\n'
)
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


@dataclass(frozen=True, slots=True)
class Seen:
    """A call as it came by.

    Attributes:
        name: the row's.
        fate: what was done to it.
        at: when it came, seconds since 1970.
    """

    name: str
    fate: str
    at: float


@dataclass
class Between:
    """Passes calls on, except those of which `fate` says otherwise.

    A fate is `pass`; `slow`, which passes after `slow_secs`; `mute`, which reads the request and says nothing;
    `headers` and `middle`, which stop after these or in the body; `trickle`, a byte a second for ever; `pings`,
    a stream that only says it is alive; `reset`; or one of `REFUSALS`.
    """

    upstream: str
    fate: Callable[[str], str]
    slow_secs: float = 0.0
    fast_secs: float = 0.0
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    _session: aiohttp.ClientSession | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        prompt = str(json.loads(body)["messages"][-1]["content"])
        name = prompt.removeprefix("Describe ").removesuffix(".")
        fate = self.fate(name)
        self.seen.append(Seen(name, fate, time.time()))
        if fate in {"pass", "slow"}:
            if secs := self.slow_secs if fate == "slow" else self.fast_secs:
                await asyncio.sleep(secs)
            return await self._pass_on(request, body)
        if fate in REFUSALS:
            status, kind, text = REFUSALS[fate]
            return web.Response(status=status, content_type=kind, text=text)
        if fate == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        response = web.StreamResponse(headers={"content-type": "application/json"})
        # The client leaves when it has had enough, which is what all this is about.
        with suppress(ConnectionError):
            await self._drag_on(fate, request, response)
        return response

    async def _drag_on(self, fate: str, request: web.Request, response: web.StreamResponse) -> None:
        every: bytes | None = None
        if fate == "pings":
            response.content_type, every = "text/event-stream", PING
        if fate == "trickle":
            every = b" "
        if fate in {"headers", "middle"}:
            response.content_length = 500
        if fate != "mute":
            await response.prepare(request)
        if fate == "middle":
            await response.write(b'{"id":"msg_1","type":"message","content":[{"type":"te')
        if fate == "pings":
            await response.write(BEGUN)
        ticks = 0
        while request.transport is not None and not request.transport.is_closing():
            await asyncio.sleep(TRICKLE_SECS / 10)
            ticks += 1
            if every is not None and ticks % 10 == 0:
                await response.write(every)

    async def _pass_on(self, request: web.Request, body: bytes) -> web.Response:
        if self._session is None:
            self._loop = asyncio.get_running_loop()
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(auto_decompress=False, connector=connector)
        kept = {
            name: value for name, value in request.headers.items() if name.lower() not in {"host", "content-length"}
        }
        async with self._session.post(self.upstream + request.path, data=body, headers=kept) as answer:
            content = await answer.read()
        passed = {
            name: value
            for name, value in answer.headers.items()
            if name.lower() in {"content-type", "request-id", "retry-after"}
        }
        return web.Response(status=answer.status, body=content, headers=passed)

    def close(self) -> None:
        if self._session is not None and self._loop is not None:
            closed = threading.Event()
            closing = asyncio.run_coroutine_threadsafe(self._session.close(), self._loop)
            closing.add_done_callback(lambda _: closed.set())
            assert closed.wait(WAIT_SECS)


@contextmanager
def between(upstream: str, fate: Callable[[str], str], *, fast: float = 0.0, slow: float = 0.0) -> Iterator[Between]:
    """Serve while the block runs."""
    made = Between(upstream, fate, slow_secs=slow, fast_secs=fast)
    with serving(made.handle) as made.url:
        try:
            yield made
        finally:
            made.close()

"""A server that lies: each row's name says how. It keeps what it saw of keys."""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

HUGE_BYTES = 100 * 1024 * 1024
BOMB = gzip.compress(b" " * HUGE_BYTES, 9)


def answer(name: str, **changes: Any) -> dict[str, Any]:
    """An honest answer, but for what is changed."""
    return {
        "id": f"msg_{name}",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [{"type": "text", "text": f"answer: Describe {name}."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 9},
        **changes,
    }


def said(name: str, **changes: Any) -> bytes:
    return json.dumps(answer(name, **changes)).encode()


PLAIN: dict[str, Callable[[str], bytes]] = {
    "honest": said,
    "html": lambda _: b"<html><body>Welcome to the portal</body></html>",
    "cut": lambda name: said(name)[:-40],
    "nothing": lambda _: b"",
    "null": lambda _: b"null",
    "list": lambda _: b"[1, 2, 3]",
    "deep": lambda _: b'{"content":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "not-utf-8": lambda name: said(name).replace(b"answer", b"\xff\xfe\xfa"),
    "empty-content": lambda name: said(name, content=[]),
    "no-content": lambda name: said(name, content=None),
    "text-content": lambda name: said(name, content={"text": 7}),
    "no-usage": lambda name: said(name, usage=None),
    "negative-usage": lambda name: said(name, usage={"input_tokens": -5, "output_tokens": 9}),
    "text-usage": lambda name: said(name, usage={"input_tokens": "9", "output_tokens": "nine"}),
    "huge-usage": lambda name: said(name, usage={"input_tokens": 10**30, "output_tokens": 9}),
    "surrogate": lambda name: said(name).replace(b"answer", b"\\ud800"),
    "nul": lambda name: said(name).replace(b"answer", b"\\u0000"),
}


class Liar:
    """Answers by the name in the prompt; remembers the headers of every request, also of those elsewhere."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self.asked: list[str] = []
        self.elsewhere: str | None = None

    async def lie(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        body = json.loads(await request.read())
        prompt = str(body["messages"][-1]["content"])
        name = prompt.removeprefix("Describe ").removesuffix(".")
        self.asked.append(name)
        kind = name.rpartition("_")[2]
        special: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
            "huge": self._huge,
            "bomb": self._bomb,
            "redirect": self._redirect,
        }
        if kind in special:
            return await special[kind](request)
        return web.Response(body=PLAIN[kind](name), content_type="application/json")

    async def _huge(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        # The client leaves in the middle, as it should.
        with suppress(ConnectionError):
            for _ in range(HUGE_BYTES // 1_048_576):
                await response.write(b" " * 1_048_576)
        return response

    async def _bomb(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=BOMB, headers={"content-type": "application/json", "content-encoding": "gzip"})

    async def _redirect(self, _: web.Request) -> web.StreamResponse:
        assert self.elsewhere is not None
        return web.Response(status=307, headers={"location": self.elsewhere})


class Scripted:
    """Answers each prompt by a function of it, and keeps the prompts."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.prompts: list[str] = []
        self._reply = reply

    async def say(self, request: web.Request) -> web.StreamResponse:
        prompt = str(json.loads(await request.read())["messages"][-1]["content"])
        self.prompts.append(prompt)
        return web.json_response(answer("x", content=[{"type": "text", "text": self._reply(prompt)}]))

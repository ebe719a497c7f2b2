"""A simulator on loopback, and a client that takes what it says as it is."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from pipeline.serve.simulator import SimulatorOptions, create_app

VERSION = {"anthropic-version": "2023-06-01"}


def body_of(text: str = "hello there", **members: Any) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 512,
        "messages": [{"role": "user", "content": text}],
        **members,
    }


@dataclass
class Got:
    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.raw)


class Client:
    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    async def post(
        self, body: Any, headers: Mapping[str, str] = VERSION, path: str = "/v1/messages", raw: bytes | None = None
    ) -> Got:
        data = io.BytesIO(orjson.dumps(body) if raw is None else raw)
        sent = {"content-type": "application/json", **headers}
        async with self.session.post(self.base + path, data=data, headers=sent) as response:
            return Got(response.status, response.headers, await response.read())

    async def get(self, path: str) -> Got:
        async with self.session.get(self.base + path) as response:
            return Got(response.status, response.headers, await response.read())

    async def until_in_flight(self) -> None:
        while (await self.get("/debug/stats")).json["in_flight"] == 0:
            pass

    async def first_entries(self) -> list[dict[str, Any]]:
        while not (entries := await self.ledger()):
            pass
        return entries

    async def ledger(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in (await self.get("/debug/ledger")).raw.splitlines()]


@asynccontextmanager
async def serving(*, clock: Callable[[], float] = time.monotonic, **options: Any) -> AsyncIterator[Client]:
    runner = web.AppRunner(create_app(SimulatorOptions(**options), clock), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            yield Client(session, f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def run(journey: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(journey, 30))

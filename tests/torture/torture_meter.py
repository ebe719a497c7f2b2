"""A server that counts tokens its own way, enforces limits per minute by the second, and tells nobody of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from torture_liar import answer

MINUTE_SECS = 60.0
SLICE_SECS = 1.0


class Tank:
    """Holds a second's worth of a limit; what is larger passes when it is full, and leaves it in debt."""

    def __init__(self, per_minute: float) -> None:
        self.per_sec = per_minute / MINUTE_SECS
        self.most = self.level = self.per_sec * SLICE_SECS
        self._at = 0.0

    def missing_secs(self, amount: float, now: float) -> float:
        self.level = min(self.most, self.level + (now - self._at) * self.per_sec)
        self._at = now
        return max(0.0, min(amount, self.most) - self.level) / self.per_sec


@dataclass(frozen=True, slots=True)
class Metered:
    """A call: which row's, when it came (monotonic), its tokens in and out, and whether it was let in."""

    name: str
    at: float
    tokens: float
    made: float
    passed: bool


@dataclass
class Meter:
    """Lets calls in by input and output tokens per minute.

    Attributes:
        tokens_per_char: of the prompt's text.
        output: tokens of a row's answer.
    """

    input_per_minute: float
    output_per_minute: float
    tokens_per_char: float
    output: Callable[[str], int]
    latency_secs: float = 0.1
    seen: list[Metered] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._input, self._output = Tank(self.input_per_minute), Tank(self.output_per_minute)

    async def admit(self, request: web.Request) -> web.StreamResponse:
        now = time.monotonic()
        prompt = str(json.loads(await request.read())["messages"][-1]["content"])
        name = prompt.split()[1]
        tokens = max(1, round(len(prompt) * self.tokens_per_char))
        made = self.output(name)
        wait = max(self._input.missing_secs(tokens, now), self._output.missing_secs(1, now))
        self.seen.append(Metered(name, now, tokens, made, passed=wait <= 0))
        if wait > 0:
            error = {"type": "rate_limit_error", "message": "This request would exceed a rate limit."}
            headers = {"retry-after": f"{wait:.3f}"}
            return web.json_response({"type": "error", "error": error}, status=429, headers=headers)
        self._input.level -= tokens
        await asyncio.sleep(self.latency_secs)
        self._output.missing_secs(0, time.monotonic())
        self._output.level -= made
        usage = {"input_tokens": tokens, "output_tokens": made}
        return web.json_response(answer(name, usage=usage))

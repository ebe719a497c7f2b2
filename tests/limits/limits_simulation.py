"""A loop whose clock jumps to the next timer, and transports that follow a script: here waiting costs no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.errors import Busy, PipelineError
from pipeline.records import Request, Response

T = TypeVar("T")


class _Jump(selectors.SelectSelector):
    """Instead of waiting for the next timer, makes it that time."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everybody waits for something that never comes")
        self.now += max(timeout, 1e-9)  # a clock that stood still would let rounding errors spin
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def simulated(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(work)


def now() -> float:
    return asyncio.get_running_loop().time()


def request(name: str) -> Request:
    return Request(name.encode().ljust(16, b"."), name, b'"messages":[]')


def response(text: str = "done") -> Response:
    return Response(b"{}", text, "end_turn", "m", None)


def busy(status: int, wait_secs: float | None = None) -> Busy:
    kinds = {429: "rate_limit", 529: "overloaded"}
    error_type = kinds.get(status, "server_error")
    return Busy(error_type, str(status), http_status=status, wait_secs=wait_secs, shared=status in kinds)  # type: ignore[arg-type]  # a word of the list


def refused_connection() -> Busy:
    return Busy("connection", "the connection was refused")


@dataclass(frozen=True)
class Call:
    row: str
    at: float


class Scripted:
    """Gives the scripted answers in order, each after its latency, and writes down what was asked and when."""

    def __init__(self, *answers: str | PipelineError, latency: float = 0.0) -> None:
        self._answers = list(answers)
        self._latency = latency
        self.calls: list[Call] = []

    @property
    def asked(self) -> list[str]:
        return [call.row for call in self.calls]

    async def send(self, request: Request) -> Response:
        self.calls.append(Call(request.row_id, now()))
        answer = self._answers.pop(0)
        await asyncio.sleep(self._latency)
        if isinstance(answer, PipelineError):
            raise answer
        return response(answer)


class Answering:
    """Answers by a rule: what it returns is the text, what it raises is raised."""

    def __init__(self, rule: Callable[[Request], str | PipelineError | Awaitable[str | PipelineError]]) -> None:
        self._rule = rule
        self.calls: list[Call] = []

    @property
    def asked(self) -> list[str]:
        return [call.row for call in self.calls]

    async def send(self, request: Request) -> Response:
        self.calls.append(Call(request.row_id, now()))
        answer = self._rule(request)
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, PipelineError):
            raise answer
        return response(answer)

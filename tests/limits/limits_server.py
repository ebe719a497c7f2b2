"""A server with real token buckets behind a transport, in simulated time, and the ledger of what it answered."""

from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from limits_simulation import now

from pipeline.errors import Busy, RowError, TransportError
from pipeline.limits import Limited, Pause
from pipeline.records import RateHeaders, RateKind, RateLimit, Request, Response, Usage
from pipeline.serve.buckets import Limits, Standing


@dataclass(frozen=True)
class Line:
    at: float
    row: str
    entered: int
    made: int
    made_at: float


@dataclass
class Sizes:
    """What rows are made of: characters of prompt, tokens that they are, tokens that the answer has."""

    chars: int
    entered: int
    made: int


@dataclass
class Metered:
    """Answers within its limits, refuses beyond them.

    `whole_minute`: the buckets hold a minute's worth, as the API's own; else a second's.
    """

    sizes: Callable[[str], Sizes]
    rpm: float | None = None
    itpm: float | None = None
    otpm: float | None = None
    whole_minute: bool = False
    tells: bool = True
    names: bool = False
    latency: Callable[[], float] = lambda: 0.3
    ledger: list[Line] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    _limits: Limits | None = None

    def _buckets(self) -> Limits:
        if self._limits is None:
            self._limits = Limits(self.rpm, self.itpm, self.otpm, now())
            if self.whole_minute:
                for _, bucket in self._limits._named:
                    bucket.capacity = bucket._level = bucket.per_minute
        return self._limits

    async def send(self, request: Request) -> Response:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(request)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: Request) -> Response:
        await asyncio.sleep(random.Random(request.row_id).random() * 0.01)
        buckets, size = self._buckets(), self.sizes(request.row_id)
        if (shortage := buckets.admit(size.entered, now())) is not None:
            self.refusals.append(now())
            words = f"rate limit of {shortage.per_minute:,.0f} {shortage.limit} per minute" if self.names else "slow"
            error = Busy(
                "rate_limit", words, http_status=429, shared=True, wait_secs=max(1, math.ceil(shortage.wait_secs))
            )
            if self.tells:
                error.rate = self._told(buckets)
            raise error
        at = now()
        await asyncio.sleep(self.latency())
        buckets.produced(size.made, now())
        self.ledger.append(Line(at, request.row_id, size.entered, size.made, now()))
        usage = Usage(input_tokens=size.entered, output_tokens=size.made)
        return Response(b"{}", "done", "end_turn", "m", usage, rate=self._told(buckets) if self.tells else None)

    @staticmethod
    def _told(buckets: Limits) -> RateHeaders:
        return RateHeaders({kind_of(found): told(found) for found in buckets.standings(now())})


def kind_of(standing: Standing) -> RateKind:
    return standing.kind.replace("-", "_")  # type: ignore[return-value]  # one of the three


def told(standing: Standing) -> RateLimit:
    left = int(standing.remaining) if standing.kind == "requests" else round(standing.remaining / 1000) * 1000
    return RateLimit(round(standing.per_minute), left, math.floor(standing.full_in_secs))


def most_in(times: Sequence[float], amounts: Sequence[float], secs: float) -> float:
    """The largest sum in any window of so many seconds, its end left out."""
    sums = [0.0, *accumulate(amounts)]
    return max(sums[bisect_right(times, at + secs - 1e-9)] - sums[nth] for nth, at in enumerate(times))


async def drive(stack: Limited, sizes: Callable[[str], Sizes], rows: Iterable[str], secs: float, workers: int) -> float:
    """Send rows over and over for so long; what comes back is when it began."""
    began = now()
    todo = iter(rows)

    async def worker() -> None:
        for row in todo:
            prompt = b"x" * sizes(row).chars
            request = Request(row.encode().ljust(16, b"."), row, prompt)
            while True:
                try:
                    await stack.send(request)
                except (TransportError, RowError):
                    continue
                stack.window.release()
                break

    tasks = [asyncio.create_task(worker()) for _ in range(workers)]
    await asyncio.wait(tasks, timeout=secs)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ended:
        if end is not None and not isinstance(end, asyncio.CancelledError):
            raise end if isinstance(end, Exception) else AssertionError(end)
    return began


def patient() -> Pause:
    return Pause(spread=random.Random(5).random)

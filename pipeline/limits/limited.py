"""Limited: a transport that sends no faster, and no more at once, than the limits allow."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from aiolimiter import AsyncLimiter

from pipeline.errors import Busy, Refused
from pipeline.limits.clock import loop_time
from pipeline.limits.outage import Outage
from pipeline.limits.pause import Pause
from pipeline.limits.window import Window
from pipeline.records import Request, Response
from pipeline.wire import Transport

BURSTS_PER_MINUTE = 300
"""A burst is what the limit allows in 0.2 s: servers may enforce a limit per minute in slices of a second."""


@dataclass(slots=True)
class Flight:
    """One call on its way, as its caller wants to know it.

    Attributes:
        left_secs: cut the call off after so long; infinite leaves that to the endpoint.
        waiting: entered while the call waits in a pause that everybody makes.
        sent_at: when it left, on the loop's clock; None while it waits.
        excused: it failed, and its row is not to blame.
    """

    left_secs: float = math.inf
    waiting: Callable[[], AbstractAsyncContextManager[object]] = nullcontext
    sent_at: float | None = None
    excused: bool = False


def pacer(requests_per_minute: float) -> AsyncLimiter:
    """A leaky bucket that keeps to the rate in any window of time, but for one burst of 0.2 s worth."""
    burst = max(1.0, requests_per_minute / BURSTS_PER_MINUTE)
    return AsyncLimiter(burst, 60.0 * burst / requests_per_minute)


class Limited:
    """Waits for the pause, a slot and the rate, in this order, then sends.

    The rate comes last, right before the call leaves: whoever had it earlier and then waited for a slot would save up
    a burst. On any error the slot goes back at once. After an answer **the slot stays taken**: whoever commits the
    answer gives it back with ``window.release()``.
    """

    def __init__(
        self,
        inner: Transport,
        window: Window,
        requests_per_minute: float | None = None,
        *,
        pause: Pause | None = None,
        outage: Outage | None = None,
        clock: Callable[[], float] = loop_time,
    ) -> None:
        self.window = window
        self.pause = pause or Pause(clock=clock)
        self.outage = outage or Outage("the endpoint", clock=clock)
        self.sending: set[asyncio.Task[object] | None] = set()
        """Tasks whose call has left and has not ended; whoever else waits here has nothing in flight."""
        self._inner = inner
        self._pacer = None if requests_per_minute is None else pacer(requests_per_minute)
        self._clock = clock

    async def send(self, request: Request, flight: Flight | None = None) -> Response:
        """Send when it is allowed.

        Raises:
            Refused, RunRejected: as the inner transport says.
            Busy: likewise; or `deadline`, when `flight.left_secs` ran out.
            Unavailable: this failure was the last that the outage's patience allows.
        """
        flight = flight or Flight()
        ticket = await self._turn(flight)
        flight.sent_at = sent_at = self._clock()
        task = asyncio.current_task()
        self.sending.add(task)
        try:
            response = await self._call(request, flight.left_secs)
        except Busy as error:
            self.window.release()
            self.outage.failed(error, sent_at, request.key)
            flight.excused = self.outage.excuses(error)
            if flight.excused or self.outage.likely:
                self.pause.failed(error, ticket, patience_secs=self.outage.patience_secs)
            raise
        except Refused:
            self.window.release()
            self._answered(ticket)
            raise
        except BaseException:
            self.window.release()
            raise
        finally:
            self.sending.discard(task)
        self._answered(ticket)
        return response

    async def _turn(self, flight: Flight) -> int:
        """Wait until the call may leave, with a slot taken; what comes back is the pause's ticket."""
        while True:
            if (ticket := self.pause.pass_by()) is None:
                async with flight.waiting():
                    ticket = await self.pause.wait()
            await self.window.acquire()
            try:
                if self._pacer is not None:
                    await self._pacer.acquire()
            except BaseException:
                self.window.release()
                raise
            if ticket == self.pause.begun:
                return ticket
            self.window.release()  # a pause has begun meanwhile

    async def _call(self, request: Request, left_secs: float) -> Response:
        if left_secs == math.inf:
            return await self._inner.send(request)
        try:
            async with asyncio.timeout(left_secs) as cut:
                return await self._inner.send(request)
        except TimeoutError as error:
            if not cut.expired():
                raise
            raise Busy("deadline", "the row's time was up before an answer came", maybe_billed=True) from error

    def _answered(self, ticket: int) -> None:
        self.outage.answered()
        self.pause.answered(ticket)

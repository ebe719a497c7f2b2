"""Limited: a transport that sends no faster, and no more at once, than the limits allow."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from pipeline.errors import Busy, Refused
from pipeline.limits.bound import Bound, Cause
from pipeline.limits.clock import loop_time
from pipeline.limits.outage import Outage
from pipeline.limits.pace import Pace, Turn
from pipeline.limits.pause import Pause
from pipeline.limits.window import Window
from pipeline.records import RateHeaders, RateKind, Request, Response
from pipeline.wire import Transport
from pipeline.wire.ratelimits import named_limit

CAUSES: dict[RateKind, Cause] = {
    "requests": "requests_per_minute",
    "input_tokens": "input_tokens_per_minute",
    "output_tokens": "output_tokens_per_minute",
    "tokens": "tokens_per_minute",
}

REFUSALS = frozenset({"rate_limit", "overloaded"})
"""What a server with too many calls at once answers …"""
HANGS = frozenset({"timeout", "deadline"})
"""… or what becomes of those that it is too slow for."""


def prompt_chars(request: Request) -> float:
    """The size of a prompt as tokens are estimated from it: the characters of its JSON."""
    prompt = request.prompt
    return len(prompt) if prompt.isascii() else len(prompt.decode("utf-8", "replace"))


@dataclass(slots=True)
class Flight:
    """One call on its way, as its caller wants to know it.

    Attributes:
        left_secs: cut the call off after so long; infinite leaves that to the endpoint.
        failures: how often its row has failed so far.
        tries: how many attempts its row has left, this one included.
        proofs: how many of the outage's there were when its row failed first; None where it has not.
        waiting: entered while the call waits in a pause that everybody makes.
        sent_at: when it left, on the loop's clock; None while it waits.
        excused: it failed, and its row is not to blame.
    """

    left_secs: float = math.inf
    failures: int = 0
    tries: int = 1
    proofs: int | None = None
    waiting: Callable[[], AbstractAsyncContextManager[object]] = nullcontext
    sent_at: float | None = None
    excused: bool = False


class Limited:
    """Waits for the pause, a slot and the pace, in this order, then sends.

    The pace comes last, right before the call leaves: whoever had it earlier and then waited for a slot would save up
    a burst. On any error the slot goes back at once. After an answer **the slot stays taken**: whoever commits the
    answer gives it back with ``window.release()``.
    """

    def __init__(
        self,
        inner: Transport,
        window: Window,
        requests_per_minute: float | None = None,
        *,
        pace: Pace | None = None,
        size: Callable[[Request], float] = prompt_chars,
        pause: Pause | None = None,
        outage: Outage | None = None,
        clock: Callable[[], float] = loop_time,
    ) -> None:
        """Compose.

        Args:
            inner: sends.
            window: slots for calls in flight.
            requests_per_minute: the only limit, where no `pace` is given.
            pace: the limits per minute.
            size: what input tokens are estimated from, in characters; whatever it counts, the ratio is learnt.
            pause: the pause that all make together.
            outage: watches how calls end.
            clock: seconds on a monotonic clock.
        """
        self.window = window
        self.pace = pace or Pace(requests_per_minute, clock=clock)
        self.pause = pause or Pause(clock=clock)
        self.outage = outage or Outage("the endpoint", clock=clock)
        self.sending: set[asyncio.Task[object] | None] = set()
        """Tasks whose call has left and has not ended; whoever else waits here has nothing in flight."""
        self._inner = inner
        self._size = size
        self._clock = clock
        self._bound: Bound | None = None
        self._slower_since = -math.inf

    async def send(self, request: Request, flight: Flight | None = None) -> Response:
        """Send when it is allowed.

        Raises:
            Refused, RunRejected: as the inner transport says; or `over_limit`, when no minute lets the request pass.
            Busy: likewise; or `deadline`, when `flight.left_secs` ran out.
            Unavailable: this failure was the last that the outage's patience allows.
        """
        flight = flight or Flight()
        ticket, turn = await self._turn(request, flight)
        flight.sent_at = sent_at = turn.at
        task = asyncio.current_task()
        self.sending.add(task)
        nth = self.outage.left()
        try:
            if flight.left_secs == math.inf:
                response = await self._inner.send(request)
            else:
                response = await self._cut(request, flight.left_secs)
        except Busy as error:
            self.window.release()
            self._failed(error, ticket, turn, sent_at)
            self.outage.failed(error, sent_at, request.key, nth, proofs=flight.proofs)
            flight.excused = self.outage.excuses(error)
            if flight.excused or self.outage.likely:
                self.pause.failed(error, ticket, patience_secs=self.outage.patience_secs)
            raise
        except Refused as error:
            self.window.release()
            self.pace.returned(turn)
            # One that never left, such as a broken picture, says nothing of the server.
            if error.http_status is None:
                self.outage.cancelled(nth)
            else:
                self._answered(ticket, nth)
            raise
        except BaseException:
            self.window.release()
            self.outage.cancelled(nth)
            raise
        finally:
            self.sending.discard(task)
        now = self._clock()
        self.pace.answered(turn, response.usage, now)
        if (rate := rate_of(response)) is not None:
            self.pace.told(rate)
        self.window.answered(sent_at, now)
        self._answered(ticket, nth)
        return response

    def bound_by(self) -> Cause | None:
        """What held calls back for most of the time so far; None before the first call."""
        return None if self._bound is None else self._bound.by()

    def retune(
        self,
        *,
        requests_per_minute: float | None = None,
        input_tokens_per_minute: float | None = None,
        output_tokens_per_minute: float | None = None,
        concurrency: int | None = None,
    ) -> None:
        """Change limits from now on, without a burst; None leaves one as it is, infinity takes a rate away."""
        self.pace.retune(
            requests_per_minute=requests_per_minute,
            input_tokens_per_minute=input_tokens_per_minute,
            output_tokens_per_minute=output_tokens_per_minute,
        )
        if concurrency is not None:
            self.window.pin(concurrency)

    async def _turn(self, request: Request, flight: Flight) -> tuple[int, Turn]:
        """Wait until the call may leave, with a slot taken; what comes back is the pause's ticket, and the pace's."""
        size = self._size(request)
        pause = self.pause
        paused = False
        ticket = pause.pass_by()
        while True:
            if ticket is None:
                paused = True
                async with flight.waiting():
                    ticket = await pause.wait(flight.failures, flight.tries)
            await self.window.acquire()
            try:
                # Those who stand in line when a pause begins leave it at once, and no turn is spent on them.
                turn = await self.pace.turn(size, partial(self._goes, ticket))
            except BaseException:
                self.window.release()
                raise
            # A pause may have begun, or come and gone, while this call waited for its slot or its turn.
            if not turn.void and (ticket == pause.begun or (ticket := pause.pass_by()) is not None):
                self._departed(turn, paused=paused)
                return ticket, turn
            if not turn.void:
                self.pace.returned(turn)
            self.window.release()
            ticket = None

    def _goes(self, ticket: int) -> bool:
        """Whether a call with this ticket may leave now."""
        return ticket == self.pause.begun or not self.pause.on

    def _departed(self, turn: Turn, *, paused: bool) -> None:
        window, now = self.window, turn.at
        full = window.full
        window.departed(idle=turn.cause is not None or not full)
        if self._bound is None:
            self._bound = Bound(now)
        cause: Cause
        if paused:
            cause = "server"
        elif turn.cause is not None:
            cause = CAUSES[turn.cause]
        elif full:
            cause = "concurrency" if window.slots >= window.most else "server"
        else:
            cause = "source"
        self._bound.departed(cause, now)

    async def _cut(self, request: Request, left_secs: float) -> Response:
        """Send, and cut the call off after so long."""
        try:
            async with asyncio.timeout(left_secs) as cut:
                return await self._inner.send(request)
        except TimeoutError as error:
            if not cut.expired():
                raise
            raise Busy("deadline", "the row's time was up before an answer came", maybe_billed=True) from error

    def _failed(self, error: Busy, ticket: int, turn: Turn, sent_at: float) -> None:
        """Tell the pace and the window what a failure says about them."""
        if not error.maybe_billed:
            self.pace.returned(turn)
        before = self.pace.changes
        if (rate := rate_of(error)) is not None:
            self.pace.told(rate)
        if error.error_type == "rate_limit":
            kind, per_minute = named_limit(str(error)) or (None, None)
            self.pace.refused(kind, per_minute, new=ticket >= self.pause.begun)
            if self.pace.changes > before:
                self._slower_since = self._clock()
        # Where the pace has learnt from a refusal, or just has, it was not for too many calls at once.
        if error.error_type in REFUSALS and (error.error_type != "rate_limit" or sent_at > self._slower_since):
            self.window.troubled(sent_at, self._clock())
        elif error.error_type in HANGS:
            self.window.hung(sent_at, self._clock())

    def _answered(self, ticket: int, nth: int) -> None:
        self.outage.answered(nth)
        # An older call's answer opens no way that most of the younger ones have found closed.
        if not self.outage.likely:
            self.pause.answered(ticket)


def rate_of(ended: Response | Busy) -> RateHeaders | None:
    """What the headers of an answer said of the limits, where the wire has read it."""
    assert ended.rate is None or isinstance(ended.rate, RateHeaders)
    return ended.rate

"""Retrying: attempts at one row until one decides; between them the row holds no slot."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime, timedelta

from pipeline.errors import Busy, Refused, RunRejected, TransportError
from pipeline.limits.backoff import Backoff
from pipeline.limits.clock import loop_time
from pipeline.limits.limited import Flight, Limited
from pipeline.records import Attempt, Request, Response

MAX_LONE_REFUSALS = 20
"""A row excused so often, while others were answered each time in between, is refused for itself: such as a prompt
that no minute's quota holds. A server that refuses 30 % at random does that to one row in 10^10."""


def utc_now() -> datetime:
    """The time of day, in UTC."""
    return datetime.now(UTC)


class Retrying:
    """Sends a row until it is answered, refused, or out of attempts or time.

    What uses up attempts is failures that may be the row's fault. Refusals for everybody (429, 529), calls that never
    left and, while the endpoint seems out, 502 and 503 are tried again without counting; `Outage` ends those.

    The row's time is its calls' and its own backoff. Waiting for a slot, for the rate, or in a pause that everybody
    makes does not count.
    """

    def __init__(
        self,
        limited: Limited,
        attempts: int = 6,
        backoff: Backoff | None = None,
        *,
        row_deadline_secs: float = 3600.0,
        attempt_secs: float = 0.0,
        waiting: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
        clock: Callable[[], float] = loop_time,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        spread: Callable[[], float] = random.random,
    ) -> None:
        """Compose.

        Args:
            limited: sends.
            attempts: how many failures of its own a row may have, from 1.
            backoff: how long a row waits after each.
            row_deadline_secs: the row's time.
            attempt_secs: the endpoint's timeout, where it has one: calls that it ends in time need no timer here.
            waiting: entered while a row waits for another attempt, or in a pause: somebody else may work meanwhile.
                May be set later as well, by the pool that is made after.
            clock: seconds on a monotonic clock.
            now: the time of day.
            sleep: waits that many seconds.
            spread: a random number from 0 to 1.
        """
        self.waiting = waiting
        self._limited = limited
        self._attempts = attempts
        self._backoff = backoff or Backoff()
        self._row_deadline_secs = row_deadline_secs
        self._attempt_secs = attempt_secs or math.inf
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._spread = spread
        self._answers = 0

    async def send(self, request: Request, made: list[Attempt] | None = None) -> tuple[Attempt, ...]:
        """Try until one attempt decides: the last, with the response or with the error that ends the row.

        Each attempt is added to `made` as it ends, for a caller that may cancel.

        With a response the slot stays taken (see `Limited`), else it is free. When attempts or time run out, the
        error is that of the last attempt; `deadline` stands only where a call was cut off because the time was up.

        Raises:
            RunRejected: the API rejects every row alike.
            Unavailable: the endpoint is out.
        """
        made = [] if made is None else made
        failures = lone = 0
        answers_seen: int | None = None
        proofs: int | None = None
        spent_secs = 0.0
        while True:
            left_secs = self._row_deadline_secs - spent_secs
            flight = Flight(
                left_secs if left_secs < self._attempt_secs else math.inf,
                failures,
                self._attempts - failures,
                proofs,
                self.waiting,
            )
            try:
                response = await self._limited.send(request, flight)
            except RunRejected as error:
                made.append(self._rejected(flight, error))
                raise
            except Refused as error:
                made.append(self._ended(flight, error))
                return tuple(made)
            except Busy as error:
                made.append(self._ended(flight, error))
                # Not the error itself: its traceback holds what was read of the answer.
                named_secs = error.wait_secs
            else:
                self._answers += 1
                made.append(self._ended(flight, None, response))
                return tuple(made)

            if flight.excused:
                lone += answers_seen is not None and answers_seen < self._answers
                answers_seen = self._answers
                if lone >= MAX_LONE_REFUSALS:
                    return tuple(made)
                if lone:  # others get through: step aside for them
                    async with self.waiting():
                        await self._sleep(self._backoff.wait_secs(lone, None, self._spread()))
                continue
            failures += 1
            proofs = self._limited.outage.proofs if proofs is None else proofs
            wait_secs = self._backoff.wait_secs(failures, named_secs, self._spread())
            spent_secs += made[-1].latency_ms / 1000 + wait_secs
            if failures >= self._attempts or spent_secs >= self._row_deadline_secs:
                return tuple(made)
            async with self.waiting():
                await self._sleep(wait_secs)

    def _rejected(self, flight: Flight, error: RunRejected) -> Attempt:
        """Write down a call that was told what ends the run; its row stays as it was."""
        secs = 0.0 if flight.sent_at is None else self._clock() - flight.sent_at
        return Attempt(
            started_at=self._now() - timedelta(seconds=secs),
            latency_ms=round(secs * 1000),
            error_message=str(error),
            http_status=error.http_status,
            request_id=error.request_id,
        )

    def _ended(self, flight: Flight, error: TransportError | None, response: Response | None = None) -> Attempt:
        """Write down how the call ended that ends now."""
        secs = 0.0 if flight.sent_at is None else self._clock() - flight.sent_at
        return Attempt(
            started_at=self._now() - timedelta(seconds=secs),
            latency_ms=round(secs * 1000),
            response=response,
            error_type=None if error is None else error.error_type,
            error_message=None if error is None else str(error),
            http_status=200 if error is None else error.http_status,  # a response is a 2xx, nearly always this one
            request_id=error.request_id
            if response is None and error is not None
            else getattr(response, "request_id", None),
            maybe_billed=error is not None and error.maybe_billed,
        )

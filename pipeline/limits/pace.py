"""The pace: who leaves when, so that requests, input and output tokens per minute all stay within their limits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.errors import Refused
from pipeline.limits.bucket import Bucket, Cell
from pipeline.limits.clock import loop_time
from pipeline.limits.estimate import InputEstimate, OutputEstimate
from pipeline.limits.learnt import Learnt
from pipeline.limits.requests import RequestPace
from pipeline.records import RATE_KINDS, RateHeaders, RateKind, RateLimit, Usage

TICK_SECS = 1e-6
"""Timers may fire early by a rounding error; a wait below this is none."""

FOLLOW_SECS = 1.0
"""How often a learnt rate is looked up."""

LONGEST_RESET_SECS = 90.0
"""A limit per minute is whole again within a minute; one that takes longer is a limit per day, and is no pace."""

FIRST_EACH = 1000.0
"""Tokens of a call, while none was answered."""

ROUNDING = 500.0
"""Servers tell what remains of tokens to the nearest thousand."""


@dataclass(slots=True)
class Limit:
    """One limit per minute, by all who say something about it; infinite where they do not.

    Attributes:
        stated: by the job.
        told: by the server.
        learnt: from refusals.
    """

    stated: float = math.inf
    told: float = math.inf
    learnt: Learnt | None = None

    @property
    def known(self) -> float:
        """The lower of what was said."""
        return min(self.stated, self.told)

    def per_minute(self, now: float) -> float:
        """The lowest of them."""
        lowest = self.known
        return lowest if self.learnt is None else min(lowest, self.learnt.per_minute(now))


class Left:
    """What the server said is left of a limit, as it fills up again: others may use the same limit."""

    __slots__ = ("_at", "_full_at", "_level", "_per_sec")

    def __init__(self, standing: RateLimit, per_sec: float, now: float, rounding: float) -> None:
        self._level = (standing.remaining or 0.0) + rounding
        self._per_sec = per_sec
        self._at = now
        self._full_at = math.inf if standing.reset_secs is None else now + standing.reset_secs

    def wait_secs(self, amount: float, now: float) -> float:
        """Seconds until the amount is there, or all of the limit is."""
        missing = amount - self._level - (now - self._at) * self._per_sec
        return min(missing / self._per_sec, self._full_at - now) if missing > 0 else 0.0

    def take(self, amount: float) -> None:
        """A call leaves that the server cannot have counted yet."""
        self._level -= amount


NO_CELLS: tuple[Cell | None, Cell | None, Cell | None] = (None, None, None)


class Turn:
    """A call that may leave, and what was reserved for it.

    Attributes:
        chars: the size of its prompt.
        at: when it may leave, on the pace's clock.
        cause: the limit that it waited for last; None where it did not wait.
        void: it was no longer wanted when it came: nothing was taken, and nobody may leave on it.
    """

    __slots__ = ("at", "cause", "cells", "chars", "input", "output", "total", "void")

    def __init__(self, chars: float) -> None:
        self.chars = chars
        self.at = 0.0
        self.input = self.output = self.total = 0.0
        self.cells = NO_CELLS
        self.cause: RateKind | None = None
        self.void = False


def always() -> bool:
    """A turn that is wanted whenever it comes."""
    return True


class Pace:
    """Lets calls leave one after the other, in the order they came, each when every limit has room for it.

    The one in front waits for all its limits together, so that no small call overtakes a large one for ever, and none
    has been granted one limit while it still waits for another.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        input_tokens_per_minute: float | None = None,
        output_tokens_per_minute: float | None = None,
        *,
        max_tokens: float | None = None,
        extra_tokens: float = 0.0,
        learns: bool = False,
        clock: Callable[[], float] = loop_time,
    ) -> None:
        """Prepare.

        Args:
            requests_per_minute: as the job states it; None where it does not.
            input_tokens_per_minute: likewise; cache reads do not count.
            output_tokens_per_minute: likewise.
            max_tokens: the most output tokens of a call.
            extra_tokens: input tokens of every call beyond its prompt.
            learns: limits that the job does not state are learnt from refusals too, not only from headers.
            clock: seconds on a monotonic clock.
        """
        stated = (requests_per_minute, input_tokens_per_minute, output_tokens_per_minute, None)
        self._limits: dict[RateKind, Limit] = {
            kind: Limit(math.inf if limit is None else limit) for kind, limit in zip(RATE_KINDS, stated, strict=True)
        }
        self._requests: RequestPace | None = None
        self._buckets: list[Bucket | None] = [None, None, None]
        self._left: dict[RateKind, Left] = {}
        self._input = InputEstimate(extra_tokens)
        self._output = OutputEstimate(max_tokens)
        self._learns = learns
        self._learning: list[tuple[RateKind, Learnt]] = []
        self._follow_at = math.inf
        self._done: dict[RateKind, float] = dict.fromkeys(RATE_KINDS, 0.0)
        self._clock = clock
        self._line = asyncio.Lock()
        self._in_line = 0
        self._cause: RateKind | None = None  # the limit that the last look found to be the narrowest
        self._held: RateKind | None = None  # the one that somebody waited for last
        self._changed: asyncio.Future[None] | None = None
        self._set = False
        self._counts = learns  # whether anything is to be learnt from answers
        self._widest = math.inf
        self.changes = 0
        """How often the server has changed a limit, by what it told or by refusing."""

    @property
    def waiting(self) -> int:
        """How many callers wait for their turn."""
        return self._in_line

    @property
    def per_minute(self) -> Mapping[RateKind, float]:
        """The limits in force."""
        now = self._clock()
        found = {kind: limit.per_minute(now) for kind, limit in self._limits.items()}
        return {kind: limit for kind, limit in found.items() if limit < math.inf}

    async def turn(self, chars: float, wanted: Callable[[], bool] = always) -> Turn:
        """Wait until a call with a prompt of so many characters may leave.

        Args:
            chars: of its prompt.
            wanted: asked when it is this call's turn; where it says no, the turn goes to the next, and what comes back
                is void. Whoever took turns to no purpose would leave the rate unused.

        Raises:
            Refused: `over_limit`; it needs more input tokens than a whole minute allows.
        """
        now = self._clock()
        if not self._set or now >= self._follow_at:
            self._tune(now)
        turn = Turn(chars)
        if not self._counts and self._requests is None:
            turn.at = now
            return turn
        if self._input.least(chars) > self._widest:
            raise self._over_limit(chars)
        if not self._in_line and self._wait_secs(turn, now) <= TICK_SECS:
            if self._requests is None:
                return self._take(turn, now)
            if self._requests.has_capacity():
                await self._requests.acquire(now)  # never waits
                return self._take(turn, now)
        self._in_line += 1
        try:
            async with self._line:
                if not await self._in_front(turn, wanted):
                    turn.void = True
                    return turn
                return self._take(turn, self._clock())
        finally:
            self._in_line -= 1

    async def _in_front(self, turn: Turn, wanted: Callable[[], bool]) -> bool:
        """Wait for all limits at once; whether the turn is still wanted then."""
        while True:
            while wanted() and (wait := self._wait_secs(turn, self._clock())) > TICK_SECS:
                turn.cause = self._held = self._cause
                await self._sleep(wait)
            if not wanted():
                return False
            requests = self._requests
            if requests is None:
                break
            if requests.has_capacity():
                await requests.acquire(self._clock())
                break
            turn.cause = self._held = "requests"
            await requests.acquire(self._clock())
            if self._wait_secs(turn, self._clock()) <= TICK_SECS:
                break
            # Somebody's correction came meanwhile: this request's turn is lost, which is on the safe side.
        turn.cause = turn.cause or self._held
        return True

    def answered(self, turn: Turn, usage: Usage | None, now: float) -> None:
        """The call was answered: put right what was reserved for it, and learn from it."""
        if not self._counts:
            return
        done = self._done
        done["requests"] += 1.0
        if usage is not None:
            taken = usage.input_tokens + usage.cache_write_tokens
            self._input.learn(turn.chars, taken)
            self._output.learn(usage.output_tokens)
            done["input_tokens"] += taken
            done["output_tokens"] += usage.output_tokens
            done["tokens"] += taken + usage.output_tokens
            self._correct(turn, taken, usage.output_tokens, now)
            if (leaving := self._buckets[1]) is not None:
                leaving.made(usage.output_tokens, turn.cells[1], now)
        for kind, learnt in self._learning:
            learnt.passed(now, done[kind])

    def returned(self, turn: Turn) -> None:
        """The call took no tokens: it never left, or the server refused it before it began."""
        self._correct(turn, 0.0, 0.0, self._clock())

    def refused(self, kind: RateKind | None, per_minute: float | None, *, new: bool) -> None:
        """The server refused a call for the rate.

        Args:
            kind: the limit that it named; None where it named none.
            per_minute: how much it said that limit allows.
            new: the call left after the last pause had begun.
        """
        now = self._clock()
        if kind is not None and per_minute is not None:
            self._tell(kind, per_minute, now)
            return
        if not self._learns:
            return
        if kind is None:
            # A limit that is known is kept to, so such a refusal would be about another one, which nobody names.
            if any(limit.known < math.inf for limit in self._limits.values()):
                return
            kind = "requests"
        limit = self._limits[kind]
        if limit.known < math.inf:
            return
        if limit.learnt is not None:
            calls = self._done["requests"]
            each = self._done[kind] / calls if calls else (1.0 if kind == "requests" else FIRST_EACH)
            if limit.learnt.refused(now, self._done[kind], each=each, new=new):
                self.changes += 1
                self._tune(now)

    def told(self, rate: RateHeaders) -> None:
        """The server told its limits and what is left of them."""
        now = self._clock()
        split = "input_tokens" in rate.limits or "output_tokens" in rate.limits
        for kind, standing in rate.limits.items():
            # Beside limits of their own for both directions it only repeats the tighter one.
            if kind == "tokens" and split:
                continue
            daily = (standing.reset_secs or 0.0) > LONGEST_RESET_SECS
            if standing.limit and not daily:
                self._tell(kind, standing.limit, now)
            if standing.remaining is None:
                continue
            per_sec = self._limits[kind].per_minute(now) / 60.0
            if daily and standing.limit and standing.reset_secs:
                per_sec = max(standing.limit - standing.remaining, 1.0) / standing.reset_secs
            if per_sec < math.inf:
                rounding = 0.0 if kind == "requests" or standing.remaining % 1000 else ROUNDING
                bucket = None if kind == "requests" else self._buckets[RATE_KINDS.index(kind) - 1]
                if bucket is not None and not daily:
                    bucket.told(standing.remaining - rounding)
                self._left[kind] = Left(standing, per_sec, now, rounding)

    def retune(
        self,
        *,
        requests_per_minute: float | None = None,
        input_tokens_per_minute: float | None = None,
        output_tokens_per_minute: float | None = None,
    ) -> None:
        """Change what the job states, from now on, without a burst; infinity takes a limit away, None leaves it."""
        given = (requests_per_minute, input_tokens_per_minute, output_tokens_per_minute)
        for kind, limit in zip(RATE_KINDS, given, strict=False):
            if limit is not None:
                self._limits[kind].stated = limit
        self._tune(self._clock())

    def _tell(self, kind: RateKind, per_minute: float, now: float) -> None:
        if per_minute > 0 and self._limits[kind].told != per_minute:
            self._limits[kind].told = per_minute
            self.changes += 1
            self._tune(now)

    def _tune(self, now: float) -> None:
        """Bring every bucket to its limit."""
        if self._learns and not self._set:
            for limit in self._limits.values():
                limit.learnt = Learnt()
        self._set = True
        self._learning = [(kind, limit.learnt) for kind, limit in self._limits.items() if limit.learnt is not None]
        self._follow_at = now + FOLLOW_SECS if self._learning else math.inf
        requests, *tokens = (limit.per_minute(now) for limit in self._limits.values())
        if requests == math.inf:
            self._requests = None
        elif self._requests is None:
            self._requests = RequestPace(requests)
        else:
            self._requests.retune(requests)
        for nth, per_minute in enumerate(tokens):
            bucket = self._buckets[nth]
            if per_minute == math.inf:
                self._buckets[nth] = None
            elif bucket is None:
                self._buckets[nth] = Bucket(per_minute, now)
            else:
                bucket.retune(per_minute, now)
        self._counts = bool(self._learning) or any(bucket is not None for bucket in self._buckets)
        self._widest = min(self._limits["input_tokens"].known, self._limits["tokens"].known)
        self._nudge()

    def _over_limit(self, chars: float) -> Refused:
        kinds: tuple[RateKind, ...] = ("input_tokens", "tokens")
        kind = min(kinds, key=lambda kind: self._limits[kind].known)
        limit = self._limits[kind]
        said = "the limit" if limit.stated <= limit.told else "the server's limit"
        return Refused(
            "over_limit",
            f"the request needs about {self._input.least(chars):,.0f} input tokens, and {said} of {limit.known:,.0f} "
            f"{kind.replace('_', ' ')} per minute lets none so large pass; make it shorter or raise the limit",
        )

    def _wait_secs(self, turn: Turn, now: float) -> float:
        """Seconds until every bucket of tokens has room; sets what is reserved, and the limit that is waited for."""
        entering, leaving, total = self._buckets
        wait = 0.0
        if entering is not None:
            turn.input = min(self._input.reserve(turn.chars), entering.per_minute)
            wait = entering.wait_secs(turn.input, now)
            self._cause = "input_tokens"
        if leaving is not None:
            turn.output = min(self._output.reserve(), leaving.per_minute)
            if (longer := leaving.wait_secs(turn.output, now)) > wait:
                wait = longer
                self._cause = "output_tokens"
        if total is not None:
            turn.total = min(self._input.reserve(turn.chars) + self._output.reserve(), total.per_minute)
            if (longer := total.wait_secs(turn.total, now)) > wait:
                wait = longer
                self._cause = "tokens"
        if self._left:
            amounts: dict[RateKind, float] = {
                "requests": 1.0,
                "input_tokens": turn.input,
                "output_tokens": 1.0,
                "tokens": turn.total,
            }
            for kind, left in self._left.items():
                if (longer := left.wait_secs(amounts[kind], now)) > wait:
                    wait = longer
                    self._cause = kind
        return wait

    def _take(self, turn: Turn, now: float) -> Turn:
        turn.at = now
        entering, leaving, total = self._buckets
        turn.cells = (
            None if entering is None else entering.take(turn.input, now),
            None if leaving is None else leaving.take(turn.output, now),
            None if total is None else total.take(turn.total, now),
        )
        if self._requests is not None:
            self._requests.left(now)
        if left := self._left:
            if "requests" in left:
                left["requests"].take(1.0)
            if "input_tokens" in left:
                left["input_tokens"].take(turn.input)
            if "tokens" in left:
                left["tokens"].take(turn.total)
        return turn

    def _correct(self, turn: Turn, entered: float, made: float, now: float) -> None:
        entering, leaving, total = turn.cells
        buckets = self._buckets
        if entering is not None and (bucket := buckets[0]) is not None:
            bucket.correct(entering, turn.input, self._input.reserve(turn.chars), entered, now)
        if leaving is not None and (bucket := buckets[1]) is not None:
            bucket.correct(leaving, turn.output, self._output.reserve(), made, now)
        if total is not None and (bucket := buckets[2]) is not None:
            expected = self._input.reserve(turn.chars) + self._output.reserve()
            bucket.correct(total, turn.total, expected, entered + made, now)
        if self._in_line:
            self._nudge()

    async def _sleep(self, secs: float) -> None:
        """Wait so long, or until something has changed."""
        loop = asyncio.get_running_loop()
        self._changed = loop.create_future()
        timer = loop.call_later(secs, self._nudge)
        try:
            await self._changed
        finally:
            timer.cancel()
            self._changed = None

    def _nudge(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

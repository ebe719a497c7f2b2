"""An outage: what failures in a row say about the endpoint, and when they are reason to give up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import Busy, Unavailable
from pipeline.limits.clock import loop_time
from pipeline.records import Key

ROWS_OF_AN_OUTAGE = 3
"""When so many different rows fail in a row, it is the endpoint and not the rows."""

OUT_STATUSES = frozenset({502, 503})
"""Statuses of a server that is not there, whatever it is asked."""


def never_left(error: Busy) -> bool:
    """Whether the call failed before anything of it was sent: no connection, no such host."""
    return error.http_status is None and not error.maybe_billed


def cause(error: Busy, host: str = "") -> str:
    """What a failure came of, in a few words: ``529 overloaded``, ``429 rate limit, retry-after 30 s``.

    Args:
        error: the failure.
        host: who was asked; it is left out of the words of a call that got no status.
    """
    if error.http_status is None:
        return str(error).removeprefix(f"{host}: ")
    named = "" if error.wait_secs is None else f", retry-after {error.wait_secs:g} s"
    return f"{error.http_status} {error.error_type.replace('_', ' ')}{named}"


@dataclass(frozen=True, slots=True)
class Trouble:
    """How calls fail now, for people to see.

    Attributes:
        host: who was asked.
        cause: what the last failure came of.
        for_secs: since when nothing was answered; None where something was since that failure.
        left_secs: until a failure ends the run; infinite where something was answered since.
        reached: the endpoint was there once; one that never was is given up sooner.
    """

    host: str
    cause: str
    for_secs: float | None
    left_secs: float
    reached: bool = True


class Outage:
    """Watches how calls end.

    An *answer* is a response, or a refusal of one row (400, 413, …): both show a working endpoint. Everything that
    is worth another attempt is a *failure*: no connection, timeouts, resets, 5xx, and 429 and 529 too, since a server
    that refuses everybody all night is as good as out. Two things end a run:

    - the endpoint was never reached (no status at all, nothing sent) for `never_answered_secs` since the first try;
    - nothing but failures for `give_up_after_secs`, of so many different rows that it cannot be the rows' fault, or
      refusals that are for all.

    Any status, an error's too, counts as reached.

    A server that is down refuses at once, while those that it was asked before are still being answered. So what
    matters is also how the calls ended that left since the first failure was known: answers to older calls say nothing
    of the present.

    A row that failed before a call that left later was answered, and fails again, shows what it is itself: its further
    failures speak of no outage.
    """

    def __init__(
        self,
        host: str,
        *,
        never_answered_secs: float = 30.0,
        give_up_after_secs: float = 1800.0,
        clock: Callable[[], float] = loop_time,
    ) -> None:
        self._host = host
        self._never_answered_secs = never_answered_secs
        self._give_up_after_secs = give_up_after_secs
        self._clock = clock
        self._reached = False
        self._answered_at = -math.inf
        self._failing_since = math.inf
        self._rows: set[Key] = set()
        self._cause = ""
        self._left = 0
        self._known_at: float = math.inf
        self._under_way = 0
        self._failures_since = 0
        self._rows_since: set[Key] = set()
        self.proofs = 0
        """How often a call was answered that left after a failure was known."""

    @property
    def trouble(self) -> Trouble | None:
        """How calls fail now; None where none has failed yet."""
        if not self._cause:
            return None
        secs = self._clock() - self._failing_since
        return Trouble(self._host, self._cause, secs if secs > -math.inf else None, self.patience_secs, self._reached)

    @property
    def likely(self) -> bool:
        """Whether the last calls of several rows failed, or most that left since the first did: without an answer."""
        return len(self._rows) >= ROWS_OF_AN_OUTAGE or (
            len(self._rows_since) >= ROWS_OF_AN_OUTAGE and self._failures_since > self._under_way
        )

    @property
    def patience_secs(self) -> float:
        """Seconds until the next failure would be reason to give up; infinite while nothing fails."""
        patience = (
            self._give_up_after_secs if self._reached else min(self._never_answered_secs, self._give_up_after_secs)
        )
        return max(0.0, self._failing_since + patience - self._clock())

    def left(self) -> int:
        """A call leaves; which it is, from 1, to be told again when it ends."""
        self._left += 1
        self._under_way += 1
        return self._left

    def cancelled(self, nth: int) -> None:
        """The nth call ended, and says nothing of the endpoint."""
        self._under_way -= nth > self._known_at

    def answered(self, nth: int) -> None:
        """The nth call was answered."""
        self._reached = True
        self._answered_at = self._clock()
        self._failing_since = math.inf
        self._rows.clear()
        if nth > self._known_at:
            self.proofs += 1
            self._known_at = math.inf
            self._failures_since = 0
            self._rows_since.clear()

    def failed(self, error: Busy, sent_at: float, key: Key, nth: int, *, proofs: int | None = None) -> None:
        """The nth call, of the row `key` and sent at `sent_at`, failed.

        Args:
            error: how.
            sent_at: when it left.
            key: its row's.
            nth: what `left` gave it.
            proofs: how many there were when its row failed first; None for a row that had not failed yet.

        Raises:
            Unavailable: it is time to give up.
        """
        if proofs is not None and proofs < self.proofs and not (error.shared or never_left(error)):
            self._reached = True
            self._cause = cause(error, self._host)
            self.cancelled(nth)
        else:
            self._count(error, sent_at, key, nth)
        self._judge(error)

    def _count(self, error: Busy, sent_at: float, key: Key, nth: int) -> None:
        if nth > self._known_at:
            self._under_way -= 1
            self._failures_since += 1
            self._rows_since.add(key)
        elif self._known_at == math.inf:
            self._known_at = self._left
            self._under_way = 0
        self._reached |= not never_left(error)
        self._rows.add(key)
        self._cause = cause(error, self._host)
        if self._failing_since == math.inf:
            self._failing_since = max(sent_at, self._answered_at)

    def _judge(self, error: Busy) -> None:
        # A refusal for all uses up none of a row's attempts, so one row alone must be enough to end it.
        if self.patience_secs > 0 or not (self.likely or error.shared or never_left(error)):
            return
        secs = self._clock() - self._failing_since
        state = "has answered nothing but failures for" if self._reached else "could not be reached for"
        raise Unavailable(
            f"{self._host} {state} {secs:.0f} s, last: {error}; what was answered is kept, "
            "and the same command later goes on from here",
            "outage",
        ) from error

    def excuses(self, error: Busy) -> bool:
        """Whether a failure, already told to `failed`, is surely not its row's fault, so uses up none of its attempts.

        A refusal for all, a call that never left, or a gateway without a server behind it while several rows fail.
        Other failures may be the row's doing: a row that a server falls over must come to an end.
        """
        return error.shared or never_left(error) or (self.likely and error.http_status in OUT_STATUSES)

"""The rate limits a server enforces: token buckets, as arithmetic on a clock that the caller reads.

A bucket holds one second's worth and refills continuously, as the real API may enforce a limit per minute in slices
(messages-api §10).
"""

from __future__ import annotations

from dataclasses import dataclass

SLICE_SECS = 1.0
"""How much of a limit can be used at once, in seconds of it."""


class Bucket:
    """What is left of one limit.

    Args:
        per_minute: what flows in, per minute.
        now: seconds on a monotonic clock; the bucket starts full.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        self.per_minute = per_minute
        self._per_sec = per_minute / 60.0
        self.capacity = max(1.0, self._per_sec * SLICE_SECS)
        self._level = self.capacity
        self._at = now

    def level(self, now: float) -> float:
        """Give what may be taken now; negative while an amount above the capacity is being paid off."""
        self._level = min(self.capacity, self._level + (now - self._at) * self._per_sec)
        self._at = now
        return self._level

    def wait_secs(self, amount: float, now: float) -> float:
        """Give the seconds until `amount` may be taken, 0 when it may be now.

        An amount above the capacity passes when the bucket is full and leaves it in debt, so that no request is shut
        out for ever.
        """
        missing = min(amount, self.capacity) - self.level(now)
        # What is missing by rounding alone is not missing.
        return missing / self._per_sec if missing > 1e-9 * self.capacity else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, whatever is left."""
        self._level = self.level(now) - amount

    def full_in_secs(self, now: float) -> float:
        """Give the seconds until the bucket is full again."""
        return (self.capacity - self.level(now)) / self._per_sec


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a request was refused: the limit that it met, and the seconds until it would pass."""

    limit: str
    per_minute: float
    wait_secs: float


@dataclass(frozen=True, slots=True)
class Standing:
    """One limit as response headers tell it: `kind` is requests, input-tokens or output-tokens."""

    kind: str
    per_minute: float
    remaining: float
    full_in_secs: float


class Limits:
    """Requests, input tokens and output tokens per minute; None where there is no limit."""

    def __init__(self, rpm: float | None, itpm: float | None, otpm: float | None, now: float) -> None:
        self._requests, self._input, self._output = (
            None if limit is None else Bucket(limit, now) for limit in (rpm, itpm, otpm)
        )
        self._named = tuple(
            (kind, bucket)
            for kind, bucket in (
                ("requests", self._requests),
                ("input-tokens", self._input),
                ("output-tokens", self._output),
            )
            if bucket is not None
        )

    @property
    def any(self) -> bool:
        """Whether there is any limit."""
        return bool(self._named)

    def admit(self, input_tokens: int, now: float) -> Shortage | None:
        """Take a request out of the buckets, or say why not; a refused request takes nothing.

        Output is known only afterwards: a request passes while anything is left, and `produced` takes what it made.
        """
        if not self._named:
            return None
        amounts = {"requests": 1.0, "input-tokens": float(input_tokens), "output-tokens": 1.0}
        for kind, bucket in self._named:
            wait = bucket.wait_secs(amounts[kind], now)
            if wait > 0:
                return Shortage(kind.replace("-", " "), bucket.per_minute, wait)
        if self._requests:
            self._requests.take(1, now)
        if self._input:
            self._input.take(input_tokens, now)
        return None

    def produced(self, output_tokens: int, now: float) -> None:
        """Take the tokens of an answer."""
        if self._output:
            self._output.take(output_tokens, now)

    def standings(self, now: float) -> tuple[Standing, ...]:
        """Give every limit in force as it stands now."""
        return tuple(
            Standing(kind, bucket.per_minute, max(0.0, bucket.level(now)), bucket.full_in_secs(now))
            for kind, bucket in self._named
        )

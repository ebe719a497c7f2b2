"""How many tokens a call will take, learnt from what calls took: high at first, close once it has settled."""

from __future__ import annotations

import math

FIRST_CHARS_PER_TOKEN = 2.0
"""Before the first answer; English text has 4 and more, Chinese may have fewer."""

MOST_CHARS_PER_TOKEN = 5.0
"""What prose comes to at most: what is too large even so is too large."""

FIRST_MARGIN = 1.5
"""What is added before the first answer, as a factor; it goes away with every answer."""

SETTLED = 8
"""So many answers make an estimate."""

FIRST_OUTPUT = 1000.0
"""Output tokens of a call before the first answer, where no `max_tokens` is known."""

FAR = 2.0
"""A prompt so much longer than the longest is like none that was seen."""

KEEP = 0.99
"""What of the past each answer leaves: the last hundred or so count."""


class InputEstimate:
    """Input tokens of a call from the characters of its prompt: a line through what was seen.

    A line, since what every request carries (tools, chat markup, a prefix in the cache) is no ratio.

    Args:
        extra_tokens: what every request carries beyond its prompt, as far as it is known beforehand.
    """

    __slots__ = ("_extra", "_largest", "_margin", "_n", "_off", "_seen", "_slope", "_start", "_x", "_xx", "_xy", "_y")

    def __init__(self, extra_tokens: float = 0.0) -> None:
        self._extra = extra_tokens
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._seen = 0
        self._largest = 0.0
        self._off = 0.0
        self._margin = FIRST_MARGIN
        self._slope = 1.0 / FIRST_CHARS_PER_TOKEN
        self._start = extra_tokens

    def likely(self, chars: float) -> float:
        """Tokens as they are to be expected; at least 1."""
        return max(1.0, self._start + self._slope * chars)

    def reserve(self, chars: float) -> float:
        """Tokens to reserve: what is likely, and as much more as it has been off by."""
        likely = self._start + self._slope * chars
        return (max(1.0, likely)) * self._margin

    def least(self, chars: float) -> float:
        """Tokens that it surely takes, for a verdict that nothing can correct."""
        if self._seen < SETTLED:
            return chars / MOST_CHARS_PER_TOKEN
        # Far beyond all that was seen a line is a guess.
        likely = self.likely(chars)
        return likely if chars <= FAR * self._largest else min(likely, chars / MOST_CHARS_PER_TOKEN)

    def learn(self, chars: float, tokens: float) -> None:
        """A prompt of so many characters took so many tokens, cache reads left out."""
        seen = self._seen = self._seen + 1
        # The first guesses are off by more than what comes after, and say nothing of it.
        if seen > 2:
            off = abs(tokens - self._start - self._slope * chars) / (tokens or 1.0)
            self._off += ((min(1.0, off)) - self._off) * (0.05 if seen > 20 else 1.0 / seen)
        self._largest = max(self._largest, chars)
        self._margin = 1.0 + self._off + (FIRST_MARGIN - 1.0) / (1.0 + seen)
        self._n = self._n * KEEP + 1.0
        self._x = self._x * KEEP + chars
        self._y = self._y * KEEP + tokens
        self._xx = self._xx * KEEP + chars * chars
        self._xy = self._xy * KEEP + chars * tokens
        spread = self._n * self._xx - self._x * self._x
        # Prompts of nearly one length make no line: they must differ by a twentieth of it.
        if seen >= 3 and spread > 0.0025 * self._x * self._x:
            slope = (self._n * self._xy - self._x * self._y) / spread
            if slope > 0:
                self._slope, self._start = slope, (self._y - slope * self._x) / self._n
                return
        extra = min(self._extra, self._y / self._n)
        self._slope, self._start = max(0.0, self._y / self._n - extra) * self._n / max(self._x, 1.0), extra


class OutputEstimate:
    """Output tokens of a call, from what the last ones made: `max_tokens` at first, never above it.

    Args:
        max_tokens: what the job allows an answer; None where that is not known.
    """

    __slots__ = ("_high", "_max", "_mean", "_seen", "_square")

    def __init__(self, max_tokens: float | None = None) -> None:
        self._max = math.inf if max_tokens is None else float(max_tokens)
        self._seen = 0
        self._mean = self._square = 0.0
        self._high = FIRST_OUTPUT if max_tokens is None else self._max

    def reserve(self) -> float:
        """Tokens to reserve: the mean and a share of the spread, a large one at first, as short answers come first."""
        return self._high

    def learn(self, tokens: float) -> None:
        """An answer had so many tokens, thinking included."""
        seen = self._seen = self._seen + 1
        weight = 1.0 - KEEP if seen > 100 else 1.0 / seen
        self._mean += (tokens - self._mean) * weight
        self._square += (tokens * tokens - self._square) * weight
        spread = math.sqrt(max(0.0, self._square - self._mean * self._mean))
        high = self._mean * (1.0 + 1.0 / seen) + spread * (0.1 + 2.0 / math.sqrt(seen))
        self._high = min(self._max, max(1.0, high))

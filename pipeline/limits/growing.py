"""Growing: a window that finds out how many calls at once the server has a use for."""

from __future__ import annotations

import math

from pipeline.limits.window import Window

START = 8
MOST = 256

LEAST_EPOCH_SECS = 0.25
LEAST_ANSWERS = 4

FULL_SHARE = 0.7
"""Of the calls of an epoch, so many must have found the window the narrowest place."""

WORTH = 0.2
"""Of what more slots promise, throughput must deliver this share."""

FLAT_TIMES = 2
"""So many times in a row growing may bring nothing, before it is taken back: measurements are noisy."""

FEW_HUNG = 3
HUNG_SHARE = 1 / 16
"""More calls than these, and a larger share of the slots, must hang within an epoch: a server may fall silent over a
few rows alone."""

GENTLY = 8
"""Close to where it was halved, it grows by one part of so many."""

REST_SECS = 30.0
"""After that the size stays for a while."""


class Growing(Window):
    """Doubles its slots while that brings more answers a second, and halves them when the server refuses, or many hang.

    It measures in epochs of about one call's latency, after letting the change before take effect for as long. An epoch
    in which slots stood free, or the pace held calls back, says nothing of the server and changes nothing. Close to
    where it was halved it grows by an eighth at a time.

    Args:
        start: slots at first.
        most: never more slots than this.
    """

    def __init__(self, start: int = START, most: int = MOST) -> None:
        super().__init__(min(start, most))
        self.most = most
        self._gentle_from = math.inf
        self._cut_at = -math.inf
        self._rest_until = -math.inf
        self._latency = 0.0
        self._best = (0, 0.0, 0.0)  # slots, answers a second, by what share that may be wrong
        self._flat = 0
        self._doubted: tuple[int, float] | None = None  # more slots, and the answers a second that they brought
        self._begin(-math.inf)

    def _begin(self, at: float) -> None:
        """Start an epoch at `at`, which may be yet to come."""
        self._epoch_at = at
        self._answers = self._departures = self._idle = self._hung = 0
        self._waited = self._squares = 0.0

    def pin(self, slots: int) -> None:
        """Have so many slots from now on, and no other number."""
        self._rest_until = math.inf
        super().pin(slots)

    def departed(self, *, idle: bool) -> None:
        """Count a departure."""
        self._departures += 1
        self._idle += idle

    def answered(self, sent_at: float, now: float) -> None:
        """Count an answer, and at the end of an epoch decide."""
        latency = now - sent_at
        self._latency = latency if not self._latency else self._latency + (latency - self._latency) * 0.05
        if self._epoch_at == -math.inf:
            self._begin(sent_at)
        if now < self._epoch_at:
            self._departures = self._idle = 0
            return
        self._answers += 1
        self._waited += latency
        self._squares += latency * latency
        secs = now - self._epoch_at
        if secs < max(LEAST_EPOCH_SECS, self._latency) or self._answers < max(LEAST_ANSWERS, self.slots):
            return
        self._latency = self._waited / self._answers
        full = self._departures and self._idle <= (1.0 - FULL_SHARE) * self._departures
        if full and now >= self._rest_until:
            self._decide(*self._throughput(), now)
        else:
            self._begin(now)

    def _throughput(self) -> tuple[float, float]:
        """Answers a second, and by what share that may be wrong.

        With all slots taken it is their number by the mean latency (Little's law), which is steadier than a count.
        """
        mean = max(self._waited / self._answers, 1e-9)
        spread = max(0.0, self._squares / self._answers - mean * mean)
        return self.slots / mean, math.sqrt(spread / self._answers) / mean

    def _decide(self, per_sec: float, unsure: float, now: float) -> None:
        if self._doubted is not None:
            self._compare(self._doubted, per_sec, unsure, now)
            return
        slots, before, unsure_before = self._best
        wanted = before * (1.0 + WORTH * (self.slots / slots - 1.0)) if slots else 0.0
        if self.slots > slots and per_sec * (1.0 + unsure + unsure_before) < wanted:
            self._flat += 1
            if self._flat >= FLAT_TIMES:
                # The measurement that it is held against may be out of date: take it again.
                self._doubted = (self.slots, per_sec)
                self._to(slots, now)
                return
        else:
            self._flat = 0
            self._best = (self.slots, per_sec, unsure)
        self._widen(now)

    def _compare(self, doubted: tuple[int, float], per_sec: float, unsure: float, now: float) -> None:
        """The smaller size has been measured again: stay with it, if it brings nearly as much."""
        slots, more = doubted
        self._doubted = None
        self._flat = 0
        self._best = (self.slots, per_sec, unsure)
        if per_sec * (1.0 + WORTH * (slots / self.slots - 1.0)) > more:
            self._gentle_from = self.slots
            self._rest_until = now + max(REST_SECS, 10.0 * self._latency)
            self._begin(now)
        else:
            self._to(slots, now)

    def _widen(self, now: float) -> None:
        slots = self.slots
        wider = slots * 2 if slots < self._gentle_from else slots + max(1, slots // GENTLY)
        if slots < self._gentle_from < wider:
            wider = math.ceil(self._gentle_from)
        self._to(min(wider, self.most), now)

    def _to(self, slots: int, now: float) -> None:
        """Have so many slots, and measure once that shows."""
        if slots == self.slots:
            self._begin(now)
            return
        # Until fewer show, all that is under way comes home and what it had piled up is worked off.
        settle = self._latency if slots > self.slots else 2 * self._latency
        self.resize(slots)
        self._begin(now + settle)

    def hung(self, sent_at: float, now: float) -> None:
        """Count; many that hang at once are a server with too much to do."""
        if sent_at < self._cut_at:
            return
        self._hung += 1
        if self._hung > max(FEW_HUNG, HUNG_SHARE * self.slots):
            self.troubled(sent_at, now)

    def troubled(self, sent_at: float, now: float) -> None:
        """Halve, once for all the calls that one cause met: those that left before the last cut say nothing new."""
        if sent_at < self._cut_at or self._rest_until == math.inf:
            return
        self._cut_at = now
        self._flat = 0
        self._doubted = None
        half = max(1, self.slots // 2)
        self._gentle_from = max(1, self.slots * 3 // 4)
        self._best = (0, 0.0, 0.0)
        self.resize(half)
        self._begin(now + self._latency)

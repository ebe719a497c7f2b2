"""A bucket of tokens per minute: reservations on a clock, put right when the real amounts are known."""

from __future__ import annotations

from collections import deque

BURST_SECS = 0.2
"""What may go at once after a lull, in seconds of the limit."""

SLICE_SECS = 1.0
"""Servers may enforce a limit per minute in slices as short as this (messages-api §10)."""

JITTER_SECS = 0.1
"""What the way to the server may take off the distance between two calls."""

SLACK_SECS = 0.02
"""What is left of that for calls larger than a slice: waiting longer before each would use less of the limit."""

LONG_SLICES = 3
"""When a call takes longer than so many slices, its correction comes too late to be made up for."""

QUIET = 0.25
GAIN = 0.3
MOST_GAIN = 0.2
"""How much a server's bucket that runs low slows the pace, a second: `GAIN` over the latency, which keeps it calm."""

GATE_SECS = 0.1
"""Nothing leaves while a server's bucket of output has no more than this left."""

MINUTE_SECS = 60.0
KEPT_SECS = 60.25
"""So long a departure counts as within the last minute: two calls may come closer together on their way."""

GRAIN_SECS = 0.05
"""Amounts that left within this time are kept as one."""


class Cell:
    """What left around one moment: from when to when, in seconds on the bucket's clock, and the tokens."""

    __slots__ = ("amount", "at", "began")

    def __init__(self, at: float, amount: float) -> None:
        self.began = self.at = at
        self.amount = amount


class Bucket:
    """One limit per minute for amounts that differ, and that are known for sure only later.

    Two laws hold at once. The *pace*: each amount moves the moment at which all that left will be paid for, and the
    next may leave once that moment is no more than a burst ahead; what is larger than a server's slice leaves only when
    all is paid for, since then the server's bucket is full. The *minute*: what left in any 60 seconds, in real
    amounts where they are known, stays within the limit and half a burst.

    No method waits; the caller reads the clock, which must be monotonic. When it leaps, at most a burst was saved up.
    """

    __slots__ = (
        "_cells",
        "_credit",
        "_made_at",
        "_paid_at",
        "_per_sec",
        "_room",
        "_slice_secs",
        "_total",
        "per_minute",
    )

    def __init__(self, per_minute: float, now: float) -> None:
        self._cells: deque[Cell] = deque()
        self._total = 0.0
        self._paid_at = now
        self._made_at = now
        self._credit = 0.0  # seconds that corrections gave back
        self._slice_secs = SLICE_SECS
        self._set(per_minute)

    def _set(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._per_sec = per_minute / MINUTE_SECS
        self._room = per_minute + self._per_sec * BURST_SECS / 2

    def wait_secs(self, amount: float, now: float) -> float:
        """Seconds until `amount`, at most a minute's limit, may leave; 0 or less when it may now."""
        ahead = self._slice_secs - JITTER_SECS - amount / self._per_sec
        if ahead > BURST_SECS:
            ahead = BURST_SECS
        elif ahead < -SLACK_SECS:
            ahead = -SLACK_SECS
        wait = self._paid_at - ahead - now
        gate = self._made_at - self._slice_secs + GATE_SECS - now
        wait = max(wait, gate)
        cells = self._cells
        while cells and cells[0].at <= now - KEPT_SECS:
            self._total -= cells.popleft().amount
        if self._total + amount > self._room:
            wait = max(wait, self._room_in_secs(amount, now))
        return wait

    def take(self, amount: float, now: float) -> Cell:
        """Note that `amount` leaves now; the cell is for `correct`."""
        self._paid_at = max(self._paid_at, now) + amount / self._per_sec
        self._total += amount
        cells = self._cells
        if cells and now - cells[-1].began < GRAIN_SECS:
            cells[-1].at = now
            cells[-1].amount += amount
        else:
            cells.append(Cell(now, amount))
        return cells[-1]

    def correct(self, cell: Cell, taken: float, expected: float, real: float, now: float) -> None:
        """Put right what an earlier call took.

        The pace is corrected by what the call differs from what would be expected of it today. What it took beyond
        that, because less was known then, is past: giving it all back would make a burst of it. It only shortens a
        wait that is long.

        Args:
            cell: what `take` gave.
            taken: the amount that was taken.
            expected: the amount that would be taken today.
            real: the amount that it was.
            now: the time.
        """
        cells = self._cells
        if cells and cell.at >= cells[0].at:
            cell.amount += real - taken
            self._total += real - taken
        base = min(taken, expected)
        more = (real - base) / self._per_sec
        self._paid_at += more
        self._credit = max(0.0, self._credit - more)
        soon = now + BURST_SECS
        if taken > base and self._paid_at > soon:
            self._paid_at = max(self._paid_at - (taken - base) / self._per_sec, soon)

    def made(self, amount: float, cell: Cell | None, now: float) -> None:
        """So much was made now, which is when a server counts what it makes, for a call that left at `cell`.

        Answers come when they come: though the pace is right, that bucket is emptied by several long ones at once, and
        what it overflows with meanwhile is lost. So the pace is lowered a little while more than a quarter of a slice
        is owed, by less where answers take longer, as it takes longer then until that shows. And where they take
        longer than a few slices, what corrections gave back and the bucket could not hold is taken again, for it would
        come as a wave.
        """
        behind = self._made_at - now
        secs = amount / self._per_sec
        latency = 0.0 if cell is None else now - cell.at
        if behind < 0 and latency > LONG_SLICES * self._slice_secs:
            lost = min(-behind, self._credit)
            self._credit -= lost
            self._paid_at += lost
        self._made_at = max(self._made_at, now) + secs
        over = behind - self._slice_secs * QUIET
        if over > 0:
            self._paid_at += over * secs * min(MOST_GAIN, GAIN / max(latency, 0.1))

    def told(self, remaining: float) -> None:
        """So much is left, says the server, so its bucket holds that much: there is no need to be as exact."""
        self._slice_secs = min(MINUTE_SECS, max(self._slice_secs, remaining / self._per_sec))

    def retune(self, per_minute: float, now: float) -> None:
        """Go on with another limit: what is still to be paid for stays, and a minute that was legal stays so."""
        if per_minute == self.per_minute:
            return
        owed = max(0.0, self._paid_at - now) * self._per_sec
        ratio = per_minute / self.per_minute
        if ratio < 1:
            for cell in self._cells:
                cell.amount *= ratio
            self._total *= ratio
        self._set(per_minute)
        self._paid_at = now + owed / self._per_sec

    def _room_in_secs(self, amount: float, now: float) -> float:
        """Seconds until enough of the last minute has passed."""
        missing = self._total + amount - self._room
        for cell in self._cells:
            missing -= cell.amount
            if missing <= 0:
                return cell.at + KEPT_SECS - now
        return 0.0

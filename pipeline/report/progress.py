"""Progress of long work: a tqdm bar on a terminal, a plain line every 30 s elsewhere; drawn by a ticker."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from shutil import get_terminal_size
from types import TracebackType
from typing import IO, Literal, Self

from tqdm import tqdm

from pipeline.cost import usd_text
from pipeline.records import Outcome

TICK_SECS = 0.5
LINE_SECS = 30.0
WIDE = 100  # columns of a terminal
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


@dataclass(slots=True)
class Counters:
    """What the ticker shows. Written by the pool, a few additions a row.

    Attributes:
        pause_secs: how much longer all calls wait.
        pause_cause: why, in a few words: ``429 rate limit``, ``the connection was refused``.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    cost_nanos: int = 0
    retried: int = 0
    notice: str = ""
    pause_secs: float = 0.0
    pause_cause: str = ""
    bound_by: str | None = None

    def ended(self, outcome: Outcome) -> None:
        """The outcome of a turn is durable; with a status, the row's."""
        if outcome.status is not None:
            self.statuses[outcome.status] += 1
        self.retried += max(0, len(outcome.attempts) - 1)
        for attempt, price in outcome.attempts:
            if attempt.response is not None and attempt.response.usage is not None:
                usage = attempt.response.usage
                self.tokens += usage.input_tokens + usage.output_tokens + usage.cache_write_tokens
            self.cost_nanos += price.nanos or 0

    @property
    def done(self) -> int:
        """Rows that have an outcome."""
        return sum(self.statuses.values())


class Progress(AbstractContextManager["Progress"]):
    """Shows work while the block runs.

    Args:
        stream: where to, usually stderr.
        style: `bar` redraws one line, `lines` prints one every 30 s, `none` shows nothing.
        label: what is being done.
        total: how much there is, None where it is not known.
        unit: what is counted.
        read: tells how much is done.
        counters: more to show, where there is more.
    """

    def __init__(
        self,
        stream: IO[str],
        style: Literal["bar", "lines", "none"],
        label: str,
        total: int | None,
        unit: str,
        read: Callable[[], int],
        counters: Counters | None = None,
    ) -> None:
        self._stream = stream
        self._style = style
        self._label = label
        self._total = total
        self._read = read
        self._counters = counters
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._unit = unit

    def __enter__(self) -> Self:
        if self._style != "none":
            self._thread = threading.Thread(target=self._tick, daemon=True, name="progress")
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _tick(self) -> None:
        if self._style == "lines":
            while not self._stop.wait(LINE_SECS):
                # Nobody may be reading any more; the work goes on.
                with suppress(OSError, ValueError):
                    print(self.line(), file=self._stream, flush=True)
            return
        with tqdm(
            total=self._total,
            desc=self._label,
            unit=self._unit,
            file=self._stream,
            dynamic_ncols=True,
            leave=False,
            bar_format=BAR if self._total is not None else None,
        ) as bar:
            while True:
                bar.n = self._read()
                bar.set_postfix_str(self.details(), refresh=False)
                bar.refresh()
                if self._stop.wait(TICK_SECS):
                    break

    def line(self) -> str:
        """One plain line: how much is done, how fast, how long still."""
        done, elapsed = self._read(), time.monotonic() - self._began
        total = f"/{self._total:,}" if self._total is not None else ""
        left = ""
        if self._total is not None and done:
            left = f", about {round((self._total - done) * elapsed / done):,} s left"
        details = self.details()
        return f"{self._label}: {done:,}{total} {self._unit}{', ' if details else ''}{details}{left}"

    def _rate(self, per_sec: float) -> str:
        return f"{per_sec:,.1f} {self._unit}/s" if per_sec >= 1 else f"{per_sec * 60:.1f} {self._unit}/min"

    def details(self) -> str:
        """Rate, tokens per minute, spend, failures, and what is being waited for."""
        counters = self._counters
        if counters is None:
            return ""
        elapsed = max(time.monotonic() - self._began, 1e-3)
        parts = []
        if failed := counters.statuses["failed"] + counters.statuses["invalid"]:
            parts.append(f"{failed:,} failed")
        parts.append(usd_text(counters.cost_nanos))
        # What matters most comes first, and what does not fit beside a bar is left out.
        if self._style == "lines" or get_terminal_size().columns >= WIDE:
            parts.append(self._rate(counters.done / elapsed))
            parts.append(f"{counters.tokens / elapsed * 60:,.0f} tokens/min")
        if counters.retried:
            parts.append(f"{counters.retried:,} retried")
        if counters.notice:
            parts.append(counters.notice)
        if counters.pause_secs >= 1:
            why = f" ({counters.pause_cause})" if counters.pause_cause else ""
            parts.append(f"paused for {counters.pause_secs:.0f} s more{why}")
        return ", ".join(parts)

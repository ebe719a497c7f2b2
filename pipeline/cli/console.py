"""The terminal side of a run: messages and progress on stderr, plain where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

from pipeline.cli.main import say

if TYPE_CHECKING:
    from pipeline.report import Counters


class Terminal:
    """Speaks to stderr; `quiet` leaves errors only."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: str) -> None:
        """A message; errors are said even when quiet."""
        if not text.startswith("error") and self._quiet:
            return
        if self._style() == "bar":
            from tqdm import tqdm

            with tqdm.external_write_mode(file=sys.stderr):
                say(text)
        else:
            say(text)

    def progress(
        self, label: str, total: int | None, unit: str, read: Callable[[], int], counters: Counters | None = None
    ) -> AbstractContextManager[object]:
        """A bar on a terminal, a line every 30 s elsewhere."""
        from pipeline.report import Progress

        return Progress(sys.stderr, self._style(), label, total, unit, read, counters)

    def _style(self) -> Literal["bar", "lines", "none"]:
        if self._quiet:
            return "none"
        return "bar" if sys.stderr.isatty() else "lines"

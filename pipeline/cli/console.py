"""The terminal side of a run: messages and progress on stderr, plain where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from pipeline.cli.main import say

if TYPE_CHECKING:
    from pipeline.report import Counters


class Terminal:
    """Speaks to stderr; `quiet` leaves errors only."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: str) -> None:
        """A message; errors are said even when quiet."""
        if text.startswith("error") or not self._quiet:
            from tqdm import tqdm

            with tqdm.external_write_mode(file=sys.stderr):
                say(text)

    def progress(
        self, label: str, total: int | None, unit: str, read: Callable[[], int], counters: Counters | None = None
    ) -> AbstractContextManager[object]:
        """A bar on a terminal, a line every 30 s elsewhere."""
        from pipeline.report import Progress

        style = "none" if self._quiet else "bar" if sys.stderr.isatty() else "lines"
        return Progress(sys.stderr, style, label, total, unit, read, counters)  # type: ignore[arg-type] # a conditional widens Literal to str

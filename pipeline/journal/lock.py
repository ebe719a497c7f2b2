"""One run at a time on a journal: a kernel lock that dies with its process, and the name of its holder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from pipeline.errors import StorageError, Unavailable


class JournalLock:
    """Hold the journal for this process while the `with` block runs.

    Args:
        path: the lock file, beside the journal.
        wait_secs: how long to wait for a holder to finish; 0 tries once.
        purpose: what this process does, as others will read it: ``pipeline run jobs/nightly.yaml``.
        notify: told once, in words, when there is a holder to wait for.

    Raises:
        Unavailable: (``locked``) another process holds it; the message names the process and its purpose.
        StorageError: the lock file cannot be made.
    """

    def __init__(
        self, path: Path, *, wait_secs: float, purpose: str, notify: Callable[[str], None] = lambda _: None
    ) -> None:
        self._lock = FileLock(path, mode=0o600)
        self._holder = path.with_suffix(".holder")
        self._path = path
        self._wait_secs = wait_secs
        self._purpose = purpose
        self._notify = notify

    def __enter__(self) -> Self:
        try:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                if self._wait_secs <= 0:
                    raise
                self._notify(f"waiting up to {self._wait_secs:g} s: {self._held()}")
                self._lock.acquire(timeout=self._wait_secs, poll_interval=0.2)
        except Timeout as timeout:
            raise Unavailable(f"{self._held()}; wait for it, or use --wait SECS", "locked") from timeout
        except OSError as error:
            raise StorageError(f"{self._path}: cannot lock the journal: {error.strerror}") from error
        # Who holds it is a courtesy to others: a full disk does not keep the run from saying what is full.
        with suppress(OSError):
            self._sign()
        return self

    @staticmethod
    def held(path: Path) -> bool:
        """Whether some process holds the lock now."""
        try:
            with FileLock(path, mode=0o600).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def _sign(self) -> None:
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {started}: {self._purpose}\n")
        self._holder.chmod(0o600)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _held(self) -> str:
        try:
            holder = self._holder.read_text().strip()
        except OSError:
            holder = "another process"
        return f"{self._path.with_suffix('.sqlite').name} is in use by {holder}"

"""When a server of ours must stop: SIGTERM, Ctrl-C, or the end of the process that holds its stdin."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_STDIN = 0
_CHUNK_BYTES = 65_536


@contextmanager
def stopping(stop: Callable[[], None], *, with_stdin: bool) -> Iterator[None]:
    """Call `stop` on SIGTERM, on SIGINT and, with `with_stdin`, when stdin reaches its end.

    `stop` must be safe to call from another thread, from a signal handler and more than once. Signals are taken only
    in the main thread, which is the only one that Python lets do so; what stood there before is put back at the end.
    """

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop()

    def on_stdin() -> None:
        # The descriptor is read directly: a daemon thread inside sys.stdin would hold its lock while Python exits.
        try:
            while os.read(_STDIN, _CHUNK_BYTES):
                pass
        except OSError:
            pass  # a closed stdin has ended too
        stop()

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, on_signal)
    if with_stdin:
        threading.Thread(target=on_stdin, name="stdin", daemon=True).start()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

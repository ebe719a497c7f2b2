"""The clock that limits go by: the event loop's, which no change of the wall clock moves."""

from __future__ import annotations

import asyncio


def loop_time() -> float:
    """Seconds on the running loop's monotonic clock."""
    return asyncio.get_running_loop().time()

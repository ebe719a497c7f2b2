"""The wire: a request out, a response or an error of ours back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.wire.asked import Asked
from pipeline.wire.decode import decode
from pipeline.wire.encode import body, envelope, streams_by_itself, with_stream
from pipeline.wire.marked import Marked
from pipeline.wire.pictured import Pictured
from pipeline.wire.stream import Stream, read_stream
from pipeline.wire.transport import Transport

if TYPE_CHECKING:
    from pipeline.wire.endpoint import Endpoint

__all__ = [
    "Asked",
    "Endpoint",
    "Marked",
    "Pictured",
    "Stream",
    "Transport",
    "body",
    "decode",
    "envelope",
    "read_stream",
    "streams_by_itself",
    "with_stream",
]


def __getattr__(name: str) -> Any:
    """Load the HTTP client when it is first named: what only reads answers starts without it."""
    if name != "Endpoint":
        raise AttributeError(name)
    from pipeline.wire.endpoint import Endpoint

    return Endpoint

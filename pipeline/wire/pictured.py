"""Picturing: references in a prompt become pictures right before it is sent; plan and journal hold none."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

from pipeline.errors import Refused, RowError
from pipeline.records import Request, Response
from pipeline.wire.transport import Transport


class Dresser(Protocol):
    """Whoever prepares pictures."""

    def prepared(self, prompt: bytes) -> AbstractAsyncContextManager[bytes]:
        """Give a prompt as it is sent, and hold room for its bytes as long as it is used; raises `RowError`."""


class Pictured:
    """A transport that puts prepared pictures into each request's prompt, and hands it on."""

    def __init__(self, inner: Transport, dresser: Dresser) -> None:
        self._inner = inner
        self._dresser = dresser

    async def send(self, request: Request) -> Response:
        """Ask once, with pictures.

        Raises:
            Refused: a picture cannot be sent: an image type, or `too_long`; nothing was sent, so nothing is billed and
                there is no `http_status`. Or as what it holds.
            Busy, RunRejected: as what it holds.
        """
        try:
            async with self._dresser.prepared(request.prompt) as prompt:
                return await self._inner.send(replace(request, prompt=prompt))
        except RowError as error:
            raise Refused(error.error_type, f"row {request.row_id}: {error}") from error

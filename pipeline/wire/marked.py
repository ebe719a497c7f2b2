"""Marking: what is added to a prompt right before it is sent, and is in no key, plan or journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipeline.records import Request, Response
from pipeline.wire.transport import Transport


class Marked:
    """A transport that marks each request's prompt for the API's cache, and hands it on."""

    def __init__(self, inner: Transport, mark: Callable[[bytes], bytes]) -> None:
        self._inner = inner
        self._mark = mark

    async def send(self, request: Request) -> Response:
        """Ask once, with the prompt marked.

        Raises:
            Refused, Busy, RunRejected: as what it holds.
        """
        return await self._inner.send(replace(request, prompt=self._mark(request.prompt)))

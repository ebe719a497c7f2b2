"""The seam between a request and whoever answers it."""

from __future__ import annotations

from typing import Protocol

from pipeline.records import Request, Response


class Transport(Protocol):
    """Something that answers requests: the endpoint, what wraps it, or a script in a test."""

    async def send(self, request: Request) -> Response:
        """Ask once.

        Raises:
            Refused: the server would say it again; the row fails.
            Busy: worth another attempt.
            RunRejected: the API rejects every row alike.
        """

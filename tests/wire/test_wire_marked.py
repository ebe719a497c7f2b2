"""Marking right before sending."""

from __future__ import annotations

import asyncio

from pipeline.records import Request, Response
from pipeline.wire.marked import Marked


class Scripted:
    """Keeps what it was asked."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.asked: list[Request] = []

    async def send(self, request: Request) -> Response:
        self.asked.append(request)
        return self.response


def test_what_is_sent_is_marked_and_what_was_given_stays_as_it_is() -> None:
    answer = Response(b"{}", "hi", "end_turn", "m", None)
    wire = Scripted(answer)
    request = Request(b"k" * 16, "r1", b'"messages":[]')
    assert asyncio.run(Marked(wire, lambda prompt: b'"system":[],' + prompt).send(request)) is answer
    assert wire.asked == [Request(b"k" * 16, "r1", b'"system":[],"messages":[]')]
    assert request.prompt == b'"messages":[]'

"""Pictures right before sending."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pipeline.errors import Busy, Refused, RowError
from pipeline.records import Request, Response
from pipeline.wire.pictured import Pictured

ANSWER = Response(b"{}", "hi", "end_turn", "m", None)


class Scripted:
    def __init__(self, *, fails: bool = False) -> None:
        self.asked: list[Request] = []
        self.fails = fails

    async def send(self, request: Request) -> Response:
        self.asked.append(request)
        if self.fails:
            raise Busy("overloaded", "later")
        return ANSWER


class Dresser:
    def __init__(self, error: RowError | None = None) -> None:
        self.error = error
        self.held = 0

    @asynccontextmanager
    async def prepared(self, prompt: bytes) -> AsyncIterator[bytes]:
        if self.error is not None:
            raise self.error
        self.held += 1
        try:
            yield b"dressed " + prompt
        finally:
            self.held -= 1


def test_what_is_sent_is_dressed_and_what_was_given_stays_as_it_is() -> None:
    wire, dresser = Scripted(), Dresser()
    request = Request(b"k" * 16, "r1", b'"messages":[]')
    assert asyncio.run(Pictured(wire, dresser).send(request)) is ANSWER
    assert [asked.prompt for asked in wire.asked] == [b'dressed "messages":[]']
    assert request.prompt == b'"messages":[]'
    assert dresser.held == 0


def test_a_picture_that_cannot_be_sent_ends_its_row_and_nothing_is_asked() -> None:
    wire = Scripted()
    dresser = Dresser(RowError("image_bomb", "a.png: has 50,000 x 50,000 pixels"))
    with pytest.raises(Refused, match=r"^row r1: a\.png: has") as caught:
        asyncio.run(Pictured(wire, dresser).send(Request(b"k" * 16, "r1", b"")))
    assert (caught.value.error_type, caught.value.http_status) == ("image_bomb", None)
    assert not caught.value.maybe_billed
    assert wire.asked == []


def test_room_is_given_back_when_the_call_fails() -> None:
    dresser = Dresser()
    with pytest.raises(Busy):
        asyncio.run(Pictured(Scripted(fails=True), dresser).send(Request(b"k" * 16, "r1", b"")))
    assert dresser.held == 0

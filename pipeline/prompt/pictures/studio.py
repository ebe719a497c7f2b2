"""The studio: right before a request is sent its references become pictures, in threads and within a bound of bytes."""

from __future__ import annotations

import asyncio
import base64
import os
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from pipeline.errors import RowError
from pipeline.prompt.pictures.limits import OTHER_BYTES, REQUEST_BYTES, for_many
from pipeline.prompt.pictures.pictures import Pictures
from pipeline.prompt.pictures.reference import Reference, references, replaced

BYTES_IN_FLIGHT = 256 * 1024 * 1024
HELD = 2
"""How often a request's bytes are in memory while it is on its way: as its prompt, and as its body."""

_IMAGE = b'{"type":"image"'


class Room:
    """Bytes that may be in flight, given out in the order of asking. One alone may be larger than all of it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.used = 0
        self.most = 0

    async def take(self, size: int) -> None:
        """Wait until so many bytes have room."""
        if not self._waiting and self._has_room(size):
            self._give(size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.free(size)
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
                self._serve()
            raise

    def free(self, size: int) -> None:
        """Give so many bytes back."""
        self.used -= size
        self._serve()

    def _has_room(self, size: int) -> bool:
        return self.used == 0 or self.used + size <= self._limit

    def _give(self, size: int) -> None:
        self.used += size
        self.most = max(self.most, self.used)

    def _serve(self) -> None:
        while self._waiting and self._has_room(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._give(size)
                turn.set_result(None)


class Studio:
    """Prepares the pictures of requests; to be closed.

    As many requests are prepared at a time as there are processors; those that wait for room keep their place, so that
    what is prepared and not yet counted is one request for each.

    Args:
        pictures: reads them.
        bytes_in_flight: `limits.image_bytes_in_flight`.
        workers: threads; by default one for each processor.
    """

    def __init__(
        self, pictures: Pictures, *, bytes_in_flight: int = BYTES_IN_FLIGHT, workers: int | None = None
    ) -> None:
        self._pictures = pictures
        self._workers = workers or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="studio")
        self._benches = asyncio.Semaphore(self._workers)
        self.room = Room(bytes_in_flight)

    @asynccontextmanager
    async def prepared(self, prompt: bytes) -> AsyncIterator[bytes]:
        """Give a prompt as it is sent, and hold room for it as long as it is used.

        Raises:
            RowError: a picture cannot be had or prepared, or the request becomes too long.
        """
        found = references(prompt)
        if not found:
            yield prompt
            return
        async with self._benches:
            dressed = await asyncio.get_running_loop().run_in_executor(self._threads, self._dressed, prompt, found)
            size = HELD * len(dressed)
            await self.room.take(size)
        try:
            yield dressed
        finally:
            self.room.free(size)

    def dress(self, prompt: bytes) -> bytes:
        """Give a prompt as it is sent; blocks.

        Raises:
            RowError: as `prepared`.
        """
        return self._dressed(prompt, references(prompt))

    def _dressed(self, prompt: bytes, found: list[Reference]) -> bytes:
        room = REQUEST_BYTES - max(OTHER_BYTES, len(prompt))
        pictures = prompt.count(_IMAGE)
        blocks = [self._block(reference, pictures, None) for reference in found]
        if sum(map(len, blocks)) > room:
            fixed = sum(len(block) for block, one in zip(blocks, found, strict=True) if one.kind == "document")
            images = sum(one.kind == "image" for one in found)
            share = (room - fixed) // max(1, images)
            if share > 0:
                blocks = [
                    block if one.kind == "document" or len(block) <= share else self._block(one, pictures, share - 200)
                    for block, one in zip(blocks, found, strict=True)
                ]
        if (size := sum(map(len, blocks))) > room:
            message = f"the pictures have {size:,} bytes together, and a request takes {REQUEST_BYTES:,}"
            raise RowError("too_long", message)
        return replaced(prompt, found, blocks)

    def _block(self, reference: Reference, pictures: int, base64_bytes: int | None) -> bytes:
        # Pillow is not loaded before the first picture.
        from pipeline.prompt.pictures.decoding import prepare, within

        name, content = self._pictures.content(reference.digest)
        limits = for_many(self._pictures.limits, pictures)
        if base64_bytes is not None:
            limits = within(limits, base64_bytes)
        ready = prepare(content, name, self._pictures.settings, limits)
        return b'{"type":"%b","source":{"type":"base64","media_type":"%b","data":"%b"}}' % (
            reference.kind.encode(),
            ready.media_type.encode(),
            base64.b64encode(ready.content),
        )

    def close(self) -> None:
        """End the threads; what they are at is finished first."""
        self._threads.shutdown(wait=True, cancel_futures=True)

"""Quotes in delimited text: a cell that opens with one ends with the one that closes it, as RFC 4180 has it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import polars as pl
import pyarrow as pa

from pipeline.source.files import SourceFile
from pipeline.source.streams import Extended, open_utf8

CHUNK_BYTES = 1 << 20
SLICE_BYTES = 1 << 20  # of blocks that were enlarged for a large row no second copy is made
WINDOW_BYTES = 1 << 16  # a match remembers every cell it went past
QUOTE = b'"'
QUOTED = rb'[^"]*+(?:""[^"]*+)*+'
"""What is inside of quotes, two of them being one that is meant."""
WITHIN = re.compile(QUOTED)


@dataclass(frozen=True, slots=True)
class Fault:
    """A quote that opens a cell and does not close it as it should.

    Attributes:
        opened: the line of the quote, from 1.
        goes_on: the line, from 1, where text follows the quote that closes the cell; None where none closes it.
    """

    opened: int
    goes_on: int | None

    def __str__(self) -> str:
        if self.goes_on is None:
            return f"line {self.opened}: a quote is opened and never closed"
        return (
            f"line {self.opened}: a quote opens a cell, and on line {self.goes_on} more text follows the quote that "
            "closes it; a quote inside of a quoted cell is written twice, and a cell that begins with one is quoted as "
            "a whole"
        )


class Walk:
    """Follows the quotes of one file, which is UTF-8 or made so, and knows where they are.

    A quote opens at the start of a cell only; in any other place outside of quotes it is text, as in ``5'10" tall``.
    The quote that closes a cell is followed by the separator, the end of the line (CR LF, LF or CR) or the end of the
    file. Readers such as Arrow, which take what else follows for text of the cell, join the rows between two stray
    quotes into one cell.

    Attributes:
        inside: whether a quote is open, or was the last byte and may have been closed by that.
        opened: where the quote is that is open, or the last one that was, in bytes from the start.
        goes_on: where text follows a closing quote; None as long as that was not seen.
    """

    def __init__(self, separator: str) -> None:
        """For a file of this separator, an ASCII character."""
        self._ends = separator.encode() + b"\r\n"
        end = b"[" + re.escape(separator).encode() + rb"\r\n]"
        cell = rb'(?<=%b")%b"(?=%b)' % (end, QUOTED, end)
        # This group is not possessive: Python before 3.11.5 stands in a wrong place where such a one fails midway. (The
        # one in QUOTED fails on its first two bytes if at all.)
        self._outside = re.compile(rb'[^"]*+(?:"(?:%b|(?<!%b"))[^"]*+)*' % (cell, end))
        self._rest = b"\n"  # what comes first starts a cell, too
        self._seen = 0
        self.inside = False
        self.opened = 0
        self.goes_on: int | None = None

    def see(self, data: bytes) -> bool:
        """Take in the bytes that come next; a byte order mark has to come in one.

        Returns whether every cell so far ends with the quote that closes it; where not, nothing more may come.
        """
        at = 0
        if not self._seen and data.startswith(codecs.BOM_UTF8):
            at = self._seen = len(codecs.BOM_UTF8)
        return all(self._see(data[start : start + WINDOW_BYTES]) for start in range(at, len(data), WINDOW_BYTES))

    def _see(self, fresh: bytes) -> bool:
        text = self._rest + fresh
        base = self._seen - len(self._rest)
        at = 0 if self.inside else len(self._rest)
        self._seen += len(fresh)
        while True:
            if not self.inside:
                at = _end(self._outside, text, at)
                if at == len(text):
                    self._rest = text[-1:]
                    return True
                self.inside, self.opened = True, base + at
                at += 1
            at = _end(WITHIN, text, at)
            if at + 1 >= len(text):  # what comes next tells whether a quote at the end closes or is doubled
                self._rest = text[at:]
                return True
            at += 1
            if text[at] not in self._ends:
                self.goes_on = base + at
                return False
            self.inside = False


class Quotes(Walk):
    """The same at a fraction of the cost, without the places.

    Where no quote is text of an unquoted cell, every other quote opens and stands after a separator, a line's end or
    another quote, and the ones between close and stand before one of these. That is seen of all quotes at once; for
    bytes where it is not so the walk decides.
    """

    def __init__(self, separator: str, *, most: int | None = None) -> None:
        """For a file of this separator, an ASCII character; once `most` bytes were seen, no more are looked at."""
        super().__init__(separator)
        self._beside = self._ends + QUOTE
        self._most = most

    def see(self, data: bytes) -> bool:
        """As of the walk, but for the places."""
        for start in range(0, len(data), SLICE_BYTES):
            some = data[start : start + SLICE_BYTES]
            if self._most is not None and self._seen >= self._most:
                return True
            if not (self._orderly(some) or super().see(some)):
                return False
        return True

    def _orderly(self, fresh: bytes) -> bool:
        """Take the bytes in if they are plainly as they should be, else leave everything as it is."""
        if not self.inside and self._rest == QUOTE:  # it is text of a cell
            return False
        text = b"\n" + self._rest + fresh
        inside, at = self.inside, 1 if self.inside else 2
        if inside or QUOTE in fresh:
            before, after = _around(text, at)
            if before[inside::2].translate(None, self._beside) or after[not inside :: 2].translate(None, self._beside):
                return False
            inside ^= bool(len(before) % 2)
        last = text[-1:]
        if last == QUOTE and not inside:
            if text[-2] not in self._beside:
                return False
            inside, last = True, b""
        self.inside, self._rest = inside, last
        self._seen += len(fresh)
        return True


def _around(text: bytes, start: int) -> tuple[bytes, bytes]:
    """The bytes before and after every quote that is not the first or the last byte, from a place on."""
    buffer, count = pa.py_buffer(text), max(len(text) - 1 - start, 0)
    before, here, after = (
        pl.Series(values=pa.Array.from_buffers(pa.uint8(), count, [None, buffer], offset=start + shift))
        for shift in (-1, 0, 1)
    )
    quotes = here == ord(QUOTE)
    return _bytes(before.filter(quotes)), _bytes(after.filter(quotes))


def _bytes(values: pl.Series) -> bytes:
    array = values.to_arrow()
    data: bytes = array.buffers()[1].slice(array.offset, len(array)).to_pybytes()
    return data


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()  # both patterns match emptiness


def find_fault(file: SourceFile, encoding: str, separator: str, *, chunk: int = CHUNK_BYTES) -> Fault | None:
    """The first quote of a file that does not close its cell; None where there is none, or the text is not `encoding`.

    Raises:
        OSError: the file cannot be read.
    """
    walk = Walk(separator)
    try:
        with closing(_chunks(file, encoding, chunk)) as chunks:
            all(map(walk.see, chunks))
    except UnicodeError:
        return None
    if not walk.inside:
        return None
    with closing(_chunks(file, encoding, chunk)) as chunks:
        opened = _line_at(walk.opened, chunks)
    if walk.goes_on is None:
        return Fault(opened, None)
    with closing(_chunks(file, encoding, chunk)) as chunks:
        return Fault(opened, _line_at(walk.goes_on, chunks))


def _chunks(file: SourceFile, encoding: str, chunk: int) -> Generator[bytes, None, None]:
    """The text of a file in UTF-8, and a line's end."""
    with open_utf8(file, encoding) as text:
        yield from iter(partial(Extended(text, b"\n").read, chunk), b"")


def _line_at(place: int, chunks: Iterable[bytes]) -> int:
    """The line, from 1, of the byte at a place."""
    line, last = 1, b""
    for some in chunks:
        before = last + some[:place]
        line += before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") - len(last)
        place -= len(some)
        if place <= 0:
            break
        last = b"\r" if some.endswith(b"\r") else b""
    return line

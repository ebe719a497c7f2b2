"""Quotes in delimited text: where the one opens that is still open at the end, as Arrow reads them."""

from __future__ import annotations

import io
import re
from functools import partial
from itertools import chain

from pipeline.source.files import SourceFile
from pipeline.source.streams import open_bytes

CHUNK_CHARACTERS = 1 << 20
QUOTE = '"'


def open_quote(file: SourceFile, encoding: str, separator: str, *, chunk: int = CHUNK_CHARACTERS) -> int | None:
    """The line, from 1, on which the quote opens that is never closed; None where there is none.

    A quote opens at the start of a cell only. Inside, two are one that is meant; what follows a closing quote is text
    up to the end of the cell, quotes included.

    Raises:
        OSError: the file cannot be read.
    """
    opening = re.compile(f"(?<=[\n{re.escape(separator)}]){QUOTE}")
    line, opened, inside = 1, 1, False
    with (
        open_bytes(file) as stream,
        io.TextIOWrapper(stream, encoding=encoding, errors="replace") as decoded,  # every line ends in \n
    ):
        rest = "\n"  # what comes first starts a cell, too
        start = [decoded.read(1).removeprefix("\ufeff")]
        for some in chain(start, iter(partial(decoded.read, chunk), "")):
            text = rest + some
            at, counted = 0, len(rest)
            while True:
                if not inside:
                    found = opening.search(text, at)
                    if found is None:
                        rest = text[-1:]
                        break
                    line += text.count("\n", counted, found.start())
                    counted, at = found.start(), found.end()
                    opened, inside = line, True
                else:
                    close = text.find(QUOTE, at)
                    rest = "" if close < 0 else QUOTE
                    if close < 0 or close + 1 == len(text):  # the next chunk tells whether it is doubled
                        break
                    at = close + 2 if text[close + 1] == QUOTE else close + 1
                    inside = text[close + 1] == QUOTE
            line += text.count("\n", counted)
    return opened if inside and rest != QUOTE else None

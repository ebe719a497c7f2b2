"""Cells of picture columns: what a value says a picture is: a path, a URL, or the bytes themselves."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import RowError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_DATA = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FilePath:
    """A picture in a file."""

    text: str


@dataclass(frozen=True, slots=True)
class Url:
    """A picture by http or https."""

    text: str


@dataclass(frozen=True, slots=True)
class Inline:
    """A picture in the row itself."""

    content: bytes


Named = FilePath | Url | Inline


def named(value: Any) -> Iterator[Named]:
    """Give the pictures that a value names, in order: a path, a URL, bytes, or a list of these; null names none.

    A mapping with `bytes` or `path`, as data sets of pictures have it, names one.

    Raises:
        RowError: `image_blocked`: a file:// URL; `image_unsupported`: a value or URL of another kind.
    """
    if value is None:
        return
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from named(item)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        yield Inline(bytes(value))
    elif isinstance(value, Mapping) and ("bytes" in value or "path" in value):
        yield from named(value.get("bytes") or value.get("path"))
    elif isinstance(value, str):
        if value:
            yield _of_text(value)
    else:
        kind = type(value).__name__
        words = f"holds a value of type {kind}; a path, a URL, bytes, or a list of these would be right"
        raise RowError("image_unsupported", words)


def _of_text(text: str) -> Named:
    if _DATA.match(text):
        try:
            # Mail and some tables break base64 into lines.
            return Inline(base64.b64decode("".join(text.partition(",")[2].split()), validate=True))
        except (binascii.Error, ValueError) as error:
            raise RowError("image_corrupt", "holds a data: URL whose base64 cannot be read") from error
    if text[:5].lower() == "data:" and "," in text:
        raise RowError("image_unsupported", "holds a data: URL without base64; data:image/png;base64,… would be right")
    scheme = _SCHEME.match(text)
    if scheme is None or "://" not in text[: len(scheme[0]) + 2]:
        return FilePath(text)
    if scheme[1].lower() in {"http", "https"}:
        return Url(text)
    if scheme[1].lower() == "file":
        raise RowError("image_blocked", "holds a file: URL; write the path itself, within prompt.image_root")
    raise RowError("image_unsupported", f"holds a {scheme[1]}: URL; pictures come from files, http and https")

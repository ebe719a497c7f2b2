"""Showing requests with pictures: abbreviated on a screen, and the pictures themselves as files."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import StorageError

_SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "application/pdf": ".pdf",
}
_SHOWN = 40
"""Characters of base64 that are shown as they are."""


def abbreviated(value: Any) -> Any:
    """Give the same JSON value with the data of base64 sources told in words."""
    if isinstance(value, Mapping):
        shown = {name: abbreviated(item) for name, item in value.items()}
        if value.get("type") == "base64" and isinstance(data := value.get("data"), str) and len(data) > _SHOWN:
            shown["data"] = f"{data[:12]}… ({len(data):,} characters of base64)"
        return shown
    return [abbreviated(item) for item in value] if isinstance(value, list) else value


def write_pictures(body: Any, folder: Path, stem: str) -> list[Path]:
    """Write the pictures of a request to files named ``STEM-1.jpg``, ``STEM-2.png``, ….

    Args:
        body: the request, or any part of it, as JSON values; not abbreviated.
        folder: made if need be.
        stem: what the names begin with; what cannot stand in a name becomes ``_``.

    Raises:
        StorageError: they cannot be written.
    """
    clean = "".join(char if char.isalnum() or char in "-_." else "_" for char in stem).lstrip(".")[:100] or "row"
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (media_type, content) in enumerate(_pictures(body), start=1):
            path = folder / f"{clean}-{number}{_SUFFIXES.get(media_type, '.bin')}"
            path.write_bytes(content)
            paths.append(path)
    except OSError as error:
        raise StorageError(f"{folder}: prepared pictures cannot be written: {error}") from error
    return paths


def _pictures(value: Any) -> Iterator[tuple[str, bytes]]:
    if isinstance(value, Mapping):
        if value.get("type") == "base64" and isinstance(value.get("data"), str):
            try:
                yield str(value.get("media_type", "")), base64.b64decode(value["data"], validate=True)
            except binascii.Error:
                return
            return
        for item in value.values():
            yield from _pictures(item)
    elif isinstance(value, list):
        for item in value:
            yield from _pictures(item)

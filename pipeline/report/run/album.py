"""The album: pictures that rows were asked about, found again on this machine by what the plan says of them.

Nothing is fetched. A picture that is no longer where it was, or is another one by now, is told in words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import RowError, StorageError
from pipeline.prompt.pictures import Shelf, picture_columns, picture_root, references
from pipeline.prompt.pictures.cells import FilePath, Inline, Named, Url, named
from pipeline.prompt.pictures.pictures import PicturedJob
from pipeline.prompt.pictures.reference import digest_of
from pipeline.prompt.pictures.shelf import Known
from pipeline.source.pictures import is_pictures

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
WHOLE = 8
"""How much longer a pixel takes of a picture that has to be decoded whole; a JPEG is reduced while it is decoded."""

USUAL = 12_000_000
"""Pixels of a picture whose header says nothing."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture of a row.

    Attributes:
        digest: of its bytes, where the plan has it.
        name: what the row's kept columns call it.
        kind: `image`; `document`, which is not drawn; `file`, one that was uploaded to the API before.
    """

    digest: bytes | None
    name: Named | None
    kind: str = "image"


class Album:
    """Finds pictures again; to be closed.

    Args:
        job: whose pictures they are.
        shelf: where planning wrote down which picture lies where; it need not be there, and is not changed.
    """

    def __init__(self, job: PicturedJob, shelf: Path) -> None:
        self._columns = picture_columns(job)
        self._named_by_path = is_pictures(job.source.path, job.source.format)
        self._root = picture_root(job)
        self._known = Shelf(None, below=shelf)
        self._kept = Shelf(shelf)

    def shots(self, row: str, prompt: bytes | None, values: Mapping[str, Any]) -> list[Shot]:
        """The pictures of a row in their order.

        Args:
            row: its name.
            prompt: as planned; None where it failed before sending, or the plan is gone.
            values: the kept input columns.
        """
        names = self._names(row, values)
        if prompt is None:
            return [Shot(None, name) for name in names]
        found = references(prompt)
        if not found:
            return list(_pointed(prompt))
        same = len(names) == len(found)
        return [Shot(each.digest, names[nth] if same else None, each.kind) for nth, each in enumerate(found)]

    def _names(self, row: str, values: Mapping[str, Any]) -> list[Named]:
        found: list[Named] = []
        for column in self._columns:
            # A cell that names no picture failed its row, which says so.
            with suppress(RowError):
                found += named(values.get(column))
        return found or ([FilePath(row)] if self._named_by_path else [])

    def label(self, shot: Shot) -> str:
        """What a picture is called: a file's name, or host and path of a URL; empty where it has no name."""
        if isinstance(shot.name, FilePath):
            return PurePosixPath(shot.name.text).name or shot.name.text
        if isinstance(shot.name, Url):
            return place_of(shot.name.text)
        for known in self._places(shot.digest):
            if known.place.startswith(("http://", "https://")):
                return place_of(known.place)
            if not known.place.startswith("bytes:"):
                return Path(known.place).name
        return ""

    def work(self, shot: Shot) -> int:
        """About how long it takes to draw a picture: its pixels, as far as they are decoded one by one."""
        known = next(iter(self._places(shot.digest)), None)
        if known is None or not known.width:
            return USUAL
        jpeg = Path(known.place).suffix.lower() in JPEG_SUFFIXES
        return known.width * known.height * (1 if jpeg else WHOLE)

    def content(self, shot: Shot) -> bytes:
        """Read a picture again; blocks, for threads.

        Raises:
            RowError: it cannot be had here any more; the message is for people.
        """
        if shot.kind == "document":
            raise RowError("image_unsupported", "a PDF, which is not drawn here")
        if shot.kind == "file":
            raise RowError("image_missing", "a file that was uploaded to the API before")
        if shot.digest is None:
            return self._by_name(shot.name)
        kept = self._kept.kept(shot.digest)
        if kept is not None and digest_of(kept) == shot.digest:
            return kept
        trouble = RowError("image_missing", "the picture is no longer where it was when it was asked about")
        places = [each.place for each in self._places(shot.digest)]
        for name in (*map(_named, places), shot.name):
            if name is None:
                continue
            try:
                content = self._by_name(name)
            except RowError as error:
                trouble = error
                continue
            if digest_of(content) == shot.digest:
                return content
            trouble = RowError("image_missing", "there is another picture now than the one that was asked about")
        raise trouble

    def _by_name(self, name: Named | None) -> bytes:
        if isinstance(name, Inline):
            return name.content
        if isinstance(name, FilePath):
            return self._root.read(self._root.stamp(name.text))[1]
        if isinstance(name, Url):
            with suppress(StorageError):
                for known in self._known.get([name.text]).values():
                    if (kept := self._kept.kept(known.digest)) is not None:
                        return kept
            raise RowError("image_missing", f"{place_of(name.text)}: a report fetches nothing")
        raise RowError("image_missing", "the row names no picture")

    def _places(self, digest: bytes | None) -> list[Known]:
        # What was found in planning only saves looking; where it cannot be read, names of columns are left.
        with suppress(StorageError):
            return [] if digest is None else list(self._known.find(digest))
        return []

    def close(self) -> None:
        """Let go of the shelf."""
        self._known.close()
        self._kept.close()


def place_of(url: str) -> str:
    """Host and path of a URL: a query may hold what opens the door."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname or ''}{parts.path}" or url.partition("?")[0]
    except ValueError:
        return "a URL"


def _named(place: str) -> Named | None:
    if place.startswith("bytes:"):
        return None
    return Url(place) if place.startswith(("http://", "https://")) else FilePath(place)


def _pointed(prompt: bytes) -> Iterator[Shot]:
    """The pictures that a prompt leaves to the API to fetch."""
    try:
        messages = json.loads(b"{" + prompt + b"}").get("messages", [])
    except ValueError:
        return
    for turn in messages:
        content = turn.get("content")
        for block in content if isinstance(content, list) else ():
            source = block.get("source") if isinstance(block, dict) else None
            if isinstance(source, dict) and block.get("type") in ("image", "document"):
                if isinstance(url := source.get("url"), str):
                    yield Shot(None, Url(url), str(block["type"]))
                elif source.get("type") == "file":
                    yield Shot(None, None, "file")

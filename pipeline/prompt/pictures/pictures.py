"""A job's pictures: what its rows refer to, found and hashed before anything is asked, and read again to be sent."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import orjson

from pipeline.errors import Complaint, RowError
from pipeline.prompt.pictures.cells import FilePath, Inline, Named, Url, named
from pipeline.prompt.pictures.hosts import Allowed
from pipeline.prompt.pictures.limits import Limits, limits_of, picture_tokens
from pipeline.prompt.pictures.opening import MAX_BYTES, Root, Stamp
from pipeline.prompt.pictures.reference import Kind, Settings, digest_of, references, written
from pipeline.prompt.pictures.shelf import Known, Shelf
from pipeline.records import Row
from pipeline.source.pictures import is_pictures, picture_folder

THREADS = max(2, os.cpu_count() or 1)
FETCHED_AT_ONCE = 32
REMEMBERED_URLS = 50_000
"""URLs that this process has asked already and does not ask again."""

DOCUMENT_BYTES_PER_PAGE = 50_000
DOCUMENT_TOKENS_PER_PAGE = 2_000
"""What a page of a PDF is taken for, as long as nothing better is known."""

POINTING = re.compile(rb'\{"type":"(?:image|document)","source":\{"type":"(?:url|file)"')
"""A block that leaves the fetching to the API, as `Pictures.blocks` writes it; no string can hold it."""

FILE_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")

# ruff: noqa: D102 - the members are documented where the job file is


class ImageSection(Protocol):
    """The section `prompt.image`."""

    @property
    def as_(self) -> str: ...
    @property
    def max_side(self) -> int | None: ...
    @property
    def format(self) -> str | None: ...
    @property
    def quality(self) -> int | None: ...
    @property
    def allow_hosts(self) -> Sequence[str]: ...


class PicturedPrompt(Protocol):
    """The section `prompt`, as far as pictures go."""

    @property
    def images(self) -> Sequence[str]: ...
    @property
    def image_root(self) -> Path | None: ...
    @property
    def image(self) -> ImageSection: ...


class PicturedSource(Protocol):
    """The section `source`, as far as pictures go."""

    @property
    def path(self) -> Sequence[str]: ...
    @property
    def format(self) -> str: ...


class PicturedRequest(Protocol):
    """The section `request`, as far as pictures go."""

    @property
    def model(self) -> str: ...


class PicturedJob(Protocol):
    """What pictures need of a job."""

    @property
    def prompt(self) -> PicturedPrompt: ...
    @property
    def source(self) -> PicturedSource: ...
    @property
    def request(self) -> PicturedRequest: ...
    @property
    def directory(self) -> Path: ...
    def complain(self, path: str, message: str) -> Complaint: ...


def picture_columns(job: PicturedJob) -> tuple[str, ...]:
    """Give the columns that name a request's pictures, none where it has none; a source of pictures has its own."""
    if job.prompt.images:
        return tuple(job.prompt.images)
    return ("path",) if is_pictures(job.source.path, job.source.format) else ()


def picture_root(job: PicturedJob) -> Root:
    """Give the folder that pictures come from: `prompt.image_root`, else that of the source, else that of the job."""
    given = job.prompt.image_root
    # `..` leaves the directory that links really lead to.
    directory = job.directory if given is None or ".." not in given.parts else Path(os.path.realpath(job.directory))
    folder = None if given is None else directory / given
    if is_pictures(job.source.path, job.source.format):
        own = Path(picture_folder(job.source.path))
        return Root(folder or own, own)
    return Root(folder or job.directory)


class Pictures:
    """Finds, hashes and reads the pictures of one job's rows; to be closed.

    Attributes:
        columns: those that name pictures, in order.
        settings: how pictures are prepared.
        model: the one that is asked.
        limits: what it takes.
    """

    def __init__(self, job: PicturedJob, shelf: Shelf, *, fetches: bool = True) -> None:
        """Prepare; nothing is read yet.

        Args:
            job: whose `prompt` is read.
            shelf: what is known of pictures; closed with this.
            fetches: whether URLs are asked; otherwise each counts as a picture that nobody has seen, which is enough to
                render a prompt and not to send it.
        """
        image = job.prompt.image
        self.columns = picture_columns(job)
        self.settings = Settings(image.max_side, image.format, image.quality)
        self.model = job.request.model
        self.limits: Limits = limits_of(self.model, max_side=image.max_side)
        self._way = image.as_
        self._allowed = Allowed.of(image.allow_hosts)
        self._root = picture_root(job)
        self._fetches = fetches
        self._shelf = shelf
        self._fetcher: Any = None
        self._lock = Lock()
        self._seen: dict[Named, Known | RowError] = {}
        self._asked: dict[str, Known] = {}

    # -------------------------------------------------------------------------------- planning

    def look(self, rows: Iterable[Row]) -> None:
        """Find and hash what some rows refer to, all at once; files that did not change are not opened.

        Raises:
            StorageError: what was found cannot be kept.
        """
        self._seen = {}
        if self._way != "base64":
            return
        wanted: dict[Named, None] = {}
        for row in rows:
            for values in row.rows:
                for column in self.columns:
                    try:
                        wanted.update(dict.fromkeys(named(values.get(column))))
                    except RowError:
                        continue  # said when the row is built
        files = [name for name in wanted if isinstance(name, FilePath)]
        urls = [name for name in wanted if isinstance(name, Url)]
        inlines = [name for name in wanted if isinstance(name, Inline)]
        new = [*self._files(files), *self._urls(urls), *map(self._inline, inlines)]
        if new:
            self._shelf.put(new)

    def blocks(self, row: Row) -> bytes:
        """Write the blocks of a row's pictures, as JSON with commas between; at least one.

        Raises:
            RowError: one of the image types: a picture cannot be had; `too_long`: there are more than a request takes.
        """
        parts = []
        for values in row.rows:
            for column in self.columns:
                try:
                    parts += [self._block(name) for name in named(values.get(column))]
                except RowError as error:
                    raise RowError(error.error_type, f"row {row.id}: {column}: {error}") from error
        if not parts:
            raise RowError("image_missing", f"row {row.id}: {', '.join(self.columns)} names no picture")
        if len(parts) > self.limits.most:
            message = f"row {row.id}: has {len(parts)} pictures; a request to {self.model} takes {self.limits.most}"
            raise RowError("too_long", message)
        return b",".join(parts)

    def _block(self, name: Named) -> bytes:
        if self._way != "base64":
            return self._pointing(name)
        if name not in self._seen:
            self._look_at(name)
        found = self._seen[name]
        if isinstance(found, RowError):
            raise found
        return written("document" if found.kind == "document" else "image", found.digest, self.settings)

    def _look_at(self, name: Named) -> None:
        """Look at one more picture."""
        before = self._seen
        self.look([Row("", [{self.columns[0]: name.content if isinstance(name, Inline) else name.text}])])
        if len(before) < REMEMBERED_URLS:
            before.update(self._seen)
            self._seen = before

    def _pointing(self, name: Named) -> bytes:
        """Write a block that leaves the fetching to the API."""
        if isinstance(name, Inline):
            raise RowError("image_unsupported", f"holds bytes, and prompt.image.as: {self._way} sends none")
        if self._way == "url":
            if not isinstance(name, Url):
                raise RowError("image_unsupported", "holds a path, and prompt.image.as: url sends URLs")
            kind = "document" if name.text.partition("?")[0].lower().endswith(".pdf") else "image"
            return orjson.dumps({"type": kind, "source": {"type": "url", "url": name.text}})
        if not FILE_ID.fullmatch(name.text):
            raise RowError("image_unsupported", "holds no id, and prompt.image.as: file sends ids of uploaded files")
        return orjson.dumps({"type": "image", "source": {"type": "file", "file_id": name.text}})

    def _files(self, files: Sequence[FilePath]) -> list[Known]:
        stamps: dict[FilePath, Stamp] = {}
        for name in files:
            try:
                stamps[name] = self._root.stamp(name.text)
            except RowError as error:
                self._seen[name] = error
        known = self._shelf.get([stamp.path for stamp in stamps.values()])
        open_: list[tuple[FilePath, Stamp]] = []
        for name, stamp in stamps.items():
            one = known.get(stamp.path)
            if one is not None and one.stamp == _stamp(stamp):
                self._seen[name] = one
            else:
                open_.append((name, stamp))
        return self._taken(open_, self._hashed)

    def _taken(self, work: Sequence[tuple[Any, Any]], do: Any, threads: int = THREADS) -> list[Known]:
        """Do it for each in threads, and note what came of it."""
        if not work:
            return []
        found: list[Known] = []
        with ThreadPoolExecutor(min(threads, len(work)), thread_name_prefix="pictures") as pool:
            for (name, _), one in zip(work, pool.map(do, (item for _, item in work)), strict=True):
                self._seen[name] = one
                if isinstance(one, Known):
                    found.append(one)
        return found

    def _hashed(self, stamp: Stamp) -> Known | RowError:
        try:
            now, content = self._root.read(stamp)
        except RowError as error:
            return error
        return _known(now.path, _stamp(now), content)

    def _urls(self, urls: Sequence[Url]) -> list[Known]:
        known = self._shelf.get([name.text for name in urls])
        open_: list[tuple[Url, tuple[str, Known | None]]] = []
        for name in urls:
            if name.text in self._asked:
                self._seen[name] = self._asked[name.text]
            else:
                open_.append((name, (name.text, known.get(name.text))))
        if not self._fetches:
            self._seen.update({name: _unseen(name.text) for name, _ in open_})
            return []
        found = self._taken(open_, self._fetched, FETCHED_AT_ONCE)
        if len(self._asked) > REMEMBERED_URLS:
            self._asked.clear()
        self._asked.update({one.place: one for one in found})
        return found

    def _fetched(self, wanted: tuple[str, Known | None]) -> Known | RowError:
        url, before = wanted
        try:
            got = self._fetching().fetch(url, "" if before is None else before.stamp).result()
        except RowError as error:
            return error
        if got.content is None:
            assert before is not None, "without validators the server was not asked whether it changed"
            return before
        one = _known(url, got.stamp, got.content)
        self._shelf.keep(one.digest, got.content)
        return one

    def _inline(self, name: Inline) -> Known:
        if len(name.content) > MAX_BYTES:
            message = f"holds {len(name.content):,} bytes; the most is {MAX_BYTES:,}"
            self._seen[name] = RowError("image_too_large", message)
        one = _known("", "", name.content)
        # The place of bytes that lie nowhere else is their own hash.
        one = Known("bytes:" + one.digest.hex(), "", one.digest, one.kind, one.width, one.height, one.size)
        if name not in self._seen:
            self._seen[name] = one
            self._shelf.keep(one.digest, name.content)
        return one

    def _fetching(self) -> Any:
        # Threads come here at the same time, and there is one limit of connections for all.
        with self._lock:
            if self._fetcher is None:
                from pipeline.prompt.pictures.fetching import Fetcher

                self._fetcher = Fetcher(self._allowed)
            return self._fetcher

    # -------------------------------------------------------------------------------- sending

    def content(self, digest: bytes) -> tuple[str, bytes]:
        """Read a picture again, from wherever it was; gives what messages call it, and its bytes.

        Blocks; for threads.

        Raises:
            RowError: it is gone, or is another one by now.
        """
        trouble: RowError | None = None
        kept = self._shelf.kept(digest)
        for known in self._shelf.find(digest):
            name = "a picture in a column" if known.place.startswith("bytes:") else Path(known.place).name
            if kept is not None and digest_of(kept) == digest:
                return name, kept
            try:
                content = self._read(known)
            except RowError as error:
                trouble = error
                continue
            if digest_of(content) == digest:
                return name, content
            message = f"{name} is another picture than when it was planned; run again to ask about this one"
            trouble = RowError("image_missing", message)
        if trouble is not None:
            raise trouble
        raise RowError("image_missing", "a picture is no longer where it was when it was planned; run again")

    def _read(self, known: Known) -> bytes:
        place = known.place
        if place.startswith("bytes:"):
            raise RowError("image_missing", "the bytes of a picture column are kept no longer; run again to plan anew")
        if place.startswith(("http://", "https://")):
            content: bytes | None = self._fetching().fetch(place).result().content
            assert content is not None
            self._shelf.keep(digest_of(content), content)
            return content
        return self._root.read(self._root.stamp(place))[1]

    def tokens(self, prompt: bytes) -> int:
        """Estimate the input tokens of the pictures that a planned prompt refers to, 0 where it has none.

        A picture that the API fetches itself counts for the most that one can have.
        """
        total = 0 if self._way == "base64" else len(POINTING.findall(prompt)) * self.limits.tokens
        for reference in references(prompt):
            found = self._shelf.find(reference.digest)
            if reference.kind == "document":
                pages = max(1, -(-found[0].size // DOCUMENT_BYTES_PER_PAGE)) if found else 1
                total += pages * DOCUMENT_TOKENS_PER_PAGE
            else:
                width, height = (found[0].width, found[0].height) if found else (0, 0)
                total += picture_tokens(width, height, self.model, max_side=self.settings.max_side)
        return total

    def clear(self) -> None:
        """Let go of the bytes that were kept for sending; for the end of a run in which every row has its answer."""
        self._shelf.clear()

    def close(self) -> None:
        """Let go of the shelf and of connections."""
        if self._fetcher is not None:
            self._fetcher.close()
        self._shelf.close()


def _unseen(url: str) -> Known:
    """Stand in for a picture that is not fetched."""
    return Known(url, "", digest_of(url.encode("utf-8", "surrogatepass")), "image", 0, 0, 0)


def _stamp(stamp: Stamp) -> str:
    return f"{stamp.size} {stamp.mtime_ns}"


def _known(place: str, stamp: str, content: bytes) -> Known:
    # Pillow is not loaded before the first picture.
    from pipeline.source.headers import medium, read_header

    kind: Kind = "document" if medium(content) == "document" else "image"
    head = read_header(BytesIO(content))
    width, height = (0, 0) if head is None else (head.width, head.height)
    return Known(place, stamp, digest_of(content), kind, width, height, len(content))

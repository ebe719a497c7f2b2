"""What the simulator sees: every picture of a request is decoded, as a model would have to, and told in a few words.

Limits and token counts are those of messages-api §6. Pictures by URL or id are named and not fetched.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pipeline.serve.fields import ApiError, Body, bad
from pipeline.serve.models import ModelRules, rules_of

if TYPE_CHECKING:
    from PIL import Image

PATCH = 28
"""Pixels on each side of what one token stands for."""

MAX_SIDE = 8000
MANY = 20
"""A request with more pictures than this takes none with a side above `MANY_SIDE`."""

MANY_SIDE = 2000
PAGE_TOKENS = 2000
"""What a page of a document counts for."""

DIGEST_CHARS = 12
KINDS = (b'"image"', b'"document"', b'"image_url"')
"""In the JSON of a request without one of these there is nothing to see."""

_MEDIA_TYPES = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp"}
_PDF = "application/pdf"
_PAGE = re.compile(rb"/Type\s*/Page\b")
_DATA_URL = re.compile(r"data:([^;,]*);base64,")


Source = tuple[str, str, str]
"""What tells sources apart: kind, media type, and what they bring or name."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A picture or document as it was seen.

    Attributes:
        said: ``JPEG 640 x 427 #7a6b5c 0123456789ab``: format, pixels as stored, the colour of the whole shrunk to one
            pixel, the beginning of the SHA-256 of the bytes. ``PDF 1234 bytes 0123456789ab``. ``url …`` and ``file …``
            for what is only named.
        tokens: what it counts for.
    """

    said: str
    tokens: int


class Sights:
    """What was seen in one request, in order."""

    def __init__(self, seen: Mapping[Source, Sight], order: tuple[Source, ...]) -> None:
        self._seen = seen
        self._order = order

    @property
    def said(self) -> str:
        """All of it in words; empty where there was nothing to see."""
        return "; ".join(self.each)

    @property
    def each(self) -> tuple[str, ...]:
        """The words for each."""
        return tuple(self._seen[source].said for source in self._order)

    @property
    def tokens(self) -> int:
        """What all of it counts for."""
        return sum(self._seen[source].tokens for source in self._order)

    def tokens_of(self, block: Any) -> int:
        """What a block of the same request counts for beside its texts."""
        return sum(self._seen[_key(source)].tokens for source, *_ in _found([block], ""))


BLIND = Sights({}, ())
"""There was nothing to see."""


def look(body: Body, *, by_model: bool) -> Sights:
    """See every picture and document of a request that passed validation, those in results of tools too.

    Blocks while it decodes; for threads.

    Args:
        body: the request.
        by_model: the model's own limits apply.

    Raises:
        ApiError: 400: one cannot be decoded, is not what it is said to be, or is too large; or there are too many.
    """
    found = [
        source
        for index, message in enumerate(body["messages"])
        for source in _found(message.get("content"), f"messages.{index}.content")
    ]
    if not found:
        return BLIND
    rules = rules_of(str(body.get("model")))
    pictures = sum(kind == "image" for _, kind, _ in found)
    if by_model and pictures > rules.most_pictures:
        raise bad(f"Too many images in request: {pictures} > {rules.most_pictures}")
    seen: dict[Source, Sight] = {}
    for source, kind, place in found:
        if (name := _key(source)) not in seen:
            see = _document if kind == "document" else _image
            seen[name] = see(source, place, rules, MANY_SIDE if pictures > MANY else MAX_SIDE)
    return Sights(seen, tuple(_key(source) for source, *_ in found))


def picture_tokens(width: int, height: int, rules: ModelRules) -> int:
    """Count a picture's tokens after it was scaled down to what the model looks at."""
    long_side, short_side = max(width, height), min(width, height)
    for side in range(min(long_side, rules.picture_side), 0, -1):
        tokens = math.ceil(side / PATCH) * math.ceil(max(1, round(short_side * side / long_side)) / PATCH)
        if tokens <= rules.picture_tokens:
            return tokens
    return 1


def _found(content: Any, path: str) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """Give source, kind and place of each picture and document."""
    for index, block in enumerate(content if isinstance(content, list) else ()):
        kind = block.get("type") if isinstance(block, dict) else None
        place = f"{path}.{index}"
        if kind in {"image", "document"} and isinstance(source := block.get("source"), dict):
            yield source, kind, f"{place}.{kind}.source.{source.get('type')}"
        elif kind == "image_url":
            yield _source_of_url(block["image_url"]), "image", f"{place}.image_url"
        elif kind == "tool_result":
            yield from _found(block.get("content"), f"{place}.tool_result.content")


def _source_of_url(value: Any) -> Mapping[str, Any]:
    """Read the picture of chat completions as a source."""
    url = value.get("url") if isinstance(value, dict) else value
    url = url if isinstance(url, str) else ""
    if (head := _DATA_URL.match(url)) is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": head[1], "data": url[head.end() :]}


def _key(source: Mapping[str, Any]) -> Source:
    held = next((source[name] for name in ("data", "url", "file_id", "content") if name in source), None)
    return str(source.get("type")), str(source.get("media_type")), held if isinstance(held, str) else repr(held)


def _named(source: Mapping[str, Any]) -> str | None:
    """Say what a source names; None where it brings the bytes."""
    if source.get("type") in {"url", "file"}:
        return f"{source['type']} {source.get('url' if source['type'] == 'url' else 'file_id')}"
    return None


def _bytes_of(source: Mapping[str, Any], place: str) -> bytes:
    try:
        content = b64decode(source["data"], validate=True)
    except (KeyError, TypeError, ValueError) as error:  # binascii.Error is a ValueError
        raise bad(f"{place}.data: invalid base64 data") from error
    if not content:
        raise bad(f"{place}.data: {source.get('media_type')} cannot be empty")
    return content


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:DIGEST_CHARS]


def _document(source: Mapping[str, Any], place: str, _rules: ModelRules, _side: int) -> Sight:
    if (named := _named(source)) is not None:
        return Sight(named, PAGE_TOKENS)
    if source.get("type") != "base64":
        text = str(source.get("data") or source.get("content") or "")
        return Sight(f"text {len(text)} characters", -(-len(text) // 4))
    if source.get("media_type") != _PDF:
        raise bad(f"{place}.media_type: Input should be '{_PDF}'")
    content = _bytes_of(source, place)
    if not content.startswith(b"%PDF"):
        raise bad(f"{place}.data: The PDF specified was not valid.")
    pages = max(1, len(_PAGE.findall(content)))
    return Sight(f"PDF {len(content)} bytes {_digest(content)}", pages * PAGE_TOKENS)


def _image(source: Mapping[str, Any], place: str, rules: ModelRules, most_side: int) -> Sight:
    if (named := _named(source)) is not None:
        return Sight(named, rules.picture_tokens)
    content = _bytes_of(source, place)
    # A simulator that is shown no picture does not need Pillow.
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(content)) as image:
            _check_head(image, source.get("media_type"), place, most_side)
            image.load()
            colour = "#{:02x}{:02x}{:02x}".format(*_colour(image))
            (width, height), form = image.size, "JPEG" if image.format == "MPO" else image.format
    except UnidentifiedImageError as error:
        raise _not_that(source.get("media_type"), place) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(place, most_side) from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, MemoryError) as error:
        raise bad(f"{place}.data: Could not process image") from error
    return Sight(f"{form} {width} x {height} {colour} {_digest(content)}", picture_tokens(width, height, rules))


def _check_head(image: Image.Image, media_type: Any, place: str, most_side: int) -> None:
    if _MEDIA_TYPES.get(image.format or "") != media_type:
        raise _not_that(media_type, place)
    if max(image.size) > most_side:
        raise _too_large(place, most_side)


def _not_that(media_type: Any, place: str) -> ApiError:
    return bad(f"{place}.data: Image does not match the provided media type {media_type}")


def _too_large(place: str, most_side: int) -> ApiError:
    for_many = " for many-image requests" if most_side == MANY_SIDE else ""
    return bad(
        f"{place}.data: At least one of the image dimensions exceed max allowed size{for_many}: {most_side} pixels"
    )


def _colour(image: Image.Image) -> tuple[int, int, int]:
    """Shrink a picture to one pixel, what is transparent over white."""
    from PIL import Image as Images

    small: Any = image.convert("RGBA").resize((1, 1), Images.Resampling.BOX)
    ground = Images.new("RGBA", (1, 1), "white")
    red, green, blue, _ = Images.alpha_composite(ground, small).getpixel((0, 0))  # type: ignore[misc]
    return int(red), int(green), int(blue)

"""Thumbnails: pictures made small enough to stand in a page, each within its share of the page's bytes."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pipeline.errors import RowError
from pipeline.prompt.pictures.limits import Limits, patches
from pipeline.prompt.pictures.reference import Settings

if TYPE_CHECKING:
    from PIL import Image

SIDE = 320
"""Pixels of the longer side: a card is about half as wide, and screens have two of them for one."""

FEWEST_BYTES, MOST_BYTES = 3_000, 30_000
QUALITIES = (76, 64, 52, 40, 28)
SMALLER = 0.75
NOT_DRAWN = "not drawn: all pictures of this page would take too long; --pictures N draws N all the same"
BETWEEN = Settings(format="jpeg", quality=95)
"""How a picture is handed over to be written: flat, and all but as good as it was."""


@dataclass(frozen=True, slots=True)
class Thumb:
    """A small picture as a `data:` URI, and its size in pixels; or in words why there is none."""

    uri: str = ""
    width: int = 0
    height: int = 0
    words: str = ""


def share(budget: int, pictures: int) -> int:
    """How many bytes of base64 each of so many pictures may have."""
    return min(MOST_BYTES, max(FEWEST_BYTES, budget // max(1, pictures)))


def evenly(wanted: int, of: int) -> set[int]:
    """Choose so many of a number of places, evenly spread from the first on; all where they are fewer."""
    return {nth * of // wanted for nth in range(wanted)} if wanted < of else set(range(of))


def thumbs(reads: Sequence[Callable[[], bytes] | None], names: Sequence[str], base64_bytes: int) -> list[Thumb]:
    """Make thumbnails, as many at once as there are processors.

    Args:
        reads: give each picture's bytes, or raise RowError; None where it is not to be drawn.
        names: what messages call them.
        base64_bytes: each at most.
    """

    def made(read: Callable[[], bytes] | None, name: str) -> Thumb:
        if read is None:
            return Thumb(words=NOT_DRAWN)
        try:
            return thumb(read(), name, base64_bytes)
        except RowError as error:
            return Thumb(words=str(error))

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="thumbs") as pool:
        return list(pool.map(made, reads, names))


def thumb(content: bytes, name: str, base64_bytes: int) -> Thumb:
    """Make a thumbnail: upright, flat, without anything that the file says beside its pixels.

    Args:
        content: the picture's bytes, of whatever is sent to the API too.
        name: what messages call it.
        base64_bytes: of the result, at most.

    Raises:
        RowError: it cannot be drawn, or takes too much memory.
    """
    # Pillow is not loaded before the first picture.
    from pipeline.prompt.pictures.decoding import base64_length, prepare
    from pipeline.source.headers import TROUBLE, opened

    ready = prepare(content, name, BETWEEN, Limits((), SIDE, patches(SIDE, SIDE), 1_000_000, 1))
    if not ready.width:
        raise RowError("image_unsupported", "a PDF, which is not drawn here")
    try:
        with opened(BytesIO(ready.content)) as between:
            image = _srgb(between)
    except TROUBLE as error:
        raise RowError("image_corrupt", f"{name}: cannot be decoded") from error
    while True:
        for quality in QUALITIES:
            small = _written(image, quality)
            if base64_length(len(small)) <= base64_bytes:
                uri = "data:image/jpeg;base64," + base64.b64encode(small).decode()
                return Thumb(uri, *image.size)
        image = image.resize((max(1, int(image.width * SMALLER)), max(1, int(image.height * SMALLER))))


def _srgb(image: Any) -> Image.Image:
    """The picture in the colours of the web; a profile that is broken is left aside."""
    from PIL import ImageCms

    image.load()
    if profile := image.info.get("icc_profile"):
        try:
            own = ImageCms.ImageCmsProfile(BytesIO(profile))
            # Most are those of the web already, and making ready to convert takes longer than all else.
            if "srgb" not in ImageCms.getProfileDescription(own).lower():
                web = ImageCms.createProfile("sRGB")
                image = ImageCms.profileToProfile(image, own, web, outputMode="RGB") or image
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    plain: Image.Image = image.convert("RGB")
    plain.info = {}
    return plain


def _written(image: Image.Image, quality: int) -> bytes:
    out = BytesIO()
    image.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()

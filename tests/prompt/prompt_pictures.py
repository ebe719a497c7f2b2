"""Pictures to test with, and jobs as far as pictures are concerned."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.errors import Complaint
from pipeline.prompt.pictures import Pictures, Shelf
from pipeline.records import Row

OPENED: list[Pictures] = []
"""What `pictures` gave; closed by the tests that asked."""

PHOTOS = Path(__file__).parents[2] / "data/photos"


@dataclass(frozen=True)
class AnImage:
    as_: str = "base64"
    max_side: int | None = None
    format: str | None = None
    quality: int | None = None
    allow_hosts: Sequence[str] = ()


@dataclass(frozen=True)
class APicturedPrompt:
    images: Sequence[str] = ("photo",)
    image_root: Path | None = None
    image: AnImage = field(default_factory=AnImage)


@dataclass(frozen=True)
class ASource:
    path: Sequence[str] = ("/nowhere/rows.csv",)
    format: str = "auto"


@dataclass(frozen=True)
class ARequest:
    model: str = "claude-sonnet-4-5"


@dataclass(frozen=True)
class APicturedJob:
    directory: Path
    prompt: APicturedPrompt = field(default_factory=APicturedPrompt)
    source: ASource = field(default_factory=ASource)
    request: ARequest = field(default_factory=ARequest)

    def complain(self, path: str, message: str) -> Complaint:
        return Complaint("job.yaml:1:1", path, message)


def pictures(folder: Path, shelf: Path | None = None, *, columns: Sequence[str] = ("photo",), **image: Any) -> Pictures:
    """Those of a job that lives in this folder."""
    job = APicturedJob(folder, APicturedPrompt(columns, image=AnImage(**image)))
    OPENED.append(Pictures(job, Shelf(shelf)))
    return OPENED[-1]


def one(photo: Any, **more: Any) -> Row:
    return Row("r1", [{"photo": photo, **more}])


def scene(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture whose corners tell its orientation: red, green, blue, white, clockwise from the upper left."""
    image = Image.new("RGB", (width, height))
    half = (width // 2, height // 2)
    corners = ((0, 0, "red"), (half[0], 0, "lime"), (half[0], half[1], "blue"), (0, half[1], "white"))
    for left, top, colour in corners:
        image.paste(colour, (left, top, left + width - half[0], top + height - half[1]))
    return image.convert(mode)


def noise(width: int, height: int) -> Image.Image:
    """A picture that hardly any format makes small."""
    return Image.merge("RGB", [Image.effect_noise((width, height), 90) for _ in range(3)])


def saved(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def corners(content: bytes) -> list[str]:
    """The words for the colours of the corners, clockwise from the upper left."""
    with Image.open(io.BytesIO(content)) as image:
        drawn = image.convert("RGB")
    right, bottom = drawn.width - 1 - drawn.width // 8, drawn.height - 1 - drawn.height // 8
    left, top = drawn.width // 8, drawn.height // 8
    return [_word(drawn.getpixel(at)) for at in ((left, top), (right, top), (right, bottom), (left, bottom))]


def _word(pixel: Any) -> str:
    red, green, blue = (value > 127 for value in pixel)
    words = {(True, False, False): "red", (False, True, False): "lime", (False, False, True): "blue"}
    return "white" if red and green and blue else words.get((red, green, blue), str(pixel))


UPRIGHT = ["red", "lime", "blue", "white"]


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that says that it has so many pixels, and does have them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    packer = zlib.compressobj(9)
    rows = min(height, 200)
    data = packer.compress(bytes(1 + 3 * width) * rows) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

"""Headers of pictures: what the beginning of a file says, and opening it with a reader fit for strangers' files."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Literal

from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.errors import RowError

# Our own guard reads the size before anything is decoded, and is far stricter; Pillow's would warn first.
Image.MAX_IMAGE_PIXELS = None

FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF"]
"""What is opened at all: no format whose reader runs other programs, or hardly anybody has looked at."""

TROUBLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,
    AttributeError,
    struct.error,
    Image.DecompressionBombError,
    Warning,
)
"""What readers raise over broken files; a warning, where a process has it that warnings are errors."""

# What Pillow thinks of a file's odd tags is of no use to whoever runs a job: what cannot be decoded is an error anyway.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NETPBM = frozenset({b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"})
HEAD_BYTES = 32

Medium = Literal["image", "document", "unknown"]


@dataclass(frozen=True, slots=True)
class Header:
    """What the beginning of a picture says, without decoding it.

    Attributes:
        format: in lower case: jpeg, png, gif, webp, bmp, tiff, ppm, avif, heif.
        width: in pixels, upright.
        height: likewise.
        taken: when, as the camera says, in its own time; None where it does not.
    """

    format: str
    width: int
    height: int
    taken: datetime | None = None


def medium(content: bytes) -> Medium:
    """Tell by its first bytes what a file is."""
    head = content[:HEAD_BYTES]
    if head[:5] == b"%PDF-":
        return "document"
    if head.startswith(_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    # The same box begins films.
    if head[4:8] == b"ftyp" and head[8:12] in (*_HEIF_BRANDS, b"avif", b"avis"):
        return "image"
    return "image" if head[:2] in _NETPBM else "unknown"


def read_header(file: IO[bytes]) -> Header | None:
    """Read what a picture says of itself; None where it is none, or broken. Nothing is decoded.

    Args:
        file: at its beginning; may be read further than the header.
    """
    head = file.read(HEAD_BYTES)
    if medium(head) != "image":
        return None
    if (size := webp_size(head)) is not None:
        return Header("webp", *size)
    file.seek(0)
    try:
        with opened(file) as image:
            width, height = image.size
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else Image.Exif()
            if image.format != "HEIF" and exif.get(ExifTags.Base.Orientation, 1) in {5, 6, 7, 8}:
                width, height = height, width
            return Header(format_of(image), width, height, _taken(exif))
    except (RowError, *TROUBLE):
        return None


@contextmanager
def opened(file: IO[bytes]) -> Iterator[Image.Image]:
    """Open a picture without decoding it.

    Raises:
        RowError: `image_corrupt`, `image_unsupported`; the words name no file.
        OSError, ValueError, …: one of `TROUBLE`.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not head:
        raise RowError("image_corrupt", "is empty (0 bytes)")
    formats = FORMATS
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head[8:]:
        _add_heif()
        formats = ["HEIF"]
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        if medium(head) == "image":
            raise RowError("image_corrupt", "begins like a picture, but cannot be read") from error
        known = "JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, AVIF, HEIC and PDF"
        raise RowError("image_unsupported", f"is no picture that can be read; there are {known}") from error
    with image:
        yield image


def _add_heif() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        message = 'is HEIC, which needs another package: pip install "messages-pipeline[heic]"'
        raise RowError("image_unsupported", message) from error
    pillow_heif.register_heif_opener()


def webp_size(content: bytes) -> tuple[int, int] | None:
    """Read the canvas of a WebP from its first chunk; None where it is none (RFC 9649, 2.5 to 2.7)."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP" or len(content) < 30:
        return None
    kind = content[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", content, 26)
    return width & 0x3FFF, height & 0x3FFF


def format_of(image: Image.Image) -> str:
    """Name the format in lower case; a JPEG that holds several pictures, as phones write it, is a JPEG."""
    return "jpeg" if image.format == "MPO" else (image.format or "unknown").lower()


def _taken(exif: Image.Exif) -> datetime | None:
    try:
        text = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007 - cameras know no zone
    except TROUBLE:
        return None

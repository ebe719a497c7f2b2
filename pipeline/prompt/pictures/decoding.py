"""Decoding and preparing: bytes of a picture in, bytes that the API takes as they are out.

What a picture claims to be is judged before anything of it is decoded: its pixels, and the memory that decoding would
take. A picture that the API takes as it is comes back byte for byte, once it has been decoded to see that it is whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from PIL import ExifTags, Image, ImageCms

from pipeline.errors import RowError
from pipeline.prompt.pictures.limits import Limits, fits, fitted
from pipeline.prompt.pictures.reference import Settings
from pipeline.source.headers import TROUBLE, format_of, medium, opened, webp_size

MAX_PIXELS = 120_000_000
"""The largest sensors in pockets have 108 million."""

MAX_MEMORY = 199_000_000
"""Bytes that a picture may take while it is decoded and resized, its file included."""

MAX_PDF_BYTES = 23_000_000
"""A PDF at most: its base64 must fit into a request (messages-api §1.3)."""

QUALITY = 85
QUALITIES = (75, 65, 55, 45, 35, 25)
"""What is tried next where the text is too long; then the picture is made smaller."""

SMALLER = 0.75
_GAP = 2.0
"""How many times larger than wanted a picture still is after its first, rough reduction."""

MEDIA_TYPES = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp"}
"""What the API takes; a picture of several, as phones write it, begins with a whole JPEG."""

_KEPT = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp", "GIF": "png"}
_BYTES_PER_PIXEL = {"WEBP": 16, "AVIF": 12, "HEIF": 12}
"""While decoding, where a reader holds the picture more than once; else 4, as Pillow does."""

MAX_SCANNED = 1_000_000_000
"""Pixels times scans of a JPEG that comes in several: each goes over all of it, however few bytes it has."""

_MAX_PROFILE_BYTES = 64 * 1024
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SCAN, _END = b"\xff\xda", b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture, or a document, as it is sent.

    Attributes:
        media_type: of `content`.
        content: the bytes, not yet base64.
        width: in pixels; 0 for a document.
        height: likewise.
        as_it_was: whether `content` is the source byte for byte.
    """

    media_type: str
    content: bytes
    width: int
    height: int
    as_it_was: bool


def base64_length(size: int) -> int:
    """Count the characters of so many bytes in base64."""
    return 4 * -(-size // 3)


def prepare(content: bytes, name: str, settings: Settings, limits: Limits) -> Prepared:
    """Make of a picture what the API takes.

    Args:
        content: the source's bytes.
        name: what messages call it.
        settings: what the job says of it.
        limits: those of the request at hand.

    Raises:
        RowError: `image_corrupt`, `image_unsupported`, `image_bomb`, or `image_too_large` for a document.
    """
    if medium(content) == "document":
        return _document(content, name)
    try:
        with _opened(content) as image:
            return _prepared(image, content, settings, limits)
    except RowError as error:
        raise RowError(error.error_type, f"{name}: {error}") from error
    except TROUBLE as error:
        words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise RowError("image_corrupt", f"{name}: cannot be decoded: {words[:1].lower() + words[1:]}") from error


def _document(content: bytes, name: str) -> Prepared:
    if len(content) > MAX_PDF_BYTES:
        message = f"{name}: the PDF has {len(content):,} bytes, and a request takes {MAX_PDF_BYTES:,}"
        raise RowError("image_too_large", message)
    if b"%%EOF" not in content[-2048:]:
        raise RowError("image_corrupt", f"{name}: the PDF is cut off: its end mark is missing")
    return Prepared("application/pdf", content, 0, 0, as_it_was=True)


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    if (size := webp_size(content)) is not None:
        # Its reader takes the memory for the whole canvas as it opens.
        _guard_pixels(*size)
        if size[0] * size[1] * _BYTES_PER_PIXEL["WEBP"] + len(content) > MAX_MEMORY:
            raise _bomb(*size)
    with opened(BytesIO(content)) as image:
        yield image


# ------------------------------------------------------------------------------------ judging


def _guard_pixels(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise RowError("image_corrupt", f"says that it has {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise _bomb(width, height)


def _bomb(width: int, height: int) -> RowError:
    message = f"has {width:,} x {height:,} pixels, which would take too much memory to decode; nothing was decoded"
    return RowError("image_bomb", message)


def _guard(image: Image.Image, content: bytes, stored: tuple[int, int], target: tuple[int, int] | None = None) -> None:
    """Refuse what would take too much memory, or too long.

    Args:
        image: opened, and told how far to reduce while decoding.
        content: of the file.
        stored: its size in pixels as the file has it.
        target: the size that it is resized to, by way of its full height; None where it is not.
    """
    width, height = image.size
    decoding: float = width * height * _BYTES_PER_PIXEL.get(image.format or "", 4) + _strip_bytes(image)
    if image.format in {"JPEG", "MPO"} and (scans := _scans(content)) > 1:
        if scans * stored[0] * stored[1] > MAX_SCANNED:
            message = (
                f"has {stored[0]:,} x {stored[1]:,} pixels in {scans:,} scans, which would take too long to decode"
            )
            raise RowError("image_bomb", message)
        decoding += 2 * _coefficients(image, *stored)
    per_pixel = 5 if image.mode in {"P", "PA", "1"} else 4
    resizing = width * height * per_pixel + (0 if target is None else _resize_bytes(width, height, target))
    if len(content) + max(decoding, resizing) > MAX_MEMORY:
        raise _bomb(*stored)


def _resize_bytes(width: int, height: int, target: tuple[int, int]) -> float:
    """Count what is between a picture and its smaller self: a first, rough reduction, and one of its sides."""
    by = max(1, int(width / target[0] / _GAP)), max(1, int(height / target[1] / _GAP))
    reduced = 4 * (width / by[0]) * (height / by[1]) if max(by) > 1 else 0
    return reduced + 4 * target[0] * height / by[1]


def _strip_bytes(image: Image.Image) -> float:
    """Count what a compressed TIFF is unpacked into, strip by strip, before it becomes pixels; it may be one strip."""
    if image.format != "TIFF" or image.info.get("compression") in {None, "raw"}:
        return 0
    tags: Any = getattr(image, "tag_v2", {})
    width, height = image.size
    rows, wide = tags.get(278, height), width
    if 322 in tags and 323 in tags:
        wide, rows = min(tags[322], 2 * width), tags[323]
    return float(wide * min(rows, 2 * height) * max(4, sum(tags.get(258, (8,))) / 8))


def _scans(content: bytes) -> int:
    """Count how often a JPEG goes over its pixels; as far as it can be followed."""
    scans, at = 0, 2
    while (found := _MARKER.search(content, at)) is not None:
        at = found.end()
        if found[0] == _END:
            break
        scans += found[0] == _SCAN
        at += max(2, int.from_bytes(content[at : at + 2], "big"))
    return scans


def _coefficients(image: Any, width: int, height: int) -> float:
    """Count what a JPEG of several scans keeps until its end: one number for each sample."""
    samplings = [(layer[1], layer[2]) for layer in getattr(image, "layer", [])] or [(1, 1)] * 3
    most = max(h * v for h, v in samplings) or 1
    samples = sum(h * v for h, v in samplings) / most
    return float(width * height * samples)


def _is_plain(image: Image.Image, content: bytes) -> bool:
    """Whether the API reads it as it is: a format and colours of its own, one picture, 8 bits."""
    if image.format == "MPO":
        return image.mode in {"L", "RGB"}
    if image.format not in MEDIA_TYPES or getattr(image, "is_animated", False):
        return False
    if image.format == "JPEG":
        return image.mode in {"L", "RGB"}
    return not (image.format == "PNG" and (content[24:25] == b"\x10" or image.mode.startswith(("I", "F"))))


def _prepared(image: Image.Image, content: bytes, settings: Settings, limits: Limits) -> Prepared:
    stored = image.size
    _guard_pixels(*stored)
    is_jpeg = image.format in {"JPEG", "MPO"}
    orientation = 1 if image.format in {"PNG", "TIFF", "HEIF"} else _orientation(image)
    fine = fits(*stored, limits) and base64_length(len(content)) <= limits.base64_bytes
    wanted = settings.format in {None, format_of(image)}
    media_type = MEDIA_TYPES.get(image.format or "", "")
    if fine and wanted and orientation == 1 and _is_plain(image, content):
        if is_jpeg:
            # An eighth shows a cut as well as the whole would, in less than half the time.
            image.draft(image.mode, (1, 1))
        _guard(image, content, stored)
        image.load()
        if image.format != "PNG" or (orientation := _orientation(image)) == 1:
            return Prepared(media_type, content, *stored, as_it_was=True)
        return _encoded(_upright(image, orientation), settings, limits, "png")
    kept = _KEPT.get(image.format or "", "")
    target = fitted(*stored, limits)
    if is_jpeg:
        image.draft(image.mode, target)
    _guard(image, content, stored, target)
    image.load()
    if image.format == "PNG":
        orientation = _orientation(image)
    profile = image.info.get("icc_profile")
    small = _resized(image, fitted(*image.size, limits) if image.format == "TIFF" else target)
    small = _upright(_colours(small, profile), orientation)
    return _encoded(small, settings, limits, kept or ("png" if _has_alpha(small) else "jpeg"), profile)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except TROUBLE:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


# ------------------------------------------------------------------------------------ making


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bring a decoded picture to its size, in colours that can be resized."""
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    elif "transparency" in image.info and image.mode in {"1", "L", "RGB"}:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode.startswith("I;16") and image.mode != "I;16":
        image = image.convert("I")
    if image.size == size:
        return image
    # Greys of 16 bits cannot be reduced in a first step.
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=None if image.mode == "I;16" else _GAP)


def _colours(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Bring a picture to grey or RGB of 8 bits, with its transparency."""
    if image.mode in {"L", "LA", "RGB", "RGBA"}:
        return image
    if image.mode == "I;16":
        image = image.convert("I")
    if image.mode == "I":
        return image.point(lambda value: value * (1 / 256)).convert("L")
    if image.mode == "F":
        low, high = image.getextrema()
        span = (high - low) or 1.0  # type: ignore[operator]  # of one channel it is a pair of numbers
        return image.point(lambda value: (value - low) * (255 / span)).convert("L")
    if image.mode == "CMYK" and profile and (converted := _by_profile(image, profile)) is not None:
        return converted
    return image.convert({"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(image.mode, "RGB"))


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert by the colour profile that came along; None where that is broken."""
    try:
        return ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, *TROUBLE):
        return None


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "LA"}


def _flat(image: Image.Image) -> Image.Image:
    """Lay what is transparent over white."""
    if not _has_alpha(image):
        return image
    ground = Image.new("RGB", image.size, "white")
    rgba = image.convert("RGBA")
    ground.paste(rgba, mask=rgba.getchannel("A"))
    return ground


def _encoded(
    image: Image.Image, settings: Settings, limits: Limits, kept: str, profile: bytes | None = None
) -> Prepared:
    """Write a picture so that its base64 fits: lower the quality first, then the size.

    Args:
        image: upright, in its final colours.
        settings: what the job says.
        limits: `base64_bytes` counts.
        kept: the format to write where the job names none; a PNG becomes JPEG rather than smaller.
        profile: the colour profile, which goes along where colours were not converted by it.
    """
    form = settings.format or kept
    options: dict[str, Any] = {}
    if profile and len(profile) <= _MAX_PROFILE_BYTES and image.mode in {"RGB", "RGBA"}:
        options["icc_profile"] = profile
    first = settings.quality or QUALITY
    while True:
        qualities = (first, *(q for q in QUALITIES if q < first)) if form != "png" else (0,)
        drawn = _flat(image) if form == "jpeg" else image
        # Comments and profiles of the source would be written along.
        drawn.info = {}
        for quality in qualities:
            content = _saved(drawn, form, quality, options)
            if base64_length(len(content)) <= limits.base64_bytes:
                return Prepared(f"image/{form}", content, *drawn.size, as_it_was=False)
        if form == "png" and settings.format is None:
            form = "jpeg"
            continue
        size = (max(1, int(image.width * SMALLER)), max(1, int(image.height * SMALLER)))
        if size == image.size:
            raise RowError("image_too_large", "cannot be made small enough for the request")
        image = image.resize(size, Image.Resampling.LANCZOS)


def _saved(image: Image.Image, form: str, quality: int, options: dict[str, Any]) -> bytes:
    out = BytesIO()
    if form == "png":
        image.save(out, "PNG", compress_level=3, **options)
    elif form == "webp":
        image.save(out, "WEBP", quality=quality, method=2, **options)
    else:
        image.save(out, "JPEG", quality=quality, **options)
    return out.getvalue()


def within(limits: Limits, base64_bytes: int) -> Limits:
    """Give the same limits with less room for one picture."""
    return replace(limits, base64_bytes=min(limits.base64_bytes, base64_bytes))

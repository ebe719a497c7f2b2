"""Preparing pictures: what is fine goes as it is, all else upright, whole and within limits."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prompt_pictures import PHOTOS, UPRIGHT, corners, noise, png_bomb, saved, scene

from pipeline.errors import RowError
from pipeline.prompt.pictures.decoding import Prepared, base64_length, prepare, within
from pipeline.prompt.pictures.limits import Limits, fits, for_many, limits_of
from pipeline.prompt.pictures.reference import Settings

SONNET = limits_of("claude-sonnet-4-5")
SMALL = limits_of("claude-sonnet-4-5", max_side=100)
SENT = {"image/jpeg", "image/png", "image/gif", "image/webp"}


def ready(content: bytes, limits: Limits = SONNET, **said: Any) -> Prepared:
    return prepare(content, "a picture", Settings(**said), limits)


def refusal(content: bytes, limits: Limits = SONNET) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        ready(content, limits)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("a picture: ")
    return caught.value.error_type, str(caught.value)


def opened(prepared: Prepared) -> Image.Image:
    image = Image.open(io.BytesIO(prepared.content))
    image.load()
    assert image.size == (prepared.width, prepared.height)
    assert f"image/{(image.format or '').lower()}" == prepared.media_type
    return image


@pytest.mark.parametrize("photo", sorted(PHOTOS.glob("*.*")), ids=lambda photo: photo.name)
def test_photos_within_limits_go_byte_for_byte(photo: Path) -> None:
    content = photo.read_bytes()
    with Image.open(photo) as image:
        fine = fits(*image.size, SONNET)
    prepared = ready(content)
    assert prepared.as_it_was == fine
    assert (prepared.content == content) == fine
    assert fits(prepared.width, prepared.height, SONNET)


@pytest.mark.parametrize(
    ("form", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1")]
)
def test_what_the_api_takes_is_not_touched(form: str, mode: str) -> None:
    content = saved(scene(300, 200, mode), form)
    assert ready(content).content is content


@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_is_not_touched(lossless: bool) -> None:
    content = saved(scene(300, 200), "WEBP", lossless=lossless)
    assert ready(content) == Prepared("image/webp", content, 300, 200, as_it_was=True)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_pictures_come_out_upright(orientation: int, form: str) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = scene(400, 300)
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(stored, form, exif=exif)
    for limits, size in ((SONNET, (400, 300)), (SMALL, (100, 75))):
        prepared = ready(content, limits)
        assert corners(prepared.content) == UPRIGHT
        assert (prepared.width, prepared.height) == size
        assert opened(prepared).getexif().get(0x0112, 1) == 1
    if form not in {"TIFF", "AVIF"}:
        assert ready(content).as_it_was == (orientation == 1)


@pytest.mark.parametrize(
    ("form", "mode", "media_type"),
    [
        ("JPEG", "CMYK", "image/jpeg"),
        ("BMP", "RGB", "image/jpeg"),
        ("TIFF", "RGB", "image/jpeg"),
        ("TIFF", "CMYK", "image/jpeg"),
        ("TIFF", "LAB", "image/jpeg"),
        ("TIFF", "P", "image/jpeg"),
        ("TIFF", "RGBA", "image/png"),
        ("PPM", "RGB", "image/jpeg"),
        ("AVIF", "RGB", "image/jpeg"),
        ("GIF", "P", "image/gif"),
    ],
)
def test_other_formats_and_colours_come_out_as_what_the_api_takes(form: str, mode: str, media_type: str) -> None:
    if mode == "LAB":
        from PIL import ImageCms

        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        drawn = ImageCms.applyTransform(scene(300, 200), to_lab)
        assert drawn is not None
    else:
        drawn = scene(300, 200, mode)
    for limits in (SONNET, SMALL):
        prepared = ready(saved(drawn, form), limits)
        opened(prepared)
        assert prepared.media_type in ({media_type} if limits is SONNET else SENT)
        if mode != "LAB":
            assert corners(prepared.content) == UPRIGHT


@pytest.mark.parametrize(("mode", "form"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF")])
@pytest.mark.parametrize("side", [100, 1000])
def test_deep_greys_come_out_as_greys_of_eight_bits(mode: str, form: str, side: int) -> None:
    deep = Image.linear_gradient("L").resize((1200, 1200)).convert("I").point(lambda value: value * 257)
    drawn = deep.convert(mode) if mode != "I" else deep
    prepared = ready(saved(drawn, form), limits_of("claude-sonnet-4-5", max_side=side))
    grey = opened(prepared)
    assert grey.mode == "L"
    assert grey.getpixel((0, 0)) in range(12)
    assert grey.getpixel((0, side - 1)) in range(243, 256)
    assert abs(int(str(grey.getpixel((0, side // 2)))) - 128) < 12


def test_a_png_of_sixteen_bits_a_channel_is_made_one_of_eight() -> None:
    # Pillow writes no such PNG: the header of one with 16 bits, its rows from 8-bit samples doubled.
    import zlib

    wide = scene(40, 30).tobytes()
    rows = b"".join(b"\0" + bytes(b for s in wide[at : at + 120] for b in (s, s)) for at in range(0, len(wide), 120))
    bomb = png_bomb(40, 30)
    head = bytearray(bomb[:33])
    head[24] = 16
    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    data = zlib.compress(rows)
    body = len(data).to_bytes(4, "big") + b"IDAT" + data + zlib.crc32(b"IDAT" + data).to_bytes(4, "big")
    prepared = ready(bytes(head) + body + bomb[-12:])
    assert not prepared.as_it_was
    assert prepared.content[24] == 8
    assert corners(prepared.content) == UPRIGHT


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_picture_goes(form: str) -> None:
    frames = [scene(120, 80), Image.new("RGB", (120, 80), "black"), Image.new("RGB", (120, 80), "navy")]
    content = saved(frames[0], form, save_all=True, append_images=frames[1:], duration=100)
    prepared = ready(content)
    assert not prepared.as_it_was
    assert getattr(opened(prepared), "n_frames", 1) == 1
    assert corners(prepared.content) == UPRIGHT


def test_a_phones_jpeg_of_several_pictures_goes_as_it_is() -> None:
    content = saved(scene(300, 200), "MPO", save_all=True, append_images=[scene(30, 20)])
    assert ready(content) == Prepared("image/jpeg", content, 300, 200, as_it_was=True)


def test_a_wrong_ending_of_the_name_does_not_matter_since_the_content_is_read() -> None:
    content = saved(scene(300, 200), "PNG")
    assert prepare(content, "photo.jpg", Settings(), SONNET).media_type == "image/png"


def test_heic_is_read_where_its_package_is() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    prepared = ready(saved(scene(320, 240), "HEIF"))
    assert (prepared.media_type, prepared.width, prepared.height) == ("image/jpeg", 320, 240)
    assert corners(prepared.content) == UPRIGHT


def test_what_is_transparent_lies_over_white_where_the_format_has_no_transparency() -> None:
    clear = Image.new("RGBA", (50, 50), (255, 0, 0, 0))
    assert opened(ready(saved(clear, "PNG"), format="jpeg")).convert("RGB").getpixel((25, 25)) == (255, 255, 255)
    kept = opened(ready(saved(clear, "TIFF")))
    assert kept.getpixel((25, 25))[3:] == (0,)  # type: ignore[index]  # RGBA


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_the_jobs_format_is_kept_to(form: str) -> None:
    for source in ("JPEG", "PNG", "WEBP"):
        content = saved(scene(300, 200), source)
        prepared = ready(content, format=form)
        assert prepared.media_type == f"image/{form}"
        assert prepared.as_it_was == (source.lower() == form)
        assert corners(prepared.content) == UPRIGHT


def test_quality_is_lowered_only_as_far_as_the_size_demands() -> None:
    content = saved(noise(1200, 1200), "BMP")
    free = ready(content)
    tight = ready(content, within(SONNET, base64_length(len(free.content)) - 1))
    tighter = ready(content, within(SONNET, base64_length(len(tight.content)) // 2))
    assert (free.width, tight.width) == (tight.width, free.width)
    assert len(free.content) > len(tight.content) > len(tighter.content)
    assert len(ready(content, quality=95).content) > len(free.content)


def test_where_no_quality_is_low_enough_the_picture_becomes_smaller() -> None:
    prepared = ready(saved(noise(1000, 1000), "PNG"), within(SONNET, 20_000))
    assert base64_length(len(prepared.content)) <= 20_000
    assert prepared.width < 1000
    opened(prepared)


def test_a_large_file_of_few_pixels_is_brought_under_the_size() -> None:
    content = saved(noise(1100, 1000), "PNG")
    limits = within(SONNET, 1_000_000)
    prepared = ready(content, limits)
    assert base64_length(len(content)) > 1_000_000 >= base64_length(len(prepared.content))
    assert prepared.media_type == "image/jpeg"


def test_metadata_is_left_behind_by_what_is_written_anew() -> None:
    exif = Image.Exif()
    exif[0x010F] = "A maker"
    exif[0x0112] = 6
    prepared = ready(saved(scene(300, 200), exif=exif, comment=b"where it was taken"))
    assert not prepared.as_it_was
    assert not opened(prepared).getexif()
    assert b"where it was taken" not in prepared.content
    assert b"A maker" not in prepared.content


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3000),
    st.integers(1, 300),
    st.booleans(),
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]),
    st.sampled_from(["RGB", "L", "RGBA", "P", "1", "CMYK"]),
    st.integers(1, 30),
    st.none() | st.sampled_from(["jpeg", "png", "webp"]),
)
def test_whatever_comes_in_what_goes_out_is_within_limits(
    long_side: int, short_side: int, tall: bool, form: str, mode: str, pictures: int, wanted: str | None
) -> None:
    size = (short_side, long_side) if tall else (long_side, short_side)
    able = {
        "JPEG": {"RGB", "L", "CMYK", "1"},
        "WEBP": {"RGB", "RGBA"},
        "GIF": {"P", "L", "1"},
        "BMP": {"RGB", "L", "1"},
    }
    if mode not in able.get(form, {"RGB", "L", "RGBA", "P", "1"}):
        mode = "RGB" if form != "GIF" else "P"
    content = saved(Image.new("RGB", size, "teal").convert(mode), form)
    limits = for_many(within(limits_of("claude-opus-4-7"), 200_000), pictures)
    prepared = ready(content, limits, format=wanted)
    assert prepared.media_type in SENT
    assert fits(prepared.width, prepared.height, limits)
    assert base64_length(len(prepared.content)) <= limits.base64_bytes
    opened(prepared)
    again = ready(prepared.content, limits, format=wanted)
    assert again.content == prepared.content
    assert again.as_it_was


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "image_corrupt"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image_unsupported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image_unsupported"),
        (b"hello", "image_unsupported"),
        (b"\xff\xd8\xff\xe0", "image_corrupt"),
        (b"\x89PNG\r\n\x1a\n", "image_corrupt"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image_corrupt"),
        (b"GIF89a", "image_corrupt"),
        (b"%PDF-1.7\ncut off", "image_corrupt"),
    ],
)
def test_what_is_no_picture_says_so(content: bytes, kind: str) -> None:
    assert refusal(content)[0] == kind


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("limits", [SONNET, SMALL], ids=["as it is", "made smaller"])
def test_a_picture_that_is_cut_off_is_corrupt(form: str, limits: Limits) -> None:
    content = saved(noise(300, 200), form)
    for share in (0.3, 0.6, 0.9):
        assert refusal(content[: int(len(content) * share)], limits)[0] == "image_corrupt"


def test_whatever_bytes_come_only_our_errors_come_out() -> None:
    draw = random.Random(20261122)
    for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"):
        whole = saved(scene(60, 40), form)
        for _ in range(150):
            spoilt = bytearray(whole)
            for _ in range(draw.randint(1, 8)):
                spoilt[draw.randrange(min(len(spoilt), 400))] = draw.randrange(256)
            for limits in (SONNET, SMALL):
                came = outcome(bytes(spoilt), limits)
                assert came in {"image_corrupt", "image_unsupported", "image_bomb", "fits"}


def outcome(content: bytes, limits: Limits) -> str:
    try:
        prepared = ready(content, limits)
    except RowError as error:
        return error.error_type
    return "fits" if fits(prepared.width, prepared.height, limits) else "does not fit"


def test_a_pdf_goes_as_a_document() -> None:
    content = b"%PDF-1.7\n1 0 obj\nendobj\ntrailer\n%%EOF\n"
    assert ready(content) == Prepared("application/pdf", content, 0, 0, as_it_was=True)


def test_bombs_are_stopped_by_their_pixels_before_anything_is_decoded() -> None:
    for content in (png_bomb(50_000, 50_000), png_bomb(9_000, 9_000), png_bomb(200_000, 1_000)):
        kind, words = refusal(content)
        assert kind == "image_bomb"
        assert "nothing was decoded" in words


def test_a_jpeg_that_could_be_decoded_at_an_eighth_is_a_bomb_all_the_same_above_the_pixels() -> None:
    content = bytearray(saved(scene(64, 64)))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = (12_000).to_bytes(2, "big") * 2
    assert refusal(bytes(content))[0] == "image_bomb"


# ------------------------------------------------------------------------------------ figures

FIGURES = """
import resource, signal, sys
from pathlib import Path
from pipeline.errors import RowError
from pipeline.prompt.pictures.decoding import prepare
from pipeline.prompt.pictures.limits import limits_of
from pipeline.prompt.pictures.opening import Root
from pipeline.prompt.pictures.reference import Settings
from pipeline.source.headers import read_header

def most():
    # What getrusage says is never below what the parent had.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

path = Path(sys.argv[1])
before = most()
# The system ends the process when it has used so much of a processor from here on.
signal.setitimer(signal.ITIMER_PROF, float(sys.argv[2]))
try:
    root = Root(path.parent)
    content = root.read(root.stamp(path.name))[1]
    with path.open("rb") as file:
        read_header(file)
    prepared = prepare(content, path.name, Settings(), limits_of("claude-sonnet-4-5"))
    del content
    came = prepared.media_type
except RowError as error:
    came = error.error_type
signal.setitimer(signal.ITIMER_PROF, 0)
print(came, most() - before)
"""

SECS, BYTES = 2.0, 200_000_000


def measured(path: Path, secs: float = SECS) -> tuple[str, int]:
    """What comes of a picture, and the bytes of memory that it took; in vain where it takes longer."""
    for _ in range(3):  # on a machine that is busy with something else a second has less in it
        done = subprocess.run(
            [sys.executable, "-c", FIGURES, str(path), str(secs)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 0:
            came, more = done.stdout.split()
            return came, int(more)
        assert done.returncode == -signal.SIGPROF, done.stderr
    return "took too long", 0


def scanned(times: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more, which makes each pixel wait for all of them."""
    content = saved(Image.new("RGB", (6000, 4000), "teal"), progressive=True)
    return content[:-2] + times * content[content.rindex(b"\xff\xda") : -2] + b"\xff\xd9"


TURNED = Image.Exif()
TURNED[0x0112] = 6


def huge_jpeg(**options: Any) -> bytes:
    return saved(noise(1000, 1000).resize((6000, 4000)), "JPEG", quality=90, **options)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb.png": (lambda: png_bomb(60_000, 60_000), "image_bomb"),
    "just-too-large.png": (lambda: png_bomb(7_100, 7_100), "image_bomb"),
    "bomb.gif": (
        lambda: b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x08\x00;",
        "image_bomb",
    ),
    "bomb.webp": (lambda: b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xdf\x2e\0\xdf\x2e\0" + bytes(18), "image_bomb"),
    "scans.jpg": (lambda: scanned(5000), "image_bomb"),
    "some-scans.jpg": (lambda: scanned(20), "image/jpeg"),
    "42-megapixels-cmyk.tiff": (
        lambda: saved(scene(6900, 6000, "CMYK"), "TIFF", compression="tiff_deflate"),
        "image_bomb",
    ),
    "one-strip.tiff": (
        lambda: saved(scene(6000, 5500), "TIFF", compression="tiff_deflate", tiffinfo={278: 5500}),
        "image_bomb",
    ),
    "smaller-strip.tiff": (
        lambda: saved(scene(5000, 4000), "TIFF", compression="tiff_deflate", tiffinfo={278: 4000}),
        "image/jpeg",
    ),
    "108-megapixels.jpg": (lambda: saved(scene(12_000, 9_000), "JPEG"), "image/jpeg"),
    "wrong-extension.gif": (huge_jpeg, "image/jpeg"),
    "turned.jpg": (lambda: huge_jpeg(exif=TURNED.tobytes()), "image/jpeg"),
    "animated.gif": (
        lambda: saved(
            scene(2000, 1500, "P"),
            "GIF",
            save_all=True,
            append_images=[scene(2000, 1500, "P").rotate(n) for n in range(9)],
        ),
        "image/png",
    ),
    "empty.jpg": (lambda: b"", "image_corrupt"),
    "truncated.jpg": (lambda: huge_jpeg()[:500_000], "image_corrupt"),
    "24-megapixels.jpg": (huge_jpeg, "image/jpeg"),
    "24-megapixels-progressive.jpg": (lambda: huge_jpeg(progressive=True), "image/jpeg"),
    "24-megapixels.png": (lambda: saved(noise(500, 500).resize((6000, 4000)), "PNG", compress_level=1), "image/png"),
    "24-megapixels-cmyk.jpg": (
        lambda: saved(scene(6000, 4000, "CMYK"), "JPEG", quality=90),
        "image/jpeg",
    ),
    "24-megapixels-palette.gif": (lambda: saved(scene(6000, 4000, "P"), "GIF"), "image/png"),
    "12-megapixels.webp": (lambda: saved(scene(4032, 3024), "WEBP", method=0), "image/webp"),
    "12-megapixels.avif": (lambda: saved(scene(4032, 3024), "AVIF", speed=10), "image/jpeg"),
    "deep.tiff": (lambda: saved(Image.new("I;16", (5000, 4000), 30_000), "TIFF"), "image/jpeg"),
}


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the most memory is read from /proc")


@linux
@pytest.mark.parametrize("name", HOSTILE)
def test_each_picture_takes_at_most_two_seconds_and_two_hundred_megabytes(name: str, tmp_path: Path) -> None:
    make, expected = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(make())
    came, more = measured(path)
    assert came == expected
    assert more <= BYTES, "bytes of memory more than before"


@linux
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (os.mkfifo, "image_blocked"),
        (lambda path: path.symlink_to("/dev/zero"), "image_blocked"),
        (Path.mkdir, "image_blocked"),
        (lambda path: path.symlink_to(path.name), "image_missing"),
    ],
    ids=["fifo", "device", "directory", "loop of links"],
)
def test_what_is_no_file_takes_no_more(make: Callable[[Path], None], expected: str, tmp_path: Path) -> None:
    make(tmp_path / "a.jpg")
    came, more = measured(tmp_path / "a.jpg")
    assert came == expected
    assert more <= BYTES


@linux
def test_what_takes_too_long_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(huge_jpeg())
    assert measured(tmp_path / "a.jpg", 0.02)[0] == "took too long"

"""A folder or glob of pictures as a source."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from source_job import job, kept, refusal, rows

from pipeline.source import open_source
from pipeline.source.pictures import is_pictures, picture_folder


def put(path: Path, size: tuple[int, int] = (30, 20), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path, **options)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    taken = Image.Exif()
    taken[0x0112] = 6
    taken.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    put(folder / "b.jpg", exif=taken)
    put(folder / "a.png", (300, 200))
    put(folder / "sub/c.webp")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not one of them")
    (folder / ".hidden.jpg").write_bytes(b"x")
    (folder / "_cache").mkdir()
    (folder / "_cache/d.jpg").write_bytes(b"x")
    return folder


def test_pictures_are_rows_of_what_names_and_headers_say(album: Path) -> None:
    asked = job(album, format="images")
    found = {row["path"]: row for row in kept(asked)}
    assert list(found) == ["a.png", "b.jpg", "broken.jpg", "sub/c.webp"]
    assert found["b.jpg"] == {
        "path": "b.jpg",
        "name": "b.jpg",
        "size": (album / "b.jpg").stat().st_size,
        "modified": datetime.fromtimestamp(1_700_000_000, UTC),
        "format": "jpeg",
        "width": 20,
        "height": 30,
        "taken": datetime(2024, 5, 6, 7, 8, 9),  # noqa: DTZ001 - the camera's own time
    }
    assert (found["a.png"]["width"], found["a.png"]["height"], found["a.png"]["taken"]) == (300, 200, None)
    assert (found["sub/c.webp"]["format"], found["sub/c.webp"]["name"]) == ("webp", "c.webp")
    assert found["broken.jpg"]["size"] == 10
    assert [found["broken.jpg"][name] for name in ("format", "width", "height", "taken")] == [None] * 4


def test_other_files_are_left_out_and_counted(album: Path) -> None:
    reader = open_source(job(album, format="images"))
    assert reader.skipped == 1
    assert open_source(job(album / "*", format="images")).skipped == 1


def test_rows_are_named_by_their_paths(album: Path) -> None:
    assert [name for name, _ in rows(job(album, format="images"))] == ["a.png", "b.jpg", "broken.jpg", "sub/c.webp"]
    assert [name for name, _ in rows(job(album, format="images", id=["name"]))][-1] == "c.webp"


def test_the_path_is_read_even_where_nothing_is_kept_or_named(album: Path) -> None:
    found = rows(job(album, format="images", keep="none"), frozenset({"path"}))
    assert [values for _, [values] in found] == [
        {"path": path} for path in ("a.png", "b.jpg", "broken.jpg", "sub/c.webp")
    ]
    assert rows(job(album, format="images", keep="none"), frozenset())[0][0] == "a.png"


def test_globs_say_by_their_endings_that_they_are_pictures(album: Path) -> None:
    assert [row["path"] for row in kept(job(album / "**/b*.jpg"))] == ["b.jpg", "broken.jpg"]
    assert [row["path"] for row in kept(job(album / "sub/c.webp"))] == ["c.webp"]
    assert [row["path"] for row in kept(job(album))] == ["a.png", "b.jpg", "broken.jpg", "sub/c.webp"]
    both = job(album / "*.png", album / "sub/*.webp")
    assert [row["path"] for row in kept(both)] == ["a.png", "sub/c.webp"]


def test_a_folder_with_a_table_in_it_is_a_source_of_tables(album: Path) -> None:
    (album / "rows.csv").write_text("a\n1\n")
    assert kept(job(album)) == [{"a": 1}]
    assert len(kept(job(album, format="images"))) == 4


@pytest.mark.parametrize(
    ("patterns", "wanted", "expected"),
    [
        (["/p/**/*.jpg"], "auto", True),
        (["/p/a.JPEG", "/q/*.png"], "auto", True),
        (["/p/*.jpg", "/q/*.csv"], "auto", False),
        (["/p/*.csv"], "auto", False),
        (["/p/*"], "auto", False),
        (["/p/*"], "images", True),
        (["/p/*.jpg"], "csv", False),
    ],
)
def test_what_counts_as_pictures(patterns: list[str], wanted: str, expected: bool) -> None:
    assert is_pictures(patterns, wanted) == expected


def test_the_folder_is_what_all_patterns_share(album: Path) -> None:
    assert picture_folder([str(album)]) == str(album)
    assert picture_folder([f"{album}/**/*.jpg"]) == str(album)
    assert picture_folder([f"{album}/b.jpg"]) == str(album)
    assert picture_folder([f"{album}/sub/*.webp", f"{album}/*.jpg"]) == str(album)


def test_of_what_lies_outside_of_the_folder_a_row_tells_nothing(album: Path, tmp_path: Path) -> None:
    put(tmp_path / "private/secret.jpg")
    (album / "out.jpg").symlink_to(tmp_path / "private/secret.jpg")
    (album / "up").symlink_to(tmp_path / "private")
    (album / "inner.jpg").symlink_to("b.jpg")
    found = {row["path"]: row for row in kept(job(album, format="images"))}
    assert set(found) == {"a.png", "b.jpg", "broken.jpg", "inner.jpg", "out.jpg", "sub/c.webp"}
    assert {value for name, value in found["out.jpg"].items() if name not in {"path", "name"}} == {None}
    assert found["inner.jpg"]["width"] == 20
    (through,) = [row for row in kept(job(album / "*/*.jpg", format="images")) if row["name"] == "secret.jpg"]
    assert (through["size"], through["width"]) == (None, None)


def test_fifos_and_links_to_nothing_are_rows_and_are_not_opened(album: Path) -> None:
    os.mkfifo(album / "fifo.jpg")
    (album / "gone.jpg").symlink_to("nowhere.jpg")
    found = {row["path"]: row for row in kept(job(album, format="images"))}
    assert found["fifo.jpg"]["size"] is found["gone.jpg"]["size"] is None


def test_where_filters_sorts_and_limits_work_as_for_tables(album: Path) -> None:
    asked = job(album, format="images", where="width > 25", sort_by=["-width"], limit=5)
    assert [row["path"] for row in kept(asked)] == ["a.png", "sub/c.webp"]
    (name, values), *_ = rows(job(album, format="images", rows_per_request=3))
    assert (name, len(values)) == ("album chunk 0", 3)


def test_the_fingerprint_changes_with_any_file(album: Path) -> None:
    before = open_source(job(album, format="images")).fingerprint
    assert open_source(job(album, format="images")).fingerprint == before
    put(album / "a.png", (301, 200))
    changed = open_source(job(album, format="images")).fingerprint
    (album / "sub/c.webp").rename(album / "sub/d.webp")
    assert len({before, changed, open_source(job(album, format="images")).fingerprint}) == 3


OPENED: list[str] = []
WATCHING: list[bool] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if WATCHING and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        OPENED.append(os.fspath(arguments[0]))


def test_no_picture_is_opened_where_no_column_asks_for_its_header(album: Path) -> None:
    sys.addaudithook(_watch)
    WATCHING.append(True)
    assert kept(job(album, format="images", keep=["name"]), frozenset({"path"}))[0] == {"name": "a.png"}
    assert not [path for path in OPENED if path.startswith(str(album)) and Path(path).suffix]
    assert kept(job(album, format="images", keep=["width"]), frozenset({"path"}))[0] == {"width": 300}
    WATCHING.clear()
    assert str(album / "a.png") in OPENED


def test_what_names_no_picture_is_a_broken_job(album: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "names no picture" in refusal(job(tmp_path / "empty", format="images"))
    assert "no file matches" in refusal(job(album / "*.gif"))
    assert "names no picture" in refusal(job(album / "*.txt", format="images"))
    assert "holds a NUL" in refusal(job("/a\0.jpg", format="images"))

"""Opening picture files: inside of the root, and regular files alone."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import RowError
from pipeline.prompt.pictures.opening import MAX_BYTES, Root

SECRET = b"not for anybody"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    inside = tmp_path / "photos"
    (inside / "sub").mkdir(parents=True)
    (inside / "a.jpg").write_bytes(b"picture")
    (inside / "sub/b.jpg").write_bytes(b"another")
    (tmp_path / "secret.jpg").write_bytes(SECRET)
    (tmp_path / "photos-private").mkdir()
    (tmp_path / "photos-private/c.jpg").write_bytes(SECRET)
    return inside


@pytest.fixture(autouse=True)
def _hangs_are_failures() -> Iterator[None]:
    signal.alarm(20)
    yield
    signal.alarm(0)


def read(root: Path, path: str) -> bytes:
    door = Root(root)
    return door.read(door.stamp(path))[1]


def refusal(root: Path, path: str) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        read(root, path)
    assert "\n" not in str(caught.value)
    return caught.value.error_type, str(caught.value)


def test_paths_inside_are_read_also_absolute_ones_and_by_links(root: Path) -> None:
    (root / "link.jpg").symlink_to("sub/b.jpg")
    (root / "folder").symlink_to(root / "sub")
    for path in ("sub/b.jpg", "./sub/../sub/b.jpg", str(root / "sub/b.jpg"), "link.jpg", "folder/b.jpg"):
        assert read(root, path) == b"another"


def test_a_root_that_is_a_link_itself_is_as_good(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    assert read(tmp_path / "alias", "a.jpg") == b"picture"
    assert read(tmp_path / "alias", str(root / "a.jpg")) == b"picture"
    assert read(tmp_path / "alias", str(tmp_path / "alias/a.jpg")) == b"picture"


@pytest.mark.parametrize(
    "path",
    ["../secret.jpg", "sub/../../secret.jpg", "/etc/hostname", "../photos-private/c.jpg", "..", "/", "../gone.jpg"],
)
def test_what_lies_outside_is_blocked_whether_it_is_there_or_not(root: Path, path: str) -> None:
    assert refusal(root, path)[0] == "image_blocked"


def test_links_out_are_blocked(root: Path, tmp_path: Path) -> None:
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "up").symlink_to("..")
    (root / "twice.jpg").symlink_to("out.jpg")
    for path in ("out.jpg", "up/secret.jpg", "twice.jpg", "up/photos-private/c.jpg"):
        kind, words = refusal(root, path)
        assert kind == "image_blocked"
        assert "leads out of" in words


@pytest.mark.parametrize(
    ("path", "kind"),
    [("gone.jpg", "image_missing"), ("a\0.jpg", "image_missing"), ("", "image_missing"), ("x" * 4096, "image_missing")],
)
def test_what_is_not_there_is_missing(root: Path, path: str, kind: str) -> None:
    assert refusal(root, path)[0] == kind


def test_a_loop_of_links_is_missing(root: Path) -> None:
    (root / "x.jpg").symlink_to("y.jpg")
    (root / "y.jpg").symlink_to("x.jpg")
    assert refusal(root, "x.jpg")[0] == "image_missing"


def test_fifos_devices_sockets_and_directories_are_never_opened(root: Path) -> None:
    os.mkfifo(root / "fifo.jpg")
    (root / "zero.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)
        server.bind("s.jpg")
        os.chdir(here)
    assert refusal(root, "fifo.jpg") == ("image_blocked", "fifo.jpg is a FIFO; a picture is a regular file")
    assert refusal(root, "sub")[0] == "image_blocked"
    assert refusal(root, "s.jpg")[0] == "image_blocked"
    assert refusal(root, "zero.jpg")[0] == "image_blocked"
    assert refusal(Path("/dev"), "zero") == ("image_blocked", "zero is a device; a picture is a regular file")


def test_what_becomes_a_link_or_a_fifo_after_it_was_found_is_not_opened(root: Path, tmp_path: Path) -> None:
    door = Root(root)
    file, nested = door.stamp("a.jpg"), door.stamp("sub/b.jpg")
    (root / "a.jpg").unlink()
    (root / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "b.jpg").write_bytes(SECRET)
    (root / "sub/b.jpg").unlink()
    (root / "sub").rmdir()
    (root / "sub").symlink_to(tmp_path)
    for stamp in (file, nested):
        with pytest.raises(RowError) as caught:
            door.read(stamp)
        assert caught.value.error_type == "image_blocked"
    (root / "a.jpg").unlink()
    os.mkfifo(root / "a.jpg")
    with pytest.raises(RowError, match="is a FIFO"):
        door.read(file)


def test_a_file_that_is_too_large_is_not_read(root: Path) -> None:
    with (root / "huge.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    kind, words = refusal(root, "huge.jpg")
    assert kind == "image_too_large"
    assert f"{MAX_BYTES:,}" in words

"""Pictures through the whole program: each row gets the caption of its own picture, whatever befalls the others."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import ProxyHandler, build_opener

import polars as pl
import pytest
from desk import Desk, Simulator
from PIL import Image

ROOT = Path(__file__).parents[2]
TURNED = {1: False, 2: False, 3: False, 4: False, 5: True, 6: True, 7: True, 8: True}
"""Which of the camera's orientations exchange width and height."""

COLOURS = ["#804020", "#208040", "#402080", "#808020", "#208080", "#802080", "#606060", "#204060"]


def picture(size: tuple[int, int] = (96, 64), colour: str = "#804020", form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, form, **options)
    return out.getvalue()


def noise(size: tuple[int, int], quality: int) -> bytes:
    out = io.BytesIO()
    Image.merge("RGB", [Image.effect_noise(size, 60) for _ in range(3)]).save(out, "JPEG", quality=quality)
    return out.getvalue()


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:12]


def photos(desk: Desk, number: int, folder: str = "photos") -> dict[str, bytes]:
    """Different pictures, by name."""
    made = {f"photo-{n:03}.png": picture((60 + n, 40), COLOURS[n % len(COLOURS)]) for n in range(number)}
    (desk.folder / folder).mkdir(exist_ok=True)
    for name, content in made.items():
        (desk.folder / folder / name).write_bytes(content)
    return made


def folder_job(url: str, more: str = "", prompt: str = "") -> str:
    """Every picture of a folder; the prompt tells nothing of the file."""
    return f"""\
name: small
source: {{path: photos, format: images}}
prompt: {{user: Describe this photo., image: {{max_side: 1200}}{prompt}}}
request: {{model: claude-haiku-4-5, max_tokens: 200}}
endpoint: {{url: {url}}}
output: {{path: out.parquet, keep: [path]}}
{more}
"""


def table_job(url: str, more: str = "", image: str = "{}", prompt: str = "", rows: str = "rows.csv") -> str:
    """Pictures that a column names."""
    return f"""\
name: small
source: {{path: {rows}, id: [name]}}
prompt: {{user: Describe this photo., images: [photo], image_root: photos, image: {image}{prompt}}}
request: {{model: claude-haiku-4-5, max_tokens: 200}}
endpoint: {{url: {url}}}
output: {{path: out.parquet, keep: [name]}}
{more}
"""


def rows_of(named: dict[str, str]) -> str:
    return "name,photo\n" + "".join(f'{name},"{photo}"\n' for name, photo in named.items())


def output(desk: Desk, name: str = "out.parquet") -> dict[str, dict[str, Any]]:
    """The output's rows by their first column."""
    frame = pl.read_parquet(desk.folder / name)
    return {row[frame.columns[0]]: row for row in frame.rows(named=True)}


def shown(server: Simulator) -> list[list[str]]:
    """What each answered request brought."""
    return [entry["pictures"] for entry in server.requests if entry["status"] == 200]


def calls(server: Simulator) -> int:
    return len(server.requests)


def stats(server: Simulator) -> dict[str, Any]:
    with build_opener(ProxyHandler({})).open(server.url + "/debug/stats", timeout=10) as answer:
        loaded: dict[str, Any] = json.load(answer)
    return loaded


class _Pictures(http.server.BaseHTTPRequestHandler):
    held: ClassVar[dict[str, bytes]]
    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        content = self.held.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("content-length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def picture_server(held: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve pictures on loopback; gives the address and the paths that were asked for."""
    handler = type("Handler", (_Pictures,), {"held": held, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", handler.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


# ------------------------------------------------------------------------------------ what arrives


def test_the_shipped_job_captions_each_photo_upright_and_undamaged(desk: Desk) -> None:
    for folder in ("configs", "data"):
        shutil.copytree(ROOT / folder, desk.folder / folder, ignore=shutil.ignore_patterns(".pipeline"))
    pictures = desk.folder / "data/photos"
    with Image.open(pictures / "rocket.jpg") as image:
        for orientation in TURNED:
            exif = Image.Exif()
            exif[0x0112] = orientation
            image.save(pictures / f"turned-{orientation}.jpg", exif=exif)

    ended = desk.pipeline("run", "configs/captions.yaml", "--endpoint", "simulator", "--json")

    assert ended.code == 0, ended.err
    frame = pl.read_parquet(desk.folder / "out/captions.simulator.parquet")
    assert frame["path"].to_list() == sorted(path.name for path in pictures.iterdir())
    assert set(frame["status"]) == {"ok"}
    assert frame.schema["caption"] == pl.String
    assert frame.schema["objects"] == pl.List(pl.String)
    assert frame.schema["width"] == pl.Int32
    assert frame["alt_text"].str.len_chars().max() <= 125  # type: ignore[operator]
    for row in frame.rows(named=True):
        form, width, _, height, colour, seen = row["caption"].split()
        content = (pictures / row["path"]).read_bytes()
        upright = (row["width"], row["height"])
        assert form.lower() == row["format"]
        assert colour.startswith("#")
        if row["path"] == "retina.jpg":  # larger than prompt.image.max_side
            assert (int(width), int(height)) == (1200, 1200)
        else:
            assert (int(width), int(height)) == upright
            untouched = not row["path"].startswith("turned-") or row["path"] == "turned-1.jpg"
            assert (seen == digest(content)) is untouched, row["path"]
    turned = {row["path"]: (row["width"], row["height"]) for row in frame.rows(named=True)}
    for orientation, exchanged in TURNED.items():
        assert turned[f"turned-{orientation}.jpg"] == ((427, 640) if exchanged else (640, 427))


def test_several_pictures_go_in_one_request_in_their_order_before_the_text(desk: Desk) -> None:
    server = desk.simulator()
    made = list(photos(desk, 6).items())
    lists = [[name for name, _ in made[:3]], [], [name for name, _ in made[5:2:-1]]]
    pl.DataFrame({"name": ["a", "none", "b"], "photo": lists}).write_parquet(desk.folder / "rows.parquet")

    ended = desk.pipeline("run", desk.write("job.yaml", table_job(server.url, rows="rows.parquet")), "--json")

    assert ended.code == 3, ended.err
    rows = output(desk)
    for name, wanted in (("a", made[:3]), ("b", made[5:2:-1])):
        said = rows[name]["response_text"].partition(": ")[2]
        assert said.endswith(" | Describe this photo.")
        assert [words.split()[-1] for words in said.partition(" | ")[0].split("; ")] == [digest(c) for _, c in wanted]
    assert rows["none"]["error_type"] == "image_missing"


def test_bytes_in_a_column_and_a_document_come_by_the_same_door(desk: Desk) -> None:
    server = desk.simulator()
    pdf = b"%PDF-1.4\n1 0 obj<</Type /Page>>\n%%EOF\n"
    contents = {"png": picture(), "jpeg": picture(form="JPEG"), "pdf": pdf}
    frame = pl.DataFrame({"name": list(contents), "photo": list(contents.values())})
    frame.write_parquet(desk.folder / "rows.parquet")

    ended = desk.pipeline("run", desk.write("job.yaml", table_job(server.url, rows="rows.parquet")), "--json")

    assert ended.code == 0, ended.err
    rows = output(desk)
    for name, content in contents.items():
        assert digest(content) in rows[name]["response_text"]
    assert f"PDF {len(pdf)} bytes" in rows["pdf"]["response_text"]


# ------------------------------------------------------------------------------------ what is remembered


def test_a_second_run_asks_nothing_and_needs_no_picture(desk: Desk) -> None:
    server = desk.simulator()
    made = photos(desk, 5)
    desk.write("rows.csv", rows_of({name: name for name in made}))
    job = desk.write("job.yaml", table_job(server.url))
    assert desk.pipeline("run", job).code == 0
    first = output(desk)
    # Other bytes of the same size and time: whoever opened them would see other pictures.
    for name, content in made.items():
        path = desk.folder / "photos" / name
        look = path.stat()
        path.write_bytes(b"x" * len(content))
        os.utime(path, ns=(look.st_atime_ns, look.st_mtime_ns))

    again = desk.pipeline("run", job, "--json")
    added = {"new.png": picture((9, 9))}
    (desk.folder / "photos/new.png").write_bytes(added["new.png"])
    desk.write("rows.csv", rows_of({name: name for name in [*made, *added]}))
    grown = desk.pipeline("run", job, "--json")

    assert (again.code, grown.code) == (0, 0), again.err + grown.err
    assert again.summary["calls"]["sent"] == 0
    assert grown.summary["calls"]["sent"] == 1
    assert calls(server) == 6
    rows = output(desk)
    assert {name: rows[name]["response_text"] for name in made} == {
        name: row["response_text"] for name, row in first.items()
    }
    assert digest(added["new.png"]) in rows["new.png"]["response_text"]


def test_renamed_and_copied_pictures_find_their_answers_and_a_changed_one_is_asked_anew(desk: Desk) -> None:
    server = desk.simulator()
    made = photos(desk, 4)
    folder = desk.folder / "photos"
    job = desk.write("job.yaml", folder_job(server.url))
    assert desk.pipeline("run", job).code == 0
    assert calls(server) == 4

    (folder / "photo-000.png").rename(folder / "renamed.png")
    (folder / "deep").mkdir()
    shutil.copy(folder / "photo-001.png", folder / "deep/copied.png")
    moved = desk.pipeline("run", job, "--json")

    assert moved.code == 0, moved.err
    assert moved.summary["calls"]["sent"] == 0
    rows = output(desk)
    assert list(rows) == ["deep/copied.png", *list(made)[1:], "renamed.png"]
    assert digest(made["photo-000.png"]) in rows["renamed.png"]["response_text"]
    assert digest(made["photo-001.png"]) in rows["deep/copied.png"]["response_text"]

    changed = picture((77, 77), "#123456")
    (folder / "photo-002.png").write_bytes(changed)
    asked = desk.pipeline("run", job, "--json")

    assert asked.code == 0, asked.err
    assert asked.summary["calls"]["sent"] == 1
    assert digest(changed) in output(desk)["photo-002.png"]["response_text"]
    assert calls(server) == 5


def test_a_changed_picture_that_a_table_names_is_asked_anew(desk: Desk) -> None:
    server = desk.simulator()
    made = photos(desk, 3)
    desk.write("rows.csv", rows_of({name: name for name in made}))
    job = desk.write("job.yaml", table_job(server.url))
    assert desk.pipeline("run", job).code == 0
    changed = picture((77, 77), "#123456")
    (desk.folder / "photos/photo-001.png").write_bytes(changed)

    again = desk.pipeline("run", job, "--json")

    assert again.code == 0, again.err
    assert again.summary["calls"]["sent"] == 1
    rows = output(desk)
    assert digest(changed) in rows["photo-001.png"]["response_text"]
    assert digest(made["photo-002.png"]) in rows["photo-002.png"]["response_text"]


# ------------------------------------------------------------------------------------ what goes wrong


def bomb() -> bytes:
    """A PNG that claims 40,000 pixels on each side, and is sound otherwise."""
    content = bytearray(picture())
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def torn() -> bytes:
    content = noise((300, 200), 80)
    return content[: len(content) // 2]


def broken_pictures(desk: Desk) -> dict[str, tuple[str, str]]:
    """Pictures that cannot be sent: what the table names, and the error that is expected."""
    folder = desk.folder / "photos"
    (desk.folder / "secret.png").write_bytes(picture((50, 50)))
    (folder / "torn.jpg").write_bytes(torn())
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "bomb.png").write_bytes(bomb())
    with (folder / "large.jpg").open("wb") as file:
        file.write(picture(form="JPEG"))
        file.truncate(65_000_000)
    os.mkfifo(folder / "fifo.png")
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to(desk.folder / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    named = {name: name for name in ("torn.jpg", "empty.png", "text.jpg", "bomb.png", "large.jpg", "fifo.png")}
    named |= {name: name for name in ("folder.png", "link.png", "loop.png")}
    named |= {
        "missing": "nowhere.png",
        "device": "/dev/zero",
        "up": "../secret.png",
        "file": f"file://{folder}/torn.jpg",
    }
    named |= {"long": "x" * 4096, "private": "http://10.0.0.1/a.png", "local": "http://169.254.169.254/latest/a.png"}
    errors = {
        "torn.jpg": "image_corrupt",
        "empty.png": "image_corrupt",
        "text.jpg": "image_unsupported",
        "bomb.png": "image_bomb",
        "large.jpg": "image_too_large",
        "missing": "image_missing",
        "loop.png": "image_missing",
        "long": "image_missing",
    }
    return {name: (photo, errors.get(name, "image_blocked")) for name, photo in named.items()}


def test_pictures_that_cannot_be_sent_are_failed_rows_and_the_others_go_on(desk: Desk) -> None:
    server = desk.simulator()
    made = photos(desk, 4)
    broken = broken_pictures(desk)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        broken["loopback"] = (f"http://127.0.0.1:{listening.getsockname()[1]}/a.png", "image_blocked")
        order = sorted([*made, *broken])
        desk.write("rows.csv", rows_of({name: broken[name][0] if name in broken else name for name in order}))
        job = desk.write("job.yaml", table_job(server.url))

        ended = desk.pipeline("run", job, "--json")

        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert ended.code == 3, ended.err
    rows = output(desk)
    assert list(rows) == order
    assert {name: rows[name]["error_type"] for name in broken} == {name: error for name, (_, error) in broken.items()}
    assert all(rows[name]["error_message"] for name in broken)
    assert {(rows[name]["status"], rows[name]["attempts"]) for name in broken} == {("failed", 0)}
    assert all(digest(content) in rows[name]["response_text"] for name, content in made.items())
    assert sorted(words.split()[-1] for (words,) in shown(server)) == sorted(map(digest, made.values()))
    assert calls(server) == len(made) == ended.summary["calls"]["sent"]
    assert ended.summary["paid_now_usd"] == pytest.approx(sum(rows[name]["cost_usd"] for name in made))
    # Who looks at the finished run sees them as it ended, though the next start would try them again.
    status = json.loads(desk.pipeline("status", job, "--json").out)
    assert (status["rows"]["failed"], status["rows"]["pending"]) == (len(broken), 0)
    (stats,) = json.loads(desk.pipeline("journal", "stats", job, "--json").out)["runs"]
    assert status["calls"] == stats["calls"] == len(made)
    verified = desk.pipeline("verify", desk.folder / ended.summary["output"])
    assert verified.code == 0, verified.out
    assert desk.pipeline("export", job, "--output", "again.parquet").code == 0
    assert pl.read_parquet(desk.folder / "again.parquet").equals(pl.read_parquet(ended.summary["output"]))


def mend(desk: Desk) -> dict[str, bytes]:
    """Put a good picture in the place of each that was broken."""
    mended = {
        name: picture((30 + nth, 30), form="JPEG" if name.endswith("jpg") else "PNG")
        for nth, name in enumerate(
            ("torn.jpg", "empty.png", "text.jpg", "bomb.png", "large.jpg", "fifo.png", "link.png")
        )
    }
    for name, content in mended.items():
        path = desk.folder / "photos" / name
        path.unlink()
        path.write_bytes(content)
    return mended


@pytest.mark.parametrize("source", ["table", "folder"])
def test_mended_pictures_are_tried_again_by_the_next_run_which_pays_for_them_alone(desk: Desk, source: str) -> None:
    server = desk.simulator()
    made = photos(desk, 3)
    broken = [name for name, (photo, _) in broken_pictures(desk).items() if photo == name]
    desk.write("rows.csv", rows_of({name: name for name in [*made, *broken]}))
    text = table_job(server.url) if source == "table" else folder_job(server.url)
    job = desk.write("job.yaml", text)
    assert desk.pipeline("run", job).code == 3
    assert calls(server) == 3

    mended = mend(desk)
    again = desk.pipeline("run", job, "--json")

    assert again.code == 3, again.err  # a folder and a loop of links cannot be mended by a picture
    rows = output(desk)
    assert {name for name, row in rows.items() if row["status"] == "ok"} == {*made, *mended}
    assert all(digest(content) in rows[name]["response_text"] for name, content in mended.items())
    assert again.summary["calls"]["sent"] == len(mended)
    assert calls(server) == 3 + len(mended)


# ------------------------------------------------------------------------------------ URLs


def test_pictures_by_url_are_fetched_once_from_hosts_that_the_job_allows(desk: Desk) -> None:
    server = desk.simulator()
    held = {f"/{n}.png": picture((40 + n, 20)) for n in range(3)}
    with picture_server(held) as (base, asked):
        named = {f"p{n}": f"{base}/{n}.png" for n in range(3)} | {"gone": f"{base}/gone.png"}
        desk.write("rows.csv", rows_of(named))
        job = desk.write("job.yaml", table_job(server.url, image="{allow_hosts: [127.0.0.1]}"))
        first = desk.pipeline("run", job, "--json")
        hits = sorted(asked)
        rows = output(desk)
        again = desk.pipeline("run", job, "--json")

        assert first.code == again.code == 3, first.err + again.err
        assert hits == ["/0.png", "/1.png", "/2.png", "/gone.png"]
        assert rows["gone"]["error_type"] == "image_missing"
        for n in range(3):
            assert digest(held[f"/{n}.png"]) in rows[f"p{n}"]["response_text"]
        assert again.summary["calls"]["sent"] == 0
        assert calls(server) == 3


def test_as_url_sends_the_url_and_downloads_nothing(desk: Desk) -> None:
    server = desk.simulator()
    with picture_server({"/a.png": picture()}) as (base, asked):
        desk.write("rows.csv", rows_of({"a": f"{base}/a.png", "b": f"{base}/b.png", "path": "c.png"}))
        (desk.folder / "photos").mkdir()
        job = desk.write("job.yaml", table_job(server.url, image="{as: url}"))
        ended = desk.pipeline("run", job, "--json")

        assert ended.code == 3, ended.err
        assert asked == []
    assert sorted(shown(server)) == [[f"url {base}/a.png"], [f"url {base}/b.png"]]
    assert output(desk)["path"]["error_type"] == "image_unsupported"


# ------------------------------------------------------------------------------------ bounds


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded_by_the_bytes_in_flight_whatever_the_concurrency(desk: Desk) -> None:
    server = desk.simulator("--latency", "50")
    folder = desk.folder / "photos"
    folder.mkdir()
    # What stands after a JPEG's end is sent along, and takes no time to decode.
    master = picture((2400, 1680), form="JPEG") + bytes(1_500_000)
    # The same bytes under many names; the prompts differ, so that each is asked about.
    (folder / "photo-000.jpg").write_bytes(master)
    for nth in range(1, 200):
        os.link(folder / "photo-000.jpg", folder / f"photo-{nth:03}.jpg")
    text = folder_job(server.url, "limits: {concurrency: 64, image_bytes_in_flight: 20000000}")
    text = text.replace("Describe this photo.", "Describe <<name>>.").replace("max_side: 1200", "max_side: 2400")
    running = desk.start("run", desk.write("job.yaml", text), "--json")

    most_kib = peak_kib(running)
    ended = desk.finish(running)

    assert ended.code == 0, ended.err
    assert calls(server) == 200
    # A request is held twice, as prompt and as body, in base64.
    assert stats(server)["max_in_flight"] <= 20_000_000 // (2 * 4 * len(master) // 3) + 1
    print(f"{most_kib} KiB")
    assert 50_000 < most_kib < 400_000


def peak_kib(process: subprocess.Popen[str]) -> int:
    """Follow a process to its end; gives the most memory that it had, as far as was seen."""
    most = 0
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                most = max(most, int(line.split()[1]))
        time.sleep(0.05)
    return most


def test_the_budget_counts_the_tokens_of_pictures(desk: Desk) -> None:
    server = desk.simulator()
    for name in photos(desk, 20):
        (desk.folder / "photos" / name).write_bytes(picture((1000, 900 + int(name[6:9])), form="PNG"))
    # 1 $ for a million tokens in, 5 $ out: a row's text costs at most 0.0011 $ with its answer, its picture 0.0013 $.
    job = desk.write("job.yaml", folder_job(server.url, "budget: {run_usd: 0.012}\nlimits: {concurrency: 4}"))

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 4, ended.err
    usage = stats(server)["usage"]
    spent = (usage["input_tokens"] + 5 * usage["output_tokens"]) / 1_000_000
    assert usage["input_tokens"] > 1150 * calls(server)
    assert 0.004 < spent <= 0.012
    assert ended.summary["cost_usd"] == pytest.approx(spent)


def test_a_budget_that_the_text_would_keep_and_the_picture_would_not_sends_nothing(desk: Desk) -> None:
    server = desk.simulator()
    photos(desk, 0)
    (desk.folder / "photos/a.png").write_bytes(picture((1000, 900)))
    job = desk.write("job.yaml", folder_job(server.url, "budget: {run_usd: 0.002}"))

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 4, ended.err
    assert calls(server) == 0
    raised = desk.write("job.yaml", folder_job(server.url, "budget: {run_usd: 0.003}"))
    assert desk.pipeline("run", raised).code == 0


def test_the_limit_of_input_tokens_counts_those_of_pictures(desk: Desk) -> None:
    per_minute = 60 * 4 * 1400
    server = desk.simulator("--itpm", str(per_minute))
    for name in photos(desk, 16):
        (desk.folder / "photos" / name).write_bytes(picture((1000, 980 + int(name[6:9]))))
    more = f"limits: {{concurrency: 16, input_tokens_per_minute: {per_minute}}}"
    job = desk.write("job.yaml", folder_job(server.url, more))

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 0, ended.err
    assert [entry["status"] for entry in server.requests] == [200] * 16


def test_a_cached_prompt_stands_beside_pictures(desk: Desk) -> None:
    server = desk.simulator()
    made = photos(desk, 6)
    system = "You describe photographs plainly. " * 600
    text = folder_job(server.url, prompt=f', cache: true, system: "{system}"')

    ended = desk.pipeline("run", desk.write("job.yaml", text), "--json")

    assert ended.code == 0, ended.err
    assert [entry["usage"]["cache_creation_input_tokens"] > 4096 for entry in server.requests] == [True] + [False] * 5
    assert all(entry["usage"]["cache_read_input_tokens"] > 4096 for entry in server.requests[1:])
    rows = output(desk)
    assert all(digest(content) in rows[name]["response_text"] for name, content in made.items())


# ------------------------------------------------------------------------------------ interrupted


def test_kill_9_in_the_middle_loses_nothing_and_reads_no_answered_picture_again(desk: Desk) -> None:
    server = desk.simulator("--latency", "40")
    made = photos(desk, 80)
    desk.write("rows.csv", rows_of({name: name for name in made}))
    job = desk.write("job.yaml", table_job(server.url, "limits: {concurrency: 4}"))
    running = desk.start("run", job)
    deadline = time.monotonic() + 60
    while calls(server) < 20 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running.poll() is None
    running.kill()
    running.communicate()
    before = calls(server)

    ended = desk.pipeline("run", job, "--json")

    assert ended.code == 0, ended.err
    rows = output(desk)
    assert all(digest(content) in rows[name]["response_text"] for name, content in made.items())
    assert len(server.answered) == 80
    assert calls(server) <= 80 + 4
    assert 80 - before <= ended.summary["calls"]["sent"] <= 80 - before + 4


def test_the_estimate_counts_pictures_and_is_not_below_the_cost(desk: Desk) -> None:
    server = desk.simulator()
    photos(desk, 0)
    for nth in range(3):
        (desk.folder / f"photos/{nth}.png").write_bytes(picture((1000, 900 + nth)))
    text = folder_job(server.url).replace("max_tokens: 200", "max_tokens: 20")

    ended = desk.pipeline("run", desk.write("job.yaml", text), "--json")

    estimate = re.search(r"estimate: at most \$([0-9.]+)", ended.err)
    assert estimate is not None, ended.err
    assert ended.summary["cost_usd"] <= float(estimate[1]) <= 2 * ended.summary["cost_usd"]


def test_what_pictures_then_cost_lies_within_the_estimate_before_and_after_a_sample(desk: Desk) -> None:
    server = desk.simulator()
    photos(desk, 0)
    for nth in range(24):
        (desk.folder / f"photos/{nth:02}.png").write_bytes(picture((400 + 30 * nth, 900 - 20 * nth)))
    job = desk.write("job.yaml", folder_job(server.url))

    def estimated(*arguments: object) -> tuple[float, float]:
        ended = desk.pipeline("estimate", job, "--json", *arguments)
        assert ended.code == 0, ended.err
        low, high = json.loads(ended.out.splitlines()[-1])["usd"]
        return low, high

    def billed() -> float:
        used = [entry["usage"] for entry in server.requests if entry.get("usage")]
        return float(sum(usage["input_tokens"] + 5 * usage["output_tokens"] for usage in used)) / 1_000_000

    wide = estimated()
    near = estimated("--sample", "12")
    sample = billed()
    assert desk.pipeline("run", job).code == 0
    assert len(server.answered) == 24
    assert wide[0] <= billed() <= wide[1]
    assert near[0] <= billed() - sample <= near[1], (near, billed() - sample)

"""A folder of mixed pictures through the program itself: what planning, preparing and starting again cost.

`python benchmarks/pictures.py [PICTURES]` (default 2000). Every file is different: 64 px to 24 megapixels, JPEG for the
most part, some PNG, WebP, GIF, CMYK and turned ones, every twelfth or so broken. `pipeline run` sends them to a lean
server in a process apart, which takes a second for each answer, as the API takes at least, and notes how many bytes of
requests it holds unanswered. Then: the same run again; again with the plan lost; one that is killed, and its rest; and
the folder renamed, with copies. CPU is user + system of the client alone, memory its resident set, reading what it
asked of files, its own modules included. Plain Pillow opens, turns, makes a thumbnail of 1568 pixels and writes JPEG;
it has no token limit, keeps nothing as it is, and says nothing of what is broken. The folder is kept where
`BENCH_FOLDER` names one.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from million import cpu_of, running
from PIL import Image, ImageOps

MODEL = "claude-haiku-4-5"
SIDES = [(64, 64), (320, 240), (640, 480), (800, 600), (1024, 768), (1280, 960), (1600, 1200), (2048, 1536)] * 4
SIDES += [(4032, 3024)] * 4 + [(6000, 4000)] * 3
FOLDERS = 20
SAMPLE = 300
LATENCY_SECS = 1.0

JOB = """\
name: {name}
source: {{path: "{path}", format: images}}
prompt: {{user: "Describe this photo of <<width>> by <<height>> pixels."}}
request: {{model: {model}, max_tokens: 300}}
endpoint: {{url: "{url}"}}
limits: {{concurrency: 64}}
output: {{path: {name}.parquet, keep: [path, width, height]}}
expect: {{max_failed_ratio: 0.5}}
"""


# ------------------------------------------------------------------------------------ the folder


def contents(draw: random.Random) -> list[bytes]:
    """Pictures of every size, in several formats; some of them cut off, and one that is none."""
    ground = Image.merge("RGB", [Image.effect_noise((200, 150), 30) for _ in range(3)])
    made = []
    for number, side in enumerate(SIDES):
        out = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 5 == 0 else 1
        picture = ground.resize(side, Image.Resampling.BICUBIC)
        small = side[0] < 4000
        if small and number % 7 == 3:
            picture.save(out, "PNG")
        elif small and number % 11 == 5:
            picture.save(out, "WEBP")
        elif small and number % 13 == 6:
            picture.quantize(64).save(out, "GIF")
        elif number % 9 == 4:
            picture.convert("CMYK").save(out, "JPEG", quality=85)
        else:
            picture.save(out, "JPEG", quality=draw.choice([75, 85, 92]), exif=exif, progressive=number % 6 == 1)
        content = out.getvalue()
        made.append(content[: len(content) // 2] if number % 13 == 12 else content)
    return [*made, b"no picture at all"]


def make(count: int, folder: Path) -> None:
    """So many files of which no two are equal: each ends in bytes of its own, which no reader of pictures looks at."""
    draw = random.Random(20261122)
    masters = contents(draw)
    for number in range(count):
        place = folder / f"{number % FOLDERS:02d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06d}.jpg").write_bytes(draw.choice(masters) + b"\n%08d" % number)


# ------------------------------------------------------------------------------------ the server


class Patient(asyncio.Protocol):
    """Answers every POST after a while, and keeps nothing of it but its length."""

    seen = 0
    held = 0
    most = 0

    def __init__(self) -> None:
        self._head = b""
        self._left = -1
        self._length = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._left > 0:
            Patient.held -= self._length - self._left

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data, self._head = self._head[:end].lower(), self._head[end + 4 :], b""
            at = head.find(b"content-length:")
            self._length = self._left = int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
            if head.startswith(b"get"):
                self._left = -1
                self._write(json.dumps({"seen": Patient.seen, "most": Patient.most}))
                return
        Patient.held += len(data)
        Patient.most = max(Patient.most, Patient.held)
        self._left -= len(data)
        if self._left == 0:
            asyncio.get_running_loop().call_later(LATENCY_SECS, self._answer, self._length)

    def _answer(self, length: int) -> None:
        Patient.seen += 1
        Patient.held -= length
        self._left = -1
        usage = {"input_tokens": 1500, "output_tokens": 40}
        message: dict[str, object] = {
            "id": f"msg_{Patient.seen}",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
        }
        message |= {"content": [{"type": "text", "text": f"Picture {Patient.seen}."}], "stop_reason": "end_turn"}
        self._write(json.dumps(message | {"stop_sequence": None, "usage": usage}))

    def _write(self, body: str) -> None:
        assert self._transport is not None
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(f"{head}{body}".encode())


async def serve() -> None:
    """Listen on any free port of loopback, say which, and answer until killed."""
    server = await asyncio.get_running_loop().create_server(Patient, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def told(url: str) -> tuple[int, int]:
    """How many requests the server has answered, and the most bytes that it ever held unanswered."""
    with urllib.request.urlopen(f"{url}/told") as answer:
        said = json.loads(answer.read())
    return said["seen"], said["most"]


# ------------------------------------------------------------------------------------ one start


@dataclass(slots=True)
class Start:
    """What one `pipeline run` took: seconds of CPU and by the clock, MiB of memory, bytes read, requests answered."""

    cpu: float = 0.0
    wall: float = 0.0
    planned: float = 0.0
    peak: float = 0.0
    early: float = 0.0
    read: int = 0
    asked: int = 0
    tenths: list[float] = field(default_factory=list)

    def say(self, what: str) -> None:
        print(
            f"{what}: asked {self.asked:,}; {self.cpu:.1f} CPU s in {self.wall:.0f} s, first asked after "
            f"{self.planned:.1f} CPU s; read {self.read / 2**20:,.1f} MiB; peak {self.peak:.0f} MiB",
            flush=True,
        )


def in_mib(process: int, name: str) -> float:
    """A line of the process's status; 0 once it has ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def start(folder: Path, job: str, url: str, *, good: int, until: float | None = None) -> Start:
    """Run a job, and look at it as it goes.

    Args:
        folder: where the job lies.
        job: its file.
        url: the server's.
        good: how many pictures it is to ask about, which tells the tenths.
        until: the part of them after which it is killed; None to let it be.
    """
    done, before, began = Start(), told(url)[0], time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "pipeline", "run", job, "--quiet"], cwd=folder)
    while running(process):
        done.asked = told(url)[0] - before
        if done.asked and not done.planned:
            done.planned = cpu_of(process.pid)
        done.peak = max(done.peak, in_mib(process.pid, "VmHWM"))
        if done.asked >= good * (len(done.tenths) + 1) / 10:
            done.tenths.append(in_mib(process.pid, "VmRSS"))
            done.early = done.early or done.peak
        if until is not None and done.asked >= good * until:
            process.send_signal(signal.SIGKILL)
            until = None
        time.sleep(0.1)
    said = Path(f"/proc/{process.pid}/io").read_text().split()
    done.read = int(said[said.index("rchar:") + 1])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"the run ended with {process.returncode}")
    done.cpu, done.wall, done.asked = used.ru_utime + used.ru_stime, time.perf_counter() - began, told(url)[0] - before
    return done


def walk(folder: Path, count: int, url: str) -> None:
    """The run, and all that may come after it."""

    def job(name: str, path: str) -> str:
        (folder / f"{name}.yaml").write_text(JOB.format(name=name, path=path, model=MODEL, url=url))
        return f"{name}.yaml"

    good = round(count * 0.9)
    first = start(folder, job("album", "photos"), url, good=good)
    first.say("run")
    print(f"  {1000 * first.cpu / count:.1f} CPU ms a picture; memory at each tenth, in MiB: "
          f"{' '.join(f'{mib:.0f}' for mib in first.tenths)}; its peak within the first: {first.early:.0f}; "
          f"in flight at most {told(url)[1] / 2**20:.0f} MiB of requests")  # fmt: skip
    said = json.loads((folder / "album.parquet.summary.json").read_text())
    print(f"  rows: { {word: number for word, number in said['rows'].items() if number} }", flush=True)
    again = start(folder, "album.yaml", url, good=good)
    again.say("finished, started again")
    for plan in (folder / ".pipeline").glob("*plan*"):
        shutil.rmtree(plan) if plan.is_dir() else plan.unlink()
    start(folder, "album.yaml", url, good=good).say("plan lost, started again")
    start(folder, job("part", "photos/0[0-3]/*.jpg"), url, good=good // 5, until=0.5).say("a fifth of it, killed")
    start(folder, "part.yaml", url, good=good // 5).say("killed, started again")
    for inner in sorted((folder / "photos").iterdir()):
        inner.rename(inner.with_name(f"moved-{inner.name}"))
    shutil.copytree(folder / "photos/moved-00", folder / "photos/copied")
    start(folder, "album.yaml", url, good=good).say("renamed, and a part copied")


# ------------------------------------------------------------------------------------ next to Pillow


def plain(content: bytes) -> int:
    try:
        with Image.open(io.BytesIO(content)) as image:
            turned = ImageOps.exif_transpose(image)
            turned.thumbnail((1568, 1568), Image.Resampling.LANCZOS)
            out = io.BytesIO()
            turned.convert("RGB").save(out, "JPEG", quality=85)
            return len(out.getvalue())
    except OSError:
        return 0


def ours(content: bytes) -> int:
    from pipeline.errors import RowError
    from pipeline.prompt.pictures.decoding import prepare
    from pipeline.prompt.pictures.limits import limits_of
    from pipeline.prompt.pictures.reference import Settings

    try:
        return len(prepare(content, "x", Settings(), limits_of(MODEL)).content)
    except RowError:
        return 0


def rate(label: str, do: Callable[[bytes], int], all_of: list[bytes]) -> float:
    began = time.process_time()
    total = sum(do(content) for content in all_of)
    secs = time.process_time() - began
    print(f"{label}: {len(all_of) / secs:.1f} pictures/s on a core, {1000 * secs / len(all_of):.1f} CPU ms each, "
          f"{total / 2**20:.1f} MiB out", flush=True)  # fmt: skip
    return secs


def compare(folder: Path) -> None:
    names = sorted((folder / "photos").glob("*/*.jpg"))
    some = [path.read_bytes() for path in random.Random(1).sample(names, min(len(names), SAMPLE))]
    ours(some[0])
    ratio = rate("preparing", ours, some) / rate("plain Pillow", plain, some)
    print(f"  {ratio:.2f} of Pillow's CPU", flush=True)


def main(count: int) -> None:
    kept = os.environ.get("BENCH_FOLDER")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(kept or name)
        make(count, folder / "photos")
        size = sum(path.stat().st_size for path in (folder / "photos").rglob("*.jpg"))
        print(f"{count:,} pictures, {size / 2**30:.1f} GiB", flush=True)
        # Each in a process of its own, whose memory is then nobody else's.
        subprocess.run([sys.executable, __file__, "compare", str(folder)], check=True)
        server = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            walk(folder, count, server.stdout.readline().strip())
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    elif sys.argv[1:2] == ["compare"]:
        compare(Path(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)

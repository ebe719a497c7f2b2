"""What a picture costs: hashing it, knowing it again, and preparing it, next to plain Pillow doing the same.

`python benchmarks/pictures.py [PICTURES]` (default 2000). The pictures are mixed as a real folder's are: 64 px to 24
megapixels, JPEG for the most part, some PNG and WebP, some turned, some broken. There are as many files as asked for,
over a few dozen different contents, so that the folder stays small; nothing prepared is remembered between files.
Plain Pillow opens, turns, makes a thumbnail of 1568 pixels and writes JPEG; it has no token limit, keeps nothing as it
is, and says nothing of what is broken.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from pipeline.errors import Complaint, Refused
from pipeline.prompt.pictures import Pictures, Shelf, Studio
from pipeline.prompt.pictures.decoding import prepare
from pipeline.prompt.pictures.limits import limits_of
from pipeline.prompt.pictures.reference import Settings
from pipeline.records import Request, Response, Row
from pipeline.wire.pictured import Pictured

MODEL = "claude-sonnet-4-5"
SIZES = [(64, 64), (320, 240), (640, 480), (800, 600), (1024, 768), (1280, 960), (1600, 1200), (2048, 1536)] * 3
SIZES += [(4032, 3024)] * 4 + [(6000, 4000)] * 2
IN_FLIGHT = 64


@dataclass(frozen=True)
class AsItIs:
    as_: str = "base64"
    max_side: int | None = None
    format: str | None = None
    quality: int | None = None
    allow_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompt:
    images: tuple[str, ...] = ("path",)
    image_root: Path | None = None
    image: AsItIs = field(default_factory=AsItIs)


@dataclass(frozen=True)
class Source:
    path: tuple[str, ...] = ("/none.csv",)
    format: str = "csv"


@dataclass(frozen=True)
class Model:
    model: str = MODEL


@dataclass(frozen=True)
class Job:
    directory: Path
    prompt: Prompt = field(default_factory=Prompt)
    source: Source = field(default_factory=Source)
    request: Model = field(default_factory=Model)

    def complain(self, path: str, message: str) -> Complaint:
        return Complaint("", path, message)


def contents(draw: random.Random) -> list[bytes]:
    ground = Image.merge("RGB", [Image.effect_noise((800, 600), 40) for _ in range(3)])
    made = []
    for number, size in enumerate(SIZES):
        out = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 5 == 0 else 1
        picture = ground.resize(size, Image.Resampling.BICUBIC)
        form = (
            "PNG" if number % 7 == 3 and size[0] < 4000 else "WEBP" if number % 11 == 5 and size[0] < 4000 else "JPEG"
        )
        if form == "JPEG":
            picture.save(out, form, quality=draw.choice([75, 85, 92]), exif=exif, progressive=number % 6 == 1)
        else:
            picture.save(out, form)
        content = out.getvalue()
        made.append(content[: len(content) // 2] if number % 13 == 12 else content)
    return [*made, b"", b"no picture at all"]


def folder_of(count: int, folder: Path) -> list[str]:
    draw = random.Random(20261122)
    masters = []
    for number, content in enumerate(contents(draw)):
        master = folder / f"master-{number}"
        master.write_bytes(content)
        masters.append(master)
    names = []
    for number in range(count):
        name = f"{number:06d}.jpg"
        os.link(draw.choice(masters), folder / name)
        names.append(name)
    return names


def resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


class Instant:
    def __init__(self) -> None:
        self.bytes = 0

    async def send(self, request: Request) -> Response:
        self.bytes += len(request.prompt)
        await asyncio.sleep(0.05)
        return Response(b"{}", "", "end_turn", MODEL, None)


async def run(pictures: Pictures, names: list[str]) -> Counter[str]:
    """Plan and send, as a run does: a pool of workers over one stream of requests."""
    studio, wire = Studio(pictures), Instant()
    pictured = Pictured(wire, studio)
    came: Counter[str] = Counter()
    stream = iter(names)
    memory: list[float] = []

    async def worker() -> None:
        for name in stream:
            block = pictures.blocks(Row(name, [{"path": name}]))
            try:
                await pictured.send(Request(b"k" * 16, name, b'"messages":[{"role":"user","content":[%b]}]' % block))
            except Refused as error:
                came[error.error_type] += 1
            else:
                came["sent"] += 1
            if sum(came.values()) % max(1, len(names) // 10) == 0:
                memory.append(resident())

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    secs, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"sending     {len(names) / secs:8.1f} pictures/s, {1000 * cpu / len(names):6.1f} CPU ms each, {came}")
    print(f"memory      {' '.join(f'{mib:.0f}' for mib in memory)} MiB at each tenth; in flight at most "
          f"{studio.room.most / 2**20:.0f} MiB of {256}")  # fmt: skip
    studio.close()
    return came


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

    try:
        return len(prepare(content, "x", Settings(), limits_of(MODEL)).content)
    except RowError:
        return 0


def rate(label: str, do: object, all_of: list[bytes]) -> float:
    began = time.process_time()
    total = sum(do(content) for content in all_of)  # type: ignore[operator]
    secs = time.process_time() - began
    print(f"{label:<11} {len(all_of) / secs:8.1f} pictures/s on a core, {1000 * secs / len(all_of):6.1f} CPU ms each, "
          f"{total / 2**20:.1f} MiB out")  # fmt: skip
    return secs


def compare(folder: Path, names: list[str]) -> None:
    draw = random.Random(1)
    some = [(folder / draw.choice(names)).read_bytes() for _ in range(min(len(names), 300))]
    ratio = rate("ours", ours, some) / rate("Pillow", plain, some)
    print(f"ratio       {ratio:8.2f} of Pillow's CPU")


def walk(folder: Path, names: list[str]) -> None:
    shelf = folder / "bench.pictures.sqlite"
    for label in ("hashing", "knowing"):
        pictures = Pictures(Job(folder), Shelf(shelf))
        began, cpu = time.perf_counter(), time.process_time()
        for at in range(0, len(names), 2000):
            pictures.look([Row(name, [{"path": name}]) for name in names[at : at + 2000]])
        secs, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(f"{label:<11} {len(names) / secs:8.1f} pictures/s, {1e6 * cpu / len(names):6.0f} CPU us each")
        if label == "hashing":
            pictures.close()
    asyncio.run(run(pictures, names))
    pictures.close()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    steps = {"make": folder_of, "compare": compare, "walk": walk}
    if len(sys.argv) > 2:
        folder = Path(sys.argv[3])
        names = [f"{number:06d}.jpg" for number in range(count)]
        steps[sys.argv[2]](count if sys.argv[2] == "make" else folder, folder if sys.argv[2] == "make" else names)  # type: ignore[operator]
        return
    with tempfile.TemporaryDirectory() as temporary:
        # Each step in a process of its own, whose memory is then nobody else's.
        for step in steps:
            subprocess.run([sys.executable, __file__, str(count), step, temporary], check=True)


if __name__ == "__main__":
    main()

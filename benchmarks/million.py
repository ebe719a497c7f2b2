"""A million rows: what planning, asking, publishing and starting again cost, and that memory stays where it is.

`python benchmarks/million.py [ROWS …]` (default 10000 1000000; the first one is what the others are compared with).
The rows are of ~1 KB and all different. The server is a lean one of its own, in a process apart: at this size the
simulator, which validates every request, would be most of the work on a machine of two cores. CPU is user + system of
the client alone. The folder is kept where `BENCH_FOLDER` names one, so that a part can be looked at again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

WORDS = ["anomaly", "batch", "caption", "data", "estimate", "fan", "group", "harbour", "image", "journal", "key"]
CONCURRENCY = 64

JOB = """\
name: million
source: {{path: rows.csv}}
prompt: {{user: "Describe <<id>>: <<text>>"}}
request: {{model: claude-haiku-4-5, max_tokens: 200}}
endpoint: {{url: "{url}"}}
limits: {{concurrency: {concurrency}}}
output: {{path: {output}, keep: [id, size]}}
"""


class Lean(asyncio.Protocol):
    """Answers every POST with a message of its own, about 0.6 KB; reads no more of it than its length."""

    seen = 0
    text = " ".join(WORDS * 5)

    def __init__(self) -> None:
        self._left = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        self._left += data
        while (end := self._left.find(b"\r\n\r\n")) >= 0:
            head = self._left[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 : end if (stop := head.find(b"\r\n", at)) < 0 else stop]) if at >= 0 else 0
            if len(self._left) < end + 4 + length:
                return
            body, self._left = self._left[end + 4 : end + 4 + length], self._left[end + 4 + length :]
            assert self._transport is not None
            self._transport.write(self._answer(body))

    def _answer(self, body: bytes) -> bytes:
        Lean.seen += 1
        name = blake2b(body, digest_size=8).hexdigest()
        answer = (
            f'{{"id":"msg_{name}","type":"message","role":"assistant","model":"claude-haiku-4-5","content":[{{"type":'
            f'"text","text":"{name} {self.text}"}}],"stop_reason":"end_turn","stop_sequence":null,"usage":'
            f'{{"input_tokens":270,"output_tokens":80}}}}'
        )
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_{name}\r\ncontent-length: "
        return f"{head}{len(answer)}\r\n\r\n{answer}".encode()


async def serve() -> None:
    """Listen on any free port of loopback, say which, and answer until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Lean, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def write_rows(path: Path, rows: int) -> None:
    """A CSV of distinct rows of about 1 KB."""
    chance = random.Random(1)
    with path.open("w") as file:
        file.write("id,text,size\n")
        for row in range(rows):
            file.write(f'r{row},"{" ".join(chance.choices(WORDS, k=150))}",{row % 97}.5\n')


@dataclass(frozen=True, slots=True)
class Ended:
    """What a process took: CPU and wall seconds, peak MiB, and CPU seconds when each of its messages came."""

    cpu: float
    wall: float
    peak: float
    said: tuple[tuple[float, str], ...]

    def at(self, words: str) -> float:
        """CPU seconds when it first said something with these words."""
        return next(cpu for cpu, line in self.said if words in line)


def cpu_of(process: int) -> float:
    """User and system seconds of a running process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(folder: Path, *arguments: str, stop_at: str | None = None) -> Ended:
    """Run the command line; `stop_at` kills it when it says that."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[tuple[float, str]] = []
    assert process.stderr is not None
    for line in process.stderr:
        said.append((cpu_of(process.pid), line.strip()))
        if stop_at is not None and stop_at in line:
            process.send_signal(signal.SIGKILL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and stop_at is None:
        raise SystemExit("\n".join(line for _, line in said))
    cpu = used.ru_utime + used.ru_stime
    return Ended(cpu, time.perf_counter() - began, used.ru_maxrss / 1024, tuple(said))

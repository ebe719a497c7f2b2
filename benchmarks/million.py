"""A million rows: what planning, asking, publishing and starting again cost, and that memory stays where it is.

`python benchmarks/million.py [ROWS …]` (default 10000 1000000; the first one is what the others are compared with).
The rows are of ~1 KB and all different. The server is a lean one of its own, in a process apart: at this size the
simulator, which validates every request, would be most of the work on a machine of two cores. CPU is user + system of
the client alone. The folder is kept where `BENCH_FOLDER` names one, so that a part can be looked at again.
"""

from __future__ import annotations

import asyncio
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

from rows import BARE_ROWS, bare

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
            self._transport.write(self._count() if head.startswith(b"get") else self._answer(body))

    @staticmethod
    def _count() -> bytes:
        return (
            f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len(str(Lean.seen))}\r\n\r\n{Lean.seen}".encode()
        )

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
    """What a process took: CPU and wall seconds, peak MiB."""

    cpu: float
    wall: float
    peak: float


def cpu_of(process: int) -> float:
    """User and system seconds of a running process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """The lean server in a process of its own, whose count of requests can be looked at while it runs."""

    def __init__(self) -> None:
        code = f"import sys, asyncio; sys.path.insert(0, {str(Path(__file__).parent)!r}); import million; "
        self._process = subprocess.Popen(
            [sys.executable, "-c", code + "asyncio.run(million.serve())"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def seen(self) -> int:
        """How many requests it has answered."""
        import urllib.request

        with urllib.request.urlopen(f"{self.url}/seen") as answer:
            return int(answer.read())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def unfinished(folder: Path, server: Server, rows: int) -> tuple[Ended, float]:
    """A run that is killed when the server has seen 99 % of the rows; what it took, and CPU when it began to ask."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "pipeline", "run", "job.yaml", "--quiet"], cwd=folder)
    before, first = server.seen(), 0.0
    while (seen := server.seen() - before) < rows * 0.99:
        if not running(process):
            raise SystemExit("the run ended by itself; a larger size is easier to catch")
        if not first and seen:
            first = cpu_of(process.pid)
        # Rarely, so that looking costs the server nothing; a small table would be done meanwhile.
        time.sleep(1.0 if first and rows - seen > 20_000 else 0.02)
    process.send_signal(signal.SIGKILL)
    return _ended(process, began), first


def again(folder: Path, server: Server) -> tuple[Ended, float]:
    """A start that is let be; what it took, and CPU when it began to ask, or nothing where it did not."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "pipeline", "run", "job.yaml", "--quiet"], cwd=folder)
    before, first = server.seen(), 0.0
    while not first and running(process):
        if server.seen() > before:
            first = cpu_of(process.pid)
        time.sleep(0.02)
    return _ended(process, began), first


def running(process: subprocess.Popen[bytes]) -> bool:
    """Whether it is, without taking its end from who waits for it."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _ended(process: subprocess.Popen[bytes], began: float) -> Ended:
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"the run ended with {process.returncode}")
    return Ended(used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss / 1024)


def step(name: str) -> None:
    """One step by itself, in this process: prints its CPU microseconds a row and the peak MiB."""
    from pipeline.answer import contract
    from pipeline.job import load
    from pipeline.journal import Journal
    from pipeline.output import Tally, publish
    from pipeline.run.heap import rare_collections
    from pipeline.run.look import find_run, observer, plan_of
    from pipeline.run.metadata import run_columns, run_schema
    from pipeline.run.naming import journal_path
    from pipeline.run.plan import make_plan
    from pipeline.run.publish import count, join
    from pipeline.run.ready import make_ready

    job = load(Path("job.yaml"), environ=os.environ)
    before = time.process_time()
    if name == "plan":
        rows = make_plan(Path("plan"), job, make_ready(job), run_id="step", limit=None).facts.requests
    else:
        journal = Journal.open(journal_path(job))
        run = find_run(job, journal, chosen=None)
        plan, standing, reading = plan_of(job, run), observer(run), contract(job).reading
        rows, tally = plan.facts.requests, Tally()
        if name == "count":
            count(plan, journal, standing, reading)
        else:
            schema = run_schema(job, plan, reading, run)
            batches = join(plan, journal, standing, reading, run_columns(job, run), schema, tally)
            with rare_collections():
                publish(Path("step/" if name == "parts" else "step.parquet"), schema, batches, rows_per_file=100_000)
    cpu = time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {name}: {cpu / rows * 1e6:.1f} µs of CPU a row, peak {peak:.0f} MiB", flush=True)


def main(sizes: list[int]) -> None:
    """Measure each size: a run that is killed near its end, its rest, a start without work, and each step by itself."""
    kept = os.environ.get("BENCH_FOLDER")
    with tempfile.TemporaryDirectory() as name:
        server = Server()
        try:
            for rows in sizes:
                # CPU seconds of a shared machine vary by a third from hour to hour: its speed now, to compare with.
                before = time.process_time()
                asyncio.run(bare(server.url, BARE_ROWS))
                print(f"bare aiohttp: {(time.process_time() - before) / BARE_ROWS * 1e6:.0f} µs of CPU a request")
                folder = Path(kept or name) / str(rows)
                folder.mkdir(parents=True)
                write_rows(folder / "rows.csv", rows)
                job = JOB.format(url=server.url, concurrency=CONCURRENCY, output="out.parquet")
                (folder / "job.yaml").write_text(job)
                killed, planned = unfinished(folder, server, rows)
                print(
                    f"{rows:>9,} rows: {killed.cpu:.1f} CPU s to 99 %, {0.99 * rows / killed.wall:,.0f} rows/s, "
                    f"peak {killed.peak:.0f} MiB; first row asked after {planned:.1f} CPU s",
                    flush=True,
                )
                rest, first = again(folder, server)
                print(
                    f"  killed, and started again: first row asked after {first:.1f} CPU s; {rest.cpu:.1f} in all, "
                    f"peak {rest.peak:.0f} MiB",
                    flush=True,
                )
                done, asked = again(folder, server)
                assert not asked, "a finished run asked something"
                print(f"  finished, and started again: {done.cpu:.1f} CPU s, peak {done.peak:.0f} MiB", flush=True)
                for each in ("plan", "count", "publish", "parts"):
                    command = [sys.executable, str(Path(__file__).resolve()), each]
                    # The allocator that the command line chooses.
                    subprocess.run(
                        command, cwd=folder, check=True, env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}
                    )
        finally:
            server.close()


if __name__ == "__main__":
    if sys.argv[1:] and not sys.argv[1].isdigit():
        step(sys.argv[1])
    else:
        main([int(size) for size in sys.argv[1:]] or [10_000, 1_000_000])

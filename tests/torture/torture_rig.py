"""Ways to hurt a run from outside: named points, a proxy that holds calls, watchers, full disks, the clock."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from desk import Desk, Ended, Simulator, environment, job_text, rows_text
from torture_checker import Scene, answered_calls, check, reading

IN_FLIGHT = 16
WAIT_SECS = 60.0


def names(number: int, first: int = 0) -> list[str]:
    return [f"row-{n:05}" for n in range(first, first + number)]


def until(check: Callable[[], bool], process: subprocess.Popen[str], *, every_secs: float = 0.005) -> bool:
    """Poll while the process lives; whether it came true."""
    deadline = time.monotonic() + WAIT_SECS
    while process.poll() is None and time.monotonic() < deadline:
        if check():
            return True
        time.sleep(every_secs)
    return False


@dataclass
class Bench:
    """A desk with one job on a simulator, and what was done to it."""

    desk: Desk
    server: Simulator
    scene: Scene
    job: Path
    chance: random.Random
    seed: int

    def start(self, *arguments: object, **environ: str) -> subprocess.Popen[str]:
        return self.desk.start("run", self.job, "--json", *arguments, **environ)

    def run(self, *arguments: object, **environ: str) -> Ended:
        return self.desk.finish(self.start(*arguments, **environ))

    def kill(self, running: subprocess.Popen[str]) -> bool:
        """kill -9; whether it still lived. What is durable then is remembered."""
        alive = running.poll() is None
        running.kill()
        running.communicate()
        if alive or running.returncode == -signal.SIGKILL:
            self.scene.crashes += 1
        self.scene.mark()
        return alive

    def in_flight(self) -> int:
        """Calls that the journal says are in flight."""
        try:
            with closing(reading(self.scene.journal)) as db:
                number: int = db.execute("SELECT count(*) FROM claim").fetchone()[0]
        except sqlite3.Error:  # it is not laid yet
            return 0
        return number

    def journalled(self) -> int:
        try:
            return len(answered_calls(self.scene.journal))
        except sqlite3.Error:  # while it is being made, a journal is not yet one
            return 0


def bench(
    desk: Desk, seed: int, rows: int, *, latency_ms: float = 5, more: str = "", url: str | None = None, **options: str
) -> Bench:
    """Lay a job of so many rows on a simulator of its own."""
    print(f"torture seed {seed}")
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    server = desk.simulator("--latency", str(latency_ms), "--seed", str(seed), *arguments)
    desk.write("rows.csv", rows_text(rows))
    limits = more or f"limits: {{concurrency: {IN_FLIGHT}}}"
    job = desk.write("job.yaml", job_text(url or server.url, more=limits))
    return Bench(desk, server, Scene(desk.folder, names(rows), IN_FLIGHT), job, random.Random(seed), seed)


def interposer(folder: Path) -> Path:
    """Compile the library that arms named points; skip where that cannot be done."""
    if not sys.platform.startswith("linux"):
        pytest.skip("LD_PRELOAD and /proc are Linux's")
    made, source = folder / "interpose.so", Path(__file__).with_name("interpose.c")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", made, source, "-ldl"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no C compiler here")
    return made


@dataclass(frozen=True, slots=True)
class Points:
    """Environments that arm the points of one process."""

    library: Path

    def at(self, operation: str, part: str, nth: int | str, act: str) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "TORTURE_POINT": f"{operation}:{part}:{nth}:{act}"}

    def log(self, path: Path) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "TORTURE_OPS": str(path)}

    def clock(self, path: Path) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "TORTURE_CLOCK": str(path)}


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    nanos: int
    path: str


def operations(log: Path) -> list[Operation]:
    found = (line.split(" ", 2) for line in log.read_text().splitlines())
    return [Operation(name, int(nanos), path) for name, nanos, path in found]


def more_rows(made: Bench) -> None:
    """Ten rows more at the end of the table."""
    scene = made.scene
    scene.names = names(len(scene.names) + 10)
    text = "name,size\n" + "".join(f"{name},{n % 7}.5\n" for n, name in enumerate(scene.names))
    made.desk.write("rows.csv", text)


def every_operation(
    desk: Desk,
    seed: int,
    points: Points,
    act: str,
    folders: pytest.TempPathFactory,
    expected: Callable[[int], bool],
) -> None:
    """Whatever the nth lasting operation of a run meets, for every n: the next start ends well."""
    first = bench(desk, seed, 12)
    log = desk.folder / "operations"
    assert first.run(**points.log(log)).code == 0
    ours = [found for found in operations(log) if found.name != "write" and str(desk.folder) in found.path]
    assert len(ours) > 20
    for nth in range(1, len(ours) + 1):
        other = Desk(folders.mktemp(f"n{nth}"))
        try:
            made = bench(other, seed, 12)
            hurt = made.run(**points.at("lasting", str(other.folder), nth, act))
            # Calls come in another order each time, and so commits in other numbers: a few more or less.
            if nth < len(ours) - 8:
                assert expected(hurt.code), (nth, hurt)
            made.scene.crashes += hurt.code != 0
            made.scene.mark()
            ended = made.run()
            assert ended.code == 0, (nth, ended.err)
            check(made.scene)
        finally:
            other.close()
    print(f"C2 {act} each of {len(ours)} lasting operations: all right")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextmanager
def serving(handler: Handler) -> Iterator[str]:
    """A server on loopback in a thread of its own; yields its URL."""
    loop = asyncio.new_event_loop()
    ready: list[str] = []
    stop = asyncio.Event()
    begun = threading.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=256).start()
        ready.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        begun.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert begun.wait(WAIT_SECS)
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT_SECS)
        loop.close()


class Gate:
    """A proxy before the simulator that kills its client when the nth request, or its answer, passes."""

    def __init__(self, upstream: str, point: str, nth: int) -> None:
        self.victim: subprocess.Popen[str] | None = None
        self._upstream, self._point, self._nth = upstream, point, nth
        self._seen = 0

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        self._seen += 1
        struck = self._seen == self._nth
        body = await request.read()
        if struck and self._point == "before_send":
            return self._strike()
        kept = {
            name: value for name, value in request.headers.items() if name.lower() not in {"host", "content-length"}
        }
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            url = self._upstream + request.path
            async with session.request(request.method, url, data=body, headers=kept) as answer:
                content = await answer.read()
        if struck and self._point == "answer_before_journal":
            return self._strike()
        passed = {
            name: value for name, value in answer.headers.items() if name.lower() in {"content-type", "request-id"}
        }
        return web.Response(status=answer.status, body=content, headers=passed)

    def _strike(self) -> web.Response:
        assert self.victim is not None
        self.victim.kill()
        return web.Response(status=503)


LOOP = """
import contextlib, io, json, os, sys, traceback
from pipeline.cli.main import exit_code
for line in sys.stdin:
    folder, arguments = json.loads(line)
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = exit_code(arguments)
        except BaseException:
            traceback.print_exc()
            code = 1
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Commands:
    """The command line in one process for many short commands, so that each costs no start of Python."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOOP],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def pipeline(self, folder: Path, *arguments: object) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(folder), [str(part) for part in arguments]]), file=self._process.stdin, flush=True)
        code, out, err = json.loads(self._process.stdout.readline())
        return Ended(code, out, err)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(WAIT_SECS)
        self._process.stdout.close()


def memory_mib(desk: Desk, *arguments: object, **environ: str) -> tuple[int, float, float]:
    """Run a command and wait: its exit code, its largest resident set in MiB, its CPU seconds.

    The system's own figure of a child's maximum begins with that of its parent, so the kernel's mark of the child
    alone is read while it lives.
    """
    with (desk.folder / "stdout.txt").open("wb") as out, (desk.folder / "stderr.txt").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *map(str, arguments)],
            cwd=desk.folder,
            env={**environment(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        most = 0
        while True:
            found, status, used = os.wait4(process.pid, os.WNOHANG)
            if found:
                break
            with suppress(OSError):
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        most = int(line.split()[1])
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, most / 1024, used.ru_utime + used.ru_stime


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; skip where mounting is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def mount(*arguments: Any) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")

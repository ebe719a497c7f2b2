"""Commands in processes of their own that begin with libraries loaded, which takes most of a short command's time.

One process for each test session loads what the command line stands on and forks itself once per command. Polars and
PyArrow are left to the command: both start threads when they are loaded, and a fork has none of its parent's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

LOADED = ["aiohttp.web", "uvloop", "jinja2", "jsonschema_rs", "pipeline.cost", "pipeline.journal", "pipeline.limits"]
LOADED += ["pipeline.job", "pipeline.wire", "pipeline.cli.run", "pipeline.cli.look", "pipeline.serve.simulator"]
OWN_START = ("LD_", "PYTHON", "MALLOC_", "POLARS_", "ARROW_")
"""Beginnings of variables that are read while a process or a library starts: with these a command starts afresh."""
LARGEST = 131_072
PR_SET_CHILD_SUBREAPER = 36


class Forks:
    """The process that forks; this one inherits its children, and so can wait for them as for its own."""

    def __init__(self) -> None:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._one_at_a_time = threading.Lock()
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )

    def fork(self, arguments: list[str], folder: Path, environ: dict[str, str], streams: list[int]) -> int:
        """Start a command in a folder, with stdout and stderr as given; returns its process id."""
        text = json.dumps([arguments, str(folder), environ]).encode()
        assert len(text) <= LARGEST
        with self._one_at_a_time:
            socket.send_fds(self._ours, [text], streams)
            return int(self._ours.recv(32))

    def close(self) -> None:
        self._ours.close()
        self._process.wait()


class Forked(subprocess.Popen[str]):
    """A command under way, like any other, but forked."""

    def __init__(self, forks: Forks, arguments: list[str], folder: Path, environ: dict[str, str]) -> None:
        self._asked = (arguments, folder, environ)
        self._forks = forks
        super().__init__(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _execute_child(self, *given: Any) -> None:
        # The pipes' ends, as the standard library numbers what it gives to whoever starts the process.
        out, err = given[13], given[15]
        self.pid = self._forks.fork(*self._asked, [out, err])
        self._child_created = True
        os.close(out)
        os.close(err)


def can_fork() -> bool:
    """Adopting a grandchild is Linux's."""
    return sys.platform == "linux"


def serve(asked: socket.socket) -> None:
    """Fork once per message, until nobody is there any more."""
    for name in LOADED:
        import_module(name)
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"a process of {threads} threads must not be forked"
    gc.freeze()
    while True:
        text, streams, _, _ = socket.recv_fds(asked, LARGEST, 2)
        if not text:
            return
        reading, writing = os.pipe()
        middle = os.fork()
        if middle == 0:
            if child := os.fork():
                os.write(writing, str(child).encode())
                os._exit(0)
            for number in (reading, writing, asked.detach()):
                os.close(number)
            command(*json.loads(text), *streams)
        os.waitpid(middle, 0)  # from now on the child is whose commands these are
        asked.send(os.read(reading, 32))
        for number in (reading, writing, *streams):
            os.close(number)


def command(arguments: list[str], folder: str, environ: dict[str, str], out: int, err: int) -> NoReturn:
    """Become the command."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    sys.path[0] = folder
    for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(stream, number)
        os.close(stream)
    sys.argv = ["pipeline", *arguments]
    from pipeline.cli.main import main

    main()
    os._exit(0)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        serve(given)

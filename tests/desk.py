"""What journeys stand on: the real command line in processes of its own, and a simulator with its ledger."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from desk_forks import OWN_START, Forked, Forks, can_fork

VOLATILE = ["attempts", "latency_ms", "completed_at", "request_id"]
"""Columns that tell how the answers were come by; two runs of the same job may differ in them."""


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return loaded


@dataclass
class Simulator:
    """A running simulator and what it wrote down of each request."""

    url: str
    ledger: Path
    process: subprocess.Popen[str]

    @property
    def requests(self) -> list[dict[str, Any]]:
        # The last line may be half written; what Unicode calls the end of a line may stand within one.
        text = self.ledger.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].split("\n") if line]

    @property
    def answered(self) -> Counter[str]:
        """How often each prompt was answered."""
        return Counter(entry["prompt_digest"] for entry in self.requests if entry["status"] == 200)


@dataclass
class Desk:
    """A folder with jobs in it, and the commands to run them."""

    folder: Path
    children: list[subprocess.Popen[Any]] = field(default_factory=list)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def start(self, *arguments: object, **environ: str) -> subprocess.Popen[str]:
        """Start a command; where a variable is for the start of Python itself, afresh."""
        if can_fork() and not any(name.startswith(OWN_START) for name in environ):
            words = [str(argument) for argument in arguments]
            process: subprocess.Popen[str] = Forked(forks(), words, self.folder, {**environment(), **environ})
            self.children.append(process)
            return process
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *map(str, arguments)],
            cwd=self.folder,
            env={**environment(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(process)
        return process

    def pipeline(self, *arguments: object, **environ: str) -> Ended:
        return self.finish(self.start(*arguments, **environ))

    def finish(self, process: subprocess.Popen[str]) -> Ended:
        out, err = process.communicate(timeout=120)
        return Ended(process.returncode, out, err)

    def simulator(self, *arguments: object, ledger: str = "ledger.jsonl") -> Simulator:
        path = self.folder / ledger
        path.touch()
        process = self.start("serve", "simulator", "--port", "0", "--ledger", path, *arguments)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(f"the simulator did not start: {self.finish(process).err}")
        return Simulator(line.removeprefix("listening on ").strip(), path, process)

    def close(self) -> None:
        for process in self.children:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@cache
def forks() -> Forks:
    """What this session's commands are forked from."""
    made = Forks()
    atexit.register(made.close)
    return made


def environment() -> dict[str, str]:
    """This process's environment without keys and proxies."""
    return {name: value for name, value in os.environ.items() if not name.upper().endswith(("_KEY", "_PROXY"))}


def job_text(url: str | None, *, rows: str = "rows.csv", prompt: str = "Describe <<name>>.", more: str = "") -> str:
    """A small job over `rows`; `more` is added at the end."""
    endpoint = f"endpoint: {{url: {url}}}" if url else "endpoint: simulator"
    return f"""\
name: small
source: {{path: {rows}, id: [name]}}
prompt:
  system: You are a test.
  user: "{prompt}"
request: {{model: claude-haiku-4-5, max_tokens: 200}}
{endpoint}
output: {{path: out/answers.parquet}}
{more}
"""


def rows_text(number: int, first: int = 0) -> str:
    """A CSV of distinct rows."""
    return "name,size\n" + "".join(f"row-{n:05},{n % 7}.5\n" for n in range(first, first + number))


def stable(path: Path) -> pl.DataFrame:
    """An output without the columns that tell how the answers were come by."""
    return pl.read_parquet(path).drop(VOLATILE)

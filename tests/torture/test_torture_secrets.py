"""A canary key goes through every failure there is, as loudly as Python can be made; afterwards it is nowhere."""

from __future__ import annotations

import base64
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest
from aiohttp import web
from desk import Desk, job_text, rows_text
from torture_checker import inflater
from torture_rig import Points, serving, until

pytest_plugins = ("torture_fixtures",)

CANARY = "sk-canary+7/Q=~%41&x<y>zzz"
LOUD = {"PYTHONASYNCIODEBUG": "1", "PYTHONWARNINGS": "default", "TEST_KEY": CANARY}


def disguises(secret: str) -> list[bytes]:
    """The secret as it is, quoted, escaped, in hex, and in base64 wherever it may begin."""
    plain = secret.encode()
    found = [plain, quote(secret).encode(), quote(secret, safe="").encode(), plain.hex().encode(), plain[::-1]]
    found.append(secret.replace("/", "\\/").encode())
    found.append(secret.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").encode())
    for shift in range(3):
        # The first and last characters also depend on what stands beside.
        found.append(base64.b64encode(b"x" * shift + plain)[4 if shift else 0 : -4])
        found.append(base64.urlsafe_b64encode(b"x" * shift + plain)[4 if shift else 0 : -4])
    return found


def unpacked(path: Path) -> Iterator[bytes]:
    """A file as it lies, and what is in it behind compression."""
    yield path.read_bytes()
    if path.suffix == ".parquet":
        yield repr(pl.read_parquet(path).to_dicts()).encode()
        yield repr(pl.read_parquet_metadata(path)).encode()
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "response" in tables:
                inflate = inflater(db)
                yield from (inflate(body) for (body,) in db.execute("SELECT body FROM response"))


def arguments_of(process: subprocess.Popen[str]) -> bytes:
    found = b""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            if path.name == str(process.pid) or parent == str(process.pid):
                found += (path / "cmdline").read_bytes()
        except OSError:
            continue
    return found


class Loud:
    """Runs a job with the canary and keeps every stream."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.streams = desk, b""

    def lay(
        self, url: str, rows: int = 8, more: str = "limits: {attempts: 2, give_up_after_secs: 0.5, concurrency: 8}"
    ) -> None:
        self.desk.write("rows.csv", rows_text(rows))
        text = job_text(url, more=more).replace(f"url: {url}", f"url: {url}, api_key_env: TEST_KEY")
        self.desk.write("job.yaml", text)

    def start(self, **environ: str) -> subprocess.Popen[str]:
        return self.desk.start("run", "job.yaml", "--json", **{**LOUD, **environ})

    def wait_for(self, process: subprocess.Popen[str], words: str) -> None:
        assert process.stderr is not None
        line = "start"
        while line and words not in line:
            line = process.stderr.readline()
            self.streams += line.encode()

    def finish(self, process: subprocess.Popen[str]) -> int:
        ended = self.desk.finish(process)
        self.streams += (ended.out + ended.err).encode()
        return ended.code

    def run(self, **environ: str) -> int:
        return self.finish(self.start(**environ))

    def hits(self) -> list[str]:
        wanted = disguises(CANARY)
        places = [("the streams", self.streams)]
        for path in self.desk.folder.rglob("*"):
            if path.is_file():
                places += [(path.name, content) for content in unpacked(path)]
        return [f"{place}: {secret!r}" for place, content in places for secret in wanted if secret in content]


def key_of(request: web.Request) -> str:
    return request.headers.get("x-api-key", request.headers.get("authorization", ""))


async def parrot(request: web.Request) -> web.StreamResponse:
    """Say the key back in every error, header and reason."""
    body = (await request.read()).decode()
    key = key_of(request)
    statuses = {"0.": 400, "1.": 429, "2.": 500, "3.": 529, "4.": 413, "5.": 200, "6.": 408, "7.": 422}
    nth = next((status for end, status in statuses.items() if end in body.split("row-0000")[-1][:2]), 400)
    words = f"bad key {key}, that is {quote(key, safe='')} or {base64.b64encode(key.encode()).decode()}"
    headers = {"request-id": f"req_{quote(key, safe='')}", "retry-after": "0", "x-echo": quote(key)}
    if nth == 200:
        return web.Response(text=f"<html>{words}</html>", content_type="text/html", headers=headers)
    return web.json_response({"type": "error", "error": {"type": "x", "message": words}}, status=nth, headers=headers)


def test_h8_after_every_failure_the_key_is_nowhere(desk: Desk, points: Points) -> None:
    loud, ends = Loud(desk), {}
    with serving(parrot) as url:
        loud.lay(url)
        ends["parrot"] = loud.run()

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        key = key_of(request)
        return web.Response(status=302, headers={"location": f"http://127.0.0.1:9/{quote(key, safe='')}"})

    with serving(elsewhere) as url:
        loud.lay(url)
        ends["redirect"] = loud.run()
    loud.lay("http://127.0.0.1:9")
    ends["refused connection"] = loud.run()
    strict = desk.simulator("--key", "another", ledger="strict.jsonl")
    loud.lay(strict.url)
    ends["wrong key"] = loud.run()
    server = desk.simulator("--latency", "200", "--fault", "reset=0.1", "--fault", "cut=0.1", "--fault", "html=0.1")
    loud.lay(server.url, 24, "limits: {attempts: 1, concurrency: 8}")
    killed = loud.start()
    assert until(lambda: len(server.requests) > 3, killed)
    shown = arguments_of(killed)
    assert b"job.yaml" in shown
    killed.kill()
    ends["killed"] = loud.finish(killed)
    stopped = loud.start()
    loud.wait_for(stopped, "to ask")
    stopped.terminate()
    ends["stopped"] = loud.finish(stopped)
    ends["full disk"] = loud.run(**points.at("write", "small.sqlite", "30+", "ENOSPC"))
    ends["done"] = loud.run()
    ends["bad key"] = loud.run(TEST_KEY=CANARY + "\n" + CANARY)
    desk.write("job.yaml", job_text(server.url).replace("max_tokens", "max_tokns"))
    ends["broken job"] = loud.run()
    print(f"H8 exit codes: {ends}")
    assert loud.hits() == []
    assert [secret for secret in disguises(CANARY) if secret in shown] == []
    wanted = {"redirect": 5, "refused connection": 75, "wrong key": 5, "killed": -9, "stopped": 143, "full disk": 1}
    assert {name: ends[name] for name in wanted} == wanted
    assert ends["bad key"] == ends["broken job"] == 2


@pytest.mark.parametrize("secret", disguises(CANARY), ids=repr)
def test_the_search_finds_a_key_in_every_disguise(desk: Desk, secret: bytes) -> None:
    pl.DataFrame({"text": [f"before {secret.decode()} after"]}).write_parquet(desk.folder / "found.parquet")
    assert Loud(desk).hits()

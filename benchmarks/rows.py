"""What a row costs: a CSV of ~1 KB rows through the simulator, beside a bare aiohttp loop in the same run.

`python benchmarks/rows.py [ROWS …]` (default 10000 100000). Prints, per size, CPU seconds and seconds per 1,000
rows, the ratio to the bare loop, and the peak memory of the process. CPU is user + system of the client alone;
a figure of a shared machine repeats to about 30 %, so read the ratios.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

WORDS = ["anomaly", "batch", "caption", "data", "estimate", "fan", "group", "harbour", "image", "journal", "key"]
CONCURRENCY = 64
BARE_ROWS = 10_000

JOB = """\
name: bench
source: {{path: rows.csv}}
prompt: {{user: "Describe <<id>>: <<text>>"}}
request: {{model: claude-haiku-4-5, max_tokens: 100}}
endpoint: {{url: "{url}"}}
limits: {{concurrency: 64}}
output: {{path: out.parquet, keep: [id]}}
"""


def write_rows(path: Path, rows: int) -> None:
    """A CSV of distinct rows of about 1 KB."""
    chance = random.Random(1)
    with path.open("w") as file:
        file.write("id,text,size\n")
        for row in range(rows):
            file.write(f'r{row},"{" ".join(chance.choices(WORDS, k=180))}",{row % 97}.5\n')


def measured(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Run it; CPU seconds, wall seconds and peak MiB of the process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    # A process of its own between us: ru_maxrss is the largest child ever, so each size is measured by itself.
    code = (
        "import resource, subprocess, sys, json; subprocess.run(sys.argv[1:], check=True, stdout=2);"
        "print(json.dumps(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall, json.loads(done.stdout) / 1024


async def bare(url: str, rows: int) -> None:
    """The least that a client can do: a pool of posts, the answer read as JSON."""
    body = json.dumps(
        {
            "model": "claude-haiku-4-5",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": " ".join(WORDS * 10)}],
        }
    ).encode()
    left = iter(range(rows))
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:

        async def work() -> None:
            for _ in left:
                async with session.post(f"{url}/v1/messages", data=body) as response:
                    json.loads(await response.read())

        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


def main(sizes: list[int]) -> None:
    """Measure each size and print a line for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "serve", "simulator", "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            url = server.stdout.readline().removeprefix("listening on ").strip()
            before = time.process_time()
            asyncio.run(bare(url, BARE_ROWS))
            floor = (time.process_time() - before) / BARE_ROWS * 1000
            print(f"bare aiohttp loop: {floor:.3f} CPU s per 1,000 rows")
            start_up, *_ = measured([sys.executable, "-m", "pipeline", "schema"], folder)
            for rows in sizes:
                write_rows(folder / "rows.csv", rows)
                (folder / "job.yaml").write_text(JOB.format(url=url))
                command = [sys.executable, "-m", "pipeline", "run", "job.yaml", "--quiet"]
                cpu, wall, peak = measured(command, folder)
                again, _, _ = measured(command, folder)
                each = (cpu - start_up) / rows * 1000
                print(
                    f"{rows:>9,} rows: {cpu:6.1f} CPU s, {each:.3f} per 1,000 ({each / floor:.1f} x bare), "
                    f"{rows / wall:,.0f} rows/s, peak {peak:.0f} MiB; again: {again:.1f} CPU s",
                    flush=True,
                )
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [10_000, 100_000])

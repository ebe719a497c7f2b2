"""What the limits cost a request: CPU microseconds of a pass through Limited, bare and with every bucket.

`python benchmarks/limits.py [CALLS]` (default 50000). Nothing is sent: the transport behind answers at once. The
limits are far above what is asked, so nobody waits; the last line has 64 callers wait in line for the pace. Figures
of a shared machine repeat to about 30 %, so read the differences.
"""

from __future__ import annotations

import asyncio
import sys
import time

from pipeline.limits import Growing, Limited, Pace, Window
from pipeline.records import Request, Response, Usage
from pipeline.wire.ratelimits import rate_headers

PROMPT = b'"messages":[{"role":"user","content":"' + b"some words of a row " * 50 + b'"}]'
HEADERS = {
    f"anthropic-ratelimit-{kind}-{what}": value
    for kind in ("requests", "input-tokens", "output-tokens", "tokens")
    for what, value in (("limit", "1000000"), ("remaining", "999000"), ("reset", "2030-01-01T00:00:00Z"))
}


class Instant:
    async def send(self, request: Request) -> Response:  # noqa: ARG002  # the transport's shape
        return Response(b"{}", "done", "end_turn", "m", Usage(input_tokens=250, output_tokens=50))


def micros(limited: Limited, calls: int, workers: int = 1) -> float:
    request = Request(b"k" * 16, "row", PROMPT)

    async def work() -> None:
        for _ in range(calls // workers):
            await limited.send(request)
            limited.window.release()

    async def all_of_them() -> float:
        before = time.process_time()
        await asyncio.gather(*(work() for _ in range(workers)))
        return time.process_time() - before

    return asyncio.run(all_of_them()) / calls * 1e6


def main(calls: int) -> None:
    much = 1e9
    stacks = {
        "no limits": Limited(Instant(), Window(64)),
        "requests per minute": Limited(Instant(), Window(64), much),
        "all three, pinned": Limited(Instant(), Window(64), pace=Pace(much, much * 300, much * 300, max_tokens=1024)),
        "all three, auto": Limited(Instant(), Growing(), pace=Pace(much, much * 300, much * 300, max_tokens=1024)),
        "learning, auto": Limited(Instant(), Growing(), pace=Pace(learns=True)),
    }
    for name, stack in stacks.items():
        print(f"{name:24} {micros(stack, calls):6.2f} us of CPU per call", flush=True)
    paced = Limited(Instant(), Window(64), pace=Pace(60 * 4_000, 60 * 10**6, 60 * 10**6, max_tokens=1024))
    print(f"{'64 in line, 4,000/s':24} {micros(paced, calls // 5, 64):6.2f} us of CPU per call")
    before = time.process_time()
    for _ in range(1000):
        rate_headers(HEADERS)
    print(f"{'reading the headers':24} {(time.process_time() - before) * 1000:6.2f} us, at most four times a second")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)

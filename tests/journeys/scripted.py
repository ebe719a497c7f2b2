"""A /messages server on loopback that answers as a test says, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], "dict[str, Any] | None"]


@dataclass
class Scripted:
    """A running server: `asked` are the bodies it got, in the order they came."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def about(self, text: str) -> list[dict[str, Any]]:
        """The bodies whose first turn holds the text."""
        return [body for body in self.asked if text in json.dumps(body["messages"][0])]


def message(*content: str | dict[str, Any], stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    """An answer of ten tokens in and five out; a string is a block of text."""
    blocks = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    usage = {"input_tokens": 10, "output_tokens": 5}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5"}
    return {**head, "content": blocks, "stop_reason": stop, "usage": usage, **more}


@contextmanager
def scripted(answer: Answer) -> Iterator[Scripted]:
    """Serve while the block runs. An answer of None is held back until `let_go` is set, and then says nothing."""
    served = Scripted("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            served.asked.append(body)
            answered = answer(body)
            if answered is None:
                served.let_go.wait(60)
                self.close_connection = True
                return
            written = json.dumps(answered).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(written)))
            self.end_headers()
            self.wfile.write(written)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join()

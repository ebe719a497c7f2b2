"""What a run says when its endpoint is not there, is another one, or stands behind a proxy; and a quiet one."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from desk import Desk, Simulator, job_text, rows_text


def job_of(desk: Desk, url: str, more: str = "", rows: int = 5) -> Path:
    desk.write("rows.csv", rows_text(rows))
    return desk.write("job.yaml", job_text(url, more=more))


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def refusing(status: int, retry_after: int) -> Iterator[str]:
    """A server that refuses every call alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("retry-after", str(retry_after))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("status", "words"), [(529, "529 overloaded"), (429, "429 rate limit")])
def test_an_outage_is_said_with_its_cause_since_when_and_when_the_run_gives_up(
    desk: Desk, status: int, words: str
) -> None:
    with refusing(status, retry_after=120) as url:
        process = desk.start("run", job_of(desk, url, "limits: {give_up_after_secs: 1h}\ntimezone: Europe/Berlin"))
        assert process.stderr is not None
        said = next((line for line in process.stderr if "all calls wait" in line), "")
        process.terminate()
        process.wait(60)
    host = url.removeprefix("http://").removesuffix("/v1")
    assert said.startswith(f"{host}: {words}, retry-after 120 s, and no answer since ")
    assert "the run gives up (limits.give_up_after_secs); nothing is lost, the same command goes on later" in said
    assert " CET" in said or " CEST" in said


def test_a_server_without_tls_is_told_apart_from_an_outage(desk: Desk) -> None:
    server = desk.simulator()
    ended = desk.pipeline("run", job_of(desk, server.url.replace("http://", "https://")))
    assert ended.code == 5
    host = server.url.removeprefix("http://").removesuffix("/v1")
    assert f"error: the server at {host} does not speak TLS; write http:// in endpoint.url" in ended.err


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_address_of_another_api_is_shown_as_it_was_asked(desk: Desk, path: str) -> None:
    server = desk.simulator()
    base = server.url.removesuffix("/v1")
    ended = desk.pipeline("run", job_of(desk, base + path))
    assert ended.code == 5
    assert (
        f"asked was {base}{path}/messages; endpoint.url is what stands before /messages, such as {base}/v1" in ended.err
    )


def test_a_value_of_the_environment_is_shown_in_no_address(desk: Desk) -> None:
    server = desk.simulator()
    job = job_of(desk, f'"{server.url.removesuffix("/v1")}/${{env:GATEWAY}}/v1"')
    ended = desk.pipeline("run", job, GATEWAY="account-0123456789")
    assert ended.code == 5
    assert "/${env:GATEWAY}/v1/messages" in ended.err
    stored = (desk.folder / ".pipeline").glob("*.sqlite*")
    assert not any(b"account-0123456789" in path.read_bytes() for path in stored)


def test_a_quiet_run_says_in_one_line_why_it_does_not_end_with_0(desk: Desk) -> None:
    server = desk.simulator("--fault-when", "row-00002=400")
    job = job_of(desk, server.url)
    for _ in range(2):  # a finished run that is started again too
        ended = desk.pipeline("run", job, "--quiet")
        assert (ended.code, ended.out) == (3, "")
        (reason,) = [line for line in ended.err.splitlines() if line.startswith("error:")]
        assert "1 failed of 5 rows, and none is allowed (expect.max_failed_ratio)" in reason
        assert str(desk.folder / "out/answers.parquet") in reason


def test_a_quiet_run_within_its_tolerance_says_nothing(desk: Desk) -> None:
    server = desk.simulator("--fault-when", "row-00002=400")
    ended = desk.pipeline("run", job_of(desk, server.url, "expect: {max_failed_ratio: 0.5}"), "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_a_tiny_budget_is_said_in_digits_that_tell_something(desk: Desk) -> None:
    server = desk.simulator()
    ended = desk.pipeline("run", job_of(desk, server.url), "--budget", "0.00005")
    assert ended.code == 4
    assert "budget.run_usd of $0.000050 is reached: $0 are spent, and another call may cost $0.00" in ended.err


# Proxies


@dataclass
class Proxy:
    """A proxy on loopback, to which api.test is the simulator; `asked` are the first lines it got."""

    url: str = ""
    asked: list[str] = field(default_factory=list)


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def accepting(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A port at which each connection is served by a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=serve, args=(client,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def both_ways(client: socket.socket, server: socket.socket) -> None:
    back = threading.Thread(target=pump, args=(server, client), daemon=True)
    back.start()
    pump(client, server)
    back.join(30)


@contextmanager
def proxy_to(simulator: Simulator, authority: trustme.CA) -> Iterator[Proxy]:
    """Forwards http to the simulator, and tunnels (CONNECT) to it through TLS that is api.test's."""
    port = urlsplit(simulator.url).port
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.test").configure_cert(tls)
    proxy = Proxy()

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(1) if b"\r\n" in head and head.startswith(b"CONNECT") else client.recv(65536)
            proxy.asked.append(head.split(b"\r\n", 1)[0].decode())
            with socket.create_connection(("127.0.0.1", port)) as server:
                if head.startswith(b"CONNECT"):
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    with tls.wrap_socket(client, server_side=True) as shown:
                        both_ways(shown, server)
                else:
                    server.sendall(head.replace(b"http://api.test", b"", 1))
                    both_ways(client, server)

    with accepting(serve) as url:
        proxy.url = url
        yield proxy


def keyless(desk: Desk, url: str) -> Path:
    text = job_text(url).replace(f"{{url: {url}}}", f"{{url: {url}, api_key_env: null, auth: bearer}}")
    desk.write("rows.csv", rows_text(3))
    return desk.write("job.yaml", text.replace("output:", "limits: {concurrency: 1, give_up_after_secs: 1}\noutput:"))


def test_a_run_behind_a_company_s_proxy_is_answered(desk: Desk) -> None:
    """By http, and by a tunnel to a server whose certificate the company's file vouches for."""
    server, authority = desk.simulator(), trustme.CA()
    vouches = desk.write("company.pem", authority.cert_pem.bytes().decode())
    with proxy_to(server, authority) as proxy:
        plain = desk.pipeline("run", keyless(desk, "http://api.test/v1"), "--json", HTTP_PROXY=proxy.url)
        assert plain.code == 0, plain.err
        assert set(proxy.asked) == {"POST http://api.test/v1/messages HTTP/1.1"}
        proxy.asked.clear()
        environ = {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(vouches)}
        job = keyless(desk, "https://api.test/v1")
        desk.write("rows.csv", rows_text(3, first=100))
        tunnelled = desk.pipeline("run", job, "--yes", **environ)
        assert tunnelled.code == 0, tunnelled.err
        assert set(proxy.asked) == {"CONNECT api.test:443 HTTP/1.1"}
    assert server.answered.total() == 6


def test_what_goes_wrong_by_way_of_a_proxy_names_it(desk: Desk) -> None:
    server = desk.simulator()
    port = unused_port()
    job = keyless(desk, "https://api.test/v1")
    gone = desk.pipeline("run", job, HTTPS_PROXY=f"http://someone:very-secret@127.0.0.1:{port}")
    assert gone.code == 75
    assert f"api.test: cannot connect to the proxy 127.0.0.1:{port}: the connection was refused" in gone.err
    assert "very-secret" not in gone.err
    with proxy_to(server, trustme.CA()) as proxy:
        untrusted = desk.pipeline("run", job, HTTPS_PROXY=proxy.url)
        assert untrusted.code == 5
        place = proxy.url.removeprefix("http://")
        assert "the certificate of api.test cannot be trusted: unable to get local issuer certificate" in untrusted.err
        assert f"SSL_CERT_FILE if a proxy of yours signs for it (asked by way of the proxy {place})" in untrusted.err
        proxy.asked.clear()
        direct = desk.pipeline("run", job, HTTPS_PROXY=proxy.url, NO_PROXY="*.test")
        assert direct.code == 75
        assert "api.test: the host is unknown" in direct.err
        assert proxy.asked == []

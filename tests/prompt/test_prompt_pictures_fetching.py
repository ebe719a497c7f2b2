"""Fetching pictures, from a real server on loopback and from where none may be fetched."""

from __future__ import annotations

import base64
import gzip
import ipaddress
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_pictures import PHOTOS, one, pictures

from pipeline.errors import RowError
from pipeline.prompt.pictures import Studio
from pipeline.prompt.pictures.fetching import Fetched, Fetcher, shown
from pipeline.prompt.pictures.hosts import Allowed, is_public

PICTURE = b"\xff\xd8\xff a picture"


@dataclass
class Server:
    """Answers by path, and writes down what was asked."""

    url: str = ""
    port: int = 0
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answers: dict[str, Callable[[Handler], None]] = field(default_factory=dict)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    site: Server

    def do_GET(self) -> None:
        site = self.site
        with site.lock:
            site.asked.append(self.path)
            site.headers.append({name.lower(): value for name, value in self.headers.items()})
            site.at_once += 1
            site.most_at_once = max(site.most_at_once, site.at_once)
        try:
            site.answers.get(self.path, missing)(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with site.lock:
                site.at_once -= 1

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def missing(handler: Handler) -> None:
    handler.say(404)


@pytest.fixture
def site() -> Iterator[Server]:
    found = Server()
    handler = type("SiteHandler", (Handler,), {"site": found})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        found.port = server.server_address[1]
        found.url = f"http://127.0.0.1:{found.port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(site: Server) -> Iterator[Callable[..., Fetched]]:
    fetcher = Fetcher(Allowed.of(["127.0.0.1"]), timeout_secs=0.5, pause_secs=0.01, max_bytes=100_000)
    yield lambda path, stamp="": fetcher.fetch(path if "://" in path else site.url + path, stamp).result(20)
    fetcher.close()


def refusal(fetch: Callable[..., Fetched], path: str) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        fetch(path)
    return caught.value.error_type, str(caught.value)


def redirect(to: str) -> Callable[[Handler], None]:
    return lambda handler: handler.say(302, location=to)


def test_a_picture_comes_with_its_validators_and_is_asked_for_by_them(
    site: Server, fetch: Callable[..., Fetched]
) -> None:
    def answer(handler: Handler) -> None:
        if handler.headers.get("if-none-match") == '"v1"':
            handler.say(304)
        else:
            handler.say(200, PICTURE, etag='"v1"', last_modified="Mon, 01 Jan 2024 00:00:00 GMT")

    site.answers["/a.jpg"] = answer
    first = fetch("/a.jpg")
    assert first.content == PICTURE
    assert fetch("/a.jpg", first.stamp) == Fetched(None, first.stamp)
    assert all("cookie" not in sent and "authorization" not in sent for sent in site.headers)


def test_a_url_is_sent_as_it_is_written(site: Server, fetch: Callable[..., Fetched]) -> None:
    site.answers["/a%2Fb.jpg?X-Sig=a%2Bb%3D"] = lambda handler: handler.say(200, PICTURE)
    assert fetch("/a%2Fb.jpg?X-Sig=a%2Bb%3D").content == PICTURE


def test_redirects_are_followed_but_not_for_ever(site: Server, fetch: Callable[..., Fetched]) -> None:
    site.answers |= {"/1": redirect("/2"), "/2": redirect(f"{site.url}/3"), "/loop": redirect("/loop")}
    site.answers["/3"] = lambda handler: handler.say(200, PICTURE)
    assert fetch("/1").content == PICTURE
    assert refusal(fetch, "/loop")[0] == "image_fetch"
    assert site.asked.count("/loop") == 6


@pytest.mark.parametrize(
    "to",
    [
        "http://[::1]:{port}/secret",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/secret",
        "http://[::ffff:127.0.0.2]:{port}/secret",
        "http://127.0.0.2:{port}/secret",
        "http://0.0.0.0:{port}/secret",
        "//127.0.0.2:{port}/secret",
        "http://2130706434:{port}/secret",
        "http://0x7f000002:{port}/secret",
        "http://0177.0.0.2:{port}/secret",
        "http://127.2:{port}/secret",
        "http://[::ffff:7f00:2]:{port}/secret",
        "http://[::]:{port}/secret",
        "http://[fe80::1%25lo]:{port}/secret",
        "http://[64:ff9b::7f00:2]:{port}/secret",
        "http://user:word@127.0.0.2:{port}/secret",
        "http://192.168.0.1/secret",
        "http://100.64.0.1/secret",
    ],
)
def test_no_redirect_leads_to_what_is_not_named(site: Server, fetch: Callable[..., Fetched], to: str) -> None:
    # The second hop is as closed as the first.
    site.answers |= {"/start": redirect("/hop"), "/hop": redirect(to.format(port=site.port))}
    site.answers["/secret"] = lambda handler: handler.say(200, b"secret")
    kind, words = refusal(fetch, "/start")
    assert kind == "image_blocked"
    assert "allow_hosts" in words
    assert site.asked == ["/start", "/hop"]


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1:1/_x", "data:image/png,x"]
)
def test_a_redirect_to_another_scheme_is_blocked(site: Server, fetch: Callable[..., Fetched], to: str) -> None:
    site.answers["/start"] = redirect(to)
    assert refusal(fetch, "/start")[0] == "image_blocked"


def test_nothing_on_this_machine_is_asked_unless_it_is_named(site: Server) -> None:
    site.answers["/a.jpg"] = lambda handler: handler.say(200, PICTURE)
    # The address, names that lead to it, and spellings that only some resolvers know.
    hosts = ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "[::ffff:7f00:1]", "[::ffff:127.0.0.1]"]
    hosts += ["0x7f.1", "0x7f000001", "2130706433", "127.1", "0177.0.0.1", "017700000001", "0", "user@127.0.0.1"]
    urls = [f"http://{host}:{site.port}/a.jpg" for host in hosts]
    fetcher = Fetcher(Allowed.of([]), timeout_secs=2, attempts=1)
    try:
        for url in urls:
            with pytest.raises(RowError) as caught:
                fetcher.fetch(url).result(20)
            assert caught.value.error_type == "image_blocked", url
    finally:
        fetcher.close()
    assert site.asked == []


@pytest.mark.parametrize("entry", ["localhost", "localhost:{port}", "127.0.0.0/8", "127.0.0.1"])
def test_a_host_may_be_named_with_its_port_or_by_its_network(site: Server, entry: str) -> None:
    site.answers["/a.jpg"] = lambda handler: handler.say(200, PICTURE)
    fetcher = Fetcher(Allowed.of([entry.format(port=site.port), "::1"]), timeout_secs=2)
    try:
        assert fetcher.fetch(f"http://localhost:{site.port}/a.jpg").result(20).content == PICTURE
    finally:
        fetcher.close()


def test_another_port_of_a_named_one_is_not_named(site: Server) -> None:
    fetcher = Fetcher(Allowed.of(["localhost:1"]), timeout_secs=2, attempts=1)
    try:
        with pytest.raises(RowError) as caught:
            fetcher.fetch(f"http://localhost:{site.port}/a.jpg").result(20)
    finally:
        fetcher.close()
    assert caught.value.error_type == "image_blocked"
    assert site.asked == []


def test_what_may_pass_is_tried_again_and_what_does_not_is_not(site: Server, fetch: Callable[..., Fetched]) -> None:
    def flaky(handler: Handler) -> None:
        handler.say(503) if site.asked.count("/flaky") < 3 else handler.say(200, PICTURE)

    site.answers |= {"/flaky": flaky, "/busy": lambda handler: handler.say(503)}
    site.answers["/forbidden"] = lambda handler: handler.say(403)
    assert fetch("/flaky").content == PICTURE
    assert refusal(fetch, "/busy") == ("image_fetch", f"{site.url}/busy: the server answered 503; tried 3 times")
    assert refusal(fetch, "/gone")[0] == "image_missing"
    assert refusal(fetch, "/forbidden")[0] == "image_fetch"
    assert [site.asked.count(path) for path in ("/busy", "/gone", "/forbidden")] == [3, 1, 1]


def test_a_picture_that_is_too_large_is_read_no_further(site: Server, fetch: Callable[..., Fetched]) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b"x" * 10_000)

    site.answers |= {"/endless": endless, "/declared": lambda handler: handler.say(200, b"x" * 100_001)}
    for path in ("/endless", "/declared"):
        assert refusal(fetch, path)[0] == "image_too_large"


def test_a_server_that_says_nothing_is_given_up(site: Server, fetch: Callable[..., Fetched]) -> None:
    site.answers["/slow"] = lambda handler: time.sleep(1.5)
    assert refusal(fetch, "/slow") == ("image_fetch", f"{site.url}/slow: no answer within 0.5 s; tried 3 times")


def test_a_host_is_asked_for_a_few_pictures_at_a_time(site: Server) -> None:
    def answer(handler: Handler) -> None:
        time.sleep(0.02)
        handler.say(200, PICTURE)

    site.answers = {f"/{nth}": answer for nth in range(24)}
    fetcher = Fetcher(Allowed.of(["127.0.0.1"]))
    try:
        futures = [fetcher.fetch(f"{site.url}/{nth}") for nth in range(24)]
        assert all(future.result(20).content == PICTURE for future in futures)
    finally:
        fetcher.close()
    assert 1 < site.most_at_once <= 4


NO_URLS = [
    "http://",
    "http:///a.jpg",
    "http://[::1",
    "http://a b/",
    "http://host:99999/a",
    "http://host:x/",
    "http://%/",
]


@pytest.mark.parametrize("url", [*NO_URLS, "http://xn--\udcff/", "http://" + "x" * 300 + "/", "http://a..b/"])
def test_what_is_no_url_says_so(site: Server, fetch: Callable[..., Fetched], url: str) -> None:
    assert refusal(fetch, url)[0] in {"image_missing", "image_blocked", "image_fetch"}
    if url.isascii():  # as a header is
        site.answers["/start"] = redirect(url)
        assert refusal(fetch, "/start")[0] in {"image_missing", "image_blocked", "image_fetch"}


def raw(answer: bytes) -> Callable[[Handler], None]:
    def say(handler: Handler) -> None:
        handler.wfile.write(answer)
        handler.close_connection = True

    return say


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\ncut off",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\xff\xd8\xff\xe0",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 4\r\n\r\n\xff\xd8\xff\xe0",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nno number\r\n",
        b"HTTP/1.1 200 OK\r\nx-long: " + b"y" * 100_000 + b"\r\n\r\n",
        b"\x15\x03\x01 no HTTP at all",
        b"",
    ],
)
def test_an_answer_that_cannot_be_read_is_told_in_one_line_that_shows_no_query(
    site: Server, fetch: Callable[..., Fetched], answer: bytes
) -> None:
    site.answers["/a.jpg?token=secret"] = raw(answer)
    kind, words = refusal(fetch, "/a.jpg?token=secret")
    assert kind == "image_fetch"
    assert words.isprintable()
    assert len(words) < 200
    assert "secret" not in words
    assert words.endswith("; tried 3 times")


def test_a_compressed_answer_counts_as_large_as_it_becomes(site: Server, fetch: Callable[..., Fetched]) -> None:
    site.answers["/a.jpg"] = lambda handler: handler.say(200, gzip.compress(PICTURE), content_encoding="gzip")
    bomb = gzip.compress(bytes(9**8))  # here, as it may take a busy machine longer than an answer may
    site.answers["/bomb"] = lambda handler: handler.say(200, bomb, content_encoding="gzip")
    assert fetch("/a.jpg").content == PICTURE
    assert refusal(fetch, "/bomb")[0] == "image_too_large"


@pytest.mark.parametrize("rest_secs", [3600.0, 0.0])
def test_a_host_that_answers_nothing_is_let_be_for_a_while(site: Server, rest_secs: float) -> None:
    site.answers["/slow"] = lambda handler: time.sleep(1.0)
    site.answers["/quick"] = lambda handler: handler.say(200, PICTURE)
    fetcher = Fetcher(Allowed.of(["127.0.0.1"]), timeout_secs=0.5, pause_secs=0.0, rest_secs=rest_secs)
    try:
        failed = [fetcher.fetch(f"{site.url}/slow") for _ in range(5 if rest_secs == 0 else 40)]
        words = [str(future.exception(20)) for future in failed]
        asked = len(site.asked)
        if rest_secs == 0:
            assert fetcher.fetch(f"{site.url}/quick").result(20).content == PICTURE
            return
        with pytest.raises(RowError, match="has not answered the last 12 times"):
            fetcher.fetch(f"{site.url}/quick").result(20)
        assert len(site.asked) == asked
    finally:
        fetcher.close()
    assert 12 <= asked < 12 + 4
    assert sum("has not answered the last 12 times" in text for text in words) >= 40 - asked


def test_waiting_for_a_turn_is_none_of_an_attempts_time(site: Server) -> None:
    def answer(handler: Handler) -> None:
        time.sleep(0.25)
        handler.say(200, PICTURE)

    site.answers = {f"/{nth}": answer for nth in range(24)}
    fetcher = Fetcher(Allowed.of(["127.0.0.1"]), timeout_secs=1.2, attempts=1)
    try:
        futures = [fetcher.fetch(f"{site.url}/{nth}") for nth in range(24)]
        assert all(future.result(20).content == PICTURE for future in futures)
    finally:
        fetcher.close()


def test_messages_show_no_secrets_of_a_url() -> None:
    assert shown("https://user:pass@host.example/a.jpg?token=secret#x") == "https://host.example/a.jpg?…"


@given(st.ip_addresses(v=4))
def test_an_address_within_another_is_judged_by_it(address: ipaddress.IPv4Address) -> None:
    public = is_public(address)
    number = int(address)
    for spelled in (
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x0064_FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
    ):
        assert is_public(spelled) == public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "::ffff:10.0.0.1",
        "64:ff9b::a00:1", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_what_is_not_of_the_public_internet_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_what_is_of_the_public_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("gives", "asks"),
    [
        ({"etag": '"v1"'}, ("if-none-match", '"v1"')),
        ({"etag": 'W/"v1"', "last_modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, ("if-none-match", 'W/"v1"')),
        (
            {"last_modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            ("if-modified-since", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ),
        ({}, None),
    ],
    ids=["etag", "weak etag", "last-modified", "neither, so it comes again"],
)
def test_a_url_is_fetched_once_per_run_and_revalidated_by_the_next(
    site: Server, tmp_path: Path, gives: dict[str, str], asks: tuple[str, str] | None
) -> None:
    photo = (PHOTOS / "rocket.jpg").read_bytes()
    statuses: list[int] = []

    def answer(handler: Handler) -> None:
        fresh = asks is None or handler.headers.get(asks[0]) != asks[1]
        statuses.append(200 if fresh else 304)
        handler.say(200, photo, **gives) if fresh else handler.say(304)

    site.answers["/a.jpg"] = answer
    rows = [one(f"{site.url}/a.jpg") for _ in range(3)]
    blocks = set()
    for run in range(2):
        found = pictures(tmp_path, tmp_path / "job.pictures.sqlite", allow_hosts=["127.0.0.1"])
        for _ in range(2):
            found.look(rows)
            blocks |= {found.blocks(row) for row in rows}
        assert len(site.asked) == run + 1
        sent = Studio(found).dress(found.blocks(rows[0]))
        assert base64.b64encode(photo) in sent
        assert len(site.asked) == run + 1, "what was fetched to be hashed is not fetched again to be sent"
        found.close()
    assert len(blocks) == 1
    assert statuses == [200, 200 if asks is None else 304]


LOOK = """
import sys
from pathlib import Path
from prompt_pictures import one, pictures
rows = [one(f"{sys.argv[1]}/{nth}") for nth in range(24)]
found = pictures(Path(sys.argv[2]), allow_hosts=["127.0.0.1"])
found.look(rows)
assert all(found.blocks(row) for row in rows)
found.close()
"""


def test_all_pictures_of_a_job_share_a_hosts_few_connections_from_the_first_on(site: Server, tmp_path: Path) -> None:
    photo = (PHOTOS / "rocket.jpg").read_bytes()

    def answer(handler: Handler) -> None:
        time.sleep(0.05)
        handler.say(200, photo)

    site.answers = {f"/{nth}": answer for nth in range(24)}
    # In a process of its own, since what fetches is loaded, slowly, by whoever needs it first.
    done = subprocess.run(
        [sys.executable, "-c", LOOK, site.url, str(tmp_path)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(site.asked) == 24
    assert site.most_at_once <= 4


def test_a_failed_fetch_fails_its_row_and_no_other(site: Server, tmp_path: Path) -> None:
    site.answers["/a.jpg"] = lambda handler: handler.say(200, (PHOTOS / "rocket.jpg").read_bytes())
    found = pictures(tmp_path, allow_hosts=["127.0.0.1"])
    bad, good = one(f"{site.url}/gone.jpg"), one(f"{site.url}/a.jpg")
    found.look([bad, good])
    with pytest.raises(RowError, match=r"row r1: photo: http.*/gone\.jpg: the server answered 404"):
        found.blocks(bad)
    assert found.blocks(good)
    found.close()

"""Fetching pictures by URL: capped, polite, and from nowhere that the job has not named and is not public.

What counts is the address that is connected to, at each redirect anew: names may lead anywhere, and lead elsewhere the
next moment. Neither proxies nor cookies nor credentials of the environment are used.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from pipeline import __version__
from pipeline.errors import RowError
from pipeline.prompt.pictures.hosts import Allowed, parsed, spelled
from pipeline.prompt.pictures.opening import MAX_BYTES

USER_AGENT = f"messages-pipeline/{__version__}"
REDIRECTS = 5
ATTEMPTS = 3
TIMEOUT_SECS = 30.0
CONNECT_SECS = 10.0
PER_HOST = 4
"""Connections to one host at a time."""

AT_ONCE = 32
"""Pictures fetched at a time, from all hosts."""

SILENT = 12
"""Attempts in a row that a host left without any answer, after which it is let be for a while."""

REST_SECS = 60.0
MAX_WAIT_SECS = 10.0
REMEMBERED_HOSTS = 10_000
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECT = frozenset({301, 302, 303, 307, 308})
_MISSING = frozenset({404, 410})

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A picture that was fetched.

    Attributes:
        content: its bytes; None where the server says that it is what it was.
        stamp: the server's validators, for the next time; empty where it gave none.
    """

    content: bytes | None
    stamp: str


class BlockedAddressError(OSError):
    """An address that must not be connected to. Its words are always the same."""

    def __init__(self) -> None:
        super().__init__("a private, loopback or link-local address")


class _Again(Exception):
    """Worth another attempt, after so many seconds."""

    def __init__(self, words: str, wait_secs: float | None = None) -> None:
        self.wait_secs = wait_secs
        super().__init__(words)


class _Host:
    """What is known of a host: how many of its pictures may be under way, and whether it answers at all."""

    def __init__(self) -> None:
        self.room = asyncio.Semaphore(PER_HOST)
        self._silent = 0
        self._until = 0.0

    def answered(self) -> None:
        self._silent = 0

    def was_silent(self, now: float, rest_secs: float) -> None:
        self._silent += 1
        if self._silent >= SILENT:
            self._until = now + rest_secs

    def rests(self, now: float) -> bool:
        return self._silent >= SILENT and now < self._until


class Fetcher:
    """Fetches pictures in a thread of its own, with one session for all; to be closed.

    A host that answers nothing at all, time after time, would cost each of its pictures all attempts: it is let be
    for `REST_SECS`, in which its pictures fail at once.

    Args:
        allowed: which hosts and addresses beyond the public ones may be asked.
        timeout_secs: for one attempt at one picture.
        attempts: how often each is tried, where the trouble may pass.
        pause_secs: before the second attempt; doubled for each further one.
        rest_secs: how long a host that answers nothing is let be.
        max_bytes: of one picture.
    """

    def __init__(
        self,
        allowed: Allowed,
        *,
        timeout_secs: float = TIMEOUT_SECS,
        attempts: int = ATTEMPTS,
        pause_secs: float = 0.5,
        rest_secs: float = REST_SECS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._allowed = allowed
        self._timeout_secs = timeout_secs
        self._attempts = attempts
        self._pause_secs = pause_secs
        self._rest_secs = rest_secs
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._sessions: tuple[aiohttp.ClientSession, aiohttp.ClientSession] | None = None
        self._room: asyncio.Semaphore | None = None
        self._hosts: dict[str, _Host] = {}

    def fetch(self, url: str, stamp: str = "") -> Future[Fetched]:
        """Fetch a picture; the future raises what `get` raises.

        Args:
            url: http or https.
            stamp: of an earlier fetch; where the server says that nothing changed, no bytes come.
        """
        return self._run(self.get(url, stamp))

    def close(self) -> None:
        """End the thread; what is under way is broken off."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _run(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="pictures", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for session in self._sessions or ():
            await session.close()
        self._sessions = None

    async def get(self, url: str, stamp: str = "") -> Fetched:
        """Fetch a picture, with several attempts.

        Raises:
            RowError: `image_blocked`: it leads to what is neither public nor named; `image_missing`: the server has
                none; `image_too_large`; `image_fetch`: it could not be had this time.
        """
        if self._room is None:
            self._room = asyncio.Semaphore(AT_ONCE)
        host = self._host(url)
        # Waiting for a turn is none of the attempt's time, and takes no turn from other hosts.
        async with host.room, self._room:
            for attempt in range(1, self._attempts + 1):
                try:
                    return await self._once(url, stamp, host)
                except _Again as error:
                    if attempt == self._attempts:
                        message = f"{shown(url)}: {error}; tried {attempt} times"
                        raise RowError("image_fetch", message) from error
                    pause = self._pause_secs * 2 ** (attempt - 1)
                    await asyncio.sleep(min(max(pause, error.wait_secs or 0.0), MAX_WAIT_SECS))
        raise AssertionError

    def _host(self, url: str) -> _Host:
        try:
            name = urlsplit(url).netloc.rpartition("@")[2].lower()
        except ValueError:  # said when it is asked
            name = ""
        if len(self._hosts) >= REMEMBERED_HOSTS:
            self._hosts = {}
        return self._hosts.setdefault(name, _Host())

    async def _once(self, url: str, stamp: str, host: _Host) -> Fetched:
        at = url
        if host.rests(asyncio.get_running_loop().time()):
            words = f"{shown(url)}: its host has not answered the last {SILENT} times, and is asked again later"
            raise RowError("image_fetch", words)
        try:
            async with asyncio.timeout(self._timeout_secs):
                for _ in range(REDIRECTS + 1):
                    session = self._session_for(at)
                    async with session.get(
                        _as_written(at), headers=_conditions(stamp), allow_redirects=False
                    ) as response:
                        host.answered()
                        if response.status in _REDIRECT and (where := response.headers.get("location")):
                            at = urljoin(at, where)
                            continue
                        return await self._answer(response, at, stamp)
                raise RowError("image_fetch", f"{shown(url)}: redirected more than {REDIRECTS} times")
        except TimeoutError as error:
            host.was_silent(asyncio.get_running_loop().time(), self._rest_secs)
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            words = (
                f"no connection within {CONNECT_SECS:g} s"
                if connecting
                else f"no answer within {self._timeout_secs:g} s"
            )
            raise _Again(words) from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, BlockedAddressError):
                raise _blocked(at) from error
            raise _Again(f"no connection: {error.os_error}") from error
        except ValueError as error:  # InvalidURL, and what a redirect says that no URL can be made of
            raise RowError("image_missing", f"{shown(at)} is no URL that can be asked, or leads to one") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Again(_words(error)) from error

    def _session_for(self, url: str) -> aiohttp.ClientSession:
        """Give the session that is right for a URL: hosts that are named may have any address.

        Raises:
            RowError: it is no http or https URL, or its host is an address, in whatever spelling, that is not allowed.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise RowError("image_missing", f"{shown(url)} is no URL that can be asked") from error
        if parts.scheme not in {"http", "https"} or not host:
            raise RowError("image_blocked", f"{shown(url)}: pictures come by http and https alone")
        named = self._allowed.host(host, port)
        address = spelled(host)
        if address is not None and not named and not self._allowed.address(address):
            raise _blocked(url)
        if self._sessions is None:
            self._sessions = (_session(self._guarded), _session(None))
        return self._sessions[named]

    def _guarded(self, info: Any) -> socket.socket:
        """Make the socket for an address, if it may be connected to."""
        family, kind, protocol, _, address = info
        found = parsed(str(address[0]))
        if found is None or not self._allowed.address(found):
            raise BlockedAddressError
        return socket.socket(family, kind, protocol)

    async def _answer(self, response: aiohttp.ClientResponse, url: str, stamp: str) -> Fetched:
        status = response.status
        if status == 304 and stamp:
            return Fetched(None, stamp)
        if status in _PASSING:
            wait = response.headers.get("retry-after", "")
            raise _Again(f"the server answered {status}", float(wait) if wait.isdigit() else None)
        if status != 200:
            words = f"{shown(url)}: the server answered {status}"
            raise RowError("image_missing" if status in _MISSING else "image_fetch", words)
        pieces, size = [], 0
        if (response.content_length or 0) > self._max_bytes:
            raise self._too_large(url)
        while piece := await response.content.readany():
            size += len(piece)
            if size > self._max_bytes:
                raise self._too_large(url)
            pieces.append(piece)
        validators = (response.headers.get("etag", ""), response.headers.get("last-modified", ""))
        return Fetched(b"".join(pieces), "\n".join(validators) if any(validators) else "")

    def _too_large(self, url: str) -> RowError:
        return RowError("image_too_large", f"{shown(url)} has more than {self._max_bytes:,} bytes")


def _session(guard: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=AT_ONCE, limit_per_host=PER_HOST, socket_factory=guard),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT, "Accept": "image/*, application/pdf;q=0.9, */*;q=0.1"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECS),
        trust_env=False,
        raise_for_status=False,
    )


def _conditions(stamp: str) -> Mapping[str, str]:
    if not stamp:
        return {}
    etag, _, modified = stamp.partition("\n")
    return {"If-None-Match": etag} if etag else {"If-Modified-Since": modified}


def _as_written(url: str) -> URL:
    """Leave a URL as it is where it can go on the wire that way: a signature may hang on its spelling."""
    return URL(url, encoded=url.isascii() and url.isprintable() and " " not in url)


def _blocked(url: str) -> RowError:
    host = urlsplit(url).hostname or ""
    message = (
        f"{shown(url)}: {host} has a private, loopback or link-local address; prompt.image.allow_hosts can name it"
    )
    return RowError("image_blocked", message)


def _words(error: aiohttp.ClientError | OSError) -> str:
    """Say what went wrong, in one line; the client's own words may hold the URL, and what the server sent."""
    if isinstance(error, aiohttp.ClientPayloadError):
        return "its answer broke off"
    if isinstance(error, aiohttp.ClientResponseError):
        return "its answer is no HTTP that can be read, or encoded in a way that nobody asked for"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "the connection was closed" if isinstance(error, aiohttp.ServerDisconnectedError) else type(error).__name__


def shown(url: str) -> str:
    """A URL for a message: without user, password and query, which may be secret; one line, 200 characters at most."""
    try:
        parts = urlsplit(url)
        text = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" + ("?…" if parts.query else "")
    except ValueError:
        text = "a URL"
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 200 else f"{text[:199]}…"

"""Why a call found no server, in words: refused, unknown, another protocol than the URL says, a proxy in between."""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import suppress

import aiohttp
from yarl import URL

PROBE_SECS = 3.0

NO_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"}
)
"""OpenSSL's reasons (3.0 to 3.5) for a first answer that is no TLS."""

TLS_ALERT = re.compile(r"\\x15\\x03")
"""The beginning of a TLS alert, as aiohttp quotes bytes that are not HTTP."""


def at(url: URL) -> str:
    """Host and port of a URL, the scheme's own port too."""
    return f"{url.host_subcomponent}:{url.port}"


def unreachable(error: aiohttp.ClientConnectorError, proxy: URL | None) -> str:
    """Why there is no connection."""
    # Behind a proxy no host is looked up but the proxy's own.
    if proxy is not None and isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientConnectorDNSError):
        return f"cannot connect to the proxy {at(proxy)}: {_why(error)}"
    return _why(error)


def _why(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host is unknown"
    match error.os_error:
        case ConnectionRefusedError():
            return "the connection was refused"
        case ConnectionResetError():
            return "the connection was reset while it was made"
        case cause:
            return f"cannot connect: {cause.strerror or cause or type(cause).__name__}"


def speaks_no_tls(error: Exception) -> bool:
    """Whether an https URL met a server that answers in plain text."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS


def answers_in_tls(error: aiohttp.ClientResponseError) -> bool:
    """Whether what came back over http, and is no HTTP, is a TLS server's refusal to speak plain."""
    return TLS_ALERT.search(error.message) is not None


async def speaks_tls(url: URL) -> bool:
    """Whether the server of an http URL shakes hands in TLS; nothing else is sent, and no certificate is judged."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(PROBE_SECS):
            _, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
            writer.close()
            return True
    return False

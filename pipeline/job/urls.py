"""Endpoint URLs as arithmetic: where to post, what kind of host it is, and what is refused.

Dialects and their paths: messages-api §11; the traps of joining: §12.2.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pipeline.job.fields import ProblemError
from pipeline.job.words import did_you_mean, hide_keys, quoted

Scope = Literal["embedded", "simulator", "local", "public"]

DEFAULT_URL = "https://api.anthropic.com/v1"
WORDS = ("embedded", "simulator")
SCOPES: tuple[Scope, ...] = ("embedded", "simulator", "local", "public")


_LOCAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/32",
        "10.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::/128",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,252})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL to post to.

    Attributes:
        url: all of it, ending in ``/messages``.
        scheme: `http` or `https`.
        hostname: in lower case, without brackets and port.
        port: as written, or the scheme's own.
        loopback: it never leaves this machine.
        local: loopback, private or link-local, as far as the URL itself shows; names are not looked up.
    """

    url: str
    scheme: str
    hostname: str
    port: int
    loopback: bool
    local: bool

    @property
    def host(self) -> str:
        """The host as the output's column `endpoint` shows it: with a port where it is not the scheme's own."""
        name = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return name if self.port == _PORTS[self.scheme] else f"{name}:{self.port}"

    @property
    def is_anthropic(self) -> bool:
        """Whether it is Anthropic's own service."""
        return self.hostname == "anthropic.com" or self.hostname.endswith(".anthropic.com")

    @property
    def scope(self) -> Scope:
        """The scope that its address has."""
        return "local" if self.local else "public"

    def same_host(self, other: Target) -> bool:
        """Whether both are the same server: the same name and the same port."""
        return (self.hostname, self.port) == (other.hostname, other.port)


def target(text: str) -> Target:
    """Read a URL. ``/messages`` is appended unless it is there; a bare host gets ``/v1/messages``.

    ==============================  ======================================
    https://api.anthropic.com       https://api.anthropic.com/v1/messages
    https://api.aimlapi.com/v1/     https://api.aimlapi.com/v1/messages
    https://h/messages              https://h/messages
    http://h:4000/anthropic/v1      http://h:4000/anthropic/v1/messages
    ==============================  ======================================

    Raises:
        ProblemError: not http or https, no host, a name and password, a query or a fragment. What may be a secret is
            not shown.
    """
    if text in WORDS:
        raise ProblemError(f"{text} is a word, not a URL; write endpoint: {text}")
    if not re.match(r"https?://", text, re.IGNORECASE):
        raise ProblemError(
            "must be a URL that starts with https:// (or http:// for a server on this machine), such as "
            f"{DEFAULT_URL}; found {hide_keys(quoted(text.rpartition('@')[2]))}{did_you_mean(text, WORDS)}"
        )
    if re.search(r"[\x00-\x20\x7f\\]", text):
        raise ProblemError("must be a URL, found a space, a backslash or a control character in it")
    try:
        parts = urlsplit(text)
        hostname, port = parts.hostname or "", parts.port
        if not hostname.isascii():
            hostname = hostname.encode("idna").decode("ascii")
    except ValueError as error:
        raise ProblemError(f"must be a URL, such as {DEFAULT_URL}; its host or port cannot be read") from error
    if "@" in parts.netloc:
        raise ProblemError("holds a name or password before the host; name the key's variable in api_key_env instead")
    if "?" in text or "#" in text:
        raise ProblemError(
            "has a query or a fragment, which is not sent; end it before the ? or #, and give what the server wants "
            "in headers"
        )
    address = _address(hostname)
    if port == 0 or (address is None and not _HOST.fullmatch(hostname)):
        raise ProblemError(f"must be a URL with a host, such as {DEFAULT_URL}; its host or port cannot be read")
    scheme = parts.scheme.lower()
    loopback = hostname.rstrip(".") == "localhost" or (address is not None and address.is_loopback)
    local = loopback or (address is not None and any(address in network for network in _LOCAL))
    number = port or _PORTS[scheme]
    bare = Target("", scheme, hostname, number, loopback, local)
    return Target(f"{scheme}://{bare.host}{_path(parts.path)}", scheme, hostname, number, loopback, local)


def _path(path: str) -> str:
    """Join, so that neither ``/v1/v1`` nor ``//`` can come of it."""
    parts = [part for part in path.split("/") if part]
    if not parts:
        parts = ["v1"]
    if parts[-1] != "messages":
        parts.append("messages")
    return "/" + "/".join(parts)


def _address(hostname: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(hostname)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if isinstance(mapped, ipaddress.IPv4Address) else address

"""Which proxy the API is reached by, as HTTPS_PROXY, HTTP_PROXY and NO_PROXY say."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from yarl import URL

from pipeline.errors import JobError

PORTED = re.compile(r"(\[[^\]]*\]|[^:\[\]]+):(\d{1,5})")


def is_loopback(host: str) -> bool:
    """Whether a host names this machine: ``localhost`` or a loopback address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bypasses(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY names a host.

    It is a list with commas between: ``*`` for all, hosts, domains above hosts (``corp.example``, ``.corp.example``,
    ``*.corp.example``), addresses and networks (``10.0.0.0/8``), each of them also with a port.
    """
    return any(_names(entry.strip().lower(), host, port) for entry in no_proxy.split(","))


def _names(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    if ported := PORTED.fullmatch(entry):
        return int(ported[2]) == port and _names(ported[1], host, port)
    name = entry.removeprefix("*").lstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def proxy_for(url: URL, environ: Mapping[str, str]) -> URL | None:
    """The proxy to use for a URL; None for a direct connection, which loopback always gets.

    Names in lower case win over those in upper case, as in curl.

    Raises:
        JobError: the proxy is none that speaks HTTP.
    """

    def value(name: str) -> str:
        return (environ.get(name) or environ.get(name.upper()) or "").strip()

    host = url.host or ""
    name = f"{url.scheme}_proxy"
    address = value(name)
    if not address or is_loopback(host) or bypasses(host, url.port, value("no_proxy")):
        return None
    try:
        proxy = URL(address if "://" in address else f"http://{address}")
    except ValueError as error:
        raise JobError(f"{name.upper()} is no URL; it would be like http://proxy.example.com:3128") from error
    if proxy.scheme not in {"http", "https"} or not proxy.host:
        raise JobError(f"{name.upper()} names a proxy of the kind '{proxy.scheme}'; only http:// and https:// will do")
    return proxy

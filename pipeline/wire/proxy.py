"""Which proxy the API is reached by, as HTTPS_PROXY, HTTP_PROXY and NO_PROXY say."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from yarl import URL

from pipeline.errors import JobError


def is_loopback(host: str) -> bool:
    """Whether a host names this machine: ``localhost`` or a loopback address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bypasses(host: str, no_proxy: str) -> bool:
    """Whether NO_PROXY, a list of domains with commas between or ``*``, names a host or a domain above it."""
    names = (name.strip().lstrip(".").lower() for name in no_proxy.split(","))
    return any(name in {"*", host} or host.endswith(f".{name}") for name in names if name)


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
    if not address or is_loopback(host) or bypasses(host, value("no_proxy")):
        return None
    try:
        proxy = URL(address if "://" in address else f"http://{address}")
    except ValueError as error:
        raise JobError(f"{name.upper()} is no URL; it would be like http://proxy.example.com:3128") from error
    if proxy.scheme not in {"http", "https"} or not proxy.host:
        raise JobError(f"{name.upper()} names a proxy of the kind '{proxy.scheme}'; only http:// and https:// will do")
    return proxy

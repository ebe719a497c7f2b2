"""Which addresses pictures may come from: public ones, and those that the job names."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_TEREDO = ipaddress.ip_network("2001::/32")
_6TO4 = ipaddress.ip_network("2002::/16")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What `prompt.image.allow_hosts` names: host names, `host:port`, addresses, and networks such as 10.1.0.0/16."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, entries: Sequence[str]) -> Allowed:
        """Read the job's list.

        Raises:
            ValueError: an entry with a slash is no network.
        """
        names, networks = set[str](), list[Network]()
        for entry in entries:
            text = entry.strip().lower()
            bare = text.removeprefix("[").removesuffix("]")
            try:
                networks.append(ipaddress.ip_network(bare))
            except ValueError:
                if "/" in text:
                    raise
                names.add(text.rstrip("."))
        return cls(frozenset(names), tuple(networks))

    def host(self, host: str, port: int) -> bool:
        """Whether a host is named, whatever its address."""
        name = host.lower().rstrip(".")
        return name in self.names or f"{name}:{port}" in self.names

    def address(self, address: Address) -> bool:
        """Whether an address may be connected to: it is public, or lies in a network that is named."""
        return is_public(address) or any(
            address.version == network.version and address in network for network in self.networks
        )


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet: not private, loopback, link-local, multicast or reserved.

    An IPv6 address that carries an IPv4 one (mapped, 6to4, Teredo, NAT64) is judged by that.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return is_public(inner)
        if getattr(address, "is_site_local", False):
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _6TO4:
        return address.sixtofour
    if address in _TEREDO and address.teredo is not None:
        return address.teredo[1]
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


def parsed(text: str) -> Address | None:
    """Read an address as sockets give it; None where it is none."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def spelled(host: str) -> Address | None:
    """Read a host that is an address in any spelling: `127.1`, `0x7f.1`, `2130706433`; None where it is a name."""
    try:
        return parsed(host) or ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None

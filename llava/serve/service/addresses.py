"""Where a controller may connect: a worker's address, read once, resolved once, checked, and pinned.

An address is parsed by the URL library that also connects, its host resolved once, and every connection made to the
very IP address that was checked, so that a name that resolves differently the second time gains nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from llava.errors import AddressRefused, InvalidRequest

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Sequence[str]]
"""Host and port to the texts of IP addresses; raises OSError."""


def is_loopback(host: str) -> bool:
    """Whether `host` (a name, or the text of an address) can only mean this machine."""
    if host.lower() in ("localhost", "localhost.localdomain"):
        return True
    try:
        return _unmapped(ipaddress.ip_address(host.strip("[]"))).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Where workers may be: on this machine, and at what is listed."""

    hosts: frozenset[str] = frozenset()
    """Host names, exactly as they stand in worker addresses, lower case."""
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    @classmethod
    def parse(cls, entries: Sequence[str]) -> AddressPolicy:
        """From the values of `--allow-worker`: host names, IP addresses, networks such as 10.1.0.0/16.

        Raises:
            InvalidRequest: an entry is none of these.
        """
        hosts, networks = set(), []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry.strip("[]")))
            except ValueError as error:
                if not _is_host_name(entry.lower()):
                    raise InvalidRequest(
                        f"--allow-worker {entry!r}: give a host name, an IP address or a network such as 10.1.0.0/16."
                    ) from error
                hosts.add(entry.lower())
        return cls(frozenset(hosts), tuple(networks))


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """A checked address. Connections go to `ip`; `host` is only for the Host header and the certificate."""

    name: str
    """As the worker wrote it."""
    scheme: str
    host: str
    port: int
    ip: str

    @property
    def key(self) -> str:
        """The same text for all spellings of one address."""
        return _key(self.scheme, self.host, self.port)

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.ip)

    def url(self, path: str) -> str:
        return _key(self.scheme, self.ip, self.port) + path

    def host_header(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


def parse_worker_address(text: str, policy: AddressPolicy, *, resolve: Resolver | None = None) -> WorkerAddress:
    """Reads, resolves and checks a worker's address. Blocks while the name is looked up.

    Raises:
        AddressRefused: malformed or ambiguous, not http(s), with credentials, path, query or fragment, a host that is
            not allowed, or one of its IP addresses is.
    """
    scheme, host, port = _read_origin(text)
    addresses = _resolved(host, port, resolve or _look_up, text)
    for address in addresses:
        # All of them: one bad address among good ones is how a name is prepared for rebinding.
        _check_reachable(address, host, policy, text)
    return WorkerAddress(text, scheme, host, port, str(addresses[0]))


def _read_origin(text: str) -> tuple[str, str, int]:
    # What two parsers could read differently is refused, not repaired.
    if not re.fullmatch(r"https?://(?:[A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?", text):
        raise AddressRefused(
            f"worker address {_shown(text)}: write http://HOST:PORT or https://HOST:PORT, "
            "without user name, path, query or special characters."
        )
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise AddressRefused(f"worker address {_shown(text)}: malformed; write http://HOST:PORT.") from error
    host = url.host.lower()
    port = {"http": 80, "https": 443}[url.scheme] if url.port is None else url.port
    if not 0 < port < 65536:
        raise AddressRefused(f"worker address {_shown(text)}: no such port.")
    if not (_is_host_name(host) or _as_ip(host)):
        raise AddressRefused(
            f"worker address {_shown(text)}: the host is neither a name nor a plain IP address "
            "(four decimal numbers, or IPv6 in brackets)."
        )
    return url.scheme, host, port


def _is_host_name(host: str) -> bool:
    label = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
    # A last label that is a number makes it an IPv4 address in one of its many spellings.
    return (
        len(host) <= 253
        and bool(re.fullmatch(rf"{label}(\.{label})*", host))
        and not re.search(r"(^|\.)(\d+|0x[0-9a-f]*)$", host)
    )


def _as_ip(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _resolved(host: str, port: int, resolve: Resolver, text: str) -> list[IPAddress]:
    literal = _as_ip(host)
    if literal is not None:
        return [literal]
    try:
        found = [ipaddress.ip_address(address.split("%")[0]) for address in resolve(host, port)]
    except (OSError, UnicodeError, ValueError) as error:
        raise AddressRefused(f"worker address {_shown(text)}: the host cannot be found.") from error
    if not found:
        raise AddressRefused(f"worker address {_shown(text)}: the host cannot be found.")
    # IPv4 first, so that `localhost` means the address on which servers listen by default.
    return sorted(dict.fromkeys(found), key=lambda address: address.version)


def _look_up(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


_METADATA_HOSTS: Final = ("metadata", "metadata.google.internal", "metadata.goog", "instance-data")
_METADATA_NETWORKS: Final = tuple(
    ipaddress.ip_network(text) for text in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32")
)


def _check_reachable(address: IPAddress, host: str, policy: AddressPolicy, text: str) -> None:
    if isinstance(address, ipaddress.IPv6Address) and _unmapped(address) is not address:
        raise AddressRefused(f"worker address {_shown(text)}: an IPv4 address in IPv6 clothes; write it as IPv4.")
    if (
        host in _METADATA_HOSTS
        or any(address in network for network in _METADATA_NETWORKS)
        or address.is_unspecified
        or address.is_multicast
        or address == ipaddress.ip_address("255.255.255.255")
    ):
        raise AddressRefused(f"worker address {_shown(text)}: no worker can be there.")
    listed = host in policy.hosts or any(address in network for network in policy.networks)
    if not (listed or address.is_loopback):
        raise AddressRefused(
            f"worker address {_shown(text)}: this controller connects to workers on its own machine and to hosts "
            f"that it was started with. Add --allow-worker {host} to its command."
        )


def _unmapped(address: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv6 one stands for, else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _shown(text: str) -> str:
    """An address fit for a message: no credentials, no control characters, not endless."""
    text = re.sub(r"//[^/]*@", "//", text)
    return repr("".join(char if char.isprintable() else "?" for char in text)[:120])


def address_key(text: str) -> str:
    """The same text for all spellings of one address, as `WorkerAddress.key`, without looking anything up.

    Raises:
        AddressRefused: malformed.
    """
    return _key(*_read_origin(text))


def _key(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

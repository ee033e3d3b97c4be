"""Checks the addresses of workers, to which a controller connects.

The URL library that connects also parses the address. The host is resolved once, and every connection goes to the IP
address that was checked, so a name that later resolves to another address (DNS rebinding) gains nothing.
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
"""Resolves host and port to IP addresses, as text; raises OSError."""


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an IP address, can only mean this machine."""
    if host.lower() in ("localhost", "localhost.localdomain"):
        return True
    try:
        return _unmapped(ipaddress.ip_address(host.strip("[]"))).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """The addresses that workers may have: this machine's, and those listed here."""

    hosts: frozenset[str] = frozenset()
    """Host names in lower case, exactly as in worker addresses."""
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    """Networks, and single IP addresses as networks of one."""

    @classmethod
    def parse(cls, entries: Sequence[str]) -> AddressPolicy:
        """Parses the values of `--allow-worker`: host names, IP addresses and networks such as 10.1.0.0/16.

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
    """A worker's address after all checks."""

    name: str
    """The address as the worker wrote it."""
    scheme: str
    """`http` or `https`."""
    host: str
    """Host name or IP address; used only for the Host header and the certificate."""
    port: int
    ip: str
    """The checked IP address, to which all connections go."""

    @property
    def key(self) -> str:
        """Identifies the address, however it is spelled."""
        return _key(self.scheme, self.host, self.port)

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.ip)

    def url(self, path: str) -> str:
        return _key(self.scheme, self.ip, self.port) + path

    def host_header(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


def parse_worker_address(text: str, policy: AddressPolicy, *, resolve: Resolver | None = None) -> WorkerAddress:
    """Parses, resolves and checks a worker's address. Blocks while the host name is resolved.

    Raises:
        AddressRefused: the address is malformed or ambiguous, is not http(s), has credentials, a path, a query or a
            fragment, or its host or one of its IP addresses is not allowed.
    """
    scheme, host, port = _read_origin(text)
    addresses = _resolved(host, port, resolve or _look_up, text)
    for address in addresses:
        # Every address must pass: one bad address among good ones is how DNS rebinding is prepared.
        _check_reachable(address, host, policy, text)
    return WorkerAddress(text, scheme, host, port, str(addresses[0]))


def _read_origin(text: str) -> tuple[str, str, int]:
    # An address that two parsers could read differently is refused, not repaired.
    if not re.fullmatch(r"https?://(?:[A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?", text):
        raise AddressRefused(
            f"worker address {_shown(text)}: must be http://HOST:PORT or https://HOST:PORT, "
            "without user name, path, query or special characters."
        )
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise AddressRefused(f"worker address {_shown(text)}: malformed. Write http://HOST:PORT.") from error
    host = url.host.lower()
    port = {"http": 80, "https": 443}[url.scheme] if url.port is None else url.port
    if not 0 < port < 65536:
        raise AddressRefused(f"worker address {_shown(text)}: the port must be from 1 to 65535.")
    if not (_is_host_name(host) or _as_ip(host)):
        raise AddressRefused(
            f"worker address {_shown(text)}: the host must be a name or a plain IP address "
            "(four decimal numbers, or IPv6 in brackets)."
        )
    return url.scheme, host, port


def _is_host_name(host: str) -> bool:
    label = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
    # A host whose last label is a number is an IPv4 address in one of its many spellings.
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
        raise AddressRefused(f"worker address {_shown(text)}: the host could not be resolved.") from error
    if not found:
        raise AddressRefused(f"worker address {_shown(text)}: the host could not be resolved.")
    # IPv4 comes first, so that `localhost` is the address on which servers listen by default.
    return sorted(dict.fromkeys(found), key=lambda address: address.version)


def _look_up(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


_METADATA_HOSTS: Final = ("metadata", "metadata.google.internal", "metadata.goog", "instance-data")
_METADATA_NETWORKS: Final = tuple(
    ipaddress.ip_network(text) for text in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32")
)


def _check_reachable(address: IPAddress, host: str, policy: AddressPolicy, text: str) -> None:
    if isinstance(address, ipaddress.IPv6Address) and _unmapped(address) is not address:
        raise AddressRefused(f"worker address {_shown(text)}: an IPv4 address written as IPv6. Write it as IPv4.")
    if (
        host in _METADATA_HOSTS
        or any(address in network for network in _METADATA_NETWORKS)
        or address.is_unspecified
        or address.is_multicast
        or address == ipaddress.ip_address("255.255.255.255")
    ):
        raise AddressRefused(f"worker address {_shown(text)}: workers are never allowed at this address.")
    listed = host in policy.hosts or any(address in network for network in policy.networks)
    if not (listed or address.is_loopback):
        raise AddressRefused(
            f"worker address {_shown(text)}: this controller connects only to its own machine and to hosts allowed on "
            f"its command line. Start it with --allow-worker {host}."
        )


def _unmapped(address: IPAddress) -> IPAddress:
    """Returns the IPv4 address that an IPv6 address stands for, otherwise the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _shown(text: str) -> str:
    """Makes an address safe for a message: no credentials, no control characters, at most 120 characters."""
    text = re.sub(r"//[^/]*@", "//", text)
    return repr("".join(char if char.isprintable() else "?" for char in text)[:120])


def address_key(text: str) -> str:
    """Returns the `WorkerAddress.key` of an address without resolving its host.

    Raises:
        AddressRefused: the address is malformed.
    """
    return _key(*_read_origin(text))


def _key(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

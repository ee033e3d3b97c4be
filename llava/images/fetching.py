"""Fetches an image from an http(s) URL without letting the URL reach private addresses.

A URL is parsed once, its host is resolved once, every resolved address is checked, and the connection is made to a
checked address, so a host that resolves differently the second time gains nothing. Redirects pass the same checks.
Bytes are counted as they arrive, and one deadline covers name lookup, redirects and body. Proxies, cookies and
credentials of this machine are never used.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from llava.errors import (
    ImageDamaged,
    ImageFetchFailed,
    ImageTooLarge,
    ImageUrlRefused,
    InvalidRequest,
    UnsupportedImage,
)
from llava.images.formats import HEAD_BYTES, is_image, readable_bytes

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_HEADERS: Final = {"Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close", "User-Agent": "llava"}
_DOCUMENTS: Final = ("application/json", "application/xhtml+xml", "application/pdf")
_CHUNK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """Which hosts an image may be fetched from, and how long that may take."""

    allowed_hosts: frozenset[str] | None = None
    """Allowed host names in lower case; None allows every host with public addresses."""
    allowed_networks: tuple[str, ...] = ()
    """Private networks that are allowed, such as "10.1.2.0/24" for an image store (default: none)."""
    connect_timeout_s: float = 5.0
    """Seconds for connecting, and for each wait for more bytes (default: 5)."""
    total_timeout_s: float = 20.0
    """Seconds for the whole fetch: name lookup, redirects and body (default: 20)."""
    max_redirects: int = 3
    """Number of redirects to follow (default: 3)."""

    def __post_init__(self) -> None:
        for network in self.allowed_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise InvalidRequest(
                    f"allowed_networks: {network!r} is not a network such as '10.1.2.0/24'."
                ) from error


def fetch(url: str, *, policy: UrlPolicy, max_bytes: int) -> bytes:
    """Fetches the body at `url`.

    Args:
        url: an http(s) URL.
        policy: allowed hosts and times.
        max_bytes: largest body.

    Raises:
        ImageUrlRefused: the URL, or one that it redirects to, is malformed, is not http(s), has a host that is not
            allowed, or leads to a private, loopback, link-local, multicast or reserved address.
        ImageFetchFailed: the host is unknown, unreachable or too slow, or the status is not 200.
        ImageTooLarge: the body exceeds `max_bytes`; the fetch stops as soon as this is known.
        UnsupportedImage: the server declares that it sends text, HTML, JSON or PDF, and does not send an image.
        ImageDamaged: the body is shorter than the server declared.
    """
    deadline = time.monotonic() + policy.total_timeout_s
    for _ in range(policy.max_redirects + 1):
        target = _parse(url, policy)
        shown = f"{target.scheme}://{target.netloc}{target.path}"[:200]
        addresses = _checked_addresses(target, policy, deadline, shown)
        answer = _Answer(target, addresses, policy, deadline, shown)
        try:
            location = answer.redirect()
            if location is None:
                return answer.body(max_bytes)
        finally:
            answer.close()
        url = urljoin(url, location)
    raise ImageFetchFailed(f"{shown}: more than {policy.max_redirects} redirects. Give the final URL of the image.")


def _parse(url: str, policy: UrlPolicy) -> SplitResult:
    # A URL that two parsers could read differently is refused, not repaired.
    if re.search(r"[\s\\\x00-\x1f\x7f]", url) or not url.isascii():
        raise ImageUrlRefused("the image URL has spaces, backslashes or characters that must be percent-encoded.")
    try:
        target = urlsplit(url)
        port = target.port
    except ValueError as error:
        raise ImageUrlRefused("the image URL is malformed. Check its host and port.") from error
    if target.scheme not in _PORTS:
        raise ImageUrlRefused(f"cannot fetch {target.scheme or 'relative'} URLs, only http and https.")
    if target.username is not None or target.password is not None:
        raise ImageUrlRefused("the image URL has a user name or password; URLs with credentials are refused.")
    host = target.hostname
    if not host or port == 0 or not re.fullmatch(r"[a-z0-9.\-_:]+", host):
        raise ImageUrlRefused("the image URL is malformed. Check its host and port.")
    if policy.allowed_hosts is not None and host not in policy.allowed_hosts:
        raise ImageUrlRefused(f"images are not fetched from {host}; it is not among the allowed hosts.")
    return target


def _checked_addresses(target: SplitResult, policy: UrlPolicy, deadline: float, shown: str) -> list[IPAddress]:
    host = target.hostname or ""
    addresses = [ipaddress.ip_address(text) for text in _resolve(host, _port(target), deadline, shown)]
    # A host with one private address among public ones may be set up for DNS rebinding.
    for address in addresses:
        if not _may_reach(address, policy):
            raise ImageUrlRefused(
                f"{shown}: the host has an address that is not public; images are fetched from public addresses only."
            )
    return addresses


def _port(target: SplitResult) -> int:
    return target.port or _PORTS[target.scheme]


def _resolve(host: str, port: int, deadline: float, shown: str) -> list[str]:
    """Returns the addresses of a host. The system's lookup has no timeout, so it runs in a separate thread."""
    answers: queue.Queue[list[str] | OSError] = queue.Queue(1)

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(entry[4][0]).split("%")[0] for entry in found])
        except (OSError, UnicodeError) as error:
            answers.put(OSError(str(error)))

    threading.Thread(target=look_up, name="image-host-lookup", daemon=True).start()
    try:
        answer = answers.get(timeout=_left(deadline, shown))
    except queue.Empty:
        raise _too_slow(shown) from None
    if isinstance(answer, OSError) or not answer:
        raise ImageFetchFailed(f"{shown}: the host {host[:100]} cannot be found.")
    return answer


_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64: Final = ipaddress.ip_network("64:ff9b:1::/48")
"""Local-use NAT64 prefix; only some versions of Python count it as private."""


def _may_reach(address: IPAddress, policy: UrlPolicy) -> bool:
    inner = _embedded(address)
    if inner is not None:
        return _may_reach(inner, policy)
    if any(address in ipaddress.ip_network(network) for network in policy.allowed_networks):
        return True
    return address.is_global and not (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address in _LOCAL_NAT64
        or getattr(address, "is_site_local", False)
    )


def _embedded(address: IPAddress) -> ipaddress.IPv4Address | None:
    """Returns the IPv4 address that an IPv6 address embeds (mapped, 6to4, Teredo, NAT64), or None."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _left(deadline: float, shown: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _too_slow(shown)
    return left


def _too_slow(shown: str) -> ImageFetchFailed:
    return ImageFetchFailed(f"{shown}: too slow; the image did not arrive in time.")


def _connect(addresses: list[IPAddress], port: int, policy: UrlPolicy, deadline: float, shown: str) -> socket.socket:
    """Connects to the first address that answers; the connect timeout also applies to later reads."""
    failure: OSError | None = None
    for address in addresses:
        timeout = min(policy.connect_timeout_s, _left(deadline, shown))
        try:
            return socket.create_connection((str(address), port), timeout=timeout)
        except OSError as error:
            failure = error
    raise ImageFetchFailed(f"{shown}: cannot connect to the host.") from failure


class _Answer:
    """A request and its response, over a connection to a checked address."""

    def __init__(self, target: SplitResult, addresses: list[IPAddress], policy: UrlPolicy, deadline: float, shown: str):
        self._shown = shown
        self._deadline = deadline
        host, port = target.hostname or "", _port(target)
        self._connection = http.client.HTTPConnection(host, port)
        self._socket = plain = _connect(addresses, port, policy, deadline, shown)
        # Socket timeouts restart with each byte; without this timer, a slow server could hold the reader forever.
        self._guard = threading.Timer(_left(deadline, shown), self._cut)
        self._guard.daemon = True
        self._guard.start()
        try:
            if target.scheme == "https":
                self._socket = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            self._connection.sock = self._socket
            path = (target.path or "/") + (f"?{target.query}" if target.query else "")
            self._connection.request("GET", path, headers=_HEADERS)
            self._response = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._failure(error) from error

    def redirect(self) -> str | None:
        """Returns the URL that the server redirects to, or None."""
        status = self._response.status
        if status in _REDIRECTS:
            location = self._response.getheader("Location")
            if location:
                return location
        if status != 200:
            raise ImageFetchFailed(f"{self._shown}: the server returned status {status} instead of an image.")
        return None

    def body(self, max_bytes: int) -> bytes:
        """Returns the body; raises `ImageTooLarge` if it exceeds `max_bytes`."""
        self._check_headers(max_bytes)
        received, checked = bytearray(), False
        try:
            while chunk := self._response.read1(_CHUNK_BYTES):
                received += chunk
                if not checked and len(received) >= HEAD_BYTES:
                    self._check_start(received)
                    checked = True
                if len(received) > max_bytes:
                    raise _too_large(self._shown, max_bytes)
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(error) from error
        if time.monotonic() >= self._deadline:
            raise _too_slow(self._shown)
        if not checked:
            self._check_start(received)
        announced = self._response.getheader("Content-Length")
        if announced and len(received) < int(announced):
            raise ImageDamaged(f"{self._shown}: truncated: the server sent {len(received)} of {announced} bytes.")
        return bytes(received)

    def close(self) -> None:
        """Closes the connection."""
        self._guard.cancel()
        self._connection.close()
        self._socket.close()

    def _check_headers(self, max_bytes: int) -> None:
        announced = self._response.getheader("Content-Length", "0")
        if not announced.isdecimal():
            raise ImageFetchFailed(f"{self._shown}: the server declares a length that is not a number.")
        if int(announced) > max_bytes:
            raise _too_large(self._shown, max_bytes)
        if self._response.getheader("Content-Encoding", "identity").lower() != "identity":
            raise ImageFetchFailed(f"{self._shown}: the server compressed the image against our request.")

    def _check_start(self, received: bytes | bytearray) -> None:
        """Ends the fetch of a page that a server sends in place of an image. A wrong type of an image is no reason."""
        declared = self._response.getheader("Content-Type", "").split(";")[0].strip().lower()
        if (declared.startswith("text/") or declared in _DOCUMENTS) and not is_image(bytes(received)):
            raise UnsupportedImage(f"{self._shown}: not an image; the server declares it as {declared}.")

    def _cut(self) -> None:
        with contextlib.suppress(OSError):  # already closed
            self._socket.shutdown(socket.SHUT_RDWR)

    def _failure(self, error: Exception) -> ImageFetchFailed:
        if isinstance(error, TimeoutError) or time.monotonic() >= self._deadline:
            return _too_slow(self._shown)
        if isinstance(error, ssl.SSLError):
            return ImageFetchFailed(f"{self._shown}: the server's certificate or encryption is not accepted.")
        return ImageFetchFailed(f"{self._shown}: the server closed the connection or does not speak HTTP.")


def _too_large(shown: str, max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"{shown}: more than {readable_bytes(max_bytes)}, the limit for an image.")

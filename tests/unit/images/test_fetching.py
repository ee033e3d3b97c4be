"""Images by address, from real servers on loopback: fetched, or refused with a typed error; never from the inside."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from llava.errors import (
    ImageDamaged,
    ImageFetchFailed,
    ImageTooLarge,
    ImageUrlRefused,
    InvalidRequest,
    UnsupportedImage,
)
from llava.images.fetching import UrlPolicy
from llava.mm_utils import ImageLimits, load_image
from tests.support.images import encoded, noise

GOOD_PNG = encoded(noise())


class Server(ThreadingHTTPServer):
    """A real web server whose pages are functions of the request."""

    daemon_threads = True

    def __init__(self, address: str = "127.0.0.1"):
        self.pages: dict = {}
        self.asked: list[str] = []
        self.headers: list[dict] = []
        super().__init__((address, 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path: str, host: str | None = None) -> str:
        return f"http://{host or self.server_address[0]}:{self.server_address[1]}{path}"

    def handle_error(self, request, client_address):
        """Clients that hang up are what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.headers.append(dict(self.headers))
        self.close_connection = True
        self.server.pages[self.path.split("?")[0]](self)

    def log_message(self, *args):
        pass

    def answer(self, body: bytes, kind: str = "image/png", status: int = 200, **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, location: str, status: int = 302):
        self.answer(b"", status=status, Location=location)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


LOOPBACK = UrlPolicy(allowed_networks=("127.0.0.1/32",))


def fetch(url: str, policy: UrlPolicy = LOOPBACK, **options) -> Image.Image:
    return load_image(url, allow_url=True, url_policy=policy, **options)


def test_an_image_is_fetched_by_its_address(server):
    server.pages["/cat"] = lambda request: request.answer(GOOD_PNG)
    assert fetch(server.url("/cat?size=large")).tobytes() == noise().tobytes()
    assert server.asked == ["/cat?size=large"]
    assert server.headers[0]["Host"] == f"127.0.0.1:{server.server_address[1]}"


def test_an_image_sent_in_chunks_of_unknown_length_is_read(server):
    def chunked(request):
        request.answer(b"", Content_Length=None, Transfer_Encoding="chunked")
        for start in range(0, len(GOOD_PNG), 1000):
            part = GOOD_PNG[start : start + 1000]
            request.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        request.wfile.write(b"0\r\n\r\n")

    server.pages["/"] = chunked
    assert fetch(server.url("/")).tobytes() == noise().tobytes()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server, status):
    server.pages["/old"] = lambda request: request.redirect("/new/cat.png", status)
    server.pages["/new/cat.png"] = lambda request: request.answer(GOOD_PNG)
    assert fetch(server.url("/old")).size == (64, 48)


def test_addresses_are_refused_unless_allowed(server):
    with pytest.raises(ImageUrlRefused, match="switched off"):
        load_image(server.url("/cat"))
    assert server.asked == []


@pytest.mark.parametrize("scheme", ["file", "ftp", "gopher", "data.x", "jar"])
def test_other_kinds_of_address_are_never_opened(scheme):
    with pytest.raises(ImageUrlRefused, match="not supported"):
        load_image(f"{scheme}:///etc/passwd", allow_url=True)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fc00::1]",
        "[ff02::1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
    ],
)
def test_no_address_leads_inside(server, host):
    server.pages["/"] = lambda request: request.answer(GOOD_PNG)
    with pytest.raises((ImageUrlRefused, ImageFetchFailed)) as caught:
        load_image(server.url("/", host=host), allow_url=True)
    assert isinstance(caught.value, ImageUrlRefused) or "cannot be found" in str(caught.value)
    assert server.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@127.0.0.1/a.png",
        "http://127.0.0.1\\@example.com/a.png",
        "http://example.com/a b.png",
        "http://exa\tmple.com/",
        "http://example.com:99999/",
        "http://example.com:0/",
        "http:///a.png",
        "http://[::1/",
        "http://exam%70le.com/",
        "http://b\u00fccher.example/",
        "http://[fe80::1%25eth0]/",
    ],
)
def test_an_address_that_two_parsers_could_read_differently_is_refused(url):
    with pytest.raises(ImageUrlRefused) as caught:
        fetch(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "inside", ["http://127.0.0.2:{port}/secret", "//127.0.0.2:{port}/secret", "http://[::1]:{port}/"]
)
def test_a_redirect_to_the_inside_is_refused(server, inside):
    other = Server("127.0.0.2")
    other.pages["/secret"] = lambda request: request.answer(GOOD_PNG)
    server.pages["/cat"] = lambda request: request.redirect(inside.format(port=other.server_address[1]))
    with pytest.raises(ImageUrlRefused, match="not public"):
        fetch(server.url("/cat"))
    other.shutdown()
    other.server_close()
    assert other.asked == []


def test_a_redirect_to_a_file_is_refused(server):
    server.pages["/cat"] = lambda request: request.redirect("file:///etc/passwd")
    with pytest.raises(ImageUrlRefused, match="only http and https"):
        fetch(server.url("/cat"))


def test_endless_redirects_end(server):
    server.pages["/"] = lambda request: request.redirect("/")
    with pytest.raises(ImageFetchFailed, match="more than 3 redirects"):
        fetch(server.url("/"))
    assert len(server.asked) == 4


def test_a_name_that_resolves_differently_the_second_time_gains_nothing(server, monkeypatch):
    """The connection goes to the address that was checked: the name is looked up once."""
    answers = iter(["127.0.0.1", "127.0.0.2"])
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host, port, *args, **options):
        if host != "images.test":
            return real(host, port, *args, **options)
        asked.append(host)
        return real(next(answers), port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    server.pages["/"] = lambda request: request.answer(GOOD_PNG)
    assert fetch(server.url("/", host="images.test")).size == (64, 48)
    assert asked == ["images.test"]
    assert server.headers[0]["Host"].startswith("images.test:")


def test_a_name_with_one_inside_address_among_its_addresses_is_refused(server, monkeypatch):
    real = socket.getaddrinfo
    both = real("127.0.0.1", 80, type=socket.SOCK_STREAM) + real("10.0.0.1", 80, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: both)
    with pytest.raises(ImageUrlRefused, match="not public"):
        fetch(server.url("/", host="images.test"))
    assert server.asked == []


def test_only_listed_hosts_are_asked_where_there_is_a_list(server):
    server.pages["/"] = lambda request: request.answer(GOOD_PNG)
    listed = UrlPolicy(allowed_hosts=frozenset({"127.0.0.1"}), allowed_networks=("127.0.0.0/8",))
    assert fetch(server.url("/"), listed).size == (64, 48)
    with pytest.raises(ImageUrlRefused, match="not among the allowed hosts"):
        fetch(server.url("/", host="localhost"), listed)


def test_an_image_that_is_announced_too_large_is_not_read(server):
    server.pages["/"] = lambda request: request.answer(b"", Content_Length=str(10**12))
    with pytest.raises(ImageTooLarge, match=r"more than 1\.0 MiB"):
        fetch(server.url("/"), limits=ImageLimits(max_bytes=2**20))


def test_an_image_that_never_ends_is_cut_at_the_limit(server):
    sent = []

    def endless(request):
        request.answer(GOOD_PNG[:100], Content_Length=None, Connection="close")
        with contextlib.suppress(OSError):
            while True:
                sent.append(request.wfile.write(b"\0" * 65_536))

    server.pages["/"] = endless
    with pytest.raises(ImageTooLarge):
        fetch(server.url("/"), limits=ImageLimits(max_bytes=2**20))
    assert sum(sent) < 64 * 2**20  # what was under way in the buffers of both sides


def drip(request):
    request.answer(GOOD_PNG[:1], Content_Length=str(len(GOOD_PNG)))
    with contextlib.suppress(OSError):
        for byte in GOOD_PNG[1:]:
            request.wfile.write(bytes([byte]))
            time.sleep(0.05)


def drip_header(request):
    with contextlib.suppress(OSError):
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(2000):
            request.wfile.write(b"x")
            time.sleep(0.05)


def silence(request):
    time.sleep(30)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("page", [drip, drip_header, silence])
def test_a_slow_server_is_given_up(server, page):
    """The drips arrive far oftener than the wait for one, so only the limit on the whole can end them."""
    server.pages["/"] = page
    policy = UrlPolicy(allowed_networks=("127.0.0.1/32",), connect_timeout_s=0.5, total_timeout_s=1.0)
    with pytest.raises(ImageFetchFailed, match="too slow"):
        fetch(server.url("/"), policy)


@pytest.mark.timeout(20)
def test_a_slow_name_lookup_is_given_up(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: time.sleep(10) or [])
    with pytest.raises(ImageFetchFailed, match="too slow"):
        fetch("http://images.test/", UrlPolicy(total_timeout_s=0.3))


@pytest.mark.parametrize(
    ("page", "error", "message"),
    [
        (lambda r: r.answer(b"gone", status=404), ImageFetchFailed, "status 404"),
        (lambda r: r.answer(b"", status=302), ImageFetchFailed, "status 302"),
        (lambda r: r.answer(b"<html>", "text/html; charset=utf-8"), UnsupportedImage, "declares it as text/html"),
        (lambda r: r.answer(b"<html></html>", "image/png"), UnsupportedImage, "looks like HTML"),
        (lambda r: r.answer(b"", "image/png"), UnsupportedImage, "empty"),
        (lambda r: r.answer(GOOD_PNG, Content_Encoding="gzip"), ImageFetchFailed, "compressed"),
        (lambda r: r.answer(GOOD_PNG, Content_Length="lots"), ImageFetchFailed, "not a number"),
        (lambda r: r.answer(GOOD_PNG[:500], Content_Length="9999"), ImageDamaged, "the server sent 500 of 9999 bytes"),
        (lambda r: r.wfile.write(b"SSH-2.0-OpenSSH\r\n"), ImageFetchFailed, "does not speak HTTP"),
        (lambda r: None, ImageFetchFailed, "closed the connection"),
    ],
)
def test_what_a_server_says_instead_of_an_image_is_told(server, page, error, message):
    server.pages["/"] = page
    with pytest.raises(error, match=message):
        fetch(server.url("/"))


def test_no_answer_and_no_such_host_are_told():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ImageFetchFailed, match="cannot connect"):
        fetch(f"http://127.0.0.1:{port}/")
    with pytest.raises(ImageFetchFailed, match="cannot be found"):
        fetch("http://no-such-host.invalid/")


def test_plain_http_where_encryption_is_asked_for_is_told(server):
    server.pages["/"] = lambda request: request.answer(GOOD_PNG)
    with pytest.raises(ImageFetchFailed, match="certificate or encryption"):
        fetch(server.url("/").replace("http:", "https:"))


def test_no_proxy_of_this_machine_is_asked(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.pages["/"] = lambda request: request.answer(GOOD_PNG)
    assert fetch(server.url("/")).size == (64, 48)


def test_a_network_that_is_none_is_an_error():
    with pytest.raises(InvalidRequest, match="'intranet'"):
        UrlPolicy(allowed_networks=("intranet",))

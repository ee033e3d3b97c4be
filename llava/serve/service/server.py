"""Runs an app under uvicorn in this process: port first, model second, and an end that loses nothing.

The first SIGTERM or SIGINT drains: health says so at once, new requests are refused, running ones finish. A second one
ends the process within a second.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from llava.command_line import DONE, FAILED
from llava.errors import CannotListen
from llava.serve.service.lifecycle import Lifecycle, Phase
from llava.serve.service.logs import configure_logging

logger = logging.getLogger("llava.serve")

_BACKLOG: Final = 2048
_MAX_HEADER_BYTES: Final = 64 * 1024
_FORCED_EXIT_S: Final = 0.7
_LEFTOVER_S: Final = 5.0
"""How long threads that do not end (a model that is being loaded) may hold up the end."""


def serve(
    app: FastAPI,
    host: str,
    port: int,
    *,
    ready: Callable[[], Awaitable[None]] | None = None,
    drain_timeout_s: float = 30.0,
) -> int:
    """Serves `app` until a signal; returns the exit code: 0, or 1 when requests had to be cut off.

    Args:
        app: from `llava.serve.service.app.create_app`.
        port: 0 takes a free one; the line that says where it runs has the number.
        ready: what must succeed before the service says that it runs, such as loading a model; the port is bound and
            health is answered meanwhile. What it raises ends the service and is raised here.
        drain_timeout_s: for running requests after the first signal.

    Raises:
        CannotListen: the port is taken, or the address is not this machine's.
    """
    sockets = listen(host, port)
    configure_logging()
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{sockets[0].getsockname()[1]}"
    server = _Server(app, app.state.lifecycle, drain_timeout_s)
    try:
        return asyncio.run(server.run_until_signal(sockets, address, ready))
    finally:
        server.leftovers.cancel()


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of `host`, all on one port."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotListen(f"--host {host}: this machine does not know that name or address.") from error
    sockets: list[socket.socket] = []
    try:
        # IPv4 first: it decides about a port that the system chooses.
        for family, kind, protocol, _, where in sorted(set(found), key=lambda entry: entry[0] != socket.AF_INET):
            try:
                sockets.append(_bound(family, kind, protocol, (where[0], port, *where[2:])))
            except OSError as error:
                # A name may have an address that this machine's network lacks (`localhost` and IPv6).
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or not sockets:
                    raise
            port = sockets[0].getsockname()[1]
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise CannotListen(_why(error, host, port)) from error
    return sockets


def free_port() -> int:
    """A port of this machine on which nothing listens now."""
    sockets = listen("localhost", 0)
    port = int(sockets[0].getsockname()[1])
    for opened in sockets:
        opened.close()
    return port


def _bound(family: int, kind: int, protocol: int, where: tuple) -> socket.socket:
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(where)
        opened.listen(_BACKLOG)  # now, not later: only a port that listens is taken
    except OSError:
        opened.close()
        raise
    opened.setblocking(False)
    return opened


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use. Stop what runs there, or choose another with --port."
    if error.errno == errno.EACCES:
        return f"port {port} on {host} may not be used by this user. Choose one above 1023 with --port."
    return f"cannot listen on {host}, port {port}: {error.strerror or error}."


class _Server(uvicorn.Server):
    """uvicorn's server, with a drain of ours before its shutdown."""

    def __init__(self, app: FastAPI, lifecycle: Lifecycle, drain_timeout_s: float):
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            # Whether a caller is on this machine decides what it may do: no header may claim it.
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=15,
        )
        super().__init__(config)
        self._lifecycle = lifecycle
        self._drain_timeout_s = drain_timeout_s
        self._num_signals = 0
        self._code = DONE
        self._starting: asyncio.Future[None] | None = None
        self._draining: asyncio.Future[None] | None = None
        self.leftovers = threading.Timer(_LEFTOVER_S, self._end_now)
        self.leftovers.daemon = True

    async def run_until_signal(
        self, sockets: list[socket.socket], address: str, ready: Callable[[], Awaitable[None]] | None
    ) -> int:
        self._loop = asyncio.get_running_loop()
        self._lifecycle.phase = Phase.STARTING
        serving = asyncio.ensure_future(self.serve(sockets))
        try:
            while not (self.started or serving.done()):
                await asyncio.sleep(0.005)
            if self.started and await self._become_ready(ready, serving):
                self._lifecycle.phase = Phase.READY
                logger.info("Uvicorn running on %s (Press CTRL+C to quit)", address)
            await serving
        except BaseException:
            self._code = FAILED
            raise
        finally:
            self.should_exit = True
            await asyncio.wait([serving])
            self.leftovers.start()
        return self._code

    async def _become_ready(self, ready: Callable[[], Awaitable[None]] | None, serving: asyncio.Future[None]) -> bool:
        if self._lifecycle.draining:
            return False
        if ready is None:
            return True
        self._starting = asyncio.ensure_future(ready())
        await asyncio.wait([self._starting, serving], return_when=asyncio.FIRST_COMPLETED)
        if not self._starting.done():
            self._starting.cancel()
        if self._starting.cancelled() or self._lifecycle.draining:
            return False
        if self._starting.done():
            self._starting.result()
            return True
        return False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._num_signals += 1
        if self._num_signals == 1:
            self._loop.call_soon_threadsafe(self._begin_drain, signal.Signals(sig).name)
            return
        self._code = FAILED if self._lifecycle.active else self._code
        self.force_exit = self.should_exit = True
        timer = threading.Timer(_FORCED_EXIT_S, self._end_now)
        timer.daemon = True
        timer.start()

    def _begin_drain(self, name: str) -> None:
        active = self._lifecycle.active
        logger.info("%s: shutting down%s", name, f" after {active} running requests" * bool(active))
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        if not await self._lifecycle.drain(self._drain_timeout_s):
            logger.warning("what still ran was cut off after %g s", self._drain_timeout_s)
            self._code = FAILED
        self.should_exit = True

    def _end_now(self) -> None:
        # Nothing of Python's own end waits for threads that never end.
        logging.shutdown()
        os._exit(self._code)

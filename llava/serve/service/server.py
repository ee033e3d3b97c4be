"""Runs an app under uvicorn in this process, from binding its port to a shutdown that loses no answer.

The port is bound before a model is loaded. The first SIGTERM or SIGINT drains the service: health checks report it at
once, new requests are refused, and running ones finish. A second signal ends the process within a second.
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
from llava.serve.service.logs import RUNNING_LINE, configure_logging

logger = logging.getLogger("llava.serve")

_BACKLOG: Final = 2048
_MAX_HEADER_BYTES: Final = 64 * 1024
_FORCED_EXIT_S: Final = 0.7
"""Seconds from the second signal to the end of the process."""
_EXIT_TIMEOUT_S: Final = 5.0
"""Seconds that threads which do not end, such as one that loads a model, may delay the end of the process."""


def serve(
    app: FastAPI,
    host: str,
    port: int,
    *,
    ready: Callable[[], Awaitable[None]] | None = None,
    drain_timeout_s: float = 30.0,
) -> int:
    """Serves `app` until a signal arrives.

    Args:
        app: from `llava.serve.service.app.create_app`.
        host: name or address to listen on.
        port: port to listen on; 0 chooses a free one, which the log reports.
        ready: must complete before the service counts as running, for example to load a model. The port is bound and
            health checks are answered meanwhile. An exception ends the service and is raised here.
        drain_timeout_s: seconds that running requests have to finish after the first signal.

    Returns:
        The exit code: 0, or 1 if requests were cut off.

    Raises:
        CannotListen: the port is in use, or the address is not this machine's.
    """
    sockets = listen(host, port)
    configure_logging()
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{sockets[0].getsockname()[1]}"
    server = _Server(app, app.state.lifecycle, drain_timeout_s)
    try:
        return asyncio.run(server.run_until_signal(sockets, address, ready))
    finally:
        server.exit_timer.cancel()


def listen(host: str, port: int) -> list[socket.socket]:
    """Returns sockets that listen on all addresses of `host`, all on one port; 0 chooses a free one.

    Raises:
        CannotListen: the port is in use, or the address is not this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotListen(f"--host {host}: this machine cannot resolve that name or address.") from error
    sockets: list[socket.socket] = []
    try:
        # IPv4 comes first: if the system chooses the port, it is the port of the first socket.
        for family, kind, protocol, _, where in sorted(set(found), key=lambda entry: entry[0] != socket.AF_INET):
            try:
                sockets.append(_bound(family, kind, protocol, (where[0], port, *where[2:])))
            except OSError as error:
                # A name may have an address that this machine lacks, such as the IPv6 address of `localhost`.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or not sockets:
                    raise
            port = sockets[0].getsockname()[1]
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise CannotListen(_listen_problem(error, host, port)) from error
    return sockets


def free_port() -> int:
    """Returns a port of this machine on which nothing listens at the moment."""
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
        opened.listen(_BACKLOG)  # at once: a port that is only bound can still be taken by somebody else
    except OSError:
        opened.close()
        raise
    opened.setblocking(False)
    return opened


def _listen_problem(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use. Stop the process that uses it, or choose another port with --port."
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs privileges that this user lacks. Choose a port above 1023 with --port."
    return f"cannot listen on {host}, port {port}: {error.strerror or error}."


class _Server(uvicorn.Server):
    """uvicorn's server, which drains requests before it shuts down."""

    def __init__(self, app: FastAPI, lifecycle: Lifecycle, drain_timeout_s: float):
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            # Callers on this machine may do more than others, so a header must not be able to claim an address.
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
        self.exit_timer = threading.Timer(_EXIT_TIMEOUT_S, self._end_now)
        self.exit_timer.daemon = True

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
                logger.info("%s%s (Press CTRL+C to quit)", RUNNING_LINE, address)
            await serving
        except BaseException:
            self._code = FAILED
            raise
        finally:
            self.should_exit = True
            await asyncio.wait([serving])
            self.exit_timer.start()
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
        waiting_for = f" once running requests have finished ({active})" if active else ""
        logger.info("%s received: shutting down%s", name, waiting_for)
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        if not await self._lifecycle.drain(self._drain_timeout_s):
            logger.warning("Requests still running after %g s were cut off", self._drain_timeout_s)
            self._code = FAILED
        self.should_exit = True

    def _end_now(self) -> None:
        # A regular interpreter exit would wait for threads that may never end.
        logging.shutdown()
        os._exit(self._code)

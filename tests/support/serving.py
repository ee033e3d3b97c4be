"""Runs services for tests: an app in a thread of this process, or a command in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from llava.serve.service.server import listen

PATIENCE = float(os.environ.get("LLAVA_TEST_PATIENCE", "1"))
"""How many times longer tests wait before they give up, on a machine that is busy with other work."""

REPOSITORY = Path(__file__).resolve().parents[2]


class InThread:
    """An app on a free port of 127.0.0.1, served by uvicorn in a thread."""

    def __init__(self, app: Any, *, ready: Callable[[], Any] | None = None, port: int = 0):
        """`ready` is an async function that runs on the server's loop before the server counts as started."""
        self.app = app
        self._ready = ready
        self._sockets = listen("127.0.0.1", port)
        self.port = self._sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            app, http="h11", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failure: BaseException | None = None

    def _run(self) -> None:
        import asyncio

        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            serving = asyncio.ensure_future(self._server.serve(self._sockets))
            while not self._server.started and not serving.done():
                await asyncio.sleep(0.005)
            if self._ready is not None:
                await self._ready()
            self._started.set()
            await serving

        try:
            asyncio.run(serve())
        except BaseException as error:
            self.failure = error
        finally:
            self._started.set()

    def __enter__(self) -> InThread:
        self._thread.start()
        assert self._started.wait(30)
        if self.failure is not None:
            raise self.failure
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.should_exit = True
        self._thread.join(15)
        assert not self._thread.is_alive(), "the server did not end"


class Service:
    """A command in a process of its own; its lines are kept."""

    def __init__(
        self,
        *arguments: str | Path,
        interpreter: str | Path = sys.executable,
        cwd: Path = REPOSITORY,
        **environment: str,
    ):
        self.process = subprocess.Popen(
            [str(interpreter), *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, timeout_s: float = 60) -> re.Match[str]:
        """The first line that matches."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(match for line in list(self.lines) if (match := re.search(pattern, line)))
            return bool(found) or self.process.poll() is not None

        wait_until(look, timeout_s)
        assert found, f"the service ended with {self.process.poll()}:\n{self.output}"
        return found[0]

    def wait(self, timeout_s: float = 60) -> int:
        """The exit code."""
        code = self.process.wait(timeout_s)
        self._reader.join(5)
        return code

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


def wait_until(condition: Callable[[], Any], timeout_s: float = 30) -> None:
    """Waits for something that is about to become true."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


@contextlib.contextmanager
def running(app: Any, *, ready: Callable[[], Any] | None = None, port: int = 0) -> Iterator[InThread]:
    with InThread(app, ready=ready, port=port) as server:
        yield server

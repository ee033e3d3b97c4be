"""Services of ours that another command starts beside itself, and ends with itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from llava.errors import LlavaError

RUNNING_LINE: Final = "Uvicorn running on "
"""What a service logs once it can answer (`llava.serve.service.server`)."""
_END_S: Final = 10.0


class ServiceFailed(LlavaError):
    """A service that this command started has ended by itself."""

    code = "service_failed"


class Child:
    """One service in a process of its own. Its lines go to standard error, with its name before them."""

    def __init__(self, name: str, module: str, arguments: Sequence[str]):
        self.name = name
        self._settled = threading.Event()
        self._running = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is this command's business, which ends its children in order
        )
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def wait_until_running(self) -> None:
        """
        Raises:
            ServiceFailed: it ended instead.
        """
        self._settled.wait()
        if not self._running:
            raise ServiceFailed(
                f"the {self.name} could not be started (exit code {self._process.wait()}); its lines above say why."
            )

    def end(self) -> None:
        """Asks it to end, waits, and kills it if it takes too long."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(1)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def _pass_on(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            sys.stderr.write(f"{self.name} | {line}")
            if RUNNING_LINE in line:
                self._running = True
                self._settled.set()
        self._settled.set()

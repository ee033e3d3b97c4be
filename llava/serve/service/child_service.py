"""Runs another service of this package in a child process that ends with the command that started it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from llava.errors import LlavaError
from llava.serve.service.logs import RUNNING_LINE

_END_S: Final = 10.0
"""Seconds that a service has to end before it is killed."""


class ServiceFailed(LlavaError):
    """A service that this command started ended on its own."""

    code = "service_failed"


class ChildService:
    """One service in a process of its own. Its output goes to standard error, each line prefixed with its name."""

    def __init__(self, name: str, module: str, arguments: Sequence[str]):
        """
        Args:
            name: name of the service in output and errors.
            module: its command, run with `python -m`.
            arguments: its command line.
        """
        self.name = name
        self._settled = threading.Event()
        self._running = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C must reach only this command, which ends its services in order
        )
        self._reader = threading.Thread(target=self._forward_output, daemon=True)
        self._reader.start()

    def wait_until_running(self) -> None:
        """Returns once the service answers requests.

        Raises:
            ServiceFailed: the service ended instead.
        """
        self._settled.wait()
        if not self._running:
            code = self._process.wait()
            raise ServiceFailed(f"the {self.name} could not be started (exit code {code}). Its output above says why.")

    def end(self) -> None:
        """Asks the service to end, waits, and kills it if it takes too long."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(1)

    def __enter__(self) -> ChildService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def _forward_output(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            sys.stderr.write(f"{self.name} | {line}")
            if RUNNING_LINE in line:
                self._running = True
                self._settled.set()
        self._settled.set()

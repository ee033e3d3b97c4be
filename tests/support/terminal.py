"""A terminal for tests: a command on a real pty, and the screen that a user would see, drawn by an emulator."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from types import TracebackType

import pexpect
import pyte

REPOSITORY = Path(__file__).resolve().parents[2]


class Terminal:
    """One command, such as `Terminal("-m", "llava.serve.cli")`, run by this Python."""

    def __init__(self, *arguments: str | Path, columns: int = 100, rows: int = 40, **environment: str):
        self._screen = _AnsweringScreen(columns, rows, history=10_000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)
        self.received = b""
        """All bytes that the command has written."""
        self._child = pexpect.spawn(
            sys.executable,
            list(map(str, arguments)),
            cwd=REPOSITORY,
            dimensions=(rows, columns),
            env={**os.environ, "TERM": "xterm-256color", "TERM_PROGRAM": "", "TMUX": "", **environment},
            timeout=None,
        )
        self._screen.reply = self._child.send

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._child.isalive():
            self._child.kill(signal.SIGKILL)
            self._child.wait()
        self._child.close()

    @property
    def screen(self) -> str:
        """What is visible, without the spaces at the ends of lines."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    @property
    def everything(self) -> str:
        """What is visible, and what has scrolled away."""
        above = ("".join(row[x].data for x in range(self._screen.columns)) for row in self._screen.history.top)
        return "\n".join([*(line.rstrip() for line in above), self.screen])

    def wait_for(self, pattern: str, timeout_s: float = 120) -> None:
        """Until the pattern stands on the screen or above it."""
        self._wait(lambda: re.search(pattern, self.everything), f"no {pattern!r}", timeout_s)

    def wait_for_prompt(self, pattern: str = r"> $", timeout_s: float = 120) -> None:
        """Until the line of the cursor matches: the command reads."""
        self._wait(lambda: re.search(pattern, self._line), f"no prompt {pattern!r}", timeout_s)

    def type(self, text: str) -> None:
        self._child.send(text)

    def enter(self, text: str = "", prompt: str = r"> $") -> None:
        """Types a line at a prompt that is there or about to come, and Enter."""
        self.wait_for_prompt(prompt)
        self._child.send(text)
        if text:
            last = re.escape(text[-20:].rstrip())
            self._wait(lambda: re.search(last, self.screen.replace("\n", "")), f"{text!r} was not echoed", 60)
        self._child.send("\r")

    def interrupt(self) -> None:
        """Ctrl-C at the keyboard."""
        self._child.sendintr()

    def end_of_input(self) -> None:
        """Ctrl-D at the keyboard."""
        self._child.sendeof()

    def wait(self, timeout_s: float = 120) -> int:
        """The exit code, once the command has ended."""
        self._wait(lambda: not self._child.isalive(), "the command runs on", timeout_s)
        self._child.close()
        if self._child.signalstatus is not None:
            return 128 + signal.Signals(self._child.signalstatus)
        return int(self._child.exitstatus or 0)

    @property
    def _line(self) -> str:
        """The line of the cursor, up to it."""
        return self._screen.display[self._screen.cursor.y][: self._screen.cursor.x]

    def _wait(self, condition: object, problem: str, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not condition():  # type: ignore[operator]
            self._read()
            assert time.monotonic() < until, f"{problem} on the screen:\n{self.everything}"

    def _read(self) -> None:
        try:
            data = self._child.read_nonblocking(65536, timeout=0.05)
        except pexpect.TIMEOUT:
            return
        except pexpect.EOF:
            time.sleep(0.05)
            return
        self.received += data
        self._stream.feed(_without_graphics(data))


class _AnsweringScreen(pyte.HistoryScreen):
    """Answers what a program asks its terminal, such as the place of the cursor."""

    def write_process_input(self, data: str) -> None:
        self.reply(data)


def _without_graphics(data: bytes) -> bytes:
    """The emulator knows no images."""
    return re.sub(rb"\x1b_G.*?\x1b\\|\x1b\]1337;.*?\x07", b"", data, flags=re.DOTALL)

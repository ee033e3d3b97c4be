"""Finds out what a terminal supports: which graphics, and how large a character is."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Final

from rich.console import Console

from llava.serve.terminal.graphics import CharacterCell, Graphics

_ASK: Final = b"\x1b[c"
_REPLY: Final = re.compile(rb"\x1b\[\?([\d;]+)c")
_PATIENCE_S: Final = 0.5
_SIXEL: Final = "4"
"""Part of the reply of a terminal that draws sixels."""


def choose_graphics(console: Console, environment: Mapping[str, str] | None = None) -> Graphics:
    """Returns the best graphics that the terminal supports; a terminal without colours shows no images.

    Args:
        environment: environment variables (default: those of this process).
    """
    environment = os.environ if environment is None else environment
    if not console.is_terminal or console.color_system is None or console.is_dumb_terminal:
        return "none"
    named = graphics_by_name(environment)
    if named is not None:
        return named
    return "sixel" if _SIXEL in device_attributes(sys.stdin, console.file) else "blocks"


def graphics_by_name(environment: Mapping[str, str]) -> Graphics | None:
    """Returns the graphics of a terminal that the environment names; None for one that has to be asked."""
    if "TMUX" in environment or environment.get("TERM", "").startswith(("screen", "tmux")):
        return None  # the variables of the outer terminal are still set, but commands do not reach it
    program = environment.get("TERM_PROGRAM", "")
    if "KITTY_WINDOW_ID" in environment or environment.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return None


def device_attributes(keyboard: IO[str], screen: IO[str]) -> frozenset[str]:
    """Asks the terminal what it is (DA1), which every terminal answers; returns an empty set if there is none."""
    try:
        descriptor = keyboard.fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, ValueError, termios.error):
        return frozenset()
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        screen.write(_ASK.decode())
        screen.flush()
        return _read_reply(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _read_reply(descriptor: int) -> frozenset[str]:
    until, received = time.monotonic() + _PATIENCE_S, b""
    while (left := until - time.monotonic()) > 0 and select.select([descriptor], [], [], left)[0]:
        received += os.read(descriptor, 256)
        if reply := _REPLY.search(received):
            return frozenset(reply[1].decode().split(";"))
    return frozenset()


def cell_size(screen: IO[str]) -> CharacterCell:
    """Returns the size of a character; a usual one if the terminal does not report it."""
    try:
        rows, columns, width, height = struct.unpack(
            "HHHH", fcntl.ioctl(screen.fileno(), termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        )
    except (OSError, ValueError):
        return CharacterCell()
    if not (rows and columns and width and height):
        return CharacterCell()
    return CharacterCell(max(1, width // columns), max(1, height // rows))


@contextmanager
def quiet_keyboard(keyboard: IO[str] | None = None) -> Iterator[None]:
    """Hides what is typed meanwhile; the next reader gets it.

    Args:
        keyboard: the terminal (default: standard input). Anything else is left as it is.
    """
    try:
        descriptor = (keyboard or sys.stdin).fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, ValueError, termios.error):
        yield
        return
    quiet = list(before)
    # NOFLSH: Ctrl-C ends the answer, but does not discard what was typed while it was written.
    quiet[3] = quiet[3] & ~termios.ECHO | termios.NOFLSH
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)

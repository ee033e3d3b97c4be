"""Formats the log lines of services: `time | LEVEL | name | message` on standard error, safe to show in a terminal.

What users send (messages, images, keys) is never logged; a request appears only as its id, its route and its figures.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

RUNNING_LINE: Final = "Uvicorn running on "
"""Start of the line that a service logs once it answers requests. Scripts and `llava web` wait for it."""

_FORMAT: Final = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"


class SingleLineFormatter(logging.Formatter):
    """Escapes control characters, so that no logged text can forge a line or control a terminal."""

    def __init__(self) -> None:
        super().__init__(_FORMAT, "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escaped(super().formatMessage(record))


def escaped(text: str) -> str:
    """Returns `text` with every unprintable character, line breaks included, written as an escape sequence."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def fields(**values: object) -> str:
    """Formats `name=value` pairs that programs can parse. None is omitted, and text with spaces is quoted."""
    return " ".join(f"{name}={_value(value)}" for name, value in values.items() if value is not None)


def _value(value: object) -> str:
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    if text and not any(c.isspace() or c in '"=' for c in text):
        return text
    return '"' + text.replace('"', "'") + '"'


def configure_logging(level: int = logging.INFO) -> None:
    """Sends the log lines of this package and of uvicorn to standard error. Only commands may call this."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SingleLineFormatter())
    for name in ("llava", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
    # At INFO, httpx would log every request to another service, with its address.
    logging.getLogger("httpx").setLevel(logging.WARNING)

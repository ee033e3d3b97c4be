"""Log lines of services: `time | LEVEL | name | message`, on standard error, safe to read in a terminal.

Nothing that a user said, showed or uses as a key is ever logged; a request is its id, its route and its figures.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

_FORMAT: Final = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"


class OneLine(logging.Formatter):
    """Shows control characters as escapes, so that no logged text can forge a line or drive a terminal."""

    def __init__(self) -> None:
        super().__init__(_FORMAT, "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escaped(super().formatMessage(record))


def escaped(text: str) -> str:
    """`text` with everything unprintable, line breaks too, written as an escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def fields(**values: object) -> str:
    """`name=value` pairs for a line that programs read too; None is left out, text with spaces quoted."""
    return " ".join(f"{name}={_value(value)}" for name, value in values.items() if value is not None)


def _value(value: object) -> str:
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return text if text and not any(c.isspace() or c in '"=' for c in text) else '"' + text.replace('"', "'") + '"'


def configure_logging(level: int = logging.INFO) -> None:
    """Sends the lines of this package and of uvicorn to standard error. For commands; a library never calls it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    for name in ("llava", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
    # Each request of ours to another service would be a line, with its address.
    logging.getLogger("httpx").setLevel(logging.WARNING)

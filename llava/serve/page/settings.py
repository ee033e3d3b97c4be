"""All that the command line sets about the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ModelListMode = Literal["once", "reload"]

DEFAULT_CONCURRENCY: Final = 8
MAX_UPLOAD_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PageSettings:
    """What the page shows and keeps."""

    controller: str
    """Its address, or that of any OpenAI-compatible server."""
    model_list_mode: ModelListMode = "once"
    """reload: each page asks for the list anew when it is opened; once: one list, asked for now and then, for all."""
    concurrency: int = DEFAULT_CONCURRENCY
    """Answers that are written at once; more wait in a queue that says their place."""
    embed: bool = False
    """Without title, introduction and terms, to stand inside of another page."""
    log_dir: Path | None = None
    """None keeps nothing."""
    log_addresses: bool = False
    """Whether the log says from which address a message came."""
    moderate: bool = False
    """Whether messages go to OpenAI's moderation before they are answered."""

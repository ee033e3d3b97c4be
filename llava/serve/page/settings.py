"""Defines the settings of the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ModelListMode = Literal["once", "reload"]

DEFAULT_CONCURRENCY: Final = 8
MAX_UPLOAD_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PageSettings:
    """What the page shows and stores."""

    controller: str
    """URL of the controller, or of any OpenAI-compatible server."""
    model_list_mode: ModelListMode = "once"
    """`once` shares one list of models, refreshed every few seconds; `reload` fetches it whenever a page is opened."""
    concurrency: int = DEFAULT_CONCURRENCY
    """Number of answers written at the same time; further questions wait and are shown their place in the queue."""
    embed: bool = False
    """Whether title and terms are left out, for a page that is embedded in another one."""
    log_dir: Path | None = None
    """Folder for the log of conversations, images and votes; None logs nothing."""
    log_addresses: bool = False
    """Whether the log holds the network addresses of users."""
    moderate: bool = False
    """Whether OpenAI's moderation checks each message before it is answered."""

"""Keeps the list of served models, fetched once for all open pages, and words the notices about it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from llava.errors import LlavaError
from llava.serve.client.conversation import ChatSource

_FRESH_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class ModelListing:
    """The served models at one moment."""

    names: tuple[str, ...] = ()
    problem: str = ""
    """Why the list could not be fetched; `names` are then those of the last one."""


class ServedModels:
    """Fetches the list of models at most every few seconds, however many pages ask for it."""

    def __init__(self, source: ChatSource):
        self._source = source
        self._latest = ModelListing()
        self._fetched_s = float("-inf")
        self._fetching = asyncio.Lock()

    async def now(self, *, fresh: bool = False) -> ModelListing:
        """Returns the list; fetches it if the last one is some seconds old, or if `fresh` is set."""
        async with self._fetching:
            if fresh or time.monotonic() - self._fetched_s >= _FRESH_S:
                try:
                    self._latest = ModelListing(tuple(await self._source.models()))
                except LlavaError as error:
                    self._latest = ModelListing(self._latest.names, str(error))
                self._fetched_s = time.monotonic()
        return self._latest


def notice(served: ModelListing, controller: str) -> str:
    """Returns the notice above the chat, in Markdown; empty if all is well."""
    if served.problem:
        return (
            f"**The controller does not answer.** {served.problem} Start it with\n\n"
            "```shell\npython -m llava.serve.controller --host 0.0.0.0 --port 10000\n```"
        )
    if not served.names:
        return (
            "**No model is being served yet.** A model appears here as soon as its worker has registered. Start one "
            f"with\n\n```shell\npython -m llava.serve.model_worker --controller {controller} --port 40000 "
            "--worker http://localhost:40000 --model-path /path/to/LLaVA-13B-v0\n```"
        )
    return ""


def choose(served: ModelListing, wanted: str | None) -> tuple[str | None, str]:
    """Returns the model to start with, and a notice if it is not the wanted one."""
    first = served.names[0] if served.names else None
    if not wanted or wanted in served.names:
        return wanted or first, ""
    if first is None:
        return None, ""
    return first, f"**No model named {wanted!r} is served here.** Available: {', '.join(served.names)}."

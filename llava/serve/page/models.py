"""Which models are served, as the page knows it: asked for now and then, once for all open pages."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from llava.errors import LlavaError
from llava.serve.client.conversation import ChatSource

_FRESH_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Served:
    """What was known at one moment."""

    names: tuple[str, ...] = ()
    problem: str = ""
    """Why the list could not be had; the last one known is shown meanwhile."""


class ModelList:
    """Asks at most every few seconds, whoever wants to know."""

    def __init__(self, source: ChatSource):
        self._source = source
        self._known = Served()
        self._asked_s = float("-inf")
        self._asking = asyncio.Lock()

    async def now(self, *, fresh: bool = False) -> Served:
        """The list, asked for again if it is some seconds old, or if `fresh`."""
        async with self._asking:
            if fresh or time.monotonic() - self._asked_s >= _FRESH_S:
                try:
                    self._known = Served(tuple(await self._source.models()))
                except LlavaError as error:
                    self._known = Served(self._known.names, str(error))
                self._asked_s = time.monotonic()
        return self._known


def notice(served: Served, controller: str) -> str:
    """What to say above the chat, in Markdown; empty when all is well."""
    if served.problem:
        return (
            f"**No answer from the controller.** {served.problem} It is started with\n\n"
            "```shell\npython -m llava.serve.controller --host 0.0.0.0 --port 10000\n```"
        )
    if not served.names:
        return (
            "**No model is served yet.** The list fills by itself once a worker has registered. Start one with\n\n"
            f"```shell\npython -m llava.serve.model_worker --controller {controller} --port 40000 "
            "--worker http://localhost:40000 --model-path /path/to/LLaVA-13B-v0\n```"
        )
    return ""


def choose(served: Served, wanted: str | None) -> tuple[str | None, str]:
    """The model to begin with, and what to say if it is not the wanted one."""
    if wanted and wanted not in served.names and served.names:
        return served.names[0], f"**No model named {wanted!r} is served here.** There are: {', '.join(served.names)}."
    return (wanted if wanted in served.names else next(iter(served.names), None)), ""

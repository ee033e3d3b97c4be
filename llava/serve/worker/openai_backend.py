"""Lets another OpenAI-compatible engine answer the requests of a worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from llava.errors import InvalidRequest, RemoteError, WorkerLost, WorkerTimeout
from llava.serve.client.openai_client import ProtocolError, TokenUsage
from llava.serve.protocol.openai_requests import ChatRequest
from llava.serve.protocol.original import GenerateRequest
from llava.serve.service.metrics import Metrics
from llava.serve.worker.backend import StartChoice
from llava.serve.worker.images import EncodedImage, ImageReader
from llava.serve.worker.openai_messages import Dialogue, ImageSource, read_dialogue
from llava.serve.worker.prompt_reader import read_prompt
from llava.serve.worker.upstream import Upstream
from llava.text_generation.answer_events import Answer, AnswerEvents, ServerAnswer
from llava.text_generation.answer_text import UntilStop
from llava.text_generation.settings import MAX_SEED

log = logging.getLogger(__name__)

POLL_INTERVAL_S: Final = 5.0
"""Seconds between two queries of the engine's queue."""
_COMPLAINT_INTERVAL_S: Final = 30.0


@dataclass
class OpenAiBackend:
    """Forwards every request to one engine."""

    name: str
    """The name that requests give as `model`."""
    upstream: Upstream
    """The engine."""
    limit: int = 64
    """Largest number of requests forwarded at once. The engine has its own queue, which this limit keeps short."""
    images: ImageReader = field(default_factory=ImageReader)
    """Reads the images of requests."""
    wait_s: float = 600.0
    """Seconds that `start` waits for an engine that is still loading its model."""
    poll_interval_s: float = POLL_INTERVAL_S
    """Seconds between two queries of the engine's queue."""
    stop: tuple[str, ...] = ()
    """Texts that end every answer, in addition to the stop texts of a request."""
    stops_here: bool = False
    """Finds stop texts in this process and cancels the request there, for engines that do not support `stop`."""

    def __post_init__(self) -> None:
        self._waiting = 0
        self._reachable = False
        self._poll: asyncio.Task[None] | None = None

    @property
    def names(self) -> list[str]:
        return [self.name]

    @property
    def healthy(self) -> bool:
        return True  # a lost engine may come back, so this process need not end

    @property
    def ready(self) -> bool:
        return self._reachable

    def queue_length(self) -> int:
        return self._waiting

    def observe(self, metrics: Metrics) -> None:
        """Does nothing: the engine has its own metrics."""

    def ended(self, result: Answer | Exception) -> None:
        """Does nothing: the engine has its own metrics."""

    async def start(self) -> None:
        await self._wait_for_engine()
        self._reachable = True
        self._poll = asyncio.get_running_loop().create_task(self._keep_looking(), name="poll-engine")

    async def close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)
        self.images.close()
        await self.upstream.close()

    async def legacy(self, request: GenerateRequest) -> StartChoice:
        images = [ImageSource(image, f"images[{index}]") for index, image in enumerate(request.images or ())]
        reading = await asyncio.to_thread(read_prompt, request.prompt, images)
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        # The stop text of the prompt's template would cut the answers of an engine with another template: "###" is
        # also the beginning of a heading.
        stops = [text for text in stops if text and text != reading.stop]
        settings = {
            "temperature": request.temperature,
            "top_p": request.top_p or None,
            "max_tokens": request.max_new_tokens,
            "stop": stops,
        }
        return await self._prepared(reading.dialogue, settings, None)

    async def chat(self, request: ChatRequest) -> StartChoice:
        settings = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k if request.top_k and request.top_k > 0 else None,
            "max_tokens": request.limit,
            "stop": request.stops,
        }
        return await self._prepared(read_dialogue(request.messages), settings, request.seed)

    async def _prepared(self, dialogue: Dialogue, settings: dict[str, Any], seed: int | None) -> StartChoice:
        encoded = await self.images.read([(image.source, image.name) for image in dialogue.images])
        encoded = await self.images.portable(encoded)
        stop = [*self.stop, *settings.pop("stop")]
        if stop and not self.stops_here:
            settings["stop"] = stop
        body = {name: value for name, value in settings.items() if value is not None} | {
            "messages": _messages(dialogue, encoded)
        }

        async def start(choice: int) -> AnswerEvents:
            # Choices with the same seed would all be the same answer.
            own_seed = {} if seed is None else {"seed": (seed + choice) & MAX_SEED}
            return self._events(body | own_seed, stop if self.stops_here else ())

        return start

    async def _events(self, body: dict[str, Any], stop: Sequence[str]) -> AnswerEvents:
        """Yields the events of one choice.

        Args:
            stop: texts that end the answer and that the engine does not know about.
        """
        answer, until_stop = ServerAnswer(), UntilStop(stop)
        reason: str | None = None
        usage: TokenUsage | None = None
        async with aclosing(self.upstream.chunks(body)) as chunks:
            async for chunk in chunks:
                usage = chunk.usage or usage
                reason = chunk.finish_reason or reason
                if chunk.text:
                    yield answer.piece(until_stop.push(chunk.text), num_new_tokens=1)
                if until_stop.stopped:
                    reason = "stop"
                    break
        if rest := until_stop.flush():
            yield answer.piece(rest)
        for event in answer.end(
            "length" if reason == "length" else "stop",
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else None,
        ):
            yield event

    async def _wait_for_engine(self) -> None:
        loop = asyncio.get_running_loop()
        deadline, next_line = loop.time() + self.wait_s, loop.time() + 2.0
        while True:
            try:
                names = await self.upstream.models()
                break
            except ProtocolError:
                names = []  # some engines have no list of models
                break
            except RemoteError as error:
                status = error.status
                if status in (401, 403):
                    raise InvalidRequest(
                        f"{self.upstream.url}: the engine rejects this worker's key (HTTP {status}). Name the "
                        "environment variable that holds the key with --backend-key-env."
                    ) from error
                if status == 404:
                    names = []
                    break
                trouble = f"it answers with HTTP {status}"
            except (WorkerLost, WorkerTimeout):
                trouble = "it does not answer"  # it may still be loading
            if loop.time() >= deadline:
                raise WorkerLost(
                    f"{self.upstream.url}: no engine answered within {self.wait_s:g} s ({trouble}). Start it, or "
                    "correct --backend-url (usually it ends in /v1)."
                )
            if loop.time() >= next_line:
                log.info("Waiting for the engine at %s: %s.", self.upstream.url, trouble)
                next_line = loop.time() + _COMPLAINT_INTERVAL_S
            await asyncio.sleep(min(1.0, self.wait_s / 4))
        if names and self.upstream.model not in names:
            raise InvalidRequest(
                f"{self.upstream.url}: the engine has no model {self.upstream.model!r}; it serves "
                f"{', '.join(names[:10])}. Correct --backend-model."
            )

    async def _keep_looking(self) -> None:
        """Watches whether the engine can be reached, and how many requests wait in its queue."""
        last_line = float("-inf")
        while True:
            try:
                self._waiting = await self.upstream.queue_length()
                self._reachable = True
            except (WorkerLost, WorkerTimeout):
                self._reachable, self._waiting = False, 0
                now = asyncio.get_running_loop().time()
                if now - last_line >= _COMPLAINT_INTERVAL_S:
                    last_line = now
                    log.warning("The engine at %s cannot be reached.", self.upstream.url)
            await asyncio.sleep(self.poll_interval_s)


def _messages(dialogue: Dialogue, encoded: Sequence[EncodedImage]) -> list[dict[str, Any]]:
    """Returns the dialogue as OpenAI messages, with each image as a data URI."""
    left = iter(encoded)
    messages: list[dict[str, Any]] = []
    if dialogue.system:
        messages.append({"role": "system", "content": dialogue.system})
    for turn in dialogue.turns:
        if not turn.images:
            messages.append({"role": turn.role, "content": "\n".join(map(str, turn.parts))})
            continue
        parts = [
            {"type": "image_url", "image_url": {"url": next(left).as_data_uri()}}
            if isinstance(part, ImageSource)
            else {"type": "text", "text": part}
            for part in turn.parts
        ]
        messages.append({"role": turn.role, "content": parts})
    return messages

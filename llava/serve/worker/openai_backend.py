"""Another OpenAI-compatible engine as a worker's backend: messages go out, pieces of text come back."""

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
from llava.serve.worker.backend import Ask, ChatEvents, Finished, TextDelta
from llava.serve.worker.images import EncodedImage, ImageReader
from llava.serve.worker.openai_messages import Dialogue, ImageSource, read_dialogue
from llava.serve.worker.prompt_reader import read_prompt
from llava.serve.worker.upstream import Upstream
from llava.text_generation.answer_text import UntilStop
from llava.text_generation.settings import MAX_SEED

log = logging.getLogger(__name__)

POLL_INTERVAL_S: Final = 5.0
_COMPLAINT_INTERVAL_S: Final = 30.0


@dataclass
class OpenAiBackend:
    """Sends every request on to one engine."""

    name: str
    """Under which this worker offers the engine's model."""
    upstream: Upstream
    limit: int = 64
    """Requests sent on at once. The engine queues by itself, so this only bounds what waits there."""
    images: ImageReader = field(default_factory=ImageReader)
    wait_s: float = 600.0
    """How long `start` waits for an engine that is still loading its model."""
    poll_interval_s: float = POLL_INTERVAL_S
    stop: tuple[str, ...] = ()
    """Texts that end every answer, beside those a request asks for."""
    stops_here: bool = False
    """Match stop texts in this process, and hang up on the engine there: not every engine takes the field `stop`."""

    def __post_init__(self) -> None:
        self._waiting = 0
        self._reachable = False
        self._poll: asyncio.Task[None] | None = None

    @property
    def names(self) -> list[str]:
        return [self.name]

    @property
    def healthy(self) -> bool:
        return True  # an engine that went away may come back: that is no reason to end this process

    @property
    def ready(self) -> bool:
        return self._reachable

    def queue_length(self) -> int:
        return self._waiting

    def observe(self, metrics: Metrics) -> None:
        """The engine keeps its own."""

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

    async def legacy(self, request: GenerateRequest) -> Ask:
        images = [ImageSource(image, f"images[{index}]") for index, image in enumerate(request.images or ())]
        reading = await asyncio.to_thread(read_prompt, request.prompt, images)
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        # The template's own end would cut answers of an engine that has another one: "###" begins a heading.
        stops = [text for text in stops if text and text != reading.stop]
        settings = {
            "temperature": request.temperature,
            "top_p": request.top_p or None,
            "max_tokens": request.max_new_tokens,
            "stop": stops,
        }
        return await self._ask(reading.dialogue, settings, None)

    async def chat(self, request: ChatRequest) -> Ask:
        settings = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k if request.top_k and request.top_k > 0 else None,
            "max_tokens": request.limit,
            "stop": request.stops,
        }
        return await self._ask(read_dialogue(request.messages), settings, request.seed)

    async def _ask(self, dialogue: Dialogue, settings: dict[str, Any], seed: int | None) -> Ask:
        encoded = await self.images.read([(image.source, image.name) for image in dialogue.images])
        stop = [*self.stop, *settings.pop("stop")]
        if stop and not self.stops_here:
            settings["stop"] = stop
        body = {name: value for name, value in settings.items() if value is not None} | {
            "messages": _messages(dialogue, encoded)
        }

        def ask(index: int) -> ChatEvents:
            # Choices that began from one seed would all be the same answer.
            own = {} if seed is None else {"seed": (seed + index) & MAX_SEED}
            return self._events(body | own, stop if self.stops_here else ())

        return ask

    async def _events(self, body: dict[str, Any], stop: Sequence[str]) -> ChatEvents:
        """
        Args:
            stop: texts to end at that the engine is not told of.
        """
        answer = UntilStop(stop)
        reason: str | None = None
        num_deltas = 0
        usage: TokenUsage | None = None
        async with aclosing(self.upstream.chunks(body)) as chunks:
            async for chunk in chunks:
                usage = chunk.usage or usage
                reason = chunk.finish_reason or reason
                if chunk.text:
                    num_deltas += 1
                    yield TextDelta(answer.push(chunk.text), 1)
                if answer.stopped:
                    reason = "stop"
                    break
        if rest := answer.flush():
            yield TextDelta(rest, 0)
        usage = usage or TokenUsage(0, num_deltas)  # an engine that reports no counts
        yield Finished("length" if reason == "length" else "stop", usage.prompt_tokens, usage.completion_tokens)

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
                        f"{self.upstream.url}: the engine refuses this worker's key (HTTP {status}). Name the "
                        "environment variable that holds it with --backend-key-env."
                    ) from error
                if status == 404:
                    names = []
                    break
                trouble = f"it answers with HTTP {status}"
            except (WorkerLost, WorkerTimeout):
                trouble = "it does not answer"  # it may still be loading
            if loop.time() >= deadline:
                raise WorkerLost(
                    f"{self.upstream.url}: no engine answered within {self.wait_s:g} s: {trouble}. Start it, or "
                    "correct --backend-url (it ends in /v1)."
                )
            if loop.time() >= next_line:
                log.info("waiting for the engine at %s: %s", self.upstream.url, trouble)
                next_line = loop.time() + _COMPLAINT_INTERVAL_S
            await asyncio.sleep(min(1.0, self.wait_s / 4))
        if names and self.upstream.model not in names:
            raise InvalidRequest(
                f"{self.upstream.url}: the engine has no model {self.upstream.model!r}; it serves "
                f"{', '.join(names[:10])}. Correct --backend-model."
            )

    async def _keep_looking(self) -> None:
        """Follows the engine's queue, and whether it is there at all."""
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
    """The dialogue as OpenAI messages, every image as a data URI."""
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

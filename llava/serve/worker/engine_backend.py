"""Lets an engine in this process answer the requests of a worker, in either protocol."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llava.serve.protocol.openai_requests import ChatRequest
from llava.serve.service.tracing import request_id
from llava.serve.worker.backend import StartChoice
from llava.serve.worker.images import EncodedImage, ImageReader
from llava.serve.worker.openai_messages import dialogue_prompt, read_dialogue
from llava.text_generation.answer_events import Answer, AnswerEvents
from llava.text_generation.settings import MAX_SEED, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from llava.serve.protocol.original import GenerateRequest
    from llava.serve.service.metrics import Metrics

log = logging.getLogger(__name__)

DEFAULT_MAX_NEW_TOKENS: Final = 512
"""Token limit of chat requests that name none; the context may limit the answer further."""
_WARM_UP_TOKENS: Final = 4
_GREY_IMAGE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAAAAACPAi4CAAAAK0lEQVR42u3MQQ0AAAgEoNPM9p8h/D"
    "kIQE1uOgKBQCAQCAQCgUAgEAieBwt9cQD0Q5L62gAAAABJRU5ErkJggg=="
)
_SMALLEST_TOP_P: Final = 1e-6
_OOM_IN_A_ROW: Final = 3
"""Number of out-of-memory errors in a row after which the worker is not ready for a while."""
_OOM_PAUSE_S: Final = 30.0


@dataclass(frozen=True)
class LoadedModel:
    """The result of loading a model."""

    engine: Any
    """A `llava.engine.Engine`, or an object with the same interface."""
    config: Any
    """The model's config; it decides the template."""
    request_type: Callable[..., Any]
    """The class `llava.engine.Request`, whose module is too heavy to import before a model is loaded."""


@dataclass
class EngineBackend:
    """Loads a model in a thread and answers with its engine."""

    name: str
    """The name that requests give as `model`."""
    load: Callable[[], LoadedModel]
    """Loads the model; called on a thread."""
    images: ImageReader = field(default_factory=ImageReader)
    """Reads the images of requests."""
    asked_limit: int | None = None
    """Largest number of choices written at once; None takes the engine's limit."""
    conv_mode: str | None = None
    """Name of the conversation template; None takes the checkpoint's own."""
    warms_up: bool = True
    """Whether `start` asks a first question, to find out whether the model can answer at all."""

    def __post_init__(self) -> None:
        self._model: LoadedModel | None = None
        self._warm = False
        self._num_out_of_memory = 0
        self._paused_until = 0.0
        self._metrics: Metrics | None = None
        self._counted = (0, 0)

    @property
    def names(self) -> list[str]:
        return [self.name]

    @property
    def limit(self) -> int:
        own = int(self._model.engine.limit) if self._model else 1
        return self.asked_limit or own

    @property
    def healthy(self) -> bool:
        return self._model is None or bool(self._model.engine.healthy)

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and warm, and has not just run out of memory several times in a row."""
        return self._warm and self.healthy and asyncio.get_running_loop().time() >= self._paused_until

    def queue_length(self) -> int:
        return 0  # this worker's permits let through no more requests than the engine runs at once

    def observe(self, metrics: Metrics) -> None:
        self._metrics = metrics
        metrics.registry.register(_StepsAfterCancel(self))
        self.images.on_decoded = metrics.image_decode_seconds.observe

    def ended(self, result: Answer | Exception) -> None:
        if isinstance(result, Answer):
            self._num_out_of_memory = 0
            self._count_images(result)
        elif getattr(result, "code", None) == "out_of_memory":
            self._count_out_of_memory()

    async def start(self) -> None:
        self._model = await asyncio.to_thread(self.load)
        if self.warms_up:
            await self._warm_up()
        self._warm = True

    async def close(self) -> None:
        self.images.close()
        if self._model is not None:
            await asyncio.to_thread(self._model.engine.close)

    async def legacy(self, request: GenerateRequest) -> StartChoice:
        images = await self.images.read([(image, f"images[{i}]") for i, image in enumerate(request.images or ())])
        sampling = Sampling(
            temperature=request.temperature,
            top_p=max(request.top_p, _SMALLEST_TOP_P),
            max_new_tokens=request.max_new_tokens,
        )
        stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
        return self._prepared(request.prompt, images, sampling, tuple(text for text in stop if text), ())

    async def chat(self, request: ChatRequest) -> StartChoice:
        dialogue = read_dialogue(request.messages)
        prompt = dialogue_prompt(dialogue, self._loaded.config, name=self.name, conv_mode=self.conv_mode)
        images = await self.images.read([(image.source, image.name) for image in dialogue.images])
        sampling = Sampling(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=request.top_p,
            top_k=request.top_k if request.top_k and request.top_k > 0 else None,
            max_new_tokens=request.limit or DEFAULT_MAX_NEW_TOKENS,
            seed=None if request.seed is None else request.seed & MAX_SEED,
        )
        return self._prepared(prompt.text, images, sampling, (prompt.stop, *request.stops), prompt.roles)

    def steps_after_cancel(self) -> tuple[int, int]:
        """Returns the steps that the engine spent on cancelled requests: their sum, and the most for one request."""
        if self._model is None:
            return 0, 0
        stats = self._model.engine.stats
        return stats.steps_after_cancel, stats.most_steps_after_cancel

    @property
    def _loaded(self) -> LoadedModel:
        if self._model is None:
            raise RuntimeError("a request arrived before the model was loaded")
        return self._model

    def _prepared(
        self,
        prompt: str,
        encoded: list[EncodedImage],
        sampling: Sampling,
        stop: tuple[str, ...],
        prefixes: tuple[str, ...],
    ) -> StartChoice:
        decoded: list[Image.Image] = []
        decoding = asyncio.Lock()

        async def start(choice: int) -> AnswerEvents:
            # Images are decoded only under a permit: those of all waiting requests would not fit into memory.
            async with decoding:
                if len(decoded) < len(encoded):
                    decoded.extend(await self.images.decode(encoded))
            seed = sampling.seed
            request = self._loaded.request_type(
                prompt=prompt,
                images=tuple(decoded),
                # Choices with the same seed would all be the same answer.
                sampling=replace(sampling, seed=None if seed is None else (seed + choice) & MAX_SEED),
                stop=stop,
                prefixes=prefixes,
                request_id=request_id() or None,
            )
            events: AnswerEvents = self._loaded.engine.stream(request)
            return events

        return start

    def _count_images(self, answer: Answer) -> None:
        """Adds to the metrics what the engine has counted since the last answer."""
        stats = self._loaded.engine.stats
        found, asked = stats.images_found, stats.images_found + stats.images_encoded
        if self._metrics is not None:
            if answer.num_image_tokens:
                self._metrics.vision_encode_seconds.observe(answer.timings.encoding_s)
            self._metrics.feature_cache_hits.inc(found - self._counted[0])
            self._metrics.feature_cache_queries.inc(asked - self._counted[1])
        self._counted = (found, asked)

    def _count_out_of_memory(self) -> None:
        """Makes the backend unready for a while after several such errors in a row, so that memory can be freed."""
        self._num_out_of_memory += 1
        if self._num_out_of_memory >= _OOM_IN_A_ROW:
            self._paused_until = asyncio.get_running_loop().time() + _OOM_PAUSE_S
            log.warning("Out of memory %d times in a row; not ready for %g s.", self._num_out_of_memory, _OOM_PAUSE_S)

    async def _warm_up(self) -> None:
        """Generates a few tokens about a grey image, or without an image if the model has no vision tower."""
        parts = [{"type": "text", "text": "What is this?"}]
        if getattr(self._loaded.config, "has_vision", True):
            parts.append({"type": "image_url", "image_url": _GREY_IMAGE})
        message = {"role": "user", "content": parts}
        start = await self.chat(
            ChatRequest.model_validate(
                {"model": "warm-up", "messages": [message], "temperature": 0, "max_tokens": _WARM_UP_TOKENS}
            )
        )
        async with aclosing(await start(0)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    self.ended(event)


class _StepsAfterCancel(Collector):
    """Reads the engine's counts when metrics are collected: a cancelled request has no end that could report them."""

    def __init__(self, backend: EngineBackend):
        self._backend = backend

    def collect(self) -> Iterable[Metric]:
        total, most = self._backend.steps_after_cancel()
        yield CounterMetricFamily(
            "llava:steps_after_cancel", "Steps spent on requests after their clients had left.", value=total
        )
        yield GaugeMetricFamily(
            "llava:steps_after_cancel_most", "Largest number of these steps for one request; at most 2.", value=most
        )

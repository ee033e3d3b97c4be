"""The engine of this process as a worker's backend: requests of both protocols become the engine's own."""

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
from llava.serve.worker.backend import Ask, ChatEvents, Finished, TextDelta
from llava.serve.worker.images import EncodedImage, ImageReader
from llava.serve.worker.openai_messages import dialogue_prompt, read_dialogue
from llava.text_generation.settings import MAX_SEED, Answer, Piece, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from llava.serve.protocol.original import GenerateRequest
    from llava.serve.service.metrics import Metrics

log = logging.getLogger(__name__)

DEFAULT_MAX_NEW_TOKENS: Final = 512
"""Where a chat request names no limit; what is left of the context limits further."""
_WARM_UP_TOKENS: Final = 4
_GREY_IMAGE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAAAAACPAi4CAAAAK0lEQVR42u3MQQ0AAAgEoNPM9p8h/D"
    "kIQE1uOgKBQCAQCAQCgUAgEAieBwt9cQD0Q5L62gAAAABJRU5ErkJggg=="
)
_SMALLEST_TOP_P: Final = 1e-6
_OOM_IN_A_ROW: Final = 3
_OOM_PAUSE_S: Final = 30.0


@dataclass(frozen=True)
class LoadedModel:
    """What a loader hands over."""

    engine: Any
    """`llava.engine.Engine`, or something with its surface."""
    config: Any
    """The model's config; decides the template."""
    request_type: Callable[..., Any]
    """`llava.engine.Request`; its module is too heavy to import before the loader did."""


@dataclass
class EngineBackend:
    """Loads a model in a thread and answers with its engine."""

    name: str
    load: Callable[[], LoadedModel]
    images: ImageReader = field(default_factory=ImageReader)
    asked_limit: int | None = None
    """Answers at once; None takes the engine's own."""
    conv_mode: str | None = None
    """Template of conversations; None takes the checkpoint's own."""
    warms_up: bool = True
    """Whether `start` ends with a first question, which finds out whether the model can answer at all."""

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
        """Loaded and warm, and not just out of memory several times in a row."""
        return self._warm and self.healthy and asyncio.get_running_loop().time() >= self._paused_until

    def queue_length(self) -> int:
        return 0  # the engine has only what this worker's permits let through

    def observe(self, metrics: Metrics) -> None:
        self._metrics = metrics
        metrics.registry.register(_StepsAfterCancel(self))
        self.images.on_decoded = metrics.image_decode_seconds.observe

    async def start(self) -> None:
        self._model = await asyncio.to_thread(self.load)
        if self.warms_up:
            await self._warm_up()
        self._warm = True

    async def close(self) -> None:
        self.images.close()
        if self._model is not None:
            await asyncio.to_thread(self._model.engine.close)

    async def legacy(self, request: GenerateRequest) -> Ask:
        images = await self.images.read([(image, f"images[{i}]") for i, image in enumerate(request.images or ())])
        sampling = Sampling(
            temperature=request.temperature,
            top_p=max(request.top_p, _SMALLEST_TOP_P),
            max_new_tokens=request.max_new_tokens,
        )
        stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
        return self._ask(request.prompt, images, sampling, tuple(text for text in stop if text), ())

    async def chat(self, request: ChatRequest) -> Ask:
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
        return self._ask(prompt.text, images, sampling, (prompt.stop, *request.stops), prompt.roles)

    def steps_after_cancel(self) -> tuple[int, int]:
        """Steps that the engine spent on requests whose client had gone, and the most that one of them got."""
        if self._model is None:
            return 0, 0
        stats = self._model.engine.stats
        return stats.steps_after_cancel, stats.most_steps_after_cancel

    @property
    def _loaded(self) -> LoadedModel:
        if self._model is None:
            raise RuntimeError("a request came in before the model was loaded")
        return self._model

    def _ask(
        self,
        prompt: str,
        encoded: list[EncodedImage],
        sampling: Sampling,
        stop: tuple[str, ...],
        prefixes: tuple[str, ...],
    ) -> Ask:
        decoded: list[Image.Image] = []
        decoding = asyncio.Lock()

        async def images() -> tuple[Image.Image, ...]:
            # Only now, with a permit: the images of all that wait would not fit into memory.
            async with decoding:
                if len(decoded) < len(encoded):
                    decoded.extend(await self.images.decode(encoded))
            return tuple(decoded)

        async def ask(index: int) -> ChatEvents:
            seed = sampling.seed
            request = self._loaded.request_type(
                prompt=prompt,
                images=await images(),
                # Choices that began from one seed would all be the same answer.
                sampling=replace(sampling, seed=None if seed is None else (seed + index) & MAX_SEED),
                stop=stop,
                prefixes=prefixes,
                request_id=request_id() or None,
            )
            async with aclosing(self._events(request)) as events:
                async for event in events:
                    yield event

        return ask

    async def _events(self, request: Any) -> ChatEvents:
        written, num_written = "", 0
        try:
            async with aclosing(self._loaded.engine.stream(request)) as events:
                async for event in events:
                    if isinstance(event, Piece):
                        yield TextDelta(event.text, event.num_new_tokens - num_written)
                        written, num_written = written + event.text, event.num_new_tokens
                    elif isinstance(event, Answer):
                        rest = event.text[len(written) :]
                        if rest:  # beams are not streamed: their text comes with the end
                            yield TextDelta(rest, event.num_new_tokens - num_written)
                        self._num_out_of_memory = 0
                        self._count_images(event)
                        yield Finished(
                            event.finish_reason,
                            event.num_prompt_tokens,
                            event.num_new_tokens,
                            event.num_image_tokens,
                        )
        except Exception as error:
            self._note(error)
            raise

    def _count_images(self, answer: Answer) -> None:
        """Passes on what the engine has counted since it was last asked."""
        stats = self._loaded.engine.stats
        found, asked = stats.images_found, stats.images_found + stats.images_encoded
        if self._metrics is not None:
            if answer.num_image_tokens:
                self._metrics.vision_encode_seconds.observe(answer.timings.encoding_s)
            self._metrics.feature_cache_hits.inc(found - self._counted[0])
            self._metrics.feature_cache_queries.inc(asked - self._counted[1])
        self._counted = (found, asked)

    def _note(self, error: Exception) -> None:
        """Several times in a row out of memory: not ready for a while, so that the memory can come back."""
        if getattr(error, "code", None) != "out_of_memory":
            return
        self._num_out_of_memory += 1
        if self._num_out_of_memory >= _OOM_IN_A_ROW:
            self._paused_until = asyncio.get_running_loop().time() + _OOM_PAUSE_S
            log.warning("out of memory %d times in a row: not ready for %g s", self._num_out_of_memory, _OOM_PAUSE_S)

    async def _warm_up(self) -> None:
        """A few greedy words about a grey image (about nothing, for a model without a vision tower)."""
        parts = [{"type": "text", "text": "What is this?"}]
        if getattr(self._loaded.config, "has_vision", True):
            parts.append({"type": "image_url", "image_url": _GREY_IMAGE})
        message = {"role": "user", "content": parts}
        ask = await self.chat(
            ChatRequest.model_validate(
                {"model": "warm-up", "messages": [message], "temperature": 0, "max_tokens": _WARM_UP_TOKENS}
            )
        )
        async with aclosing(ask(0)) as events:
            async for _ in events:
                pass


class _StepsAfterCancel(Collector):
    """The engine's own count, as it is when somebody looks: a client that is gone sees no end that could carry it."""

    def __init__(self, backend: EngineBackend):
        self._backend = backend

    def collect(self) -> Iterable[Metric]:
        total, most = self._backend.steps_after_cancel()
        yield CounterMetricFamily(
            "llava:steps_after_cancel", "steps spent on requests after their client had gone", value=total
        )
        yield GaugeMetricFamily(
            "llava:steps_after_cancel_most", "the most of these that one request got; 2 at most", value=most
        )

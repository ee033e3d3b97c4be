"""An engine without a model: writes given words at a given pace, fails on demand, and counts what it does.

It has the surface of `llava.engine.Engine` as the worker uses it. Steps run in a task of their own, as the real ones
run in a thread, so a step after a cancel would be seen.

As a program it is a worker with all flags of the real one: `python -m tests.support.fake_backend --port 0 ...`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from llava.command_line import run
from llava.errors import ContextTooLong, ImageTokenMismatch
from llava.serve.worker.arguments import add_worker_arguments
from llava.serve.worker.command import WorkerSettings, run_worker
from llava.serve.worker.engine_backend import EngineBackend, LoadedModel
from llava.text_generation.answer_events import Answer, Piece
from llava.text_generation.settings import Sampling

CONFIG = SimpleNamespace(
    model_type="llava_llama",
    mm_vision_tower="tower",
    mm_use_im_patch_token=False,
    conv_mode="llava_v1",
    has_vision=True,
)
"""Of a checkpoint of the later releases, asked with the template `llava_v1`."""
WORDS = ("A", " cat", " sits", " on", " a", " mat.")


@dataclass(frozen=True)
class FakeRequest:
    prompt: str
    images: tuple[Any, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    request_id: str | None = None

    def __post_init__(self) -> None:
        if self.prompt.count("<image>") != len(self.images):
            raise ImageTokenMismatch("the prompt has another number of markers than there are images.")


@dataclass(frozen=True)
class Plan:
    """What becomes of one request."""

    words: tuple[str, ...] = WORDS
    pace_s: float = 0.0
    """Between two words."""
    silence_s: float = 0.0
    """Before the first."""
    error: Exception | None = None
    error_after: int = 0
    """Words before the error."""
    repeat: int = 1


@dataclass
class FakeEngine:
    plan: Callable[[FakeRequest], Plan] = lambda request: Plan()
    limit: int = 4
    context_length: int = 10_000
    healthy: bool = True
    seen: list[FakeRequest] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    steps: int = 0
    steps_after_close: int = 0
    finished: int = 0
    cancelled: int = 0
    closed: bool = False
    stats: Any = field(
        default_factory=lambda: SimpleNamespace(
            images_found=0, images_encoded=0, steps_after_cancel=0, most_steps_after_cancel=0
        )
    )

    @property
    def queue_length(self) -> int:
        return self.running

    async def stream(self, request: FakeRequest) -> AsyncIterator[Piece | Answer]:
        self.seen.append(request)
        self.stats.images_encoded += len(request.images)
        num_prompt_tokens = len(request.prompt.split()) + 9 * len(request.images)
        if num_prompt_tokens >= self.context_length:
            raise ContextTooLong(num_prompt_tokens, self.context_length)
        plan = self.plan(request)
        words = (plan.words * plan.repeat)[: request.sampling.max_new_tokens]
        events: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        open_ = True

        async def step() -> None:
            await asyncio.sleep(plan.silence_s)
            for index, word in enumerate(words):
                if plan.error is not None and index == plan.error_after:
                    break
                self.steps += 1
                self.steps_after_close += not open_
                events.put_nowait(word)
                if not open_:  # seen after a step that was under way, as the real engine sees it
                    return
                await asyncio.sleep(plan.pace_s)
            events.put_nowait(plan.error)

        self.running += 1
        self.most_running = max(self.most_running, self.running)
        steps = asyncio.ensure_future(step())
        text, number = "", 0
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, Exception):
                    raise type(event)(*event.args)  # a new one: an exception keeps what it passed through
                number += 1
                written, text = text, text + event
                cut = min((text.find(stop) for stop in request.stop if stop in text), default=-1)
                if cut >= 0:
                    text = text[:cut]
                    yield Piece(text[len(written) :], 1)
                    break
                yield Piece(event, 1)
            reason = "length" if len(words) == request.sampling.max_new_tokens and event is None else "stop"
            self.finished += 1
            yield Answer(text, reason, num_prompt_tokens, number, 9 * len(request.images))
        finally:
            open_ = False
            self.running -= 1
            self.cancelled += not steps.done()
            steps.add_done_callback(lambda task: task.cancelled() or task.exception())

    def close(self) -> None:
        self.closed = True


def fake_backend(
    engine: FakeEngine, *, name: str = "llava-fake", config: Any = CONFIG, **settings: Any
) -> EngineBackend:
    return EngineBackend(name=name, load=lambda: LoadedModel(engine, config, FakeRequest), **settings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--words", type=int, default=len(WORDS))
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--load-error", default="")
    parser.add_argument("--dies-after", type=float, default=0.0, help="seconds from the first request")
    add_worker_arguments(parser)


def main(args: argparse.Namespace) -> int:
    import time

    from llava.errors import CheckpointError
    from llava.serve.worker.images import ImageReader

    words = tuple(f" w{index}" for index in range(args.words))
    engine = FakeEngine(plan=lambda request: Plan(words=words, pace_s=args.pace))

    def load() -> LoadedModel:
        time.sleep(args.load_seconds)
        if args.load_error:
            raise CheckpointError(args.load_error)
        return LoadedModel(engine, CONFIG, FakeRequest)

    settings = WorkerSettings.from_args(args)
    backend = EngineBackend(
        name="llava-fake",
        load=load,
        images=ImageReader(allowed_hosts=settings.image_hosts),
        asked_limit=settings.max_running,
    )
    if args.dies_after:
        started = backend.start

        async def start_and_die() -> None:
            await started()
            asyncio.get_running_loop().call_later(args.dies_after, lambda: setattr(engine, "healthy", False))

        backend.start = start_and_die  # type: ignore[method-assign]
    return run_worker(settings, backend, title="fake worker")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(run(add_arguments, main, description=__doc__))

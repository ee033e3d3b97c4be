"""Answers the questions of an evaluation with a model that is loaded in this process."""

from __future__ import annotations

import sys
from contextlib import aclosing
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llava.errors import ContextTooLong, EngineFailed, LlavaError, ShuttingDown
from llava.eval.answering.answerer import EvalAnswer
from llava.eval.answering.settings import AnsweringSettings
from llava.eval.answering.torchrun import TorchrunProcess
from llava.eval.data.model_fingerprint import fingerprint
from llava.eval.data.questions import Question
from llava.images.loading import load_image
from llava.model.loading.arguments import ModelSettings, find_model

if TYPE_CHECKING:
    from PIL import Image

    from llava.engine import Engine
    from llava.prompting import Prompt
    from llava.text_generation.answer_events import Answer
    from llava.text_generation.settings import Sampling

_LETTER_PROMPT = " ###\nANSWER:"
"""Appended to an explanation as in the original: the heading of the letter in ScienceQA's training data."""
_LETTER_TOKENS = 64
"""Maximum number of tokens of the separate answer that should be a letter."""
_NUM_CACHED_IMAGES = 4
"""Number of decoded images to keep for further questions about them."""


class LocalModel:
    """An `Answerer` that loads a model when it is opened."""

    def __init__(
        self, model: ModelSettings, answering: AnsweringSettings, *, batch_size: int, process: TorchrunProcess
    ):
        """
        Args:
            model: the model to load.
            answering: how questions are answered.
            batch_size: number of questions answered at once.
            process: this process among those of the run; each takes its own GPU.
        """
        self._model = model
        self._answering = answering
        self._batch_size = batch_size
        self._process = process
        self._engine: Engine | None = None
        self._load_image = lru_cache(maxsize=_NUM_CACHED_IMAGES)(load_image)

    async def identify(self) -> tuple[str, dict[str, Any]]:
        model = self._model
        self._folder, name, notice = find_model(model.model_path)
        if notice and self._process.is_first:
            print(notice, file=sys.stderr)
        from llava.model.loading.model_folder import read_model_folder

        self._config = read_model_folder(self._folder, base=model.model_base).config()
        self._template = self._answering.conv_mode or own_template(self._config, name)
        settings: dict[str, Any] = {
            "checkpoint": fingerprint(self._folder, model.model_base, model.vision_tower, model.mm_projector),
            "conv_mode": self._template,
        }
        for flag, value in (("dtype", model.dtype), ("load_8bit", model.load_8bit), ("load_4bit", model.load_4bit)):
            if value:
                settings[flag] = value
        return name, settings

    async def open(self) -> None:
        from llava.engine import BatchSettings, Engine, EngineSettings

        device = _device(self._model.device, self._process.local_rank)
        tokenizer, model, image_processor, context_length = self._model.load(self._folder, device=device)
        self._config = model.config
        settings = EngineSettings(BatchSettings(max_running=self._batch_size))
        self._engine = Engine(model, tokenizer, image_processor, context_length, settings)

    async def answer(self, question: Question) -> EvalAnswer:
        from llava.prompting import build_prompt

        images = tuple(self._load_image(source) for source in question.images)
        prompt = build_prompt(self._config, question.text, len(images), conv_mode=self._template)
        sampling = self._answering.sampling_for(question)
        explained = await self._write(prompt, prompt.text, images, sampling)
        is_cut = explained.finish_reason == "length"
        if not self._answering.answer_prompter:
            return EvalAnswer(explained.text, is_cut)
        try:
            text = prompt.text + explained.text + _LETTER_PROMPT
            letter = (await self._write(prompt, text, images, replace(sampling, max_new_tokens=_LETTER_TOKENS))).text
        except ContextTooLong:
            # The explanation fills the context, so there is no letter and the answer names no choice.
            letter, is_cut = "", True
        return EvalAnswer(f"{explained.text}\n The answer is {letter}", is_cut)

    def is_hopeless(self, error: LlavaError) -> bool:
        if isinstance(error, ShuttingDown):
            return True
        return isinstance(error, EngineFailed) and not (self._engine and self._engine.healthy)

    async def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    async def _write(self, prompt: Prompt, text: str, images: tuple[Image.Image, ...], sampling: Sampling) -> Answer:
        from llava.engine import Answer, Request

        # In every template, an explanation ends where the heading of the letter begins.
        stop = (prompt.stop, "###") if self._answering.answer_prompter else (prompt.stop,)
        request = Request(text, images, sampling, stop, prompt.roles)
        assert self._engine is not None
        async with aclosing(self._engine.stream(request)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise AssertionError("a stream ends with its answer")


def own_template(config: Any, name: str) -> str:
    """Returns the template that a checkpoint is evaluated with if --conv-mode is not given.

    It is the one that the config names. Otherwise it is `simple` for v0, as in the original, and the model's default
    template for later releases.
    """
    from llava.template_choice import default_template_for, release_of

    if release_of(config) == "v0" and not config.conv_mode:
        return "simple"
    return default_template_for(config, name=name)


def _device(asked: str | None, local_rank: int | None) -> str | None:
    """Returns the device of --device; each of several processes takes its own GPU unless --device names one."""
    if local_rank is None or asked not in (None, "cuda"):
        return asked
    import torch

    num_gpus = torch.cuda.device_count()
    return f"cuda:{local_rank % num_gpus}" if num_gpus else asked

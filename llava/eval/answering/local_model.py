"""Answers the questions of an evaluation with a model in this process."""

from __future__ import annotations

import argparse
import sys
from contextlib import aclosing
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llava.errors import ContextTooLong, EngineFailed, LlavaError, ShuttingDown
from llava.eval.answering.answerer import LETTER_TOKENS, Manner, Written
from llava.eval.data.model_fingerprint import fingerprint
from llava.eval.data.questions import Question
from llava.images.loading import load_image
from llava.model.loading.arguments import ModelSettings, find_model

if TYPE_CHECKING:
    from PIL import Image

    from llava.engine import Engine
    from llava.prompting import Prompt
    from llava.text_generation.settings import Answer, Sampling

_LETTER_PROMPT = " ###\nANSWER:"
"""What the original puts behind an explanation: the heading under which ScienceQA's training data have the letter."""

_IMAGES_KEPT = 4
"""Decoded, for further questions about them."""


class LocalModel:
    """An `Answerer`."""

    def __init__(self, args: argparse.Namespace, manner: Manner):
        """
        Args:
            args: what `add_model_arguments` read, `num_gpus`, `batch_size` and `local_rank`.
        """
        self._args = args
        self._manner = manner
        self._engine: Engine | None = None
        self._load_image = lru_cache(maxsize=_IMAGES_KEPT)(load_image)

    async def identify(self) -> tuple[str, dict[str, Any]]:
        args = self._args
        self._folder, name, notice = find_model(args.model_path)
        if notice and args.is_first:
            print(notice, file=sys.stderr)
        from llava.model.loading.model_folder import read_model_folder

        self._config = read_model_folder(self._folder).config()
        self._template = self._manner.conv_mode or own_template(self._config, name)
        settings = {
            "checkpoint": fingerprint(self._folder, args.model_base, args.vision_tower, args.mm_projector),
            "conv_mode": self._template,
            **{flag: getattr(args, flag) for flag in ("dtype", "load_8bit", "load_4bit") if getattr(args, flag)},
        }
        return name, settings

    async def open(self) -> None:
        from llava.engine import BatchSettings, Engine, EngineSettings

        args = self._args
        device = _device(args.device, args.local_rank)
        loading = ModelSettings.from_args(args)
        tokenizer, model, image_processor, context_length = loading.load(self._folder, device=device)
        self._config = model.config
        settings = EngineSettings(BatchSettings(max_running=args.batch_size))
        self._engine = Engine(model, tokenizer, image_processor, context_length, settings)

    async def answer(self, question: Question) -> Written:
        from llava.prompting import build_prompt

        images = tuple(self._load_image(source) for source in question.images)
        prompt = build_prompt(self._config, question.text, len(images), conv_mode=self._template)
        sampling = self._manner.sampling_for(question)
        explained = await self._write(prompt, prompt.text, images, sampling)
        if not self._manner.answer_prompter:
            return Written(explained.text, explained.finish_reason == "length")
        is_cut = explained.finish_reason == "length"
        try:
            text = prompt.text + explained.text + _LETTER_PROMPT
            letter = (await self._write(prompt, text, images, replace(sampling, max_new_tokens=LETTER_TOKENS))).text
        except ContextTooLong:
            # The explanation has filled the context: there is no letter, and the answer counts as it should, as none.
            letter, is_cut = "", True
        return Written(f"{explained.text}\n The answer is {letter}", is_cut)

    def is_hopeless(self, error: LlavaError) -> bool:
        if isinstance(error, ShuttingDown):
            return True
        return isinstance(error, EngineFailed) and not (self._engine and self._engine.healthy)

    async def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    async def _write(self, prompt: Prompt, text: str, images: tuple[Image.Image, ...], sampling: Sampling) -> Answer:
        from llava.engine import Answer, Request

        # An explanation ends where the heading of the letter begins, in every template.
        stop = (prompt.stop, "###") if self._manner.answer_prompter else (prompt.stop,)
        request = Request(text, images, sampling, stop, prompt.roles)
        assert self._engine is not None
        async with aclosing(self._engine.stream(request)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise AssertionError("a stream ends with its answer")


def own_template(config: Any, name: str) -> str:
    """The template that a checkpoint is evaluated with where none is asked for.

    Its own, if its config names one; for others of v0 `simple`, the original's; for later ones that of their kind.
    """
    from llava.template_choice import default_template_for, era_of

    if era_of(config) == "v0" and not config.conv_mode:
        return "simple"
    return default_template_for(config, name=name)


def _device(asked: str | None, local_rank: int | None) -> str | None:
    """What --device says; one of several processes that names no one GPU takes its own."""
    if local_rank is None or asked not in (None, "cuda"):
        return asked
    import torch

    there = torch.cuda.device_count()
    return f"cuda:{local_rank % there}" if there else asked

"""Engines on the golden checkpoints, and requests to ask them."""

from __future__ import annotations

from functools import cache
from typing import Any

from PIL import Image

from llava.engine import Answer, Engine, EngineSettings, Request, Sampling
from llava.engine.sequential import answer
from llava.mm_utils import load_image
from llava.model.builder import load_pretrained_model
from llava.prompting import build_prompt, encode_prompt
from tests.support.checkpoints import DATA, TOWER

QUESTIONS = ("What is this?", "Why?", "How many are there, and of what colour?", "Tell me a story about it.")


@cache
def loaded(name: str) -> tuple[Any, Any, Any, int]:
    """(tokenizer, model, image processor, context length) of a golden checkpoint; one model for all tests."""
    return load_pretrained_model(DATA / name, device="cpu", dtype="float32", vision_tower=TOWER)


def engine(name: str, settings: EngineSettings | None = None, *, context_length: int | None = None) -> Engine:
    tokenizer, model, image_processor, context = loaded(name)
    return Engine(model, tokenizer, image_processor, context_length or context, settings)


def image(number: int) -> Image.Image:
    """One of many different images."""
    base = load_image(DATA / "images" / "tiny.png")
    return base.rotate(7 * number, fillcolor=(number * 40 % 256, number * 90 % 256, number * 20 % 256))


def ask(
    name: str,
    question: str,
    *images: Image.Image,
    max_new_tokens: int = 24,
    stop: tuple[str, ...] | None = None,
    **settings: Any,
) -> Request:
    """A greedy request (unless `temperature` is given) in the checkpoint's own template."""
    prompt = build_prompt(loaded(name)[1].config, question, len(images))
    sampling = Sampling(**{"temperature": 0.0, "max_new_tokens": max_new_tokens} | settings)
    return Request(prompt.text, images, sampling, stop=(prompt.stop,) if stop is None else stop, prefixes=prompt.roles)


def mixed_requests(name: str, count: int) -> list[Request]:
    """Questions of different lengths about one, no or two of three images, with answers of different lengths."""
    requests = []
    for i in range(count):
        images = [image(i % 3)] * (0 if i % 5 == 4 else 1) + [image(1)] * (i % 7 == 6)
        requests.append(ask(name, QUESTIONS[i % 4], *images, max_new_tokens=6 + 5 * i % 37))
    return requests


def answered_alone(name: str, request: Request) -> Answer:
    """The same request by `generate`, by itself."""
    tokenizer, model, image_processor, context = loaded(name)
    return answer(
        model,
        tokenizer,
        encode_prompt(request.prompt, request.images, model, tokenizer, image_processor),
        request.sampling,
        stop=request.stop,
        prefixes=request.prefixes,
        context_length=context,
    )


def facts(result: Answer) -> tuple[Any, ...]:
    """Everything about an answer but how long it took."""
    return (
        result.text,
        result.finish_reason,
        result.num_prompt_tokens,
        result.num_image_tokens,
        result.num_new_tokens,
    )

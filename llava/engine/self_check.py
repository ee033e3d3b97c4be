"""Checks at an engine's start that batched answers are the model's own.

transformers' batching manager changes with each minor release. A change that it does not announce shows neither as an
exception nor as a warning, only as wrong answers; this check finds it before anybody asks.
"""

from __future__ import annotations

import queue
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.engine.request import Request
from llava.engine.request_state import EngineEvent
from llava.engine.scheduler import Scheduler
from llava.errors import ContextTooLong, LlavaError, OutOfMemory
from llava.prompting import encode_prompt
from llava.text_generation.answer_events import Failure, Piece
from llava.text_generation.settings import Sampling

_NUM_TOKENS: Final = 8
_IMAGE_SIDE: Final = 64
"""Pixels; any image does."""
_TOLERANCE: Final = {torch.float32: 0.01}
_TOLERANCE_OF_HALF: Final = 0.2
"""How far a token's logit may lie below the largest one, in standard deviations of the logits. Two kernels round
differently, so that either of two nearly equal tokens may win; a wrong mask or a lost image is off by far more."""


def why_batching_differs(scheduler: Scheduler, model: Any, tokenizer: Any, image_processor: Any) -> str | None:
    """Answers one request in a batch and compares each token with the plain forward pass of the model.

    Args:
        scheduler: runs batches and has nothing else to do.
        model, tokenizer, image_processor: what the scheduler was made with.

    Returns:
        What differs, as the end of a sentence; None if nothing does, or if the context is too short for the request.

    Raises:
        OutOfMemory: the device cannot hold the request.
    """
    request = _request(sees_images=image_processor is not None)
    try:
        tokens = _batched(scheduler, request)
    except OutOfMemory:
        raise
    except ContextTooLong:
        return None
    except LlavaError as error:
        return f"a batched request failed: {error}"
    logits = _plain_logits(model, tokenizer, image_processor, request, tokens)
    if not bool(logits.isfinite().all()):
        return None  # the weights are broken, not the batches
    largest, spread = logits.max(dim=1).values, logits.std(dim=1)
    behind = (largest - logits.gather(1, tokens.to(logits.device)[:, None])[:, 0]) / spread
    wrong = (behind > _TOLERANCE.get(model.dtype, _TOLERANCE_OF_HALF)).nonzero()
    if not len(wrong):
        return None
    return f"token {int(wrong[0]) + 1} of {len(tokens)} is not the one that the model prefers"


def _request(*, sees_images: bool) -> Request:
    greedy = Sampling(temperature=0, max_new_tokens=_NUM_TOKENS)
    if not sees_images:
        return Request("What is the capital of France?", sampling=greedy)
    image = Image.linear_gradient("L").resize((_IMAGE_SIDE, _IMAGE_SIDE)).convert("RGB")
    return Request(f"{DEFAULT_IMAGE_TOKEN}\nDescribe the image.", (image,), greedy)


def _batched(scheduler: Scheduler, request: Request) -> Tensor:
    """Returns the ids of the batched answer, [tokens], int64."""
    events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
    state = scheduler.submit(request, events.put)
    while isinstance(event := events.get(), Piece):
        pass
    if isinstance(event, Failure):
        raise event.take()
    return torch.tensor(state.tokens)


@torch.no_grad()
def _plain_logits(model: Any, tokenizer: Any, image_processor: Any, request: Request, tokens: Tensor) -> Tensor:
    """Returns what the model says in place of each token, [tokens, vocabulary], float32."""
    inputs = encode_prompt(request.prompt, request.images, model, tokenizer, image_processor)
    prompt = model.splice_images(inputs.input_ids, None, None, inputs.images, inputs.image_sizes).inputs_embeds
    answer = model.get_input_embeddings()(tokens[None].to(prompt.device))
    embeds = torch.cat([prompt, answer.to(prompt)], dim=1)
    logits = model(inputs_embeds=embeds, use_cache=False, logits_to_keep=len(tokens) + 1).logits
    return logits[0, :-1].float()

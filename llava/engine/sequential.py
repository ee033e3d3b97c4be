"""Answers one request at a time with transformers' `generate`, for what the batching manager cannot do: beam search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from llava.engine.capacity import end_ids
from llava.engine.commands import EngineCommand, RequestFinished
from llava.engine.failures import as_error, logits_not_finite
from llava.engine.request_state import RequestState
from llava.engine.steps_after_cancel import StepsAfterCancel
from llava.errors import ContextTooLong
from llava.model.language_model.splice import num_text_tokens
from llava.prompting import ModelInputs, encode_prompt
from llava.text_generation.answer_events import Answer, Piece
from llava.text_generation.answer_text import AnswerText, control_ids
from llava.text_generation.settings import Sampling


class SequentialRunner:
    """Answers requests one after the other on a thread of its own."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        context_length: int,
        post: Callable[[EngineCommand], None],
    ):
        """
        Args:
            post: receives a `RequestFinished` for each request, on the runner's thread.
        """
        self.steps = StepsAfterCancel()
        self._model = model
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._context_length = context_length
        self._post = post
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llava-sequential")
        self._closing = False
        self._is_busy = False
        self._last_progress = time.monotonic()

    @property
    def silence_s(self) -> float:
        """Seconds since the last token, or 0 if nothing is running."""
        return time.monotonic() - self._last_progress if self._is_busy else 0.0

    def submit(self, state: RequestState) -> None:
        """Queues a request."""
        self._thread.submit(self._run, state)

    def close(self) -> None:
        """Ends the current answer with its next token and drops the waiting requests."""
        self._closing = True
        self._thread.shutdown(cancel_futures=True)

    def _run(self, state: RequestState) -> None:
        if state.done or state.cancelled:
            return
        self._is_busy = True
        state.started = self._last_progress = time.monotonic()
        self.steps.begins([state.number])
        try:
            self._post(RequestFinished(state, self._answer(state)))
        except BaseException as error:
            self._post(RequestFinished(state, as_error(error)))
        finally:
            self.steps.begins([])
            self._is_busy = False

    def _answer(self, state: RequestState) -> Answer:
        def ends_after_step() -> bool:
            self._last_progress = time.monotonic()
            state.first_token = state.first_token or self._last_progress
            ends = state.cancelled or self._closing
            self.steps.begins([] if ends else [state.number])
            return ends

        request = state.request
        result = answer(
            self._model,
            self._tokenizer,
            encode_prompt(request.prompt, request.images, self._model, self._tokenizer, self._image_processor),
            request.sampling,
            stop=request.stop,
            prefixes=request.prefixes,
            context_length=self._context_length,
            on_piece=state.emit,
            ends_after_step=ends_after_step,
        )
        return replace(result, timings=state.timings())


def answer(
    model: Any,
    tokenizer: Any,
    inputs: ModelInputs,
    sampling: Sampling,
    *,
    stop: Sequence[str] = (),
    prefixes: Sequence[str] = (),
    context_length: int,
    on_piece: Callable[[Piece], None] | None = None,
    ends_after_step: Callable[[], bool] | None = None,
) -> Answer:
    """Answers one prompt.

    Args:
        stop: texts that end the answer and are not part of it.
        prefixes: texts to drop from the beginning of the answer, in any order and number.
        context_length: limit of prompt, images and answer together, in tokens.
        on_piece: called with each new piece of the answer. Beams produce no piece before the search ends.
        ends_after_step: called after each token; True ends the answer there.

    Raises:
        ContextTooLong: prompt and images leave no room for an answer. Nothing is computed in this case.
        LogitsNotFinite: the model's logits are NaN or infinite.
    """
    spliced = model.splice_images(inputs.input_ids, None, None, inputs.images, inputs.image_sizes, padding_side="left")
    prompt_tokens = spliced.inputs_embeds.shape[1]
    num_image_tokens = prompt_tokens - num_text_tokens(inputs.input_ids, model.patch_token_id)
    room = context_length - prompt_tokens
    if room < 1:
        raise ContextTooLong(prompt_tokens, context_length)
    text = AnswerText(tokenizer, stop, prefixes, on_piece)
    ends = (*end_ids(model), *control_ids(tokenizer, stop))
    step = _Step(text if sampling.num_beams == 1 else None, ends_after_step)
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    generated = model.generate(
        inputs_embeds=spliced.inputs_embeds,
        attention_mask=spliced.attention_mask,
        max_new_tokens=min(sampling.max_new_tokens, room),
        stopping_criteria=StoppingCriteriaList([step]),
        logits_processor=LogitsProcessorList([_FiniteLogits(model)]),
        eos_token_id=list(ends) or None,
        **sampling.as_generate_options(),
    )[0].tolist()
    text.update(generated)
    text.finish()
    ended = text.stopped or (bool(generated) and generated[-1] in ends)
    return Answer(text.text, "stop" if ended else "length", prompt_tokens, len(generated), num_image_tokens)


class _FiniteLogits:
    """A logits processor that changes nothing, and raises where logits are NaN or infinite."""

    def __init__(self, model: Any):
        self._model = model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not bool(scores.amax(dim=-1).isfinite().all()):
            raise logits_not_finite(self._model)
        return scores


class _Step:
    """A stopping criterion that passes the ids of each step to an `AnswerText`."""

    def __init__(self, text: AnswerText | None, ends_after_step: Callable[[], bool] | None):
        self._text = text
        self._ends_after_step = ends_after_step

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = False
        if self._text is not None:
            self._text.update(input_ids[0].tolist())
            done = self._text.stopped
        if self._ends_after_step is not None:
            done = self._ends_after_step() or done
        return torch.full((input_ids.shape[0],), done, dtype=torch.bool, device=input_ids.device)

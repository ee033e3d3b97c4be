"""One answer at a time by transformers' own `generate`: for what the batching manager cannot do, such as beams."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from transformers import StoppingCriteriaList

from llava.engine.request_state import Ticket
from llava.engine.steps_after_cancel import StepsAfterCancel
from llava.engine.supervisor import as_error
from llava.errors import ContextTooLong, LlavaError
from llava.prompting import ModelInputs, encode_prompt
from llava.text_generation.answer_text import AnswerText
from llava.text_generation.settings import Answer, Piece, Sampling


class Soloist:
    """Answers requests one after the other on a thread of its own."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        context_length: int,
        on_end: Callable[[Ticket, Answer | LlavaError], None],
        steps: StepsAfterCancel,
    ):
        """
        Args:
            on_end: called on the soloist's thread.
            steps: told of each step.
        """
        self._model = model
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._context_length = context_length
        self._on_end = on_end
        self._steps = steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llava-single")
        self._closing = False
        self.is_busy = False
        self.last_progress = time.monotonic()

    def begin(self, ticket: Ticket) -> None:
        self._thread.submit(self._answer, ticket)

    def close(self) -> None:
        """Ends the answer under way with its next token, and forgets those that wait."""
        self._closing = True
        self._thread.shutdown(cancel_futures=True)

    def _answer(self, ticket: Ticket) -> None:
        if ticket.done or ticket.cancelled:
            return
        self.is_busy = True
        ticket.started = self.last_progress = time.monotonic()
        num_tokens = 0

        def stepped(count: int) -> bool:
            nonlocal num_tokens
            num_tokens = count
            self.last_progress = time.monotonic()
            ticket.first_token = ticket.first_token or self.last_progress
            ends = ticket.cancelled or self._closing
            self._steps.begins([] if ends else [ticket.number])
            return ends

        self._steps.begins([ticket.number])
        try:
            request = ticket.request
            result = answer(
                self._model,
                self._tokenizer,
                encode_prompt(request.prompt, request.images, self._model, self._tokenizer, self._image_processor),
                request.sampling,
                stop=request.stop,
                prefixes=request.prefixes,
                context_length=self._context_length,
                on_text=lambda text: None if ticket.cancelled else ticket.sink(Piece(text, num_tokens)),
                on_step=stepped,
            )
            self._on_end(ticket, replace(result, timings=ticket.timings()))
        except BaseException as error:
            self._on_end(ticket, as_error(error))
        finally:
            self._steps.begins([])
            self.is_busy = False


def answer(
    model: Any,
    tokenizer: Any,
    inputs: ModelInputs,
    sampling: Sampling,
    *,
    stop: Sequence[str] = (),
    prefixes: Sequence[str] = (),
    context_length: int,
    on_text: Callable[[str], None] | None = None,
    on_step: Callable[[int], bool] | None = None,
) -> Answer:
    """Answers one prompt.

    Args:
        stop: texts that end the answer and are not part of it.
        prefixes: texts to drop, in any order and number, where the answer begins with them.
        context_length: tokens of prompt, images and answer together; the answer is limited to what is left.
        on_text: called with each new piece of the answer; the pieces together are the answer's text.
        on_step: called with the number of tokens after each; True ends the answer there.

    Raises:
        ContextTooLong: prompt and images leave no room for an answer; nothing is computed then.
    """
    spliced = model.splice_images(inputs.input_ids, None, None, inputs.images, inputs.image_sizes, padding_side="left")
    prompt_tokens = spliced.inputs_embeds.shape[1]
    num_image_tokens = prompt_tokens - num_text_tokens(inputs.input_ids, model.patch_token_id)
    room = context_length - prompt_tokens
    if room < 1:
        raise ContextTooLong(prompt_tokens, context_length)
    text = AnswerText(tokenizer, stop, prefixes, on_text)
    step = _Step(text if sampling.num_beams == 1 else None, on_step)
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    generated = model.generate(
        inputs_embeds=spliced.inputs_embeds,
        attention_mask=spliced.attention_mask,
        max_new_tokens=min(sampling.max_new_tokens, room),
        stopping_criteria=StoppingCriteriaList([step]),
        **sampling.as_generate_options(),
    )[0].tolist()
    text.update(generated)
    text.finish()
    ended = text.stopped or (bool(generated) and generated[-1] in end_ids(model))
    return Answer(text.text, "stop" if ended else "length", prompt_tokens, len(generated), num_image_tokens)


def num_text_tokens(ids: torch.Tensor, patch_id: int | None) -> int:
    """Those of a prompt's ids, [1, length], that are no places for features of images."""
    return int(((ids >= 0) & (ids != (-1 if patch_id is None else patch_id))).sum())


def end_ids(model: Any) -> tuple[int, ...]:
    """The tokens that end an answer."""
    end = model.generation_config.eos_token_id
    if end is None:
        return ()
    return tuple(end) if isinstance(end, (list, tuple)) else (end,)


class _Step:
    """Feeds the ids of each step to an `AnswerText`; true once it met a stop text, or the caller wants no more."""

    def __init__(self, text: AnswerText | None, on_step: Callable[[int], bool] | None):
        self._text = text
        self._on_step = on_step

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = False
        if self._text is not None:
            self._text.update(input_ids[0].tolist())
            done = self._text.stopped
        if self._on_step is not None:
            done = self._on_step(input_ids.shape[1]) or done
        return torch.full((input_ids.shape[0],), done, dtype=torch.bool, device=input_ids.device)

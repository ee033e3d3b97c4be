"""From a request to token ids: images encoded once, each a run of virtual ids; limits checked before any compute."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llava.engine.image_table import ImageTable, Run, TooManyFeatures, content_key
from llava.engine.sequential import num_text_tokens
from llava.errors import ContextTooLong, ImageTokenMismatch
from llava.mm_utils import process_images
from llava.model.language_model.splice import splice_ids
from llava.prompting import prompt_ids

if TYPE_CHECKING:
    from PIL import Image

    from llava.engine.request_state import Ticket


_IMAGES_AT_ONCE = 8
"""Bounds the tower's memory."""


@dataclass(frozen=True)
class _Unseen:
    """An image that the table does not have."""

    pixels: torch.Tensor
    size: tuple[int, int]
    """(width, height) of the image."""
    count: int
    """Features that it will have."""


class Preparation:
    """Prepares requests for one model. One thread at a time."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, table: ImageTable, context_length: int):
        self._model = model
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._table = table
        self._context_length = context_length
        self._preprocessing = b""
        if image_processor is not None:
            settings = [image_processor.to_dict(), model.config.image_aspect_ratio, model.config.image_grid_pinpoints]
            self._preprocessing = json.dumps(settings, sort_keys=True, default=str).encode()

    def prepare(self, ticket: Ticket) -> None:
        """Fills in what the manager needs: ids, runs, and how long the answer may get.

        Raises:
            LlavaError: the request cannot be served; nothing is held for it then.
        """
        images = ticket.request.images
        if images and self._image_processor is None:
            raise ImageTokenMismatch("this model reads text only; it has neither vision tower nor projector.")
        start = time.monotonic()
        keys = [content_key(image, self._preprocessing) for image in images]
        held: dict[bytes, Run] = {}
        try:
            unseen = self._find(dict(zip(keys, images, strict=True)), held)
            counts = {key: run.length for key, run in held.items()} | {key: one.count for key, one in unseen.items()}
            ids = self._checked(ticket.request.prompt, keys, counts)
            self._encode(unseen, held)
            ticket.encoding_s = time.monotonic() - start
            prompt = splice_ids(ids, [held[key].ids for key in keys], self._model.patch_token_id)
        except BaseException:
            for run in held.values():
                self._table.release(run)
            raise
        ticket.prompt, ticket.runs = prompt, list(held.values())
        ticket.num_image_tokens = len(prompt) - num_text_tokens(ids[None], self._model.patch_token_id)
        ticket.max_new_tokens = min(ticket.request.sampling.max_new_tokens, self._context_length - len(prompt))

    def _find(self, images: dict[bytes, Image.Image], held: dict[bytes, Run]) -> dict[bytes, _Unseen]:
        """Takes hold of the images that the table has; returns the others, ready for the tower."""
        unseen = {}
        for key, image in images.items():
            run = self._table.find(key)
            if run is not None:
                held[key] = run
                continue
            with torch.inference_mode(False), torch.no_grad():
                [pixels] = process_images([image], self._image_processor, self._model.config)
                [count] = self._model.count_features([pixels], [image.size])
            unseen[key] = _Unseen(pixels, image.size, count)
        return unseen

    def _checked(self, text: str, keys: Sequence[bytes], counts: dict[bytes, int]) -> torch.Tensor:
        """The prompt's ids, if it leaves room for an answer and its images fit into the table.

        Raises:
            ContextTooLong, TooManyFeatures: they do not. The tower has seen nothing yet.
        """
        ids = prompt_ids(text, [counts[key] for key in keys], self._model.config, self._tokenizer)
        length = len(splice_ids(ids, [range(counts[key]) for key in keys], self._model.patch_token_id))
        if length >= self._context_length:
            raise ContextTooLong(length, self._context_length)
        if sum(counts.values()) > self._table.num_rows:
            raise TooManyFeatures(sum(counts.values()), self._table.num_rows)
        return ids

    def _encode(self, unseen: dict[bytes, _Unseen], held: dict[bytes, Run]) -> None:
        """Encodes images, several at once, and takes hold of them."""
        keys = list(unseen)
        for first in range(0, len(keys), _IMAGES_AT_ONCE):
            part = keys[first : first + _IMAGES_AT_ONCE]
            with torch.inference_mode(False), torch.no_grad():
                encoded = self._model.encode_images(
                    [unseen[key].pixels for key in part], [unseen[key].size for key in part]
                )
            for key, features in zip(part, encoded, strict=True):
                held[key] = self._table.store(key, features, own=list(held.values()))

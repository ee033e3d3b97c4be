"""Prepares requests for the batching manager: checks limits, encodes images, and builds token ids."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llava.engine.image_table import IdRun, ImageTable, TooManyFeatures, content_key
from llava.errors import ContextTooLong, ImageTokenMismatch
from llava.mm_utils import process_images, tiles_only_one_image
from llava.model.language_model.splice import num_text_tokens, splice_ids
from llava.prompting import prompt_ids

if TYPE_CHECKING:
    from PIL import Image

    from llava.engine.request_state import RequestState


_IMAGES_AT_ONCE = 8
"""Largest number of images encoded together; bounds the memory of the vision tower."""


@dataclass(frozen=True)
class _Unseen:
    """An image that is not in the table."""

    pixels: torch.Tensor
    size: tuple[int, int]
    """(width, height) in pixels."""
    count: int
    """Number of features that it will have."""


class Preparation:
    """Prepares requests for one model. Only one thread may use it at a time."""

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

    def prepare(self, state: RequestState) -> None:
        """Fills in what the manager needs: token ids, the images' virtual ids, and the length limit of the answer.

        Raises:
            LlavaError: the request cannot be served. It holds no images in this case.
        """
        images = state.request.images
        if images and self._image_processor is None:
            raise ImageTokenMismatch("this model reads text only; it has neither vision tower nor projector.")
        start = time.monotonic()
        differs = len(images) > 1 and tiles_only_one_image(self._model.config)
        keys = [content_key(image, self._preprocessing + (b" untiled" if differs else b"")) for image in images]
        held: dict[bytes, IdRun] = {}
        try:
            unseen = self._find(dict(zip(keys, images, strict=True)), held, len(images))
            counts = {key: run.length for key, run in held.items()} | {key: one.count for key, one in unseen.items()}
            ids = self._checked(state.request.prompt, keys, counts)
            self._encode(unseen, held)
            state.encoding_s = time.monotonic() - start
            prompt = splice_ids(ids, [held[key].ids for key in keys], self._model.patch_token_id)
        except BaseException:
            for run in held.values():
                self._table.release(run)
            raise
        state.prompt, state.runs = prompt, list(held.values())
        state.num_image_tokens = len(prompt) - num_text_tokens(ids[None], self._model.patch_token_id)
        state.max_new_tokens = min(state.request.sampling.max_new_tokens, self._context_length - len(prompt))

    def _find(
        self, images: dict[bytes, Image.Image], held: dict[bytes, IdRun], num_images: int
    ) -> dict[bytes, _Unseen]:
        """Holds the images that are in the table; returns the others, ready for the vision tower."""
        unseen = {}
        for key, image in images.items():
            run = self._table.find(key)
            if run is not None:
                held[key] = run
                continue
            with torch.inference_mode(False), torch.no_grad():
                pixels = process_images([image], self._image_processor, self._model.config, num_images=num_images)[0]
                count = self._model.count_features([pixels], [image.size])[0]
            unseen[key] = _Unseen(pixels, image.size, count)
        return unseen

    def _checked(self, text: str, keys: Sequence[bytes], counts: dict[bytes, int]) -> torch.Tensor:
        """Returns the prompt's ids, after checking that they leave room for an answer and that the images fit.

        Raises:
            ContextTooLong, TooManyFeatures: they do not. No image has been encoded yet.
        """
        ids = prompt_ids(text, [counts[key] for key in keys], self._model.config, self._tokenizer)
        length = len(splice_ids(ids, [range(counts[key]) for key in keys], self._model.patch_token_id))
        if length >= self._context_length:
            raise ContextTooLong(length, self._context_length)
        if sum(counts.values()) > self._table.num_rows:
            raise TooManyFeatures(sum(counts.values()), self._table.num_rows)
        return ids

    def _encode(self, unseen: dict[bytes, _Unseen], held: dict[bytes, IdRun]) -> None:
        """Encodes images, several at a time, and holds them."""
        keys = list(unseen)
        for first in range(0, len(keys), _IMAGES_AT_ONCE):
            part = keys[first : first + _IMAGES_AT_ONCE]
            with torch.inference_mode(False), torch.no_grad():
                encoded = self._model.encode_images(
                    [unseen[key].pixels for key in part], [unseen[key].size for key in part]
                )
            for key, features in zip(part, encoded, strict=True):
                held[key] = self._table.store(key, features, own=list(held.values()))

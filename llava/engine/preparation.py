"""From a request to token ids: pictures encoded once, each a run of virtual ids; limits checked before any compute."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from llava.engine.one_by_one import num_text_tokens
from llava.engine.picture_table import PictureTable, Run, content_key
from llava.errors import ContextTooLong, ImageTokenMismatch
from llava.mm_utils import process_images
from llava.model.splice import splice_ids
from llava.prompting import prompt_ids

if TYPE_CHECKING:
    from PIL import Image

    from llava.engine.ticket import Ticket


class Preparation:
    """Prepares requests for one model. One thread at a time."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, table: PictureTable, context_length: int):
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
        if ticket.request.pictures and self._image_processor is None:
            raise ImageTokenMismatch("this model reads text only; it has neither vision tower nor projector.")
        runs: list[Run] = []
        start = time.monotonic()
        try:
            for picture in ticket.request.pictures:
                runs.append(self._encoded(picture, runs))
            ticket.encoding_s = time.monotonic() - start
            ids = prompt_ids(ticket.request.prompt, [run.length for run in runs], self._model.config, self._tokenizer)
            prompt = splice_ids(ids, [run.ids for run in runs], self._model.patch_token_id)
            room = self._context_length - len(prompt)
            if room < 1:
                raise ContextTooLong(len(prompt), self._context_length)
        except BaseException:
            for run in runs:
                self._table.release(run)
            raise
        ticket.prompt, ticket.runs = prompt, runs
        ticket.num_picture_tokens = len(prompt) - num_text_tokens(ids[None], self._model.patch_token_id)
        ticket.max_new_tokens = min(ticket.request.sampling.max_new_tokens, room)

    def _encoded(self, picture: Image.Image, own: Sequence[Run]) -> Run:
        key = content_key(picture, self._preprocessing)
        run = self._table.find(key)
        if run is not None:
            return run
        with torch.inference_mode(False), torch.no_grad():
            pixels = list(process_images([picture], self._image_processor, self._model.config))
            [features] = self._model.encode_images(pixels, [picture.size])
        return self._table.store(key, features, own=own)

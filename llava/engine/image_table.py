"""Gives each image feature a virtual token id above the vocabulary.

A table behind the token embedding maps these ids to feature rows, so a program that serves a language model by token
ids also serves one that sees images, without knowing about images. An id is never reused for another image: two prompts
with equal ids have equal content, so a prefix cache can compare ids alone.

The table is a ring: a new image overwrites the oldest ones. Images in use are skipped, never overwritten.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from llava.errors import LlavaError, ShuttingDown

if TYPE_CHECKING:
    from PIL import Image

MAX_ID = 2**31 - 1
"""Largest id; the batching manager stores token ids in 32 bits."""


class IdsUsedUp(LlavaError):
    """No id is left below the limit. The table must start over, together with every cache that knows ids."""


class TooManyFeatures(LlavaError):
    """The images of one request have more features than the whole table can hold."""

    code, status = "too_many_pictures", 400

    def __init__(self, num_features: int, num_rows: int):
        super().__init__(
            f"the request's images have {num_features} features or more, the engine's table holds {num_rows}. "
            "Give fewer images, or start with a larger image cache."
        )


@dataclass(eq=False)
class IdRun:
    """The consecutive virtual ids of one image."""

    key: bytes
    """The image's `content_key`."""
    start: int
    """First id, above the vocabulary."""
    length: int
    users: int = 0
    """Number of requests that hold the image."""

    @property
    def ids(self) -> range:
        return range(self.start, self.start + self.length)


class ImageEmbedding(nn.Module):
    """A token embedding that looks up ids from `vocabulary` upwards in the image table."""

    rows: Tensor
    """The table's features, [rows, hidden]."""

    def __init__(self, text: nn.Module, vocabulary: int, num_rows: int):
        super().__init__()
        weight = text.weight
        assert isinstance(weight, Tensor)
        self.text = text
        self.vocabulary = vocabulary
        self.register_buffer("rows", weight.new_zeros(num_rows, weight.shape[1]), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weight of the text embedding, for callers that read the model's width, device or dtype from it."""
        return self.text.weight  # type: ignore[return-value]

    def forward(self, ids: Tensor) -> Tensor:
        """Maps ids [...] to embeddings [..., hidden]. Free of branches, so that it can be part of a CUDA graph."""
        is_image = ids >= self.vocabulary
        text = self.text(ids.masked_fill(is_image, 0))
        rows = (ids.long() - self.vocabulary).remainder(self.rows.shape[0])
        return torch.where(is_image[..., None], self.rows[rows], text)


class ImageTable:
    """Assigns the rows of an `ImageEmbedding` to images. Safe to use from several threads."""

    def __init__(self, embedding: ImageEmbedding, *, max_id: int = MAX_ID):
        self.embedding = embedding
        self.num_hits = 0
        self.num_stored = 0
        self._size = embedding.rows.shape[0]
        self._max_id = max_id
        self._closed = False
        self._next = embedding.vocabulary
        self._runs: dict[bytes, IdRun] = {}
        self._changed = threading.Condition()

    @property
    def num_rows(self) -> int:
        return self._size

    @property
    def num_in_use(self) -> int:
        """Number of images that running requests hold."""
        with self._changed:
            return sum(run.users > 0 for run in self._runs.values())

    def find(self, key: bytes) -> IdRun | None:
        """Returns the image stored under `key` and counts one more user of it, or returns None."""
        with self._changed:
            run = self._runs.get(key)
            if run is not None:
                run.users += 1
                self.num_hits += 1
            return run

    def store(self, key: bytes, features: Tensor, *, own: Sequence[IdRun] = ()) -> IdRun:
        """Writes an image's features, [features, hidden], and returns its ids, with one user.

        Waits while images of other requests leave no room.

        Args:
            own: ids that the same request holds already; it does not wait for their release.

        Raises:
            TooManyFeatures: the images of the request together do not fit into the table.
            IdsUsedUp: no id is left.
            ShuttingDown: the table was closed meanwhile.
        """
        length = len(features)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._place(length) is not None or self._is_alone(own))
            start = self._place(length)
            if self._closed:
                raise ShuttingDown("the engine is shutting down.")
            if start is None:
                raise TooManyFeatures(length + sum(run.length for run in own), self._size)
            if start + length > self._max_id:
                raise IdsUsedUp("no virtual id is left for another image")
            for other in [other for other in self._runs.values() if self._in_the_way(other, start, length)]:
                del self._runs[other.key]
            self._next = start + length  # before writing: an id that was ever written is never handed out again
            self._write(start, features)
            run = self._runs[key] = IdRun(key, start, length, users=1)
            self.num_stored += 1
            return run

    def release(self, run: IdRun) -> None:
        """Counts one user less. The image stays until its rows are needed."""
        with self._changed:
            run.users -= 1
            self._changed.notify_all()

    def forget_all(self) -> None:
        """Starts over with the first id. Call it only when no request and no cache knows the old ids any more."""
        with self._changed:
            self._runs.clear()
            self._next = self.embedding.vocabulary
            self._changed.notify_all()

    def close(self) -> None:
        """Ends all waiting in `store` with `ShuttingDown`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_alone(self, own: Sequence[IdRun]) -> bool:
        return all(run in own for run in self._runs.values() if run.users)

    def _write(self, start: int, features: Tensor) -> None:
        table = self.embedding.rows
        rows = torch.arange(start, start + len(features), device=table.device) - self.embedding.vocabulary
        table[rows.remainder(self._size)] = features.to(table)
        if table.is_cuda:  # another stream reads the rows as soon as the ids are known
            torch.cuda.current_stream(table.device).synchronize()

    def _place(self, length: int) -> int | None:
        """Returns the next first id whose rows are free of images in use, or None."""
        start = self._next
        if length > self._size:
            return None
        while start - self._next < self._size:
            skips = [
                skip for run in self._runs.values() if run.users and (skip := self._in_the_way(run, start, length))
            ]
            if not skips:
                return start
            start += max(skips)
        return None

    def _in_the_way(self, run: IdRun, start: int, length: int) -> int:
        """Returns how far beyond `start` a run ends if its rows overlap [start, start + length), otherwise 0."""
        ahead = (run.start - start) % self._size
        if ahead < length:
            return ahead + run.length
        return max(0, ahead + run.length - self._size)


def content_key(image: Image.Image, preprocessing: bytes) -> bytes:
    """Returns a key that only equal images with equal preprocessing share.

    The key covers mode and size as well as pixels: a 30 x 100 and a 100 x 30 image of one colour have equal pixels.
    """
    digest = hashlib.sha256(preprocessing)
    digest.update(f"{image.mode} {image.width} {image.height}".encode())
    digest.update(image.tobytes())
    return digest.digest()

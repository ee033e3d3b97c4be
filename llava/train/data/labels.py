"""Turns segments of training text into token ids and labels, in one pass.

The whole text is tokenised once, so the ids are those the model meets when it chats. The tokenizer's character offsets
tell which segment each token belongs to; nothing is tokenised a second time to count lengths. A token that crosses the
border between two segments belongs to the one in which it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    DEFAULT_IMAGE_TOKEN,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
)
from llava.errors import DataError, InvalidRequest
from llava.text_generation.literal_text import is_guard
from llava.train.data.layouts import Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample that is ready to be padded into a batch."""

    input_ids: list[int]
    labels: list[int]
    """Labels, one per id; -100 excludes a position from the loss."""
    num_images: int
    """Number of images left after truncation; they are always the first ones."""
    truncated: bool
    """True if tokens were cut from the end."""
    answer_tokens: int
    """Number of supervised tokens inside answers, blank ones not counted; a sample with 0 teaches nothing."""


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """How images are represented in token ids."""

    as_patches: bool
    """True for a run of `<im_patch>` ids per image (v0), false for one -200 that the model expands (v1 and later)."""
    start_end: bool = False
    """True to surround each image with `<im_start>` and `<im_end>`."""


@dataclass(slots=True)
class _Tokens:
    """Parallel lists with one entry per token; each image is one `IMAGE_TOKEN_INDEX` until `_expand_images`."""

    ids: list[int]
    labels: list[int]
    in_answer: list[bool]


def encode(
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    images: ImageTokens,
    *,
    image_lengths: Sequence[int] = (),
    max_length: int | None = None,
    bos_token_id: int | None = None,
    name: str = "sample",
) -> Encoded:
    """Tokenises segments and labels each token.

    Args:
        segments: segments from `segments_of`. Guarded spellings of control tokens are encoded as text
            (`llava.text_generation.literal_text`).
        tokenizer: a fast tokenizer with the `<im_*>` tokens that `images` needs.
        images: how images are represented in the ids.
        image_lengths: number of positions of each image in the model, in the order of the `<image>` markers.
        max_length: longest sequence in the model, including all image positions; None for no limit. Longer samples
            are cut at the end. An image that does not fit is removed as a whole, with everything after it.
        bos_token_id: id of the first token; None uses the tokenizer's own.
        name: name of the sample in error messages.

    Raises:
        DataError: the numbers of markers and images differ, or the text contains an image token.
    """
    text, borders = _join(segments, images)
    tokens = _tokenise(text, borders, segments, tokenizer, images)
    start_of_text = [bos_token_id] if bos_token_id is not None else tokenizer("", verbose=False)["input_ids"]
    tokens.ids[:0] = start_of_text
    tokens.labels[:0] = [IGNORE_INDEX] * len(start_of_text)
    tokens.in_answer[:0] = [False] * len(start_of_text)
    found = tokens.ids.count(IMAGE_TOKEN_INDEX)
    if found != len(image_lengths):
        raise DataError(
            f"{name}: the text has {found} image markers for {len(image_lengths)} images. "
            f"Write one {DEFAULT_IMAGE_TOKEN} per image."
        )
    full = len(tokens.ids)
    if max_length is not None:
        _truncate(tokens, _fitting(tokens.ids, image_lengths, max_length, tokenizer, images))
    kept = tokens.ids.count(IMAGE_TOKEN_INDEX)
    answer_tokens = sum(
        label != IGNORE_INDEX and inside for label, inside in zip(tokens.labels, tokens.in_answer, strict=True)
    )
    truncated = len(tokens.ids) < full
    if truncated:
        _forget_signals_at_end(tokens)
    if images.as_patches:
        _expand_images(tokens, image_lengths, token_id(tokenizer, DEFAULT_IMAGE_PATCH_TOKEN))
    return Encoded(tokens.ids, tokens.labels, kept, truncated, answer_tokens)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Returns the id of an added token.

    Raises:
        InvalidRequest: the tokenizer has no such token.
    """
    found = tokenizer.get_added_vocab().get(token)
    if found is None:
        raise InvalidRequest(
            f"The tokenizer has no {token}. Add it with mm_use_im_start_end or mm_use_im_patch_token first."
        )
    return found


def _join(segments: Sequence[Segment], images: ImageTokens) -> tuple[str, list[int]]:
    """Returns the whole text and the end position of each segment in it."""
    marker = DEFAULT_IMAGE_PATCH_TOKEN if images.as_patches else DEFAULT_IMAGE_TOKEN
    if images.start_end:
        marker = f"{DEFAULT_IM_START_TOKEN}{marker}{DEFAULT_IM_END_TOKEN}"
    texts, borders, end = [], [], 0
    for segment in segments:
        text = segment.text.replace(DEFAULT_IMAGE_TOKEN, marker)
        texts.append(text)
        end += len(text)
        borders.append(end)
    return "".join(texts), borders


def _tokenise(
    text: str,
    borders: list[int],
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    images: ImageTokens,
) -> _Tokens:
    # As in the original, text around a -200 is tokenised piece by piece, text around <im_patch> all at once.
    chunks = [text] if images.as_patches else text.split(DEFAULT_IMAGE_TOKEN)
    patch_id = token_id(tokenizer, DEFAULT_IMAGE_PATCH_TOKEN) if images.as_patches else None
    tokens = _Tokens([], [], [])
    position, current = 0, 0
    for number, chunk in enumerate(chunks):
        if number:
            _append(tokens, IMAGE_TOKEN_INDEX, None)
            position += len(DEFAULT_IMAGE_TOKEN)
        encoding: Any = tokenizer(chunk, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for identity, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            while current < len(borders) - 1 and position + start >= borders[current]:
                current += 1
            if is_guard(chunk, start, end):
                continue
            if identity == patch_id:
                _append(tokens, IMAGE_TOKEN_INDEX, None)
            else:
                _append(tokens, identity, segments[current], is_blank=not chunk[start:end].strip())
        position += len(chunk)
    return tokens


def _append(tokens: _Tokens, identity: int, segment: Segment | None, *, is_blank: bool = False) -> None:
    tokens.ids.append(identity)
    tokens.labels.append(identity if segment is not None and segment.supervised else IGNORE_INDEX)
    tokens.in_answer.append(segment is not None and segment.answer and not is_blank)


def _fitting(
    ids: list[int],
    image_lengths: Sequence[int],
    max_length: int,
    tokenizer: PreTrainedTokenizerBase,
    images: ImageTokens,
) -> int:
    """Returns how many entries of `ids` fit into `max_length` positions without cutting an image."""
    lengths = iter(image_lengths)
    keep, used = 0, 0
    for identity in ids:
        used += next(lengths) if identity == IMAGE_TOKEN_INDEX else 1
        if used > max_length:
            break
        keep += 1
    if keep == len(ids):
        return keep
    if images.start_end:
        end = token_id(tokenizer, DEFAULT_IM_END_TOKEN)
        if keep > 1 and ids[keep] == end and ids[keep - 1] == IMAGE_TOKEN_INDEX:
            keep -= 1  # The image fits, its end token does not.
        start = token_id(tokenizer, DEFAULT_IM_START_TOKEN)
        if keep and ids[keep] == IMAGE_TOKEN_INDEX and ids[keep - 1] == start:
            keep -= 1
    return keep


def _truncate(tokens: _Tokens, keep: int) -> None:
    del tokens.ids[keep:], tokens.labels[keep:], tokens.in_answer[keep:]


def _forget_signals_at_end(tokens: _Tokens) -> None:
    """Removes the labels of turns whose answers were cut; their role names and separators alone teach nothing.

    What directly follows an answer stays supervised, because it ends the answer.
    """
    last = max((number for number, inside in enumerate(tokens.in_answer) if inside), default=None)
    end = 0 if last is None else last + 1
    while last is not None and end < len(tokens.labels) and tokens.labels[end] != IGNORE_INDEX:
        end += 1
    tokens.labels[end:] = [IGNORE_INDEX] * (len(tokens.labels) - end)


def _expand_images(tokens: _Tokens, image_lengths: Sequence[int], patch_id: int) -> None:
    ids: list[int] = []
    labels: list[int] = []
    lengths = iter(image_lengths)
    for identity, label in zip(tokens.ids, tokens.labels, strict=True):
        repeat = next(lengths) if identity == IMAGE_TOKEN_INDEX else 1
        ids += [patch_id if identity == IMAGE_TOKEN_INDEX else identity] * repeat
        labels += [label] * repeat
    tokens.ids, tokens.labels = ids, labels

"""Replaces image markers in a batch of token ids by image features: the one place where image meets text.

Training, `generate` and the serving engine all call `splice`; nothing else knows where an image sits in a row. Markers
are of two kinds, and one batch may contain both:

* v0: a run of `<im_patch>` ids, one per feature, replaced in place; the `<im_start>` and `<im_end>` around it stay.
* v1 and later: one `IMAGE_TOKEN_INDEX` (-200) for each image; the row grows by the image's features minus one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import ImageTokenMismatch


@dataclass(frozen=True)
class Spliced:
    """A batch ready for the language model; all rows have the same length."""

    inputs_embeds: Tensor
    """[rows, length, hidden]."""
    attention_mask: Tensor
    """[rows, length], 1 for content and 0 for padding."""
    position_ids: Tensor
    """[rows, length], counted from the first content position of each row."""
    labels: Tensor | None
    """[rows, length], int64; `IGNORE_INDEX` at images and padding."""


@dataclass(frozen=True)
class ImageSpan:
    """The place of one run of features in a row: images `first` to `last` replace `ids[start:stop]`."""

    start: int
    stop: int
    first: int
    last: int


def splice(
    ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor | None,
    features: list[Tensor],
    embed: torch.nn.Module,
    *,
    patch_id: int | None,
    padding_side: str = "right",
) -> Spliced:
    """Turns ids with image markers, and the images' features, into embeddings.

    Args:
        ids: [rows, length], int64; positions where `attention_mask` is 0 are padding.
        attention_mask: [rows, length], bool or int; None means no padding.
        labels: [rows, length] or None.
        features: one tensor [features, hidden] for each image, in reading order over the rows.
        embed: the language model's token embedding.
        patch_id: id of `<im_patch>`, or None if the tokenizer has none.
        padding_side: "left" or "right": the side on which shorter rows are padded.

    Raises:
        ImageTokenMismatch: a row whose markers do not match its images, or images left over.
    """
    keep = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.to(torch.bool)
    kept_ids = [row[mask] for row, mask in zip(ids, keep, strict=True)]
    places = match_images(kept_ids, [len(feature) for feature in features], patch_id)
    # One look-up for all rows: under FSDP2 each is a collective, and processes must have equally many.
    texts = embed(torch.cat([_without_markers(row, images) for row, images in zip(kept_ids, places, strict=True)]))
    rows = texts.split([len(row) for row in kept_ids])
    row_embeds = [_fill(row, images, features) for row, images in zip(rows, places, strict=True)]
    row_labels = None
    if labels is not None:
        kept_labels = [row[mask] for row, mask in zip(labels, keep, strict=True)]
        row_labels = [_fill_labels(row, images, features) for row, images in zip(kept_labels, places, strict=True)]
    return _pad(row_embeds, row_labels, padding_side)


def splice_ids(ids: Tensor, images: list[range], patch_id: int | None) -> list[int]:
    """Does the same as `splice` in ids: replaces image markers by ids that each stand for one feature.

    Args:
        ids: [length], int64, one prompt.
        images: the ids of each image's features, in reading order.

    Raises:
        ImageTokenMismatch: markers and images do not match.
    """
    places = match_images([ids], [len(run) for run in images], patch_id)[0]
    text = ids.tolist()
    spliced: list[int] = []
    end = 0
    for place in places:
        spliced += text[end : place.start]
        for run in images[place.first : place.last]:
            spliced += run
        end = place.stop
    return spliced + text[end:]


def num_text_tokens(ids: Tensor, patch_id: int | None) -> int:
    """Returns how many of a prompt's ids, [1, length], are text and do not stand for image features."""
    return int(((ids >= 0) & (ids != (-1 if patch_id is None else patch_id))).sum())


def has_markers(ids: Tensor, patch_id: int | None) -> bool:
    """Whether any position of `ids` stands for an image or part of one."""
    found = ids == IMAGE_TOKEN_INDEX
    if patch_id is not None:
        found = found | (ids == patch_id)
    return bool(found.any())


def match_images(rows: list[Tensor], lengths: list[int], patch_id: int | None) -> list[list[ImageSpan]]:
    """Assigns an image to each marker of each row.

    Args:
        rows: ids of each row without padding.
        lengths: number of features of each image, in reading order over the rows.

    Raises:
        ImageTokenMismatch: names row, position, expected and found.
    """
    places: list[list[ImageSpan]] = []
    next_image = 0
    for row, ids in enumerate(rows):
        images: list[ImageSpan] = []
        for start, stop, is_run in _markers(ids, patch_id):
            first = next_image
            if first >= len(lengths):
                raise ImageTokenMismatch(
                    f"row {row}: the prompt has an image at token {start}, but only {len(lengths)} "
                    f"image{'s were' if len(lengths) != 1 else ' was'} given for all {len(rows)} rows."
                )
            next_image = _take(row, start, stop - start, lengths, first) if is_run else first + 1
            images.append(ImageSpan(start, stop, first, next_image))
        places.append(images)
    if next_image != len(lengths):
        raise ImageTokenMismatch(
            f"{len(lengths)} images were given, but the {len(rows)} rows have places for {next_image} "
            f"({', '.join(f'row {i}: {sum(p.last - p.first for p in row)}' for i, row in enumerate(places))}). "
            "Put one <image> into the prompt for each image."
        )
    return places


def _take(row: int, start: int, found: int, lengths: list[int], first: int) -> int:
    """Returns the end of the images that fill a run of `found` patch tokens; adjacent images share one run."""
    filled, last = 0, first
    while filled < found and last < len(lengths):
        filled += lengths[last]
        last += 1
    if filled != found:
        raise ImageTokenMismatch(
            f"row {row}: the run of <im_patch> at token {start} has {found} tokens, expected {filled} "
            f"for image{'s' if last - first > 1 else ''} {', '.join(map(str, range(first, last)))}. "
            "The prompt was cut inside an image, or expanded for another vision tower."
        )
    return last


def _markers(ids: Tensor, patch_id: int | None) -> list[tuple[int, int, bool]]:
    """Returns (start, stop, is a run of patches) of each marker, in order."""
    found = [(position, position + 1, False) for position in (ids == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist()]
    if patch_id is not None:
        is_patch = torch.nn.functional.pad((ids == patch_id).to(torch.int8), (1, 1)).diff()
        starts, stops = (is_patch == 1).nonzero().flatten().tolist(), (is_patch == -1).nonzero().flatten().tolist()
        found += [(start, stop, True) for start, stop in zip(starts, stops, strict=True)]
    return sorted(found)


def _without_markers(ids: Tensor, images: list[ImageSpan]) -> Tensor:
    is_marker = torch.zeros_like(ids, dtype=torch.bool)
    for image in images:
        is_marker[image.start : image.stop] = True
    # What the look-up finds at a marker is discarded, so any valid id will do.
    return ids.masked_fill(is_marker, 0)


def _fill(text: Tensor, images: list[ImageSpan], features: list[Tensor]) -> Tensor:
    pieces, end = [], 0
    for image in images:
        pieces.append(text[end : image.start])
        pieces += [feature.to(device=text.device, dtype=text.dtype) for feature in features[image.first : image.last]]
        end = image.stop
    return torch.cat([*pieces, text[end:]])


def _fill_labels(labels: Tensor, images: list[ImageSpan], features: list[Tensor]) -> Tensor:
    pieces, end = [], 0
    for image in images:
        pieces.append(labels[end : image.start])
        length = sum(len(feature) for feature in features[image.first : image.last])
        pieces.append(labels.new_full((length,), IGNORE_INDEX))
        end = image.stop
    return torch.cat([*pieces, labels[end:]])


def _pad(rows: list[Tensor], labels: list[Tensor] | None, side: str) -> Spliced:
    from torch.nn.utils.rnn import pad_sequence

    embeds = pad_sequence(rows, batch_first=True, padding_side=side)
    lengths = [len(row) for row in rows]
    mask = pad_sequence(
        [torch.ones(length, dtype=torch.long, device=embeds.device) for length in lengths],
        batch_first=True,
        padding_side=side,
    )
    return Spliced(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        labels=None
        if labels is None
        else pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX, padding_side=side),
    )

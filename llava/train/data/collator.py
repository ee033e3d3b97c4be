"""Pads samples into one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.train.data.dataset import BadSample, Sample

REPORT_KEY = "report"
"""Key of a batch that holds its `BatchReport`."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a trainer wants to know of a batch, and the model does not."""

    names: tuple[str, ...]
    """Names of the records."""
    truncated: tuple[str, ...]
    """Names of the records whose samples were cut to fit."""
    useless: int
    """Number of samples without an answer to learn."""
    tokens: int
    """Number of positions, without padding."""
    bad: tuple[BadSample, ...]
    """Records that could not be made into samples; their rows are placeholders."""


@dataclass(frozen=True, slots=True)
class Collator:
    """Right-pads ids and labels, and gathers the images of all rows in reading order."""

    pad_token_id: int
    """Id that fills shorter rows."""
    with_report: bool = False
    """True to add a `BatchReport` for `LLaVATrainer`."""

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """
        Returns:
            `input_ids` and `labels`, int64 [rows, length]; `attention_mask`, bool [rows, length], true for real tokens.
            If any row has an image, also `images`, float [images, 3, height, width] or a list if shapes differ, and
            `image_sizes`, the original (width, height) of each.
        """
        rows, length = len(samples), max(len(sample.encoded.input_ids) for sample in samples)
        input_ids = torch.full((rows, length), self.pad_token_id, dtype=torch.long)
        labels = torch.full((rows, length), IGNORE_INDEX, dtype=torch.long)
        attention_mask = torch.zeros((rows, length), dtype=torch.bool)
        for row, sample in enumerate(samples):
            size = len(sample.encoded.input_ids)
            input_ids[row, :size] = torch.tensor(sample.encoded.input_ids, dtype=torch.long)
            labels[row, :size] = torch.tensor(sample.encoded.labels, dtype=torch.long)
            attention_mask[row, :size] = True
        batch: dict[str, Any] = {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}
        pixels = [image for sample in samples for image in sample.pixels]
        if pixels:
            batch["images"] = _stack_if_equal(pixels)
            batch["image_sizes"] = [size for sample in samples for size in sample.image_sizes]
        if self.with_report:
            batch[REPORT_KEY] = _report(samples)
        return batch


def _report(samples: Sequence[Sample]) -> BatchReport:
    real = [sample.encoded for sample in samples if sample.bad is None]
    return BatchReport(
        names=tuple(sample.name for sample in samples),
        truncated=tuple(sample.name for sample in samples if sample.encoded.truncated),
        useless=sum(encoded.answer_tokens == 0 for encoded in real),
        tokens=sum(len(encoded.input_ids) for encoded in real),
        bad=tuple(sample.bad for sample in samples if sample.bad is not None),
    )


def _stack_if_equal(pixels: list[Tensor]) -> Tensor | list[Tensor]:
    # The model takes tiled images as a list; stacking them would give a tensor of five dimensions.
    if pixels[0].dim() == 3 and all(image.shape == pixels[0].shape for image in pixels):
        return torch.stack(pixels)
    return pixels

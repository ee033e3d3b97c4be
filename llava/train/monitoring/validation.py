"""Measures the loss on held-out records: the mean over all their supervised tokens, however they are batched."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from llava.constants import IGNORE_INDEX
from llava.errors import DataError
from llava.train.data.collator import REPORT_KEY
from llava.train.data.dataset import BadSample, Sample

Prepare = Callable[[dict[str, Any]], dict[str, Any]]
"""Puts a batch on the device of the model."""


@torch.no_grad()
def validation_loss(
    model: nn.Module,
    dataset: Any,
    collate: Callable[[Sequence[Sample]], dict[str, Any]],
    prepare: Prepare,
    *,
    batch_size: int,
    process: int = 0,
    processes: int = 1,
    device: torch.device | str = "cpu",
    skips_bad: bool = False,
) -> dict[str, float]:
    """Computes the loss of a dataset; every process must call this.

    Processes take the samples in turn. All run the same number of batches, because a sharded model needs all of them
    for each forward pass; a process that has no sample left runs a placeholder without labels.

    Args:
        batch_size: samples per process and batch; the result does not depend on it.
        skips_bad: leaves records that cannot be made into samples out, in place of an error.

    Returns:
        `loss`, `perplexity`, `tokens` (supervised ones) and `samples`; `bad_samples` if any were left out.

    Raises:
        DataError: a record cannot be made into a sample; raised in every process.
    """
    was_training = model.training
    model.eval()
    total = torch.zeros(3, dtype=torch.float64, device=device)  # sum of losses, supervised tokens, samples
    bad: list[BadSample] = []
    mine = range(process, len(dataset), processes)
    batches = math.ceil(math.ceil(len(dataset) / processes) / batch_size)
    try:
        for number in range(batches):
            indices = mine[number * batch_size : (number + 1) * batch_size]
            samples = [dataset[index] for index in indices] or [dataset.placeholder()]
            bad_ones = [sample.bad for sample in samples if sample.bad is not None]
            bad += bad_ones
            batch = collate(samples)
            batch.pop(REPORT_KEY, None)
            batch = prepare(batch)
            supervised = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
            # Divided by 1: the sum over the batch's supervised tokens.
            loss: Tensor = model(**batch, num_items_in_batch=1, logits_to_keep=1).loss
            numbers = [float(loss), supervised, len(indices) - len(bad_ones)]
            total += torch.tensor(numbers, dtype=torch.float64, device=device)
    finally:
        model.train(was_training)
    if processes > 1:
        torch.distributed.all_reduce(total)
        bad = gather_object(bad)
    if bad and not skips_bad:
        first = min(bad, key=lambda sample: sample.index)
        raise DataError(
            f"{first.name}: {first.reason} Mend or remove the held-out record, or set --on_bad_sample skip to leave it "
            "out."
        )
    loss_sum, tokens, samples_seen = total.tolist()
    mean = loss_sum / max(1.0, tokens)
    measured = {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "tokens": tokens, "samples": samples_seen}
    return measured | ({"bad_samples": float(len(bad))} if bad else {})

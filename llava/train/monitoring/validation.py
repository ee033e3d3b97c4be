"""Measures the loss on held-out records: the mean over all their supervised tokens, however they are batched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader

from llava.constants import IGNORE_INDEX
from llava.errors import DataError
from llava.train.data.collator import REPORT_KEY, BatchReport
from llava.train.data.dataset import BadSample, Sample

Batch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the held-out records that one process runs through the model."""

    batch_size: int
    """Samples per batch; the loss does not depend on it."""
    process: int = 0
    """Number of this process."""
    processes: int = 1
    """Number of processes."""
    workers: int = 0
    """Number of processes that prepare samples; 0 prepares them in this one."""

    def batches(self, dataset: Any, collate: Callable[[Sequence[Sample]], Batch]) -> Iterator[Batch]:
        """Yields this process's batches.

        All processes get the same number, because a sharded model needs all of them for each forward pass; what is
        missing is filled up with placeholders, which have no labels.
        """
        mine = range(self.process, len(dataset), self.processes)
        groups = [list(mine[start : start + self.batch_size]) for start in range(0, len(mine), self.batch_size)]
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=groups,
            collate_fn=collate,
            num_workers=self.workers,
            generator=torch.Generator(),  # a loader without one takes a random number away from the training
        )
        most = math.ceil(math.ceil(len(dataset) / self.processes) / self.batch_size)
        return chain(loader, repeat(collate([dataset.placeholder()]), most - len(groups)))


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of a validation, over all processes."""

    loss_sum: float
    """Sum of the losses of all supervised tokens, in nats."""
    tokens: int
    """Number of supervised tokens."""
    samples: int
    """Number of samples, without bad ones."""
    bad: tuple[BadSample, ...]
    """Records that could not be made into samples, in the order of the file."""

    def metrics(self, *, skips_bad: bool = False) -> dict[str, float]:
        """Returns `loss` (the mean per supervised token), `perplexity`, `tokens` and `samples`.

        Args:
            skips_bad: leaves bad records out and adds their number as `bad_samples`, in place of an error.

        Raises:
            DataError: a record is bad, or there is not a single supervised token.
        """
        if self.bad and not skips_bad:
            first = self.bad[0]
            raise DataError(
                f"{first.name}: {first.reason} Mend or remove the held-out record, or set --on_bad_sample skip to "
                "leave it out."
            )
        if not self.tokens:
            raise DataError(
                "--eval_data_path: no held-out record has an answer to measure the loss on. Check the file and "
                "--version, or raise --model_max_length."
            )
        loss = self.loss_sum / self.tokens
        perplexity = math.exp(loss) if loss < 700 else math.inf
        measured = {"loss": loss, "perplexity": perplexity, "tokens": self.tokens, "samples": self.samples}
        return measured | ({"bad_samples": len(self.bad)} if self.bad else {})


@torch.no_grad()
def validate(
    model: nn.Module, batches: Iterator[Batch], prepare: Callable[[Batch], Batch], *, share: Share, device: torch.device
) -> Validation:
    """Runs held-out batches through a model as it answers, without dropout. Every process must call this.

    Args:
        batches: from `Share.batches`.
        prepare: puts a batch on the device of the model.
    """
    was_training = model.training
    model.eval()
    total = torch.zeros(3, dtype=torch.float64, device=device)  # sum of losses, supervised tokens, samples
    bad: list[BadSample] = []
    try:
        for batch in batches:
            report: BatchReport = batch.pop(REPORT_KEY)
            bad += report.bad
            batch = prepare(batch)
            # Divided by 1, the loss is the sum over the batch's supervised tokens.
            loss: Tensor = model(**batch, num_items_in_batch=1, logits_to_keep=1).loss
            total[0] += loss.double()
            total[1] += (batch["labels"][:, 1:] != IGNORE_INDEX).sum()
            total[2] += sum(name != "" for name in report.names) - len(report.bad)
    finally:
        model.train(was_training)
        _reshard(model)
    if share.processes > 1:
        torch.distributed.all_reduce(total)
        bad = gather_object(bad)
    loss_sum, tokens, samples = total.tolist()
    return Validation(loss_sum, int(tokens), int(samples), tuple(sorted(bad, key=lambda sample: sample.index)))


def _reshard(model: nn.Module) -> None:
    """Gives gathered weights back. FSDP2 does so in the backward pass, which a validation does not have."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()

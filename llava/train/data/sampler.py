"""Orders the samples of each epoch.

An order depends only on seed and epoch, so a run that is resumed finds its position again by counting. Samples before
it are skipped by index; none of them is made.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState


class EpochSampler(Sampler[int]):
    """Yields all indices once per epoch, in an order of the epoch's own."""

    def __init__(self, num_samples: int, *, seed: int) -> None:
        """
        Args:
            num_samples: number of samples of an epoch.
            seed: seed of the shuffling.
        """
        self.num_samples = num_samples
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Selects the order of an epoch, counted from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return self.order(torch.Generator().manual_seed(self.seed + self.epoch))

    @abstractmethod
    def order(self, generator: torch.Generator) -> Iterator[int]:
        """Yields the indices of an epoch; random choices come from `generator` alone."""


class SequentialSampler(EpochSampler):
    """Yields the samples in the order of the file, in every epoch."""

    def order(self, generator: torch.Generator) -> Iterator[int]:
        yield from range(self.num_samples)


class ShuffledSampler(EpochSampler):
    """Shuffles all samples."""

    def order(self, generator: torch.Generator) -> Iterator[int]:
        yield from torch.randperm(self.num_samples, generator=generator).tolist()


class ModalityLengthSampler(EpochSampler):
    """Shuffles samples so that each global batch has one modality and samples of similar length."""

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        """
        Args:
            lengths: length of each sample, negative for samples without an image.
            batch_size: number of samples per optimizer step over all processes.
            seed: seed of the shuffling.
        """
        super().__init__(len(lengths), seed=seed)
        self.lengths = list(lengths)
        self.batch_size = batch_size

    def order(self, generator: torch.Generator) -> Iterator[int]:
        with_image = [index for index, length in enumerate(self.lengths) if length > 0]
        pure_text = [index for index, length in enumerate(self.lengths) if length <= 0]
        full: list[list[int]] = []
        left_over: list[int] = []
        for indices in (with_image, pure_text):
            for batch in self._batches(indices, generator):
                if len(batch) == self.batch_size:
                    full.append(batch)
                else:
                    left_over += batch
        order = torch.randperm(len(full), generator=generator).tolist()
        yield from (index for number in order for index in full[number])
        yield from left_over

    def _batches(self, indices: list[int], generator: torch.Generator) -> list[list[int]]:
        """Shuffles, then sorts by length within stretches of 50 batches: similar lengths, random content."""
        shuffled = [indices[i] for i in torch.randperm(len(indices), generator=generator).tolist()]
        stretch = self.batch_size * 50
        ordered: list[int] = []
        for start in range(0, len(shuffled), stretch):
            ordered += sorted(
                shuffled[start : start + stretch], key=lambda index: abs(self.lengths[index]), reverse=True
            )
        return [ordered[start : start + self.batch_size] for start in range(0, len(ordered), self.batch_size)]


class EpochSelection(TrainerCallback):
    """Tells the sampler which epoch begins; accelerate's wrappers do not always pass it on to a resumed run."""

    def __init__(self, sampler: EpochSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Selects the epoch that the run has come to."""
        self._sampler.set_epoch(int(state.epoch or 0))

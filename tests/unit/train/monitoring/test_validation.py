"""How held-out records are shared out, and what the mean over them is."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from llava.constants import IGNORE_INDEX
from llava.errors import DataError
from llava.train.data.collator import Collator
from llava.train.data.dataset import BadSample, Sample
from llava.train.data.labels import Encoded
from llava.train.monitoring.validation import Share, Validation, validate


class HeldOut:
    """Sample n has n supervised tokens of loss n each; chosen ones are bad."""

    def __init__(self, size: int, bad: tuple[int, ...] = ()) -> None:
        self.size, self.bad = size, bad

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            return self.placeholder(f"record {index}", BadSample(index, f"record {index}", (), "broken"))
        ids = [1] + [index] * index
        encoded = Encoded(ids, [IGNORE_INDEX, *ids[1:]], num_images=0, truncated=False, answer_tokens=index)
        return Sample(encoded, (), (), f"record {index}")

    def placeholder(self, name: str = "", bad: BadSample | None = None) -> Sample:
        encoded = Encoded([1], [IGNORE_INDEX], num_images=0, truncated=False, answer_tokens=0)
        return Sample(encoded, (), (), name, bad)


class Summing(nn.Module):
    """The loss of a token is its id, doubled while training."""

    def forward(self, input_ids, labels, num_items_in_batch, **_):
        shifted = labels[:, 1:]
        total = shifted[shifted != IGNORE_INDEX].sum().float() * (2 if self.training else 1)
        return type("Output", (), {"loss": total / num_items_in_batch})


def run(dataset: HeldOut, share: Share) -> tuple[Validation, int]:
    model = Summing().train()
    batches = list(share.batches(dataset, Collator(0, with_report=True)))
    lone = Share(share.batch_size)  # the sums of processes are added by the test
    result = validate(model, iter(batches), lambda batch: batch, share=lone, device=torch.device("cpu"))
    assert model.training
    return result, len(batches)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_record_counts_once_and_all_processes_run_as_many_batches(processes, batch_size):
    """Oracle: the sums by hand."""
    size = 4 if processes == 5 else 11  # five processes share four records: one of them has none
    shares = [Share(batch_size, process, processes) for process in range(processes)]
    results = [run(HeldOut(size), share) for share in shares]
    assert len({batches for _, batches in results}) == 1
    assert sum(result.samples for result, _ in results) == size
    assert sum(result.tokens for result, _ in results) == sum(range(size))
    assert sum(result.loss_sum for result, _ in results) == sum(n * n for n in range(size))


def test_bad_records_are_reported_and_do_not_count():
    result, _ = run(HeldOut(6, bad=(2, 5)), Share(2))
    assert [sample.index for sample in result.bad] == [2, 5]
    with pytest.raises(DataError, match=r"record 2: broken .*--on_bad_sample skip"):
        result.metrics()
    metrics = result.metrics(skips_bad=True)
    assert metrics["bad_samples"] == 2
    assert metrics["samples"] == 4
    assert metrics["loss"] == (1 + 9 + 16) / (1 + 3 + 4)


def test_no_answer_at_all_is_an_error_instead_of_a_perfect_loss():
    result, _ = run(HeldOut(1), Share(2))
    with pytest.raises(DataError, match="no held-out record has an answer"):
        result.metrics()


def test_a_hopeless_loss_has_no_finite_perplexity():
    assert Validation(9000.0, 1, 1, ()).metrics()["perplexity"] == float("inf")


def test_random_numbers_of_the_training_are_not_used_up():
    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state().clone(), random.getstate()
    run(HeldOut(5), Share(2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()

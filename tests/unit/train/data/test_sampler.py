"""The order of samples, and where a resumed run finds its place in it."""

from __future__ import annotations

import pytest
import torch

from llava.train.data.sampler import ModalityLengthSampler, SequentialSampler, ShuffledSampler

SAMPLERS = {
    "shuffled": lambda: ShuffledSampler(23, seed=3),
    "sequential": lambda: SequentialSampler(23, seed=3),
    "grouped": lambda: ModalityLengthSampler([(-1) ** (i % 3 == 0) * (i + 1) for i in range(23)], batch_size=4, seed=3),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_epoch_has_every_sample_once_in_an_order_that_seed_and_epoch_decide(name):
    sampler, again = SAMPLERS[name](), SAMPLERS[name]()
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(23))
    torch.rand(5)  # the state of other random numbers does not matter
    again.set_epoch(2)
    assert list(again) == orders[2]
    assert (orders[0] != orders[1]) == (name != "sequential")


def test_shuffling_is_that_of_earlier_releases():
    """Oracle: accelerate's seedable sampler, which the order came from."""
    from accelerate.data_loader import SeedableRandomSampler

    theirs = SeedableRandomSampler(range(23), data_seed=3)
    ours = ShuffledSampler(23, seed=3)
    for epoch in range(2):
        theirs.set_epoch(epoch)
        ours.set_epoch(epoch)
        assert list(ours) == list(theirs)

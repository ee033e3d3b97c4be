"""Sampling in a shared batch: greedy rows untouched, frequencies right, a seed that holds whoever is beside."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llava.engine.token_sampler import Sampler
from llava.text_generation.settings import Sampling


def choose(logits: torch.Tensor, settings: list[Sampling], positions: list[int] | None = None) -> list[int]:
    """The tokens that the manager would take after one step."""
    sampler = Sampler(torch.device("cpu"))
    positions = positions or [7] * len(settings)
    batch = [
        SimpleNamespace(
            has_new_token=True,
            state=SimpleNamespace(logit_processor_kwargs={"sampling": one}, position_offset=position),
        )
        for one, position in zip(settings, positions, strict=True)
    ]
    storage = torch.empty(sampler.tensors_required, len(batch), dtype=torch.int32)
    arguments = sampler.prepare_tensor_args(batch, storage)
    return sampler(torch.zeros(len(batch)), logits, arguments).argmax(dim=-1).tolist()


def draws(logits: torch.Tensor, count: int, **settings) -> torch.Tensor:
    """Relative frequency of each token over `count` seeds."""
    samplings = [Sampling(seed=seed, **settings) for seed in range(count)]
    tokens = choose(logits.expand(count, -1), samplings)
    return torch.bincount(torch.tensor(tokens), minlength=logits.shape[-1]) / count


def test_greedy_rows_take_the_maximum_beside_sampled_ones():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    chosen = choose(logits, [Sampling(0), Sampling(2.0, seed=1), Sampling(0)])
    assert [chosen[0], chosen[2]] == logits.argmax(dim=-1)[[0, 2]].tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
    expected = (logits / temperature).softmax(dim=-1)
    # 20,000 draws: the standard error of a frequency is at most 0.0035.
    assert torch.allclose(draws(logits, 20_000, temperature=temperature), expected, atol=0.015)


def test_top_p_keeps_the_nucleus_with_its_relative_frequencies():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    expected = torch.tensor([0.5, 0.3, 0, 0]) / 0.8
    assert torch.allclose(draws(logits, 20_000, temperature=1.0, top_p=0.7), expected, atol=0.015)


def test_top_k_keeps_that_many():
    logits = torch.tensor([0.1, 0.5, 0.3, 0.1]).log()
    expected = torch.tensor([0, 0.5, 0.3, 0]) / 0.8
    assert torch.allclose(draws(logits, 20_000, temperature=1.0, top_k=2), expected, atol=0.015)


@pytest.mark.parametrize("settings", [{"top_p": 0.5}, {"top_p": 0.999}, {"top_k": 3}, {"top_k": 3000}, {}])
def test_a_large_vocabulary_is_cut_where_it_should_be(settings):
    """Flat logits: half the probability needs half of the tokens, more than are looked at first."""
    logits = torch.linspace(0, 0.001, 5000)
    allowed = min(settings.get("top_k", 5000), int(5000 * settings.get("top_p", 1.0)) + 2)
    chosen = choose(logits.expand(300, -1), [Sampling(1.0, seed=seed, **settings) for seed in range(300)])
    assert min(chosen) >= 5000 - allowed
    assert len(set(chosen)) > min(allowed, 300) // 2


def test_a_seed_gives_the_same_token_whoever_is_in_the_batch():
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(1))
    mine = Sampling(1.0, top_p=0.95, seed=42)
    alone = choose(logits[:1], [mine])
    others = [Sampling(0), Sampling(1.5, seed=3), Sampling(0.7, top_k=5, seed=4)]
    assert choose(logits[[1, 2, 0, 3]], [others[0], others[1], mine, others[2]])[2] == alone[0]


def test_noise_differs_from_position_to_position_and_from_seed_to_seed():
    logits = torch.zeros(200, 1000)
    by_position = choose(logits, [Sampling(1.0, seed=5)] * 200, positions=list(range(200)))
    by_seed = choose(logits, [Sampling(1.0, seed=seed) for seed in range(200)])
    assert len(set(by_position)) > 150
    assert len(set(by_seed)) > 150

"""Attention over requests of different lengths in one row equals each request's own attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from llava.engine.ragged_attention import ragged_attention

HEADS, SIZE = 4, 8


class Cache:
    """Returns keys and values as the manager's cache would: those of the past before those given."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        self.keys, self.values = keys, values

    def update(self, key_states, value_states, layer_idx, kwargs):
        kwargs["cu_seq_lens_k"] = kwargs["cu_seq_lens_k"]["full_attention"]
        return self.keys, self.values


def offsets(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize(
    ("new", "past"),
    [([5, 3, 9], [0, 0, 0]), ([1, 1, 1], [4, 17, 0]), ([1, 6, 1, 3], [30, 0, 2, 11])],
    ids=["prompts", "decoding", "mixed"],
)
def test_each_request_attends_to_its_own_past_alone(new, past, key_heads):
    torch.manual_seed(0)
    lengths = [n + p for n, p in zip(new, past, strict=True)]
    query = torch.randn(1, HEADS, sum(new), SIZE)
    keys, values = torch.randn(2, 1, key_heads, sum(lengths), SIZE)
    module = torch.nn.Module()
    module.layer_idx = 0
    output, _ = ragged_attention(
        module,
        query,
        keys[:, :, : sum(new)],
        values[:, :, : sum(new)],
        None,
        scaling=0.3,
        cache=Cache(keys, values),
        cu_seq_lens_q=offsets(new),
        cu_seq_lens_k={"full_attention": offsets(lengths)},
    )
    repeated = [tensor.repeat_interleave(HEADS // key_heads, dim=1) for tensor in (keys, values)]
    start_q = start_k = 0
    for n, length in zip(new, lengths, strict=True):
        mask = torch.ones(n, length, dtype=torch.bool).tril(length - n)
        k, v = (tensor[:, :, start_k : start_k + length] for tensor in repeated)
        expected = scaled_dot_product_attention(query[:, :, start_q : start_q + n], k, v, attn_mask=mask, scale=0.3)
        assert torch.allclose(output[:, start_q : start_q + n], expected.transpose(1, 2), atol=1e-6)
        start_q, start_k = start_q + n, start_k + length

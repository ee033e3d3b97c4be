"""Computes attention over requests of different lengths on devices without flash attention, mostly CPUs.

transformers' batching manager concatenates the requests of a step into a single row. Its path for plain
scaled-dot-product attention lets every token attend to all requests and masks the other requests out: with sixteen
requests, fifteen sixteenths of the work is wasted. Here each request attends to its own keys alone.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

RAGGED: Final = "llava_ragged"
"""The name of this attention in a model's config."""


def ragged_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cache: Any = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Computes the attention of one layer, with the signature that transformers' `AttentionInterface` requires.

    Args:
        query: [1, heads, tokens, head size], the new tokens of all requests concatenated.
        key, value: [1, key heads, tokens, head size], for the same tokens.
        cache: the manager's paged cache, up to transformers 5.23. From 5.24 on the decoder layer updates it, and `key`
            and `value` hold everything that the requests attend to.
        sliding_window: number of keys that a token of this layer attends to, itself included; None means all.
        softcap: scores s become softcap * tanh(s / softcap) (Gemma 2); None leaves them.
        **kwargs: include `cu_seq_lens_q` [requests + 1], int32, and `cu_seq_lens_k`, the same per type of layer.
            Without `read_index`, which the manager always passes, transformers' own `sdpa` is used.

    Returns:
        The output [1, tokens, heads, head size], and None in place of attention weights.
    """
    if cache is not None:
        # Stores the new keys and values, returns all that the requests attend to, and selects this layer's lengths.
        key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
    elif "read_index" not in kwargs:
        plain = eager_of(module) if softcap is not None else sdpa_attention_forward
        options = {"sliding_window": sliding_window, "softcap": softcap, **kwargs}
        return plain(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options)
    ends_q: list[int] = kwargs["cu_seq_lens_q"].tolist()
    ends_k: list[int] = kwargs["cu_seq_lens_k"].tolist()
    groups = query.shape[1] // key.shape[1]
    output = torch.empty_like(query.transpose(1, 2))
    for start_q, end_q, start_k, end_k in zip(ends_q, ends_q[1:], ends_k, ends_k[1:], strict=False):
        new = end_q - start_q
        asked, keys, values = query[:, :, start_q:end_q], key[:, :, start_k:end_k], value[:, :, start_k:end_k]
        if new == 1 and softcap is None:
            if sliding_window is not None:
                keys, values = keys[:, :, -sliding_window:], values[:, :, -sliding_window:]
            # With one new token, heads that share keys become rows of one product, so keys need not be repeated.
            packed = asked.reshape(1, key.shape[1], groups, query.shape[3])
            attended = scaled_dot_product_attention(packed, keys, values, scale=scaling)
            output[:, start_q] = attended.reshape(1, query.shape[1], query.shape[3])
            continue
        if groups > 1:
            keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
        mask = _mask(asked, end_k - start_k, sliding_window)
        if softcap is not None:
            attended = _soft_capped_attention(asked, keys, values, mask, scaling, softcap)
        else:
            attended = scaled_dot_product_attention(
                asked, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling
            )
        output[:, start_q:end_q] = attended.transpose(1, 2)
    return output, None


def _mask(asked: Tensor, num_keys: int, sliding_window: int | None) -> Tensor | None:
    """Returns which of a request's keys each of its new tokens attends to, [new, keys]; None for plain causality."""
    new = asked.shape[2]
    past = num_keys - new
    is_cut = sliding_window is not None and num_keys > sliding_window
    if past == 0 and not is_cut:
        return None
    mask = asked.new_ones(new, num_keys, dtype=torch.bool).tril(past)
    return mask.triu(past - sliding_window + 1) if is_cut and sliding_window is not None else mask


def _soft_capped_attention(
    asked: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float | None, softcap: float
) -> Tensor:
    """Attention with capped scores, which no fused kernel of PyTorch computes."""
    scores = asked @ keys.transpose(2, 3) * (asked.shape[-1] ** -0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(asked.dtype) @ values


def eager_of(module: torch.nn.Module) -> Any:
    """Returns the plain attention of the model that a layer belongs to."""
    return sys.modules[type(module).__module__].eager_attention_forward


AttentionInterface.register(RAGGED, ragged_attention)
AttentionMaskInterface.register(RAGGED, sdpa_mask)

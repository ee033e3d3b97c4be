"""Chooses the next tokens of a batch whose requests each have settings of their own: greedy, or sampled with a seed.

Sampling adds Gumbel noise and takes the maximum (the Gumbel-max trick; Gumbel 1954, Maddison et al. 2014), so greedy
and sampled requests share one batch and greedy ones are not touched. The noise is a hash of seed, position and token:
a request with a seed gets the same answer whatever else is in its batches, and after it was interrupted and resumed.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from llava.text_generation.settings import Sampling

_ROWS: Final = 5
"""temperature, top_p, top_k, and the two halves of the noise's key (of seed and position)."""

_FEW: Final = 1024
"""Tokens among which a request with top_p or top_k usually finds all it may take."""


class Sampler:
    """Stands in for the manager's list of logits processors, whose interface it has."""

    tensors_required = _ROWS
    do_processing = True

    def __init__(self, device: torch.device):
        # A CUDA graph replays what was captured, whatever this step's batch holds: there, all rows take one way.
        self._same_way_always = device.type == "cuda"
        self._any_sampled = False

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Settings were checked when the request was made."""

    def fill_defaults(self, rows: Tensor) -> None:
        """[5, 1] int32: what a row of padding holds, greedy."""
        rows.zero_()

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: Tensor) -> Tensor:
        """Writes the settings of each request that gets a token in this step, one a column of [5, requests]."""
        states = [request.state for request in requests_in_batch if request.has_new_token]
        settings: list[Sampling] = [state.logit_processor_kwargs["sampling"] for state in states]
        self._any_sampled = any(one.temperature > 0 for one in settings)
        floats = [[one.temperature for one in settings], [one.top_p or 1.0 for one in settings]]
        # The number of tokens before the new one: the same after the manager, or the engine, began a request again.
        keys = [_mix(one.seed or 0, state.position_offset) for one, state in zip(settings, states, strict=True)]
        integers = [
            [one.top_k or 0 for one in settings],
            [_signed(key & 0xFFFFFFFF) for key in keys],
            [_signed(key >> 32) for key in keys],
        ]
        packed = torch.cat(
            [torch.tensor(floats, dtype=torch.float32).view(torch.int32), torch.tensor(integers, dtype=torch.int32)]
        )
        arg_storage[:_ROWS, : len(states)] = packed.to(arg_storage.device)
        return arg_storage

    def __call__(self, input_ids: Tensor, scores: Tensor, arguments: Tensor) -> Tensor:
        """[requests, vocabulary] logits -> scores whose maximum is the chosen token; greedy rows as they were."""
        arguments = arguments[:, : scores.shape[0]]
        temperature = arguments[0].view(torch.float32)
        if self._same_way_always:
            sampled = sample(scores, arguments, among=scores.shape[1])
            return torch.where((temperature > 0)[:, None], sampled, scores)
        if not self._any_sampled:
            return scores
        rows = (temperature > 0).nonzero().flatten()
        chosen = arguments[:, rows]
        scores = scores.clone()
        scores[rows] = sample(scores[rows], chosen, among=_candidates(scores[rows], chosen))
        return scores


def sample(scores: Tensor, arguments: Tensor, *, among: int) -> Tensor:
    """Filters and perturbs logits so that their maximum is a sample.

    Args:
        scores: [requests, vocabulary], float32.
        arguments: [5, requests], int32, as `Sampler` packs them.
        among: the most likely tokens to choose from; all others get minus infinity.
    """
    temperature, top_p = (row.view(torch.float32)[:, None] for row in arguments[:2])
    top_k = arguments[2][:, None]
    scaled = scores / temperature.clamp(min=1e-5)
    values, tokens = scaled.topk(among, dim=-1)
    probabilities = (values - scaled.logsumexp(dim=-1, keepdim=True)).exp()
    rank = torch.arange(among, device=scores.device)[None]
    # Nucleus sampling (Holtzman et al. 2020): a token belongs if those before it have not reached top_p yet.
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = ((before < top_p) | (top_p >= 1) | (rank == 0)) & ((rank < top_k) | (top_k == 0))
    noisy = (values + _gumbel(tokens, arguments[3:])).masked_fill(~kept, -torch.inf)
    return torch.full_like(scores, -torch.inf).scatter(-1, tokens, noisy)


def _candidates(scores: Tensor, arguments: Tensor) -> int:
    """How many of the most likely tokens contain all that these requests may choose."""
    vocabulary = scores.shape[1]
    if vocabulary <= _FEW:
        return vocabulary
    temperature, top_p = (row.view(torch.float32) for row in arguments[:2])
    top_k = arguments[2]
    scaled = scores / temperature[:, None]
    mass = (scaled.topk(_FEW, dim=-1).values - scaled.logsumexp(dim=-1, keepdim=True)).exp().sum(dim=-1)
    enough = ((top_k > 0) & (top_k <= _FEW)) | ((top_p < 1) & (mass >= top_p))
    return _FEW if bool(enough.all()) else vocabulary


def _gumbel(tokens: Tensor, keys: Tensor) -> Tensor:
    """Standard Gumbel noise for each token id, [requests, tokens], from the requests' keys, [2, requests] int32."""
    low, high = (row.long()[:, None] & 0xFFFFFFFF for row in keys)
    noise = _hash32(_hash32(tokens ^ low) ^ high)
    # Rounding could reach 1, whose noise is minus infinity: not for the only token that a request may choose.
    uniform = ((noise.to(torch.float32) + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)
    return -torch.log(-torch.log1p(-uniform))


def _hash32(x: Tensor) -> Tensor:
    """The finaliser of MurmurHash3 (Appleby 2011), in which every bit of the input changes half of the output's."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def _mix(seed: int, position: int) -> int:
    """64 bits of seed and position (the step and finaliser of SplitMix64; Steele et al. 2014)."""
    x = (seed + (position + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)


def _signed(bits: int) -> int:
    return bits - 2**32 if bits >= 2**31 else bits

"""Chooses the next tokens of a batch in which each request has its own sampling settings.

Sampling adds Gumbel noise and takes the maximum (the Gumbel-max trick; Gumbel 1954, Maddison et al. 2014), so greedy
and sampled requests share one batch, and greedy requests stay unchanged. The noise is a hash of seed, position and
token: a request with a seed gets the same answer whatever else is in its batches, even after it was interrupted and
resumed.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from llava.text_generation.settings import Sampling

_ROWS: Final = 6
"""Rows of settings: temperature, top_p, top_k, the two halves of the noise key (from seed and position), and whether
the column belongs to a request rather than to padding."""

_FEW: Final = 1024
"""Number of most likely tokens that usually contain all candidates of a request with top_p or top_k."""


class Sampler:
    """Replaces the manager's list of logits processors and has the same interface."""

    tensors_required = _ROWS
    do_processing = True

    def __init__(self, device: torch.device, end_id: int = 0):
        """
        Args:
            end_id: the token that ends a request whose logits are NaN or infinite.
        """
        self._end_id = end_id
        # A tensor, because a CUDA graph can add to it and cannot tell Python which row was at fault.
        self._num_broken = torch.zeros((), dtype=torch.int64, device=device)
        # A CUDA graph replays what was captured, whatever the batch of this step contains, so all rows take one path.
        self._single_path = device.type == "cuda"
        self._any_sampled = False

    @property
    def num_broken(self) -> int:
        """Number of logits rows so far that were NaN or infinite. May be read on any thread."""
        return int(self._num_broken)

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Does nothing: the settings were checked when the request was made."""

    def fill_defaults(self, rows: Tensor) -> None:
        """Fills the settings of a padding row, [6, 1] int32, with those of greedy decoding."""
        rows.zero_()

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: Tensor) -> Tensor:
        """Writes the settings of each request that gets a token in this step into a column of [6, requests]."""
        states = [request.state for request in requests_in_batch if request.has_new_token]
        settings: list[Sampling] = [state.logit_processor_kwargs["sampling"] for state in states]
        self._any_sampled = any(one.temperature > 0 for one in settings)
        floats = [[one.temperature for one in settings], [one.top_p or 1.0 for one in settings]]
        # The position does not depend on how often the manager or the engine restarted the request.
        keys = [_mix(one.seed or 0, state.position_offset) for one, state in zip(settings, states, strict=True)]
        integers = [
            [one.top_k or 0 for one in settings],
            [_signed(key & 0xFFFFFFFF) for key in keys],
            [_signed(key >> 32) for key in keys],
            [1] * len(states),
        ]
        packed = torch.cat(
            [torch.tensor(floats, dtype=torch.float32).view(torch.int32), torch.tensor(integers, dtype=torch.int32)]
        )
        arg_storage[:_ROWS, : len(states)] = packed.to(arg_storage.device)
        return arg_storage

    def __call__(self, input_ids: Tensor, scores: Tensor, arguments: Tensor) -> Tensor:
        """Maps logits [requests, vocabulary] to scores whose maximum is the chosen token; leaves greedy rows as is.

        A row of NaN or infinite logits is counted, and its request ended.
        """
        arguments = arguments[:, : scores.shape[0]]
        temperature = arguments[0].view(torch.float32)
        broken = ~scores.amax(dim=-1).isfinite() & (arguments[5] > 0)
        if self._single_path:
            sampled = sample(scores, arguments, among=scores.shape[1])
            return self._ended(torch.where((temperature > 0)[:, None], sampled, scores), broken)
        if bool(broken.any()):
            scores = self._ended(scores, broken)
        if not self._any_sampled:
            return scores
        rows = (temperature > 0).nonzero().flatten()
        chosen = arguments[:, rows]
        scores = scores.clone()
        scores[rows] = sample(scores[rows], chosen, among=_candidates(scores[rows], chosen))
        return scores

    def _ended(self, scores: Tensor, broken: Tensor) -> Tensor:
        """Makes the end the only choice of the rows marked in `broken` [requests], and counts them."""
        self._num_broken += broken.sum()
        ends = torch.full_like(scores[0], -torch.inf)
        ends[self._end_id] = 0
        return torch.where(broken[:, None], ends, scores)


def sample(scores: Tensor, arguments: Tensor, *, among: int) -> Tensor:
    """Filters and perturbs logits so that their maximum is a sample.

    Args:
        scores: [requests, vocabulary], float32.
        arguments: [6, requests], int32, as `Sampler` packs them.
        among: number of most likely tokens to choose from; all others get minus infinity.
    """
    temperature, top_p = (row.view(torch.float32)[:, None] for row in arguments[:2])
    top_k = arguments[2][:, None]
    scaled = scores / temperature.clamp(min=1e-5)
    values, tokens = scaled.topk(among, dim=-1)
    probabilities = (values - scaled.logsumexp(dim=-1, keepdim=True)).exp()
    rank = torch.arange(among, device=scores.device)[None]
    # Nucleus sampling (Holtzman et al. 2020): a token is kept if the tokens before it have not reached top_p yet.
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = ((before < top_p) | (top_p >= 1) | (rank == 0)) & ((rank < top_k) | (top_k == 0))
    noisy = (values + _gumbel(tokens, arguments[3:5])).masked_fill(~kept, -torch.inf)
    return torch.full_like(scores, -torch.inf).scatter(-1, tokens, noisy)


def _candidates(scores: Tensor, arguments: Tensor) -> int:
    """Returns how many of the most likely tokens contain all candidates of these requests."""
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
    """Returns standard Gumbel noise for token ids [requests, tokens] from the requests' keys [2, requests], int32."""
    low, high = (row.long()[:, None] & 0xFFFFFFFF for row in keys)
    noise = _hash32(_hash32(tokens ^ low) ^ high)
    # Rounding could reach 1, whose noise is minus infinity; that would exclude the only candidate of a request.
    uniform = ((noise.to(torch.float32) + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)
    return -torch.log(-torch.log1p(-uniform))


def _hash32(x: Tensor) -> Tensor:
    """Applies the finaliser of MurmurHash3 (Appleby 2011): each input bit changes half of the output bits."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def _mix(seed: int, position: int) -> int:
    """Hashes seed and position to 64 bits (the step and finaliser of SplitMix64; Steele et al. 2014)."""
    x = (seed + (position + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)


def _signed(bits: int) -> int:
    return bits - 2**32 if bits >= 2**31 else bits

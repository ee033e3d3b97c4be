"""Trains some attention heads with their own loss, to teach the language model where to look.

To answer "What colour is the small star?" a model collects the words that name the object, finds the patch that shows
it, and reads the colour. Each step helps only once the others work, so a small model that learns from answers alone
takes very long to start. Here one head learns to look at the naming words, others at the named patch and at the patch
that the answer describes; without such a patch, as in "Is there a star?", they look at the first token. The loss is the
cross-entropy of their attention. It fades during training and leaves nothing behind in the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from scripts.pocket.sheets import Batch

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Head:
    """An attention head with its own loss."""

    layer: int
    number: int
    target: Literal["words", "named", "told"]
    """What it looks at: the words that name an object, the patch of the named object, or of the described one."""


HEADS = (Head(1, 0, "words"), Head(2, 0, "named"), Head(3, 0, "told"), Head(3, 1, "told"))


class Pointers:
    """Records the inputs of the layers in HEADS and computes the loss of those heads."""

    def __init__(self, model: LlamaForCausalLM):
        self.seen: dict[int, tuple[Any, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]] = {}
        for layer in {head.layer for head in HEADS}:
            attention = model.model.layers[layer].self_attn
            attention.register_forward_pre_hook(self._keeper(layer), with_kwargs=True)

    def _keeper(self, layer: int) -> Callable[[Any, Any, dict[str, Any]], None]:
        def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            self.seen[layer] = module, kwargs["hidden_states"], kwargs["position_embeddings"]

        return keep

    def loss(self, batch: Batch, mask: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Returns the mean cross-entropy of the heads, and the fraction of tokens whose patch the last head finds.

        Args:
            batch: the batch of the latest forward pass.
            mask: attention mask of the latest forward pass.
        """
        import torch

        total, found = torch.zeros(()), 0.0
        for head in HEADS:
            row, token, wanted = _targets(batch, head.target)
            scores = self._scores(head, row, token).masked_fill(~mask[row, 0, token], -1e9)
            total = total + torch.nn.functional.cross_entropy(scores, wanted)
            found = float((wanted[range(len(row)), scores.argmax(-1)] > 0).float().mean())
        return total / len(HEADS), found

    def _scores(self, head: Head, row: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Returns the attention before the softmax, [tokens, length], as the model's layer computes it."""
        import torch
        from transformers.models.llama.modeling_llama import rotate_half

        module, states, (cos, sin) = self.seen[head.layer]
        size = module.head_dim
        part = slice(head.number * size, (head.number + 1) * size)
        queries = states[row, token] @ module.q_proj.weight[part].T
        keys = states @ module.k_proj.weight[part].T
        keys = keys * cos + rotate_half(keys) * sin
        queries = queries * cos[row, token] + rotate_half(queries) * sin[row, token]
        return torch.einsum("nd,nld->nl", queries, keys[row]) * size**-0.5


def _targets(batch: Batch, target: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns rows and positions of the looking tokens, and their target attention, [tokens, length]."""
    import torch

    looks = [look for look in batch.looks if target != "words" or look[4]]
    wanted = torch.zeros(len(looks), batch.ids.shape[1])
    for index, (_, _, named, told, words) in enumerate(looks):
        wanted[index, words if target == "words" else [named if target == "named" else told]] = 1
    row, token = (torch.tensor([look[place] for look in looks]) for place in (0, 1))
    return row, token, wanted / wanted.sum(1, keepdim=True)

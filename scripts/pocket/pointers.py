"""Shows the language model where to look: some heads of attention have a loss of their own.

To answer "What colour is the small star?" a model gathers the words that name the thing, finds the patch that shows
it, and reads off what is asked. Each step is of use only once the others work, so a small model that is told nothing
but the answers takes very long to begin. Here one head learns to look at the naming words, others at the patch that
is named and at the patch that is told of; where there is none, as in "Is there a star?", at the beginning of the text.
The loss is the cross-entropy of their attention; it fades as training goes on, and nothing of it is left in the model.
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
    layer: int
    number: int
    target: Literal["words", "named", "told"]
    """The words that name the thing, the patch of the thing that is named, or of the thing that is told of."""


HEADS = (Head(1, 0, "words"), Head(2, 0, "named"), Head(3, 0, "told"), Head(3, 1, "told"))


class Pointers:
    """Watches what the layers of HEADS are given, and computes the loss of those heads."""

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
        """Mean cross-entropy over the heads, and the share of tokens whose patch the last head finds.

        Args:
            mask: that of the forward pass which has just been made.
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
        """Attention before the softmax, [tokens, length], as the model's own layer computes it."""
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
    """Rows and places of the tokens that look, and what share of the attention goes where, [tokens, length]."""
    import torch

    looks = [look for look in batch.looks if target != "words" or look[4]]
    wanted = torch.zeros(len(looks), batch.ids.shape[1])
    for index, (_, _, named, told, words) in enumerate(looks):
        wanted[index, words if target == "words" else [named if target == "named" else told]] = 1
    row, token = (torch.tensor([look[place] for look in looks]) for place in (0, 1))
    return row, token, wanted / wanted.sum(1, keepdim=True)

"""The training loss, computed where a token is supervised and nowhere else.

A LLaVA row is mostly image and instruction. Passing only its supervised positions through the output embedding gives
the same loss and gradient as passing all, for a fraction of the memory and time (a row of 420 tokens with 100
supervised ones: 4.2 times less memory for logits).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llava.constants import IGNORE_INDEX


def supervised_loss(
    hidden: Tensor, labels: Tensor, lm_head: nn.Module, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Next-token cross entropy.

    Args:
        hidden: last hidden states, [rows, length, hidden].
        labels: [rows, length], int64, not shifted; `IGNORE_INDEX` is not supervised.
        lm_head: output embedding, hidden -> vocabulary.
        num_items_in_batch: supervised tokens to divide the sum by (of the whole optimizer step); None takes the mean
            over those of this batch.

    Returns:
        A float32 scalar; zero, but still a function of `hidden`, where nothing is supervised.
    """
    shifted = labels[:, 1:].to(hidden.device)
    supervised = shifted != IGNORE_INDEX
    logits = lm_head(hidden[:, :-1][supervised]).float()
    loss = nn.functional.cross_entropy(logits, shifted[supervised], reduction="sum")
    count = supervised.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    return loss / count.to(loss.device).clamp(min=1)

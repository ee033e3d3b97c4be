"""Muon: momentum whose matrix updates are made orthogonal. Small transformers learn from far fewer pictures with it.

float32 throughout and matrices of one shape together, for a processor without bfloat16 units.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Coefficients of the odd quintic whose repeated use drives all singular values towards one.
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For weight matrices only; everything else belongs to AdamW.

    Updates are scaled so that their size matches AdamW's: the same learning rates and weight decays fit.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault(weight.shape, []).append(weight)
            for weights in by_shape.values():
                self._update(weights, group)

    def _update(self, weights: list[Tensor], group: dict) -> None:
        directions = []
        for weight in weights:
            memory = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            gradient = weight.grad
            assert gradient is not None, "chosen by `step`"
            memory.lerp_(gradient, 1 - group["momentum"])
            directions.append(gradient.lerp(memory, group["momentum"]))
        updates = orthogonal(torch.stack(directions))
        scale = 0.2 * max(updates.shape[-2:]) ** 0.5
        for weight, update in zip(weights, updates, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly the closest matrices with all singular values one, by Newton-Schulz; [n, rows, columns] float32."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x

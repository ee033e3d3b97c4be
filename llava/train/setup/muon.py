"""Muon: momentum whose matrix updates are made orthogonal. Small models learn from far fewer samples with it.

The matrices inside the transformer layers are updated by Muon, all else (embeddings, output layer, projector,
norms, biases) by AdamW, in one optimizer. Updates are scaled so that their size matches AdamW's: the same rates
fit both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the odd quintic whose repeated use drives all singular values towards one.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_LAYERS = ".layers."


class Muon(torch.optim.Optimizer):
    """Groups whose `orthogonal` is true hold matrices for Muon; the others are AdamW's."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """
        Args:
            params: groups, each with a bool `orthogonal`; see `parameter_groups`.
            momentum: of the matrices.
            betas, eps: of AdamW.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "orthogonal": False,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update, as `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [weight for weight in group["params"] if weight.grad is not None]
            if group["orthogonal"]:
                by_shape: dict[torch.Size, list[Tensor]] = {}
                for weight in trained:
                    by_shape.setdefault(weight.shape, []).append(weight)
                for weights in by_shape.values():
                    self._update_matrices(weights, group)
            else:
                for weight in trained:
                    self._update_by_adam(weight, group)
        return loss

    def _update_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape together: many small products are slow one at a time."""
        directions = []
        for weight in weights:
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(_gradient(weight), 1 - group["momentum"])
            directions.append(_gradient(weight).lerp(state["momentum"], group["momentum"]))
        updates = orthogonal(torch.stack(directions))
        scale = 0.2 * max(updates.shape[-2:]) ** 0.5
        for weight, update in zip(weights, updates, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)

    def _update_by_adam(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
        first, second = group["betas"]
        state["step"] += 1
        state["mean"].lerp_(_gradient(weight), 1 - first)
        state["square"].lerp_(_gradient(weight).square(), 1 - second)
        size = (state["square"] / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.addcdiv_(state["mean"], size, value=-group["lr"] / (1 - first ** state["step"]))


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly the closest matrices with all singular values one, by Newton-Schulz; [n, rows, columns] floating point."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def parameter_groups(
    model: nn.Module, *, weight_decay: float, options: dict[str, dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """The trainable parameters of a transformer: matrices of its layers, other matrices, vectors.

    Args:
        weight_decay: of the layers' matrices; the rest has none.
        options: settings of their own, such as `lr`, for parameters whose name begins with the key.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own = next((prefix for prefix in options or {} if name.removeprefix("module.").startswith(prefix)), "")
        matrix = parameter.ndim == 2 and _LAYERS in name
        group = groups.setdefault(
            (own, matrix),
            {"params": [], "orthogonal": matrix, "weight_decay": weight_decay if matrix else 0.0},
        )
        group.update((options or {}).get(own, {}))
        group["params"].append(parameter)
    return list(groups.values())

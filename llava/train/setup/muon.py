"""Trains the matrices of a transformer's layers with Muon and all other parameters with AdamW, in one optimizer.

Muon makes the momentum of a matrix orthogonal before it is applied. Small models learn from far fewer samples with it.
Its updates are scaled to the size of AdamW's, so one learning rate fits both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_LAYERS = ".layers."
_EARLIER_NAMES = {"momentum": "momentum_buffer", "mean": "exp_avg", "square": "exp_avg_sq"}
"""State of checkpoints written before this class used torch's optimizers, and torch's names for the same tensors."""


class MuonWithAdamW(torch.optim.Optimizer):
    """Runs `torch.optim.Muon` and `torch.optim.AdamW` on the groups and the state of a single optimizer.

    A learning-rate schedule, `state_dict` and `load_state_dict` therefore treat the pair as one.
    """

    def __init__(self, params: list[dict[str, Any]], lr: float = 1e-3) -> None:
        """
        Args:
            params: groups from `parameter_groups`; `orthogonal` is true for the matrices that Muon trains.
            lr: learning rate of the groups that have none of their own.
        """
        super().__init__(params, {"lr": lr, "weight_decay": 0.0, "orthogonal": False})
        self._share()

    def _share(self) -> None:
        """Lets torch's optimizers work on this one's own groups and state, not on copies."""
        matrices = [group for group in self.param_groups if group["orthogonal"]]
        others = [group for group in self.param_groups if not group["orthogonal"]]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._parts.append(torch.optim.AdamW(others, betas=(0.9, 0.98)))
        for part in self._parts:
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for values in self.state.values():
            for earlier, name in _EARLIER_NAMES.items():
                if earlier in values:
                    values[name] = values.pop(earlier)
            if isinstance(values.get("step"), int):
                values["step"] = torch.tensor(float(values["step"]))
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Performs one update, as `torch.optim.Optimizer.step` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


def parameter_groups(
    model: nn.Module, *, weight_decay: float, options: dict[str, dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Groups a model's trainable parameters: matrices of its layers with `orthogonal` true, and all others.

    Args:
        weight_decay: weight decay of the layers' matrices; other parameters have none.
        options: for each prefix of parameter names, group settings such as `lr` that differ from the optimizer's.
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

"""Stops a run whose loss or gradients are not finite, before they reach the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llava.errors import NotFiniteError
from llava.train.checkpoints.folders import checkpoints

_NAMED = 8
"""Number of records to name in the message."""


class FiniteGuard(TrainerCallback):
    """Checks losses and gradients before each optimizer step, and names the records of a step that fails."""

    def __init__(self, names: Callable[[], tuple[str, ...]], gather: Callable[[list[str]], list[str]]) -> None:
        """
        Args:
            names: returns the names of the records in this process's part of the step.
            gather: joins the lists of all processes.
        """
        self._names = names
        self._gather = gather
        self._losses: list[Tensor] = []

    def watch(self, loss: Tensor) -> None:
        """Remembers the loss of a batch until the optimizer step."""
        self._losses.append(loss.detach())

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Raises:
            NotFiniteError: a loss or a gradient is infinite or not a number, in any process; raised in every process.
        """
        assert model is not None
        losses, self._losses = self._losses, []
        finite_loss = torch.isfinite(torch.stack(losses)).all() if losses else torch.tensor(True)
        # float16 is scaled, and its scaler skips steps with infinite gradients by design.
        finite_gradient = torch.tensor(True) if args.fp16 else _gradients_are_finite(model)
        mine = torch.stack([finite_loss.to(args.device), finite_gradient.to(args.device)]).long()
        everywhere = mine.clone()
        if args.world_size > 1:
            torch.distributed.all_reduce(everywhere, op=torch.distributed.ReduceOp.MIN)
        if everywhere.min():
            return
        loss_failed = not everywhere[0]
        concerned = list(self._names()) if not mine[0 if loss_failed else 1] else []
        raise NotFiniteError(_message(args, state, loss_failed, sorted(set(self._gather(concerned)))))


def _gradients_are_finite(model: nn.Module) -> Tensor:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    local = [gradient for gradient in local if gradient.numel()]
    if not local:
        return torch.tensor(True)
    return torch.isfinite(torch.stack([norm.float() for norm in torch._foreach_norm(local)])).all()


def _message(args: TrainingArguments, state: TrainerState, loss_failed: bool, names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    saved = checkpoints(Path(str(args.output_dir)))
    kept = f"The last good checkpoint is {saved[-1][1]}." if saved else "There is no checkpoint yet."
    return (
        f"step {state.global_step + 1}: the {'loss' if loss_failed else 'gradient'} is not finite, so the run was "
        f"stopped before it reached the weights. The step holds {', '.join(names[:_NAMED])}{more}. {kept} Check these "
        "records with `llava data check`, or lower --learning_rate."
    )

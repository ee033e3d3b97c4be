"""Stops a run whose loss, gradient or weights are not finite, before they spoil anything that is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llava.errors import NotFiniteError
from llava.files.json_files import write_json
from llava.train.checkpoints.folders import checkpoints

FILE = "not_finite.json"
_NAMED = 16
"""Number of records to name in the message; `not_finite.json` lists all."""

Finding = tuple[str, tuple[str, ...]]
"""What is wrong, and the names of the records that may have caused it."""


class FiniteGuard(TrainerCallback):
    """Checks losses and gradients before each optimizer step, and names the records of a step that fails."""

    def __init__(self, gather: Callable[[list[Finding]], list[Finding]]) -> None:
        """
        Args:
            gather: joins the lists of all processes.
        """
        self._gather = gather
        self._names: list[tuple[str, ...]] = []
        self._losses: list[Tensor] = []
        self._gradient_norm: Tensor | float | None = None

    def begin_step(self, names: Sequence[tuple[str, ...]]) -> None:
        """Starts a step.

        Args:
            names: names of the records in each of this process's batches.
        """
        self._names, self._losses, self._gradient_norm = list(names), [], None

    def watch_loss(self, loss: Tensor) -> None:
        """Remembers the loss of the next batch of the step."""
        self._losses.append(loss.detach().float())

    def watch_gradient(self, norm: Tensor | float | None) -> None:
        """Remembers the norm of the step's gradient, which is that of all processes together."""
        self._gradient_norm = norm

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Removes what an earlier attempt has left."""
        if state.is_world_process_zero:
            (Path(str(args.output_dir)) / FILE).unlink(missing_ok=True)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """
        Raises:
            NotFiniteError: a loss or a gradient is infinite or not a number, in any process; raised in every process.
        """
        self.check_step(args, state)

    def check_step(self, args: TrainingArguments, state: TrainerState) -> None:
        """Checks what was seen of the current step. Every process must call this.

        Raises:
            NotFiniteError: as `on_pre_optimizer_step`.
        """
        finite_loss = torch.isfinite(torch.stack(self._losses)).all() if self._losses else torch.tensor(True)
        # float16 is scaled, and its scaler skips steps with infinite gradients by design.
        norm = 0.0 if args.fp16 or self._gradient_norm is None else self._gradient_norm
        norm = norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(norm)
        flags = torch.stack([finite_loss.to(args.device), torch.isfinite(norm).to(args.device)]).int()
        if _minimum(flags, args).all():
            return
        step = state.global_step + 1
        found = self._gather(self._bad_losses())
        if not found:  # the gradient is summed over all processes, so any of their records may have caused it
            found = self._gather([(f"the gradient norm is {float(norm)}", name) for name in self._names])
        self._stop(
            args, state, step, f"{found[0][0]}, so the run was stopped before anything of this step was saved", found
        )

    def check_weights(self, model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
        """Checks the trained weights before they are saved. Every process must call this.

        Raises:
            NotFiniteError: a weight is infinite or not a number, in any process; raised in every process.
        """
        if _minimum(_weights_are_finite(model).int().to(args.device), args).all():
            return
        found = self._gather([("", name) for name in self._names])
        text = "the weights are not finite after this step, so they were not saved"
        self._stop(args, state, state.global_step, text, found)

    def _bad_losses(self) -> list[Finding]:
        values = [float(loss) for loss in self._losses]
        names = self._names + [()] * len(values)
        return [(f"the loss is {value}", names[n]) for n, value in enumerate(values) if not math.isfinite(value)]

    def _stop(
        self, args: TrainingArguments, state: TrainerState, step: int, text: str, found: Sequence[Finding]
    ) -> None:
        names = sorted({name for _, batch in found for name in batch})
        output_dir = Path(str(args.output_dir))
        if state.is_world_process_zero:
            output_dir.mkdir(parents=True, exist_ok=True)
            write_json(output_dir / FILE, {"step": step, "problem": text, "records": names})
        raise NotFiniteError(
            f"step {step}: {text}. {_describe(names, output_dir)} {_describe_saved(output_dir, state.global_step)} "
            "Look at these records with `llava data check`; if they are right, start over with a lower "
            "--learning_rate in another --output_dir."
        )


def _minimum(flags: Tensor, args: TrainingArguments) -> Tensor:
    """Returns the smallest value of each flag over all processes."""
    if args.world_size > 1:
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MIN)
    return flags


def _weights_are_finite(model: nn.Module) -> Tensor:
    local = [_own_part(parameter).detach() for parameter in model.parameters() if parameter.requires_grad]
    local = [weight for weight in local if weight.numel()]
    if not local:
        return torch.tensor(True)
    largest = torch._foreach_norm(local, ord=math.inf)  # a square could overflow where the weight does not
    return torch.isfinite(torch.stack([value.float() for value in largest])).all()


def _own_part(parameter: Tensor) -> Tensor:
    """Returns what this process holds of a parameter, which FSDP2 or DeepSpeed may have cut up."""
    if isinstance(parameter, DTensor):
        return parameter.to_local()
    return getattr(parameter, "ds_tensor", parameter)


def _describe(names: Sequence[str], output_dir: Path) -> str:
    """Names the records of a step; their file only once."""
    if not names:
        return "The names of its records are not known."
    file, separator, _ = names[0].partition(": ")
    prefix = file + separator
    if not separator or not all(name.startswith(prefix) for name in names):
        prefix = ""
    shown = ", ".join(name.removeprefix(prefix) for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more, all listed in {output_dir / FILE}" if len(names) > _NAMED else ""
    return f"The batch holds {prefix}{shown}{more}."


def _describe_saved(output_dir: Path, step: int) -> str:
    saved = checkpoints(output_dir)
    if not saved:
        return "There is no checkpoint yet."
    (last, folder), *earlier = reversed(saved)
    if last < step:
        return f"The last good checkpoint is {folder}."
    before = f"; the one before it is {earlier[0][1]}" if earlier else ""
    return f"The last good checkpoint is {folder}, saved right before this step{before}."

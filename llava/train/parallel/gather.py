"""Gathers the whole tensors of a model whose parameters may be sharded over processes (FSDP2, DeepSpeed)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llava.train.parallel.deepspeed import whole_parameter


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields parameters and persistent buffers by the names of `state_dict`, without copying or renaming any."""
    yield from model.named_parameters(remove_duplicate=False)
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


@torch.no_grad()
def gathered(model: nn.Module, wanted: Callable[[str], bool], *, keep: bool) -> dict[str, Tensor]:
    """Gathers tensors one at a time. Every process must call this, because each holds a part of every sharded tensor.

    Args:
        model: a model, sharded or not.
        wanted: tells whether a tensor of this name is needed; must answer the same in every process.
        keep: true in the process that will use the result; the others hold one tensor at a time and return none.

    Returns:
        Copies on the CPU, by name, in the model's order; empty if `keep` is false.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in named_tensors(model):
        if not wanted(name):
            continue
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else whole_parameter(tensor)
        whole = tensor if whole is None else whole
        if keep:
            # Training goes on while the caller writes, so a tensor that is on the CPU already must be copied.
            result[name] = whole.detach().to("cpu", copy=True)
    return result

"""Shards a model over processes with FSDP2, on CPUs too, and checks that it is sharded.

On accelerators, accelerate shards the model that the Trainer gives it. On CPUs it drops the request without a word and
trains data-parallel. `enable_on_cpu` makes it shard there too, so what runs on GPUs is tested without them.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llava.errors import InvalidRequest


def precision_policy(dtype: torch.dtype | None) -> Any:
    """Returns FSDP2's mixed precision: computation in `dtype`, gradients summed and weights updated in float32."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if dtype is not None else None)


def enable_on_cpu(accelerator: Accelerator, plugin_settings: dict[str, Any]) -> None:
    """Tells accelerate that processes on CPUs shard the model; on accelerators it knows already.

    accelerate (1.13 to 1.15) considers FSDP for accelerators only.
    """
    state: Any = accelerator.state
    if state.distributed_type is not DistributedType.MULTI_CPU:
        return
    plugin = FullyShardedDataParallelPlugin(**plugin_settings)
    state.distributed_type = state._shared_state["distributed_type"] = DistributedType.FSDP
    # Each new AcceleratorState copies the fields of PartialState over its own, so the type must stand there too.
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    state.fsdp_plugin = state._shared_state["fsdp_plugin"] = plugin


def num_sharded(model: nn.Module) -> tuple[int, int]:
    """Returns how many of a model's parameters are sharded, and how many there are."""
    parameters = list(model.parameters())
    return sum(isinstance(parameter, DTensor) for parameter in parameters), len(parameters)


class ShardingCheck(TrainerCallback):
    """Stops a run before its first step if the model is not sharded although it should be."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Raises:
            InvalidRequest: a parameter is whole in every process.
        """
        assert model is not None
        sharded, total = num_sharded(model)
        if sharded < total:
            raise InvalidRequest(
                f"--fsdp: only {sharded} of {total} parameters are sharded, so each process would hold all of the "
                "rest. Remove --fsdp to train data-parallel, and report this with the output of `llava doctor`."
            )
        if args.process_index == 0:
            processes = "1 process" if args.world_size == 1 else f"{args.world_size} processes"
            print(f"[llava.train] sharded {sharded} of {total} parameters over {processes} (FSDP2)", flush=True)

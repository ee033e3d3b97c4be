"""Fits DeepSpeed's ZeRO to this package: how models are built, gathered, saved and resumed under it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from llava.errors import CheckpointError, InvalidRequest
from llava.train.parallel.deepspeed_settings import DeepSpeed

LATEST = "latest"
"""File in a checkpoint that names the folder of DeepSpeed's state."""


def check_filled_in(chosen: DeepSpeed, filled_in: Any) -> None:
    """Checks the settings after transformers has put the flags' values in place of "auto".

    Args:
        chosen: the settings as the user gave them.
        filled_in: transformers' `HfTrainerDeepSpeedConfig` of them.

    Raises:
        InvalidRequest: a setting differs from its flag, or DeepSpeed does not accept it.
    """
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    if filled_in.mismatches:
        differing = "; ".join(
            text.removeprefix("- ds ").replace(" vs hf ", ", but --") for text in filled_in.mismatches
        )
        raise InvalidRequest(f'--deepspeed {chosen.file}: {differing}. Write "auto" in the file to take the flags.')
    zero = {name: value for name, value in chosen.settings["zero_optimization"].items() if value != "auto"}
    try:
        DeepSpeedZeroConfig(**zero)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"--deepspeed {chosen.file}: zero_optimization.{place}: {first['msg']}.") from None
    # DeepSpeed calls collectives by names that PyTorch is renaming, in every step.
    warnings.filterwarnings("ignore", message=r".*torch\.distributed\.\w+` is deprecated", category=FutureWarning)


@contextmanager
def models_built_whole(filled_in: Any) -> Iterator[None]:
    """Keeps transformers from partitioning models while they are built: embeddings are enlarged, rows are averaged and
    adapters are read before the model is partitioned as one.

    Args:
        filled_in: transformers' `HfTrainerDeepSpeedConfig`; None without DeepSpeed.
    """
    from transformers.integrations import deepspeed as integration

    if filled_in is None:
        yield
        return
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration.set_hf_deepspeed_config(filled_in)


def whole_parameter(parameter: Tensor) -> Tensor | None:
    """Returns the whole float32 value of a parameter that DeepSpeed trains, or the whole value of one that it has
    partitioned; None if the parameter is not DeepSpeed's. Every process must call this.
    """
    if not hasattr(parameter, "ds_id") and not hasattr(parameter, "_hp_mapping"):
        return None
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    if parameter.requires_grad:
        return safe_get_full_fp32_param(parameter)
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def describe_partition(model: nn.Module, stage: int, processes: int) -> str:
    """Describes in one line what DeepSpeed has sharded.

    Raises:
        InvalidRequest: it has left out a parameter.
    """
    parameters = [parameter for parameter in model.parameters() if stage == 3 or parameter.requires_grad]
    sharded = sum(hasattr(parameter, "ds_id" if stage == 3 else "_hp_mapping") for parameter in parameters)
    if sharded < len(parameters):
        raise InvalidRequest(
            f"--deepspeed: only {sharded} of {len(parameters)} parameters are sharded. Remove --deepspeed to train "
            "data-parallel, and report this with the output of `llava doctor`."
        )
    what = {1: "the optimizer's state of ", 2: "gradients and the optimizer's state of ", 3: ""}[stage]
    over = "1 process" if processes == 1 else f"{processes} processes"
    return f"sharded {what}{sharded} of {len(parameters)} parameters over {over} (DeepSpeed ZeRO-{stage})"


def save_engine(engine: Any, folder: Path) -> None:
    """Writes the state of an engine, in every process, without frozen parameters, which can be read anew."""
    engine.save_checkpoint(str(folder), exclude_frozen_parameters=True)


def load_trained_only(engine: Any) -> None:
    """Lets an engine resume from checkpoints that hold only what trains."""
    load = engine.load_checkpoint

    def load_checkpoint(*args: Any, **kwargs: Any) -> Any:
        return load(*args, **{**kwargs, "load_module_strict": False})

    engine.load_checkpoint = load_checkpoint


def check_checkpoint(folder: Path, chosen: DeepSpeed | None, processes: int) -> None:
    """Checks that a checkpoint was written by the kind of run that resumes from it.

    Raises:
        CheckpointError: with or without DeepSpeed, by another stage or another number of processes.
    """
    anew = "or start over with --resume_from_checkpoint False"
    if (folder / LATEST).is_file() != (chosen is not None):
        was, what = ("without", "Remove") if chosen is not None else ("with", "Set")
        raise CheckpointError(f"{folder} was written {was} --deepspeed. {what} the flag, {anew}.")
    if chosen is None:
        return
    state = folder / (folder / LATEST).read_text(encoding="utf-8").strip()
    written_by = len(list(state.glob("*zero_pp_rank_*_optim_states.pt")))
    if written_by != processes:
        raise CheckpointError(
            f"{folder} was written by {written_by} processes with --deepspeed, and only as many can read it; these are "
            f"{processes}. Start as many, {anew}."
        )
    parted = bool(list(state.glob("*zero_pp_rank_*_model_states.pt")))
    if parted != (chosen.stage == 3):
        raise CheckpointError(
            f"{folder} was written by ZeRO-{'3' if parted else '1 or 2'}, which ZeRO-{chosen.stage} cannot read. "
            f"Choose that stage in {chosen.file}, {anew}."
        )


class PartitionReport(TrainerCallback):
    """Says before the first step what DeepSpeed has sharded."""

    def __init__(self, stage: int) -> None:
        self._stage = stage

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """
        Raises:
            InvalidRequest: a parameter is not sharded.
        """
        line = describe_partition(getattr(model, "module", model), self._stage, args.world_size)
        if args.process_index == 0:
            print(f"[llava.train] {line}", flush=True)

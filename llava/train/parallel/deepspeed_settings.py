"""Reads the settings of DeepSpeed (`--deepspeed FILE`) and checks them against the other flags; loads no torch.

DeepSpeed is an optional part. FSDP2 (`--fsdp`) does the same as ZeRO-3 with PyTorch alone; DeepSpeed serves those who
have settings for it, or need its offloading.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llava.errors import InvalidRequest
from llava.train.parallel.sharding import is_launched, sharding_of_words

_FILLED_IN = {
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
    "gradient_clipping": "auto",
    "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}
"""Settings that a file without them gets from the flags; DeepSpeed's own defaults would contradict these."""

_KNOWN = (
    *_FILLED_IN,
    *("activation_checkpointing", "aio", "checkpoint", "comms_logger", "communication_data_type", "csv_monitor"),
    *("data_types", "flops_profiler", "gradient_predivide_factor", "optimizer", "prescale_gradients", "scheduler"),
    *("sparse_gradients", "steps_per_print", "tensorboard", "torch_autocast", "wall_clock_breakdown", "wandb"),
    *("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "zero_optimization", "memory_breakdown"),
)
_ELSEWHERE = {
    "amp": "Use --bf16 True or --fp16 True.",
    "compression_training": "Remove it.",
    "data_efficiency": "Remove it.",
    "pipeline": "Remove it.",
    "tensor_parallel": "Remove it; ZeRO shards the model.",
}
"""Settings of DeepSpeed that would train something else, and what to do."""


@dataclass(frozen=True, slots=True)
class DeepSpeed:
    """Settings of `--deepspeed`, checked as far as that is possible without the package."""

    file: str
    """The file, for messages."""
    settings: dict[str, Any]
    """All settings for DeepSpeed; "auto" stands for the value of a flag."""

    @property
    def stage(self) -> int:
        """What is sharded: 1 the optimizer's state, 2 gradients too, 3 parameters too."""
        return int(self.settings["zero_optimization"]["stage"])

    @property
    def own_optimizer(self) -> str | None:
        """The name of the optimizer that the file chooses, if it does."""
        return _type_of(self.settings.get("optimizer"))

    @property
    def own_schedule(self) -> str | None:
        """The name of the learning-rate schedule that the file chooses, if it does."""
        return _type_of(self.settings.get("scheduler"))


def _type_of(section: Any) -> str | None:
    return str(section.get("type", "without a type")) if isinstance(section, Mapping) else None


def deepspeed_of_words(words: Sequence[str]) -> DeepSpeed | None:
    """Reads `--deepspeed` of a command line, and checks it against the other flags and this machine.

    Raises:
        InvalidRequest: the file cannot be used, another flag contradicts it, the package is not installed, or no
            launcher started this process.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--deepspeed")
    parser.add_argument("--optim")
    parser.add_argument("--mm_projector_lr")
    found, _ = parser.parse_known_args(list(words))
    chosen = read_deepspeed(found.deepspeed)
    if chosen is None:
        return None
    if sharding_of_words(words) is not None:
        raise InvalidRequest("--deepspeed and --fsdp both shard the model. Choose one.")
    if found.optim == "muon":
        raise InvalidRequest("--optim muon needs whole matrices, which --deepspeed cuts up. Use --optim adamw_torch.")
    if chosen.own_optimizer is not None and found.mm_projector_lr is not None:
        raise InvalidRequest(
            f"--mm_projector_lr: the optimizer of {chosen.file} ({chosen.own_optimizer}) has one learning rate for all "
            'parameters. Remove "optimizer" from the file, or the flag.'
        )
    if find_spec("deepspeed") is None:
        raise InvalidRequest(
            "--deepspeed: the package is not installed. Install it with `pip install -e '.[deepspeed]'`, or use "
            '--fsdp "full_shard auto_wrap", which shards the model with PyTorch alone.'
        )
    if not is_launched():
        raise InvalidRequest(
            "--deepspeed needs a launcher, also for one GPU: start with torchrun --nproc_per_node=1, or with deepspeed."
        )
    return chosen


def read_deepspeed(source: str | Mapping[str, Any] | None) -> DeepSpeed | None:
    """Reads settings for DeepSpeed.

    Args:
        source: a JSON file, JSON text, or the settings themselves.

    Returns:
        The settings; None if there are none.

    Raises:
        InvalidRequest: the settings cannot be read, or hold something that cannot be honoured.
    """
    if source is None or source == "":
        return None
    file, settings = _read(source)
    for name, what_to_do in _ELSEWHERE.items():
        if settings.get(name):
            raise InvalidRequest(f"--deepspeed {file}: {name} is not supported. {what_to_do}")
    for name in settings:
        close = difflib.get_close_matches(str(name), _KNOWN, n=1, cutoff=0.85)
        if name not in _KNOWN and close:
            raise InvalidRequest(f"--deepspeed {file}: there is no setting {name!r}; did you mean {close[0]!r}?")
    zero = settings.get("zero_optimization")
    if not isinstance(zero, Mapping):
        raise InvalidRequest(f'--deepspeed {file}: "zero_optimization" is missing, so nothing would be sharded.')
    stage = zero.get("stage")
    if stage not in (1, 2, 3) or isinstance(stage, bool):
        raise InvalidRequest(
            f"--deepspeed {file}: stage is {stage!r}. Use 1 (shards the optimizer's state), 2 (gradients too) or 3 "
            "(parameters too)."
        )
    return DeepSpeed(file, {**_FILLED_IN, **settings})


def _read(source: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(source, Mapping):
        return "settings", dict(source)
    is_text = source.lstrip().startswith("{")
    name = "settings" if is_text else source
    try:
        settings = json.loads(source if is_text else Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(f"--deepspeed {name}: cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise InvalidRequest(f"--deepspeed {name}: not valid JSON ({error}).") from None
    if not isinstance(settings, dict):
        raise InvalidRequest(f"--deepspeed {name}: expected a JSON object, found {type(settings).__name__}.")
    return name, settings

"""Extends transformers' `TrainingArguments` with the flags of every release of the original.

Flags that transformers has dropped and flags that this machine does not support are translated. Each translation adds
one line to `notes`, so that every change is reported.
"""

from __future__ import annotations

import netrc
import os
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.integrations import get_available_reporting_integrations
from transformers.utils import is_torch_tf32_available

from llava.errors import InvalidRequest
from llava.train.parallel.deepspeed import check_filled_in
from llava.train.parallel.deepspeed_settings import DeepSpeed, read_deepspeed
from llava.train.parallel.fsdp import precision_policy
from llava.train.parallel.sharding import Sharding, is_launched, sharding_of, take_launcher_settings
from llava.train.setup.arguments import TrainingOptions
from llava.train.setup.lora import LoraSettings, ignored_flags
from llava.train.setup.quantized import QuantizedBase


@dataclass
class TrainingArguments(TrainingOptions, transformers.TrainingArguments):
    """All training flags: `TrainingOptions`, and those of transformers, which its documentation describes."""

    optim: str = field(default="adamw_torch", metadata={"help": "Optimizer (default: adamw_torch)."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be False."})
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "Experiment trackers (default: none)."}
    )
    muon: bool = field(default=False, init=False, repr=False)
    """True for `--optim muon`, which transformers does not offer."""
    sharding: Sharding | None = field(default=None, init=False, repr=False)
    """How the model is sharded over processes; None if each process holds all of it."""
    zero: DeepSpeed | None = field(default=None, init=False, repr=False)
    """The settings of `--deepspeed`; None without it."""
    lora: LoraSettings | None = field(default=None, init=False, repr=False)
    """How the language model is adapted; None if it trains itself or is frozen."""
    quantized: QuantizedBase | None = field(default=None, init=False, repr=False)
    """How the language model's frozen weights are quantised; None if they are not."""
    notes: list[str] = field(default_factory=list, init=False, repr=False)
    """One line per translated flag."""

    def __post_init__(self) -> None:
        self.notes, self.sharding, self.zero = [], None, None
        if self.optim == "muon":
            self.muon, self.optim = True, "adamw_torch"
        # The filter would log the mean of earlier losses in place of one that is not a number.
        self.logging_nan_inf_filter = False
        # By default, transformers shows a bar only if its log is as talkative as it is out of the box.
        self.disable_tqdm = bool(self.disable_tqdm)
        self._fit_to_device()
        self._shard()
        self._read_deepspeed()
        self._adapt()
        self._rename_old_flags()
        self._imply_evaluation()
        self._fit_reporting()
        # transformers makes the other processes more talkative than the first one.
        self.log_level_replica = self.log_level if self.log_level_replica == "warning" else self.log_level_replica
        if self.remove_unused_columns:
            raise InvalidRequest("--remove_unused_columns True would remove the images. Remove the flag.")
        with warnings.catch_warnings():
            # FSDP's own recomputation would rename every parameter; that of the model works under FSDP2 as well.
            warnings.filterwarnings("ignore", message=".*activation_checkpointing.*")
            super().__post_init__()
        if self.sharding is not None and self.compute_dtype is not torch.float32:
            self.fsdp_plugin_args["mixed_precision_policy"] = precision_policy(self.compute_dtype)
        if self.zero is not None:
            check_filled_in(self.zero, self.hf_deepspeed_config)

    @property
    def compute_dtype(self) -> torch.dtype:
        """The number format of matrix products, which frozen weights are kept in."""
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else torch.float32

    @property
    def shards_parameters(self) -> bool:
        """Whether each process holds a part of every parameter."""
        return self.sharding is not None or (self.zero is not None and self.zero.stage == 3)

    def say(self, line: str) -> None:
        """Prints a line in the first process only."""
        if self.process_index == 0:
            print(f"[llava.train] {line}", flush=True)

    def _note(self, text: str) -> None:
        self.notes.append(text)

    def _rename_old_flags(self) -> None:
        if self.evaluation_strategy is not None:
            self.eval_strategy = self.evaluation_strategy
            self._note(f"--evaluation_strategy {self.evaluation_strategy}: used as --eval_strategy, its new name")
        if self.warmup_ratio is not None:
            if not 0 <= self.warmup_ratio < 1:
                raise InvalidRequest(f"--warmup_ratio {self.warmup_ratio}: must be at least 0 and less than 1.")
            if self.warmup_steps:
                self._note(f"--warmup_ratio {self.warmup_ratio}: ignored, because --warmup_steps is set")
            else:
                self.warmup_steps = self.warmup_ratio
                self._note(f"--warmup_ratio {self.warmup_ratio}: used as --warmup_steps {self.warmup_ratio}")
        self._recompute_without_reentry()
        if self.group_by_length and not self.group_by_modality_length:
            self._note("--group_by_length: used as --group_by_modality_length")
            self.group_by_modality_length = True
        if self.cache_dir is not None:
            self._note(f"--cache_dir {self.cache_dir}: ignored; hub downloads are stored in HF_HOME")
        if not self.save_safetensors:
            self._note("--save_safetensors False: ignored; models are always saved as safetensors")
        if self.logging_dir is not None:
            os.environ.setdefault("TENSORBOARD_LOGGING_DIR", self.logging_dir)
            self._note(f"--logging_dir {self.logging_dir}: used as TENSORBOARD_LOGGING_DIR")

    def _imply_evaluation(self) -> None:
        """Switches the validation on if flags say when to validate, but not that."""
        if self.eval_strategy != "no" or self.evaluation_strategy is not None:
            return
        if self.load_best_model_at_end and self.save_strategy in ("steps", "epoch"):
            self.eval_strategy = self.save_strategy
            self.eval_steps = self.eval_steps or (self.save_steps if self.save_strategy == "steps" else None)
        elif self.eval_steps:
            self.eval_strategy = "steps"

    def _recompute_without_reentry(self) -> None:
        """Turns re-entrant recomputation off: it loses the projector's gradient if the language model is frozen.

        transformers 5.23 renamed the flag to `activation_checkpointing` and warns about the name in common use.
        """
        name = "activation_checkpointing" if hasattr(self, "activation_checkpointing") else "gradient_checkpointing"
        if getattr(self, name) or self.gradient_checkpointing:
            options = getattr(self, f"{name}_kwargs") or self.gradient_checkpointing_kwargs
            setattr(self, name, True)
            setattr(self, f"{name}_kwargs", options or {"use_reentrant": False})
        if name != "gradient_checkpointing":
            self.gradient_checkpointing = self.gradient_checkpointing_kwargs = None

    def _fit_to_device(self) -> None:
        if self.no_cuda:
            self.use_cpu = True
            self._note("--no_cuda: used as --use_cpu, its new name")
        wants_cpu = self.use_cpu
        if not self.use_cpu and not torch.accelerator.is_available():
            self.use_cpu = True
            self._note("no accelerator found; training on the CPU")
        if self.use_cpu and not wants_cpu:
            for name in ("bf16", "fp16"):
                if getattr(self, name):
                    setattr(self, name, False)
                    self._note(f"--{name}: ignored; training on a CPU uses float32, unless --use_cpu is set too")
        if self.tf32 and (self.use_cpu or not is_torch_tf32_available()):
            self.tf32 = None
            self._note("--tf32: ignored; this device does not support TF32")

    def _shard(self) -> None:
        """Turns the flags of FSDP1 into settings of FSDP2."""
        layer = self.fsdp_transformer_layer_cls_to_wrap
        sharding = sharding_of(self.fsdp, self.fsdp_config, layer)
        launched = take_launcher_settings()
        if sharding is None and launched is not None:
            sharding = launched
            self._note("FSDP: on, as `accelerate launch` asks for")
        self.fsdp, self.fsdp_config = None, None
        if sharding is None:
            if layer is not None:
                self._note("--fsdp_transformer_layer_cls_to_wrap: ignored without --fsdp")
            return
        if not is_launched():
            self._note("--fsdp: ignored; there is a single process and no launcher such as torchrun")
            return
        if sharding.recompute:
            self.gradient_checkpointing = True
            self._note("--fsdp_config activation_checkpointing: used as --gradient_checkpointing")
        if sharding.cpu_offload and self.use_cpu:
            sharding = replace(sharding, cpu_offload=False)
            self._note("--fsdp offload: ignored; on a CPU the shards are in host memory already")
        elif sharding.cpu_offload and torch.cuda.is_available():
            # Norms of gradients in host memory are summed over processes there, which NCCL cannot do.
            self.ddp_backend = self.ddp_backend or "cuda:nccl,cpu:gloo"
        self.sharding = sharding
        self.fsdp, self.fsdp_config = True, sharding.fsdp_config()  # type: ignore[assignment]

    def shard_layers_of(self, model: Any) -> None:
        """Sets the layers of a model as the units that are gathered, if the run shards it.

        Raises:
            InvalidRequest: the flags name layers that the model does not have.
        """
        if self.sharding is None:
            return
        own = sorted(model._no_split_modules)
        for name in self.sharding.layers:
            if name not in own:
                raise InvalidRequest(
                    f"--fsdp_transformer_layer_cls_to_wrap {name}: this model has no such layers. "
                    f"Use {' or '.join(own)}, or remove the flag."
                )
        assert self.fsdp_plugin_args is not None
        self.fsdp_plugin_args["transformer_cls_names_to_wrap"] = ",".join(own)

    def _read_deepspeed(self) -> None:
        self.zero = read_deepspeed(self.deepspeed)
        if self.zero is None:
            self.deepspeed = None
            return
        self.deepspeed = self.zero.settings
        if self.bits != 16 and self.zero.stage == 3:
            raise InvalidRequest(
                f"--bits {self.bits}: quantised weights cannot be cut up by ZeRO-3. Use stage 2 in {self.zero.file}."
            )
        if self.zero.own_schedule is not None:
            self._note(f"--lr_scheduler_type: ignored; {self.zero.file} chooses {self.zero.own_schedule}")
        if self.zero.own_optimizer is not None:
            self._note(f"--optim: ignored; {self.zero.file} chooses {self.zero.own_optimizer}")

    def _adapt(self) -> None:
        self.lora, self.quantized = LoraSettings.from_options(self), QuantizedBase.from_options(self)
        if self.lora is None:
            for flag in ignored_flags(self):
                self._note(f"{flag}: ignored without --lora_enable True")
        elif self.lora.start_from is not None:
            self._note(f"--lora_weight_path: training on an adapter of rank {self.lora.rank}, alpha {self.lora.alpha}")

    def _fit_reporting(self) -> None:
        if self.run_name is None and self.output_dir:
            self.run_name = Path(self.output_dir).name or None  # trackers would make a name up
        named = [self.report_to] if isinstance(self.report_to, str) else self.report_to or []
        wanted = list(dict.fromkeys(name.strip() for word in named for name in word.split(",") if name.strip()))
        if not wanted or set(wanted) & {"none", "all"}:
            return
        available = get_available_reporting_integrations()
        for name in [name for name in wanted if name not in available]:
            self._note(f"--report_to {name}: ignored; the package is not installed")
            wanted.remove(name)
        if "wandb" in wanted and not _has_wandb_account():
            os.environ["WANDB_MODE"] = "offline"
            self._note(
                "--report_to wandb: no account found; recording offline in wandb/ (upload later with `wandb sync`)"
            )
        self.report_to = wanted or ["none"]


def _has_wandb_account() -> bool:
    """Tells whether wandb has a login, or its mode is set in the environment."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False

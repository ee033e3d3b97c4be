"""Loads a frozen base in 4 or 8 bits with bitsandbytes, to train LoRA matrices on it (QLoRA, Dettmers et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from llava.errors import InvalidRequest

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedTokenizerFast

    from llava.model.loading.plan import LoadPlan
    from llava.train.setup.arguments import TrainingOptions
    from llava.train.setup.trainable import Stage

_KEPT = ["mm_projector", "vision_tower", "lm_head"]
"""Parts that are not quantised, because errors in them change answers most."""


@dataclass(frozen=True, slots=True)
class QuantizedBase:
    """How the frozen weights of the language model are stored."""

    bits: Literal[4, 8]
    quant_type: str = "nf4"
    """Number format of 4-bit weights: nf4 or fp4."""
    double_quant: bool = True
    """Whether the scales of 4-bit weights are quantised too."""

    @classmethod
    def from_options(cls, options: TrainingOptions) -> QuantizedBase | None:
        """Reads the flags; None for `--bits 16`. The machine is not looked at.

        Raises:
            InvalidRequest: a value that does not exist, or quantised weights without LoRA, which could not be trained.
        """
        if options.bits == 16:
            return None
        if options.bits not in (4, 8):
            raise InvalidRequest(f"--bits {options.bits}: must be 4, 8 or 16.")
        if options.quant_type not in ("nf4", "fp4"):
            raise InvalidRequest(f"--quant_type {options.quant_type}: must be nf4 or fp4.")
        if not options.lora_enable:
            raise InvalidRequest(
                f"--bits {options.bits}: quantised weights cannot be trained. Add --lora_enable True, which trains "
                "matrices beside them, or remove --bits."
            )
        return cls(4 if options.bits == 4 else 8, options.quant_type, options.double_quant)

    def check_machine(self, device: torch.device, *, sharded: bool) -> None:
        """
        Raises:
            InvalidRequest: this machine cannot train on quantised weights, or they shall be sharded.
        """
        need = f"--bits {self.bits} needs an NVIDIA GPU and bitsandbytes (pip install 'llava[quant]')"
        if device.type != "cuda":
            raise InvalidRequest(f"{need}; this run uses the device {device.type}. Remove --bits.")
        if find_spec("bitsandbytes") is None:
            raise InvalidRequest(f"{need}; bitsandbytes is not installed.")
        if sharded:
            raise InvalidRequest(
                f"--bits {self.bits} with --fsdp: quantised weights are not sharded. Remove --fsdp; each process then "
                "holds the quantised base, and only the matrices are trained."
            )

    def config(self, dtype: torch.dtype) -> BitsAndBytesConfig:
        """Returns the settings for transformers; products are computed in `dtype`."""
        from transformers import BitsAndBytesConfig

        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_KEPT)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=_KEPT,
        )


def load_quantized(
    plan: LoadPlan,
    tokenizer: PreTrainedTokenizerFast,
    base: QuantizedBase,
    stage: Stage,
    dtype: torch.dtype,
) -> Any:
    """Builds the model of a plan with a quantised language model, and with its vision tower if the folder has one.

    Args:
        plan: what to load; its `device_map` names the device, its `dtype` is that of the vision tower.
        stage: what trains; those parameters are float32, all others `dtype` or quantised.
    """
    import torch

    from llava.model.loading.language_model import add_image_tokens, load_language_model
    from llava.model.loading.tower import attach_tower

    model = load_language_model(plan, quantization_config=base.config(dtype), dtype=dtype)
    for name, parameter in model.named_parameters():
        if stage.trains(name) and name in plan.tensors:
            parameter.data = plan.checkpoint.tensor(plan.tensors[name]).to(parameter.device, torch.float32)
    add_image_tokens(model, tokenizer, plan.folder.path)
    attach_tower(model, plan)
    return model

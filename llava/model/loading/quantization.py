"""Decides how a model is quantised: by bitsandbytes on a GPU, to 8 bits by PyTorch itself on a CPU.

On a CPU the decoder's linear layers become int8: weights are quantised once, per row, activations as they come (dynamic
quantisation), and products are of integers. The vision tower, the projector, the embeddings and the output stay in
floating point, because they are a small part of the work and errors in them change answers most.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from llava.errors import InvalidRequest

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

    from llava.model.language_model.causal_lm import LlavaCausalLM

Quantization = Literal["none", "int8 on a CPU", "8 bits", "4 bits"]


def choose_quantization(load_8bit: bool, load_4bit: bool, device: str) -> Quantization:
    """
    Raises:
        InvalidRequest: both, a device that cannot do it, or bitsandbytes is not installed.
    """
    if load_8bit and load_4bit:
        raise InvalidRequest("load_8bit and load_4bit exclude each other.")
    if not load_8bit and not load_4bit:
        return "none"
    if load_8bit and device.startswith("cpu"):
        return "int8 on a CPU"
    if find_spec("bitsandbytes") is None:
        raise InvalidRequest("8-bit and 4-bit loading need bitsandbytes: pip install 'llava[quant]'.")
    if not device.startswith("cuda"):
        raise InvalidRequest(
            f"4-bit loading, and 8-bit loading on anything but a CPU, need a CUDA GPU; the device is {device}."
        )
    return "8 bits" if load_8bit else "4 bits"


def bitsandbytes_config(quantization: Quantization) -> BitsAndBytesConfig | None:
    """Returns the original's bitsandbytes settings (nf4, double quantised); the projector and the output stay as they
    are. None if bitsandbytes is not used."""
    if quantization not in ("8 bits", "4 bits"):
        return None
    import torch
    from transformers import BitsAndBytesConfig

    skipped = ["mm_projector", "vision_tower", "lm_head"]
    if quantization == "8 bits":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16,
        llm_int8_skip_modules=skipped,
    )


def quantize_decoder(model: LlavaCausalLM) -> None:
    """Replaces each linear layer of the decoder, in place. The model must be in float32 and on the CPU."""
    import torch

    # PyTorch is moving these tools to another package, and warns about it on every call.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        per_row = torch.ao.quantization.per_channel_dynamic_qconfig
        for layer in model.get_model().layers:
            torch.ao.quantization.quantize_dynamic(layer, {torch.nn.Linear: per_row}, inplace=True)

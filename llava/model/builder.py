"""Loads every form of LLaVA checkpoint: original v0 to v1.6, projector or LoRA beside a base model, and transformers'.

The content of a folder decides what it is (`llava.model.loading.model_folder`). Names, shapes and files are checked
against the model before anything is loaded (`llava.model.loading.plan`), so a wrong folder fails at once and the error
says which tensor of which file is wrong.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.model.loading.plan import LoadPlan, make_plan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from llava.model.language_model.causal_lm import LlavaCausalLM

log = logging.getLogger(__name__)


def load_pretrained_model(
    model_path: str | Path,
    model_base: str | Path | None = None,
    model_name: str | None = None,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: str | dict[str, Any] | None = "auto",
    device: str | None = None,
    use_flash_attn: bool = False,
    *,
    dtype: torch.dtype | str | None = None,
    vision_tower: str | Path | None = None,
    mm_projector: str | Path | None = None,
    attn_implementation: str | None = None,
    max_memory: dict[int | str, str] | None = None,
) -> tuple[PreTrainedTokenizerFast, LlavaCausalLM, Any, int]:
    """Loads a model for inference.

    Args:
        model_path: folder or hub id of any form in `llava.model.loading.model_folder`.
        model_base: the language model, for projector-only and LoRA folders.
        model_name: not used; the folder's content decides, never its name.
        load_8bit, load_4bit: quantises the language model (`llava.model.loading.quantization`).
        device_map: "auto" spreads the model over all CUDA GPUs, a dict is passed to transformers, None uses one device.
        device, dtype: cuda, cuda:N, mps or cpu, and the number format; None chooses (`llava.model.loading.device`).
        vision_tower: folder or hub id of the tower, in place of what the checkpoint says.
        mm_projector: projector file that turns a plain language model into a LLaVA (with `vision_tower`).
        attn_implementation: "sdpa", "eager" or "flash_attention_2" (`use_flash_attn`); None is transformers' choice.
        max_memory: memory on each GPU for "auto", as accelerate takes it.

    Returns:
        (tokenizer, model in evaluation mode, image processor or None for a text-only model, context length in tokens).

    Raises:
        CheckpointError, InvalidRequest: names the file, the arguments or the device, and what to do.
    """
    plan = make_plan(
        model_path,
        model_base=model_base,
        load_8bit=load_8bit,
        load_4bit=load_4bit,
        device_map=device_map,
        device=device,
        dtype=dtype,
        vision_tower=vision_tower,
        mm_projector=mm_projector,
        attn_implementation="flash_attention_2" if use_flash_attn else attn_implementation,
        max_memory=max_memory,
    )
    return _carry_out(plan)


def _carry_out(plan: LoadPlan) -> tuple[PreTrainedTokenizerFast, LlavaCausalLM, Any, int]:
    from llava.model.loading.language_model import add_image_tokens, load_language_model
    from llava.model.loading.quantization import quantize_decoder
    from llava.model.loading.tokenizer import load_tokenizer
    from llava.model.loading.tower import attach_tower
    from llava.model.weights.adapter import apply_adapter

    model = load_language_model(plan)
    log.info("%s: %d tensors of the language model loaded", plan.weights_folder, len(plan.tensors))
    tokenizer = load_tokenizer(plan.tokenizer_folder)
    add_image_tokens(model, tokenizer, plan.folder.path)
    if plan.adapter is not None:
        apply_adapter(model, plan.adapter)
        log.info("%s: projector loaded", plan.adapter)
    if plan.quantization == "int8 on a CPU":
        quantize_decoder(model)
    image_processor = attach_tower(model, plan)
    return tokenizer, model.eval(), image_processor, plan.folder.context_length

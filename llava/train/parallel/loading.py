"""Loads the language model and projector of a training run, each tensor in the number format that it is trained in.

Weights that train are float32, so that small updates are not lost. Frozen weights may have 16 bits. If the model is to
be sharded, the first process reads the weights; the others allocate the same tensors without touching them, which takes
no memory, and receive their share when the model is sharded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from llava.model.weights.finite import check_finite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava.model.language_model.causal_lm import LlavaCausalLM
    from llava.model.loading.plan import LoadPlan


def load_for_training(
    plan: LoadPlan,
    tokenizer: PreTrainedTokenizerFast,
    dtype_of: Callable[[str], torch.dtype],
    *,
    device: torch.device | str = "cpu",
    empty: bool = False,
) -> LlavaCausalLM:
    """Builds the model of a plan, with its vision tower if the folder has one.

    Args:
        plan: what to load; its `dtype` is that of the vision tower.
        tokenizer: the model's; it gets the image tokens that the model's config asks for.
        dtype_of: the number format of a parameter, by name.
        device: device of the parameters. Tensors go there one by one, so host memory never holds the model.
        empty: whether to leave the values of the parameters undefined, because another process sends them.

    Raises:
        WeightsNotFinite: a tensor holds NaN or infinite values.
    """
    from llava.model.language_model.decoders import llava_class
    from llava.model.language_model.file_names import values_by_parameter
    from llava.model.loading.language_model import add_image_tokens, set_generation_config
    from llava.model.loading.tower import attach_tower

    options = {} if plan.attn_implementation is None else {"attn_implementation": plan.attn_implementation}
    with _parameters_on_meta():
        model: Any = llava_class(plan.folder.decoder)._from_config(plan.folder.config(), **options)
    values = values_by_parameter(model, plan.tensors, lambda name: _read(plan, plan.tensors[name]))
    for name, parameter in list(model.named_parameters()):
        if name in model.all_tied_weights_keys:
            continue  # it becomes the tensor that it is tied to
        dtype = dtype_of(name)
        if empty:
            value = torch.empty(parameter.shape, dtype=dtype)
        else:
            # A copy, because the file may be mapped into memory, and training would write to the map.
            value = values[name]().to(device=device, dtype=dtype, copy=True)
        _set(model, name, value)
    model.tie_weights()
    for path, buffer in list(model.named_buffers()):
        model.get_submodule(path.rpartition(".")[0])._buffers[path.rpartition(".")[2]] = buffer.to(device)
    set_generation_config(model, plan.weights_folder)
    add_image_tokens(model, tokenizer, plan.folder.path)
    attach_tower(model, plan)
    return model


def _read(plan: LoadPlan, name: str) -> torch.Tensor:
    return check_finite(plan.checkpoint.tensor(name), name, plan.checkpoint.file_of(name))


def _parameters_on_meta() -> Any:
    from accelerate import init_empty_weights

    # Buffers are computed from the config (rotary frequencies), not read, so they must be real.
    return init_empty_weights(include_buffers=False)


def _set(model: nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, own = name.rpartition(".")
    model.get_submodule(path)._parameters[own] = nn.Parameter(value)

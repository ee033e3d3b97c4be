"""Describes transformers' format of a LLaVA (`LlavaForConditionalGeneration`, `LlavaNextForConditionalGeneration`).

The format has only projectors of two layers. The single linear layer of v0, y = Wx + b, is written in one of two ways:

* `pair`: W1 = [I; -I; 0], W2 = [W, -W, 0], which is exact because gelu(x) - gelu(-x) = x. It needs a language model at
  least twice as wide as the tower's features (true for 7B and 13B), and any engine can run it.
* `identity`: W1 = W, W2 = I and no activation between them (`projector_hidden_act: linear`), which is exact at any
  width. Engines that only know the usual activations, such as vLLM, refuse it.

Whatever the original's config says and transformers' has no place for is kept under the key `llava_source`, so that an
export can be converted back without loss.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from llava.model.weights.reader import Checkpoint, DerivedTensor

if TYPE_CHECKING:
    from torch import Tensor

SOURCE_KEY = "llava_source"
LINEAR_FORM_KEY = "linear_projector"
PROJECTOR = "multi_modal_projector."
LinearForm = Literal["pair", "identity"]

_NAMES = [
    (re.compile(r"^model\.mm_projector\.norm\."), f"{PROJECTOR}projector_layernorm."),
    (re.compile(r"^model\.mm_projector\.0\."), f"{PROJECTOR}linear_1."),
    (re.compile(r"^model\.mm_projector\.2\."), f"{PROJECTOR}linear_2."),
    (re.compile(r"^model\.image_newline$"), "image_newline"),
    (re.compile(r"^model\."), "language_model.model."),
    (re.compile(r"^lm_head\."), "language_model.lm_head."),
]


def exported_name(name: str) -> str:
    """Returns the name of one of our tensors, except the tower's, in files of transformers' LLaVA, as its hub
    repositories spell it."""
    for pattern, replacement in _NAMES:
        renamed, count = pattern.subn(replacement, name, count=1)
        if count:
            return renamed
    return name


def linear_form(mm_hidden_size: int, hidden_size: int) -> LinearForm:
    """Returns the form that a linear projector of these widths takes."""
    return "pair" if 2 * mm_hidden_size <= hidden_size else "identity"


def two_layers(weight: Tensor, bias: Tensor, form: LinearForm) -> dict[str, Tensor]:
    """Writes a linear projector as two layers.

    Args:
        weight: [hidden, mm_hidden]; bias: [hidden].

    Returns:
        `linear_1.weight` [hidden, mm_hidden], `linear_2.weight` [hidden, hidden] and their biases.
    """
    import torch

    hidden, mm_hidden = weight.shape
    zeros = torch.zeros(hidden, dtype=weight.dtype)
    if form == "identity":
        eye = torch.eye(hidden, dtype=weight.dtype)
        return {"linear_1.weight": weight, "linear_1.bias": bias, "linear_2.weight": eye, "linear_2.bias": zeros}
    eye = torch.eye(mm_hidden, dtype=weight.dtype)
    first = torch.zeros(hidden, mm_hidden, dtype=weight.dtype)
    second = torch.zeros(hidden, hidden, dtype=weight.dtype)
    first[:mm_hidden], first[mm_hidden : 2 * mm_hidden] = eye, -eye
    second[:, :mm_hidden], second[:, mm_hidden : 2 * mm_hidden] = weight, -weight
    return {"linear_1.weight": first, "linear_1.bias": zeros, "linear_2.weight": second, "linear_2.bias": bias}


def one_layer(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    """Puts back the linear projector of a checkpoint in transformers' format that was exported as two layers.

    Args:
        settings: the content of its config.json.

    Returns:
        The checkpoint with one layer; any other checkpoint as it is.
    """
    form = (settings.get(SOURCE_KEY) or {}).get(LINEAR_FORM_KEY)
    found = {name.split(PROJECTOR, 1)[1]: name for name in checkpoint if PROJECTOR in name}
    if form is None or "linear_2.weight" not in found:
        return checkpoint
    layer = "linear_1" if form == "identity" else "linear_2"
    weight, bias = found[f"{layer}.weight"], found[f"{layer}.bias"]
    hidden, mm_hidden = checkpoint.shape(found["linear_1.weight"])

    def computed_weight() -> Tensor:
        return checkpoint.tensor(weight)[:, :mm_hidden].contiguous()

    own = {
        "model.mm_projector.weight": DerivedTensor((hidden, mm_hidden), checkpoint.dtype_name(weight), computed_weight),
        "model.mm_projector.bias": DerivedTensor(
            (hidden,), checkpoint.dtype_name(bias), lambda: checkpoint.tensor(bias)
        ),
    }
    return checkpoint.with_replaced(own, without=set(found.values()), file=checkpoint.file_of(weight))


def with_scaled_projector(checkpoint: Checkpoint, factor: float) -> Checkpoint:
    """Multiplies what a projector in transformers' format gives by a factor.

    transformers' classes give a decoder that multiplies its inputs the projected features as they are, so that it
    multiplies them too. Here it sees them as they are projected.
    """
    last = (f"{PROJECTOR}linear_2.", "mm_projector.weight", "mm_projector.bias", "image_newline")
    names = [name for name in checkpoint if any(part in name for part in last)]
    scaled = {
        name: DerivedTensor(
            checkpoint.shape(name), checkpoint.dtype_name(name), partial(_scaled, checkpoint, name, factor)
        )
        for name in names
    }
    return checkpoint.with_replaced(scaled, file=checkpoint.file_of(names[0])) if names else checkpoint


def _scaled(checkpoint: Checkpoint, name: str, factor: float) -> Tensor:
    return checkpoint.tensor(name) * factor

"""Runs a vision model of transformers up to the hidden states that are wanted, and lays them out as a grid.

Two kinds of model, by how their features lie (`llava.model.multimodal_encoder.families`): layers of tokens, and stages
of maps. Both give the hidden states that transformers lists in `hidden_states`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any, Final

import torch
from torch import Tensor, nn

_LAYERS: Final = ("encoder.layers", "encoder.layer", "model.layer", "layers", "layer")
"""Where transformers' vision models have their layers, which differs between models and between releases."""


def find_layers(model: nn.Module) -> tuple[nn.Module, str, str]:
    """Finds the layers of a model of tokens.

    Returns:
        The module that has them, its path in the model (with a dot at its end, or empty), and their attribute in it.
    """
    for path in _LAYERS:
        owner, _, attribute = path.rpartition(".")
        module = getattr(model, owner, None) if owner else model
        if isinstance(getattr(module, attribute, None), nn.ModuleList):
            assert module is not None
            return module, f"{owner}." if owner else "", attribute
    raise AssertionError(f"{type(model).__name__} has its layers in none of {', '.join(_LAYERS)}")


def token_states(model: Any, layers: nn.ModuleList, pixels: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
    """Runs the embeddings and `layers`.

    Args:
        pixels: [images, 3, height, width] on the device and in the dtype of the model.
        wanted: numbers of hidden states, 0 for the embeddings and k for the output of layer k.

    Returns:
        The wanted hidden states, [images, tokens, width], without any final norm.
    """
    hidden = _embed(model, pixels)
    options: dict[str, Any] = {}
    if hasattr(model, "rope_embeddings"):
        options["position_embeddings"] = model.rope_embeddings(pixels)
    if len(layers) and "attention_mask" in inspect.signature(type(layers[0]).forward).parameters:
        options["attention_mask"] = None
    states = {0: hidden} if 0 in wanted else {}
    for number, layer in enumerate(layers, 1):
        hidden = layer(hidden, **options)
        if number in wanted:
            states[number] = hidden
    return states


def _embed(model: Any, pixels: Tensor) -> Tensor:
    embeddings, config = model.embeddings, model.config
    takes = inspect.signature(type(embeddings).forward).parameters
    height, width = pixels.shape[2:]
    if "spatial_shapes" in takes:
        shapes = torch.tensor([[height // config.patch_size, width // config.patch_size]] * len(pixels))
        hidden: Tensor = embeddings(_patches(pixels, config.patch_size), shapes)
    elif "interpolate_pos_encoding" in takes and (height, width) != (config.image_size, config.image_size):
        hidden = embeddings(pixels, interpolate_pos_encoding=True)
    else:
        hidden = embeddings(pixels)
    norm = getattr(model, "pre_layrnorm", None)
    return hidden if norm is None else norm(hidden)


def _patches(pixels: Tensor, patch: int) -> Tensor:
    """Cuts [images, 3, height, width] into patches, [images, patches, patch * patch * 3]."""
    rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
    cut = pixels[:, :, : rows * patch, : columns * patch].unflatten(3, (columns, patch)).unflatten(2, (rows, patch))
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def stage_states(model: Any, pixels: Tensor) -> tuple[Tensor, ...]:
    """Runs a model of stages; returns all its hidden states, [images, width, rows, columns]."""
    outputs = model(pixels, output_hidden_states=True)
    maps = getattr(outputs, "reshaped_hidden_states", None)
    return tuple(outputs.hidden_states if maps is None else maps)


def drop_prefix(tokens: Tensor, num_prefix: int, *, keeps_class_token: bool) -> Tensor:
    """Returns the features of the patches, [images, patches, width], after that of the class token if it is kept.

    Registers and a distillation token have no place in the image and are never features.
    """
    patches = tokens[:, num_prefix:]
    return torch.cat([tokens[:, :1], patches], dim=1) if keeps_class_token else patches

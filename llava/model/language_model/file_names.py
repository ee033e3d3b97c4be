"""Translates between the tensors of a model and those of its files, for decoders whose files differ from the model.

transformers fuses some tensors when it loads a decoder (the experts of Mixtral and Qwen3-MoE) and takes them apart when
it saves one. Its own conversions are used for both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor


def empty_model(settings: Mapping[str, Any]) -> Any:
    """Builds the model of a folder's settings without memory for its weights."""
    from accelerate import init_empty_weights

    from llava.model.language_model.decoders import llava_class

    made = llava_class(settings["model_type"])
    config = made.config_class(**{key: value for key, value in settings.items() if key != "model_type"})
    with init_empty_weights(include_buffers=True):
        return made(config)


def shapes_in_files(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the name and shape of every tensor in the files of a model.

    Args:
        settings: `ModelFolder.settings`.
    """
    from transformers.core_model_loading import revert_weight_conversion

    model = empty_model(settings)
    tensors = {name: value.to("meta") for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return {name: tuple(value.shape) for name, value in revert_weight_conversion(model, tensors).items()}


def values_by_parameter(
    model: Any, names: Iterable[str], read: Callable[[str], Tensor]
) -> dict[str, Callable[[], Tensor]]:
    """Returns how to read each parameter of a model from its files, by the parameter's name.

    Args:
        names: names of the tensors in the files.
        read: reads one of them.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    transforms = get_model_conversion_mapping(model, add_legacy=False)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    parameters = dict(model.named_parameters())
    found: dict[str, Callable[[], Tensor]] = {}
    parts: dict[str, tuple[WeightConverter, list[tuple[str, str]]]] = {}
    for name in sorted(names, key=dot_natural_key):
        ours, pattern = (name, None) if name in parameters else rename_source_key(name, renamings, converters)
        if pattern is None:
            found[ours] = _reader(read, name)
            continue
        converter = next(each for each in converters if pattern in each.source_patterns)
        parts.setdefault(ours, (converter, []))[1].append((pattern, name))
    for ours, (converter, sources) in parts.items():
        found[ours] = _joined(model, converter, ours, sources, read)
    return found


def _reader(read: Callable[[str], Tensor], name: str) -> Callable[[], Tensor]:
    return lambda: read(name)


def _joined(
    model: Any, converter: Any, ours: str, sources: list[tuple[str, str]], read: Callable[[str], Tensor]
) -> Callable[[], Tensor]:
    def value() -> Tensor:
        own = deepcopy(converter)
        for pattern, name in sources:
            own.add_tensor(ours, name, pattern, read(name))
        made = own.convert(ours, model=model, config=model.config)[ours]
        tensor = made[0] if isinstance(made, list) else made
        assert isinstance(tensor, torch.Tensor)
        return tensor

    return value

"""Maps the names that a tower's tensors have in files to those in transformers' module, and back.

transformers renames the tensors of its models between releases and reads the older names. What is written here has the
names that all releases from 4.37 on read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava.model.multimodal_encoder.families import FAMILIES


@dataclass(frozen=True, slots=True)
class TowerNames:
    """Names of the tensors of one tower."""

    in_files: Mapping[str, str]
    """Name in the module -> name in files."""
    in_module: Mapping[str, str]
    """Any name that a file may have, with or without the prefix of its family -> name in the module."""


def tower_names(config: Any) -> TowerNames:
    """Returns the names of a tower's tensors.

    Args:
        config: transformers' config of the tower.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    model = empty_model(config)
    own = list(model.state_dict())
    # Each name is recognised by the size of its stand-in, since only renaming happens to towers.
    marked = {name: torch.empty(size, device="meta") for size, name in enumerate(own)}
    written = {own[value.shape[0]]: name for name, value in revert_weight_conversion(model, marked).items()}
    prefix = FAMILIES[config.model_type].prefix_in_files
    in_files = {name: prefix + written[name] for name in own}
    in_module = {spelling: name for name in own for spelling in (name, prefix + name, written[name], in_files[name])}
    return TowerNames(in_files, in_module)


def empty_model(config: Any) -> Any:
    """Builds a tower's module without memory for its weights."""
    import torch
    import transformers

    with torch.device("meta"):
        return getattr(transformers, FAMILIES[config.model_type].model_class)(config)

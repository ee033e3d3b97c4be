"""Groups parameters for an optimizer: parts with learning rates of their own, with and without weight decay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from torch import nn

from llava.train.setup.trainable import PROJECTOR, TOWER

if TYPE_CHECKING:
    from llava.train.setup.training_arguments import TrainingArguments

Options = dict[str, Any]
"""Settings of a parameter group, such as `lr`."""


def options_of_parts(args: TrainingArguments) -> dict[str, Options]:
    """Returns the options of the parts with a learning rate of their own, by the start of their parameters' names."""
    rates = {PROJECTOR: args.mm_projector_lr, TOWER: args.mm_vision_tower_lr}
    return {prefix: {"lr": rate} for prefix, rate in rates.items() if rate is not None}


def groups_of_parts(
    model: nn.Module, parts: Mapping[str, Options], decaying: Collection[str], *, weight_decay: float
) -> list[Options]:
    """Groups the parameters that train; none of the groups is empty.

    Args:
        parts: from `options_of_parts`.
        decaying: names of the parameters that weight decay applies to.
    """
    groups: dict[tuple[str, bool], Options] = {}
    for prefix, decays in product(("", *parts), (True, False)):
        group: Options = {"params": [], "weight_decay": weight_decay if decays else 0.0}
        groups[prefix, decays] = group | parts.get(prefix, {})
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = next((prefix for prefix in parts if name.removeprefix("module.").startswith(prefix)), "")
            groups[part, name in decaying]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]

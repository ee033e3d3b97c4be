"""Maps the names that tensors have in files of other releases and libraries to the original's, which are ours.

transformers' LLaVA has its own names for every tensor, and has changed them twice. Adapters are written around either
model, so their names carry those of the model inside.
"""

from __future__ import annotations

import re

from llava.model.multimodal_encoder.families import FAMILIES, vision_type

TOWER_PREFIX = "model.vision_tower."
"""Start of our names of a vision tower's tensors."""
_INNER = f"{TOWER_PREFIX}vision_tower."
_FLAT_NAMES = [(re.compile(r"^(?:model\.)*vision_tower\.vision_tower\.(?:vision_model\.)?"), _INNER)]
_NESTED_NAMES = [
    (re.compile(r"^(?:model\.)*language_model\.(?:model\.)?(embed_tokens|layers|norm)\."), r"model.\1."),
    (re.compile(r"^(?:model\.)*(?:language_model\.)?lm_head\."), "lm_head."),
    (re.compile(r"^(?:model\.)*multi_modal_projector\.projector_layernorm\."), "model.mm_projector.norm."),
    (re.compile(r"^(?:model\.)*multi_modal_projector\.linear_1\."), "model.mm_projector.0."),
    (re.compile(r"^(?:model\.)*multi_modal_projector\.linear_2\."), "model.mm_projector.2."),
    (re.compile(r"^(?:model\.)*vision_tower\.(?:vision_model\.)?"), _INNER),
    (re.compile(r"^(?:model\.)*image_newline$"), "model.image_newline"),
]
_WRAPPERS = re.compile(r"^(?:base_model\.model\.)+")
_TRAINERS = re.compile(
    r"^module\.|(?:^|(?<=\.))(?:_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module|_forward_module)\."
)
"""What DataParallel and DeepSpeed, FSDP, torch.compile, recomputation and Lightning put before or into names."""
_COPY = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.)")


def own_name(name: str, *, nested: bool) -> str:
    """Returns our name of a tensor.

    Args:
        nested: whether the file is in transformers' format rather than the original's.
    """
    return _replaced(_TRAINERS.sub("", name), _NESTED_NAMES if nested else _FLAT_NAMES)


def adapter_own_name(name: str) -> str:
    """Returns our name of the tensor that one of an adapter's tensors replaces, whatever model the adapter was trained
    on: the original's class in any release, transformers' LLaVA, or a plain language model."""
    name = _COPY.sub("", _WRAPPERS.sub("", _TRAINERS.sub("", name)))
    renamed = _replaced(name, [*_FLAT_NAMES, *_NESTED_NAMES])
    if renamed != name:
        return renamed
    # Some releases of the original have one `model.` more or less.
    name = re.sub(r"^(?:model\.)+", "model.", name)
    return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"


def module_in_adapter(name: str) -> str:
    """Returns the path that a tensor's module had in the model that an adapter was trained on."""
    return _WRAPPERS.sub("", _TRAINERS.sub("", name))


def saved_name(name: str, tower_type: str) -> str:
    """Returns the name under which a checkpoint in the original's format has one of our tensors.

    Args:
        tower_type: `model_type` of the vision tower.
    """
    family = FAMILIES.get(vision_type(tower_type))
    if name.startswith(_INNER) and family is not None:
        return f"{_INNER}{family.prefix_in_files}{name.removeprefix(_INNER)}"
    return name


def _replaced(name: str, patterns: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in patterns:
        renamed, count = pattern.subn(replacement, name, count=1)
        if count:
            return renamed
    return name

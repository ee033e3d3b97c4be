"""Reads `config.json` of every kind of LLaVA folder and says how its tensors are named.

`AutoConfig` would read an original checkpoint as a 4096-wide model of transformers' own LLaVA without any error, and
the original decided by the folder's name. Here the content of the folder decides:

* `flat`: the original's own format, v0 to v1.6: LLaMA's keys and LLaVA's (`mm_*`) side by side.
* `nested`: transformers' `LlavaForConditionalGeneration` and `LlavaNextForConditionalGeneration`.
* `projector`: only a projector and a config; needs the language model (`model_base`).
* `lora`: a PEFT adapter and the projector; needs the language model (`model_base`).
* `text`: a plain LLaMA.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llava.errors import CheckpointError
from llava.model.transformers_format.layout import LINEAR_FORM_KEY, SOURCE_KEY
from llava.model.weights.reader import (
    BIN_INDEX,
    BIN_SINGLE,
    LEFTOVER,
    OWN_TOWER,
    SAFE_INDEX,
    SAFE_SINGLE,
    Checkpoint,
    read_json,
)

if TYPE_CHECKING:
    from llava.model.language_model.llava_llama import LlavaConfig

Kind = Literal["flat", "nested", "projector", "lora", "text"]

FLAT_TYPES = ("llama", "llava", "llava_llama")
TOWER_PREFIX = "model.vision_tower."

_NESTED_NAMES = [
    (re.compile(r"^(?:model\.)?language_model\.(?:model\.)?(embed_tokens|layers|norm)\."), r"model.\1."),
    (re.compile(r"^(?:language_model\.)?lm_head\."), "lm_head."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\.linear_1\."), "model.mm_projector.0."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\.linear_2\."), "model.mm_projector.2."),
    (re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?"), f"{TOWER_PREFIX}vision_tower."),
    (re.compile(r"^(?:model\.)?image_newline$"), "model.image_newline"),
]
_FLAT_NAMES = [(re.compile(r"^model\.vision_tower\.vision_tower\.vision_model\."), f"{TOWER_PREFIX}vision_tower.")]
_SAID_BY_SOURCE = (
    "conv_mode",
    "im_patch_token",
    "image_aspect_ratio",
    "image_grid_pinpoints",
    "mm_patch_merge_type",
    "mm_projector_type",
    "mm_use_im_patch_token",
    "mm_use_im_start_end",
    "mm_vision_select_feature",
    "mm_vision_select_layer",
)


@dataclass
class Flavour:
    """What a folder is, and what to build from it."""

    kind: Kind
    config: LlavaConfig
    vision_config: Any = None
    """transformers config of a vision tower that the folder itself describes (nested only)."""
    names: list[tuple[re.Pattern[str], str]] = field(default_factory=lambda: _FLAT_NAMES)

    def rename(self, checkpoint: Checkpoint) -> dict[str, str]:
        """Our name of each tensor of the file -> its name there; leftovers of old releases are left out."""
        renamed = {}
        for name in checkpoint:
            if LEFTOVER.search(name):
                continue
            ours = name
            for pattern, replacement in self.names:
                ours, count = pattern.subn(replacement, name, count=1)
                if count:
                    break
            renamed[ours] = name
        return renamed


def has_full_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (SAFE_SINGLE, SAFE_INDEX, BIN_SINGLE, BIN_INDEX))


def read_flavour(folder: Path) -> Flavour:
    """Reads what kind of model a folder holds.

    Raises:
        CheckpointError: no or a broken config.json, or a model that is no LLaVA on LLaMA.
    """
    settings = read_json(folder / "config.json")
    if "text_config" in settings or "vision_config" in settings:
        return _nested(folder, settings)
    kind = settings.get("model_type", "llama")
    if kind not in FLAT_TYPES:
        raise CheckpointError(
            f"{folder}: is a model of type {kind!r}. This release reads LLaVA on LLaMA and Vicuna "
            f"(model_type {', '.join(FLAT_TYPES)}) and transformers' llava and llava_next."
        )
    config = flat_config(settings, folder)
    if (folder / "adapter_config.json").is_file():
        return Flavour("lora", config)
    if not has_full_weights(folder) and (folder / "mm_projector.bin").is_file():
        return Flavour("projector", config)
    return Flavour("flat" if config.has_vision else "text", config)


def flat_config(settings: dict[str, Any], folder: Path) -> LlavaConfig:
    """Our config from the keys of an original `config.json`."""
    from llava.model.language_model.llava_llama import LlavaConfig

    known = {key: value for key, value in settings.items() if key not in ("model_type", "transformers_version")}
    # The base may be quantised or not; how it is loaded is decided at load time.
    known.pop("quantization_config", None)
    try:
        config = LlavaConfig(**known)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {str(error).splitlines()[0]}") from error
    if config.has_vision and config.mm_hidden_size is None:
        raise CheckpointError(
            f"{folder / 'config.json'}: has mm_vision_tower but no mm_hidden_size (the width of the tower's features; "
            "1024 for CLIP ViT-L). Add the key."
        )
    if config.has_vision and config.mm_vision_select_layer is None:
        config.mm_vision_select_layer = -1  # what the original does where the key is absent
    return config


def _nested(folder: Path, settings: dict[str, Any]) -> Flavour:
    from transformers import AutoConfig

    if settings.get("model_type") not in ("llava", "llava_next"):
        raise CheckpointError(
            f"{folder}: is a transformers model of type {settings.get('model_type')!r}; of these, llava and llava_next "
            "can be read."
        )
    theirs: Any = AutoConfig.from_pretrained(folder)
    text, vision = theirs.text_config, theirs.vision_config
    if text.model_type != "llama":
        raise CheckpointError(f"{folder}: its language model is of type {text.model_type!r}; this release reads LLaMA.")
    source = settings.get(SOURCE_KEY) or {}
    if theirs.projector_hidden_act != "gelu" and source.get(LINEAR_FORM_KEY) != "identity":
        raise CheckpointError(f"{folder}: projector_hidden_act is {theirs.projector_hidden_act!r}; gelu can be read.")
    if not isinstance(theirs.vision_feature_layer, int):
        raise CheckpointError(f"{folder}: vision_feature_layer is a list; one layer can be read.")
    ours = {key: value for key, value in text.to_dict().items() if key not in ("model_type", "transformers_version")}
    ours.update(
        mm_vision_tower=OWN_TOWER,
        use_mm_proj=True,
        mm_hidden_size=vision.hidden_size,
        mm_projector_type="mlp2x_gelu",
        mm_vision_select_layer=theirs.vision_feature_layer,
        mm_vision_select_feature="patch" if theirs.vision_feature_select_strategy == "default" else "cls_patch",
        mm_patch_merge_type="flat",
        mm_use_im_start_end=False,
        mm_use_im_patch_token=False,
        # The tower is part of the folder, so it is part of what is saved.
        unfreeze_mm_vision_tower=True,
        architectures=["LlavaLlamaForCausalLM"],
    )
    if settings["model_type"] == "llava_next":
        ours.update(
            mm_patch_merge_type="spatial_unpad",
            image_aspect_ratio="anyres",
            # transformers writes (height, width), LLaVA (width, height).
            image_grid_pinpoints=[[width, height] for height, width in theirs.image_grid_pinpoints],
        )
    # An export of ours says what transformers' config has no place for: the template, the release, the projector.
    ours.update(
        {key: value for key, value in source.get("config", {}).items() if key not in ours or key in _SAID_BY_SOURCE}
    )
    return Flavour("nested", flat_config(ours, folder), vision_config=vision, names=_NESTED_NAMES)

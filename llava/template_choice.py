"""Which generation of LLaVA a checkpoint belongs to, and which template it is asked with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from llava.conversation import Era, conv_templates, template

LATER_KEYS: Final[dict[str, str | None]] = {
    "mm_use_im_patch_token": None,
    "image_grid_pinpoints": None,
    "mm_projector_type": "linear",
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat",
}
"""Config keys that v1.0 and later introduced, and the value that says no more than the key's absence."""


def era_of(config: Any) -> Era:
    """Which generation a checkpoint's config belongs to: "v0" (`<im_patch>` runs) or "head" (v1.0 and later, -200).

    A config that sees images is v0 unless a key of later releases says something that v0 could not do; those
    releases always wrote `mm_use_im_patch_token`.

    `config` is a mapping (config.json as read) or an object with attributes; None means nothing is known: "head".
    """
    if config is None or not (_read(config, "mm_vision_tower") or _read(config, "use_mm_proj")):
        return "head"
    return "v0" if all(_read(config, key) in (None, plain) for key, plain in LATER_KEYS.items()) else "head"


def default_template_for(config: Any = None, *, name: str = "", era: Era | None = None) -> str:
    """The key in `conv_templates` of the template a checkpoint is meant to be asked with.

    The checkpoint's own config decides first: its `conv_mode`, else what kind of model it is. Only what the config
    cannot say is taken from the name, by the rules of the original's command lines.

    Args:
        config: config.json as a mapping or an object, or None. A string is taken as `name`.
        name: name of the model (the last part of its path).
        era: generation of the checkpoint where the caller knows it better than `era_of(config)`.

    Raises:
        UnknownTemplate: the config's `conv_mode` names no template.
    """
    if isinstance(config, str):
        config, name = None, config
    name = name.lower()
    if era is None:
        era = era_of(config) if config is not None else _era_of_name(name)
    chosen = _read(config, "conv_mode")
    if chosen:
        asked = template(str(chosen), era=era)
        return asked.name if conv_templates.get(asked.name) == asked else _MAIN_KEY_OF_V0[asked.name]
    if era == "v0":
        return "v0_llava_v1" if "v1" in name else "multimodal"
    return _later_template(config, name)


_MAIN_KEY_OF_V0: Final = {"default": "v0", "v1": "v0", "llava_v1": "v0_llava_v1"}
"""Where the v0 text of a v0 key stands in `conv_templates`, for the keys whose meaning changed."""


def _later_template(config: Any, name: str) -> str:
    model_type = str(_read(config, "model_type") or "")
    text_type = str(_read(_read(config, "text_config"), "model_type") or "")
    base = str(_read(config, "_name_or_path") or "").lower()
    if "mpt" in (model_type.removeprefix("llava_"), text_type):
        return "mpt"
    if "llama-2" in name or ("llama-2" in base and "vicuna" not in base):
        return "llava_llama_2"
    if "mistral" in (model_type.removeprefix("llava_"), text_type) or "mistral" in name:
        return "mistral_instruct"
    if "v1.6-34b" in name or _is_yi_34b(config):
        return "chatml_direct"
    if "v1" in name:
        return "llava_v1"
    if re.search(r"\bmpt\b", name):
        return "mpt"
    # A later checkpoint under any other name was trained on the v1 texts; without a config only the name's silence
    # is known, and the original then takes its v0 template.
    return "llava_v1" if config is not None else "llava_v0"


def _is_yi_34b(config: Any) -> bool:
    text = _read(config, "text_config") or config
    return _read(text, "hidden_size") == 7168 and _read(text, "num_hidden_layers") == 60


def _era_of_name(name: str) -> Era:
    return "v0" if re.search(r"(^|[-_])v0($|[-_])", name) else "head"


def _read(config: Any, key: str) -> Any:
    if config is None:
        return None
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)

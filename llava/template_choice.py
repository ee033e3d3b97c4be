"""Determines the release of LLaVA that a checkpoint belongs to, and the template to prompt it with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from llava.conversation import Conversation, Release, conv_templates, template
from llava.errors import UnknownTemplate
from llava.templates.of_folder import FOLDER_TEMPLATE, folder_template

LATER_KEYS: Final[dict[str, str | None]] = {
    "mm_use_im_patch_token": None,
    "image_grid_pinpoints": None,
    "mm_projector_type": "linear",
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat",
}
"""Config keys that v1.0 and later introduced, each with the value that means the same as a missing key."""


def release_of(config: Any) -> Release:
    """Returns the release of a checkpoint: "v0" (runs of `<im_patch>`) or "head" (v1.0 and later, -200).

    A config with vision is v0 unless a key of later releases has a value that v0 did not support. Later releases
    always wrote `mm_use_im_patch_token`.

    Args:
        config: config.json as a mapping, or a config object; "head" is returned for None.
    """
    if config is None or not (_read(config, "mm_vision_tower") or _read(config, "use_mm_proj")):
        return "head"
    return "v0" if all(_read(config, key) in (None, plain) for key, plain in LATER_KEYS.items()) else "head"


def conversation_for(config: Any, conv_mode: str | None = None, *, name: str = "") -> Conversation:
    """Returns a new conversation in the template that a checkpoint is to be asked with.

    Args:
        config: the model's config.
        conv_mode: name of a template, which takes precedence; None takes the checkpoint's own.
        name: name of the model, used if the config does not determine the template.

    Raises:
        UnknownTemplate: there is no such template, or nothing says which one the checkpoint was made for.
    """
    chosen = conv_mode or default_template_for(config, name=name)
    if chosen == FOLDER_TEMPLATE and _read(config, "chat_template"):
        return folder_template(str(_read(config, "chat_template")))
    return template(chosen, release=release_of(config))


def default_template_for(config: Any = None, *, name: str = "", release: Release | None = None) -> str:
    """Returns the key in `conv_templates` of the template that a checkpoint was trained for.

    The config's `conv_mode` takes precedence, which `llava.templates.of_folder` fills in from a folder's chat template
    and its kind of language model. Of LLaVAs on LLaMA without it, the type of model in the config decides, and then the
    name, by the rules of the original's commands.

    Args:
        config: config.json as a mapping, a config object, or None. A string is taken as `name`.
        name: name of the model, which is the last part of its path.
        release: release of the checkpoint; None determines it from `config`, or from `name` without a config.

    Raises:
        UnknownTemplate: there is no template called the config's `conv_mode`, or nothing says which template a
            language model of another family was made for.
    """
    if isinstance(config, str):
        config, name = None, config
    name = name.lower()
    if release is None:
        release = release_of(config) if config is not None else _release_of_name(name)
    chosen = _read(config, "conv_mode")
    if chosen == FOLDER_TEMPLATE:
        return FOLDER_TEMPLATE
    if chosen:
        asked = template(str(chosen), release=release)
        return asked.name if conv_templates.get(asked.name) == asked else _MAIN_KEY_OF_V0[asked.name]
    if release == "v0":
        return "v0_llava_v1" if "v1" in name else "multimodal"
    return _later_template(config, name)


_MAIN_KEY_OF_V0: Final = {"default": "v0", "v1": "v0", "llava_v1": "v0_llava_v1"}
"""Keys in `conv_templates` of the v0 texts whose v0 keys changed their meaning."""


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
    decoder = text_type or model_type.removeprefix("llava_")
    if decoder not in ("", "llama", "llava", "llava_llama"):
        raise UnknownTemplate(
            f"{name or 'the model'}: nothing says which template its language model ({decoder}) was trained with: it "
            "has no chat template, and its config no conv_mode. Give one with --conv-mode."
        )
    if "v1.6-34b" in name or _is_yi_34b(config):
        return "chatml_direct"
    if "v1" in name:
        return "llava_v1"
    if re.search(r"\bmpt\b", name):
        return "mpt"
    # Later checkpoints with any other name were trained on the v1 text. Without a config, the original falls back to
    # its v0 template.
    return "llava_v1" if config is not None else "llava_v0"


def _is_yi_34b(config: Any) -> bool:
    text = _read(config, "text_config") or config
    return _read(text, "hidden_size") == 7168 and _read(text, "num_hidden_layers") == 60


def _release_of_name(name: str) -> Release:
    return "v0" if re.search(r"(^|[-_])v0($|[-_])", name) else "head"


def _read(config: Any, key: str) -> Any:
    if config is None:
        return None
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)

"""Reads what a LLaVA folder is from its content: which format, which settings, and how its tensors are named.

`AutoConfig` would read an original checkpoint as a 4096-wide model of transformers' own LLaVA without any error, and
the original decided by the folder's name. Here the content of the folder decides:

* `flat`: the original's own format, v0 to v1.6, with LLaMA's keys and LLaVA's (`mm_*`) side by side.
* `nested`: transformers' `LlavaForConditionalGeneration` and `LlavaNextForConditionalGeneration`.
* `projector`: only a projector and a config; needs the language model (`model_base`).
* `lora`: a PEFT adapter and the projector; needs the language model (`model_base`).
* `text`: a plain LLaMA.

Nothing here imports PyTorch or transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llava.conversation import Release
from llava.errors import CheckpointError
from llava.model.transformers_format.layout import LINEAR_FORM_KEY, SOURCE_KEY, one_layer
from llava.model.weights.adapter import PROJECTOR_FILES
from llava.model.weights.names import own_name
from llava.model.weights.reader import (
    BIN_INDEX,
    BIN_SINGLE,
    LEFTOVER,
    OWN_TOWER,
    SAFE_INDEX,
    SAFE_SINGLE,
    Checkpoint,
    open_checkpoint,
    read_model_json,
    resolve_folder,
)
from llava.template_choice import default_template_for, release_of

if TYPE_CHECKING:
    from llava.model.language_model.llava_llama import LlavaConfig

Kind = Literal["flat", "nested", "projector", "lora", "text"]

FLAT_TYPES = ("llama", "llava", "llava_llama")

LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
"""The sizes that transformers' `LlamaConfig` assumes for keys that a config does not have."""
_NESTED_TOWER = {
    "model_type": "clip_vision_model",
    "intermediate_size": 4096,
    "hidden_size": 1024,
    "patch_size": 14,
    "image_size": 336,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "vocab_size": 32000,
    "projection_dim": 768,
}
"""The tower that transformers assumes for a nested config without `vision_config`."""
_TOWER_DEFAULTS = {"model_type": "clip_vision_model", "hidden_size": 768, "image_size": 224}
"""The values that transformers' `CLIPVisionConfig` assumes for absent keys."""
_GRID = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
"""transformers' default for `image_grid_pinpoints` of LLaVA-NeXT: (height, width) in pixels."""

_KEYS_OF_EXPORT = (
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
"""Keys for which the original config, kept inside an export, is right and the derived value is not."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What one folder is. `config.json` is read once, when this is made."""

    path: Path
    kind: Kind
    config_json: Mapping[str, Any]
    """The content of `config.json`, unchanged."""
    settings: Mapping[str, Any]
    """The same in the keys of `LlavaConfig`, with the sizes of `LLAMA_DEFAULTS` filled in."""
    vision_settings: Mapping[str, Any] | None = None
    """transformers' config of a vision tower that `config.json` itself describes (nested folders only)."""

    @property
    def has_vision(self) -> bool:
        """Whether the model has a projector: the original tests whether the key exists, not its value."""
        return self.settings.get("mm_vision_tower") is not None or bool(self.settings.get("use_mm_proj"))

    @property
    def needs_base(self) -> bool:
        """Whether the language model lies in another folder."""
        return self.kind in ("projector", "lora")

    @property
    def release(self) -> Release:
        """`v0`, or `head` for v1 and later: how images stand in a prompt."""
        return release_of(self.settings)

    @property
    def template(self) -> str:
        """The key in `conv_templates` of the template that the model is meant to be asked with."""
        return default_template_for(self.settings, name=self.path.name)

    @property
    def context_length(self) -> int:
        """Tokens that prompt, images and answer may have together."""
        return context_length(self.settings)

    @property
    def base_name(self) -> str | None:
        """The base model that a LoRA adapter names, if it names one."""
        if self.kind != "lora":
            return None
        return read_model_json(self.path / "adapter_config.json").get("base_model_name_or_path")

    @property
    def has_tokenizer(self) -> bool:
        return any((self.path / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))

    def config(self) -> LlavaConfig:
        """Builds the model's config, which imports transformers.

        Raises:
            CheckpointError: a value that LLaMA cannot have.
        """
        from llava.model.language_model.llava_llama import LlavaConfig

        try:
            return LlavaConfig(**self.settings)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path / 'config.json'}: {str(error).splitlines()[0]}") from error

    def open_weights(self) -> Checkpoint:
        """Opens the weights; a linear projector that was exported as two layers is one layer again.

        Raises:
            CheckpointError: no weights, or broken ones.
        """
        return one_layer(open_checkpoint(self.path), self.config_json)

    def tensor_names(self, checkpoint: Checkpoint) -> dict[str, str]:
        """Maps our name of each tensor to its name in `checkpoint`, leaving out the buffers of old releases."""
        nested = self.kind == "nested"
        return {own_name(name, nested=nested): name for name in checkpoint if not LEFTOVER.search(name)}

    def with_settings(self, changes: Mapping[str, Any]) -> ModelFolder:
        """Returns the folder as a LLaVA in the original's format, with other settings.

        Raises:
            CheckpointError: settings that contradict each other.
        """
        settings = _checked({**self.settings, **changes}, self.path)
        return replace(self, kind="flat", settings=settings)


def is_bare_adapter(path: Path) -> bool:
    """Tells whether a folder holds a LoRA adapter and no config, as other tools write adapters, and as checkpoints in
    the middle of a run of the original are."""
    return (path / "adapter_config.json").is_file() and not (path / "config.json").is_file()


def read_model_folder(path: Path, *, base: str | Path | None = None) -> ModelFolder:
    """Reads what kind of model a folder holds.

    Args:
        base: folder or hub id of the model that an adapter was trained on; a folder that holds nothing but the adapter
            has that model's settings.

    Raises:
        CheckpointError: no or a broken `config.json`, or a model that is not LLaVA on LLaMA.
    """
    if is_bare_adapter(path):
        return _of_bare_adapter(path, base)
    config_json = read_model_json(path / "config.json")
    if "text_config" in config_json or "vision_config" in config_json:
        folder = _nested(path, config_json)
        is_adapter = (path / "adapter_config.json").is_file() and not _has_full_weights(path)
        return replace(folder, kind="lora") if is_adapter else folder
    kind = config_json.get("model_type", "llama")
    if kind not in FLAT_TYPES:
        raise CheckpointError(
            f"{path}: is a model of type {kind!r}. This release reads LLaVA on LLaMA and Vicuna "
            f"(model_type {', '.join(FLAT_TYPES)}) and transformers' llava and llava_next."
        )
    folder = ModelFolder(path, "text", config_json, _checked(config_json, path))
    if (path / "adapter_config.json").is_file():
        return replace(folder, kind="lora")
    if not _has_full_weights(path) and any((path / name).is_file() for name in PROJECTOR_FILES):
        return replace(folder, kind="projector")
    return replace(folder, kind="flat") if folder.has_vision else folder


def _of_bare_adapter(path: Path, base: str | Path | None) -> ModelFolder:
    if base is None:
        named = read_model_json(path / "adapter_config.json").get("base_model_name_or_path")
        hint = f" (the adapter names {named!r})" if named else ""
        raise CheckpointError(
            f"{path}: holds a LoRA adapter and no config.json. Give the model that it was trained on with "
            f"--model-base{hint}; for an adapter of a LLaVA run, also copy config.json and non_lora_trainables.bin of "
            "the run into the folder."
        )
    return replace(read_base(base), path=path, kind="lora")


def read_base(base: str | Path) -> ModelFolder:
    """Reads the folder of the language model of a projector or an adapter.

    Raises:
        CheckpointError: as `read_model_folder`, or the folder is no complete model either.
    """
    folder = read_model_folder(resolve_folder(base, what="base model"))
    if folder.needs_base:
        what = "only a projector" if folder.kind == "projector" else "a LoRA adapter"
        raise CheckpointError(f"--model-base {base}: holds {what}. Give the complete model that it belongs to.")
    return folder


def context_length(settings: Mapping[str, Any]) -> int:
    """Returns the tokens that prompt, images and answer may have together, from a config's keys."""
    names = ("max_sequence_length", "tokenizer_model_max_length", "max_position_embeddings")
    return next(int(settings[name]) for name in names if settings.get(name))


def _has_full_weights(path: Path) -> bool:
    return any((path / name).is_file() for name in (SAFE_SINGLE, SAFE_INDEX, BIN_SINGLE, BIN_INDEX))


def _checked(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns the settings of a LLaVA with defaults filled in.

    Raises:
        CheckpointError: a size that is not a positive integer, or an absent key that has no default.
    """
    # Whether the weights are quantised is decided when they are loaded, not by the folder.
    left_out = ("model_type", "transformers_version", "quantization_config")
    checked = LLAMA_DEFAULTS | {key: value for key, value in settings.items() if key not in left_out}
    for name in LLAMA_DEFAULTS:
        if not isinstance(checked[name], int) or checked[name] < 1:
            raise CheckpointError(
                f"{path / 'config.json'}: {name} is {checked[name]!r}; it must be a positive integer."
            )
    has_vision = checked.get("mm_vision_tower") is not None or bool(checked.get("use_mm_proj"))
    if has_vision and checked.get("mm_hidden_size") is None:
        raise CheckpointError(
            f"{path / 'config.json'}: has mm_vision_tower but no mm_hidden_size (the width of the tower's features; "
            "1024 for CLIP ViT-L). Add the key."
        )
    if has_vision and checked.get("mm_vision_select_layer") is None:
        checked["mm_vision_select_layer"] = -1  # the original's meaning of an absent key
    return checked


def _nested(path: Path, config_json: dict[str, Any]) -> ModelFolder:
    model_type = config_json.get("model_type")
    if model_type not in ("llava", "llava_next"):
        raise CheckpointError(
            f"{path}: is a transformers model of type {model_type!r}. Of these, only llava and llava_next can be read."
        )
    vision = _TOWER_DEFAULTS | dict(config_json.get("vision_config") or _NESTED_TOWER)
    source = config_json.get(SOURCE_KEY) or {}
    _check_nested(path, config_json, source)
    ours = dict(config_json.get("text_config") or {})
    ours.update(
        mm_vision_tower=OWN_TOWER,
        use_mm_proj=True,
        mm_hidden_size=vision["hidden_size"],
        mm_projector_type="mlp2x_gelu",
        mm_vision_select_layer=config_json.get("vision_feature_layer", -2),
        mm_vision_select_feature=_select_feature(config_json),
        mm_patch_merge_type="flat",
        mm_use_im_start_end=False,
        mm_use_im_patch_token=False,
        # The tower is part of the folder, so it is part of what is saved.
        unfreeze_mm_vision_tower=True,
        architectures=["LlavaLlamaForCausalLM"],
    )
    if model_type == "llava_next":
        grid = config_json.get("image_grid_pinpoints") or _GRID
        ours.update(
            mm_patch_merge_type="spatial_unpad",
            image_aspect_ratio="anyres",
            # transformers writes (height, width), LLaVA (width, height).
            image_grid_pinpoints=[[width, height] for height, width in grid],
        )
    # An export of ours carries what transformers' config has no place for: the template, the release, the projector.
    kept = source.get("config", {})
    ours.update({key: value for key, value in kept.items() if key not in ours or key in _KEYS_OF_EXPORT})
    return ModelFolder(path, "nested", config_json, _checked(ours, path), vision)


def _check_nested(path: Path, config_json: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    text_type = (config_json.get("text_config") or {}).get("model_type", "llama")
    if text_type != "llama":
        raise CheckpointError(f"{path}: its language model is of type {text_type!r}; this release reads LLaMA.")
    activation = config_json.get("projector_hidden_act", "gelu")
    if activation != "gelu" and source.get(LINEAR_FORM_KEY) != "identity":
        raise CheckpointError(f"{path}: projector_hidden_act is {activation!r}; only gelu can be read.")
    if not isinstance(config_json.get("vision_feature_layer", -2), int):
        raise CheckpointError(f"{path}: vision_feature_layer is a list; only a single layer can be read.")


def _select_feature(config_json: Mapping[str, Any]) -> str:
    strategy = config_json.get("vision_feature_select_strategy", "default")
    return "patch" if strategy == "default" else "cls_patch"

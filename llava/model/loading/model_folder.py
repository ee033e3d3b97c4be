"""Reads what a LLaVA folder is from its content: which format, which settings, and how its tensors are named.

`AutoConfig` would read an original checkpoint as a 4096-wide model of transformers' own LLaVA without any error, and
the original decided by the folder's name. Here the content of the folder decides:

* `flat`: the original's own format, v0 to v1.6 and later, with the decoder's keys and LLaVA's (`mm_*`) side by side.
* `nested`: transformers' LLaVA, LLaVA-NeXT, LLaVA-OneVision and ViP-LLaVA (`llava.model.transformers_format.read`).
* `projector`: only a projector and a config; needs the language model (`model_base`).
* `lora`: a PEFT adapter and the projector; needs the language model (`model_base`).
* `text`: a plain language model.

Nothing here imports PyTorch, and transformers is imported only for decoders other than LLaMA.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llava.conversation import Release
from llava.errors import CheckpointError
from llava.model.language_model.decoders import TESTED, decoder_config_class, decoder_type, llava_class
from llava.model.language_model.input_scale import INPUT_SCALE_KEYS, input_scale
from llava.model.multimodal_encoder.families import read_select_layer
from llava.model.transformers_format.layout import one_layer, with_scaled_projector
from llava.model.transformers_format.nested import nested_settings
from llava.model.weights.adapter import PROJECTOR_FILES
from llava.model.weights.names import own_name
from llava.model.weights.quantised import warn_of_quantised_config
from llava.model.weights.reader import (
    BIN_INDEX,
    BIN_SINGLE,
    LEFTOVER,
    SAFE_INDEX,
    SAFE_SINGLE,
    Checkpoint,
    open_checkpoint,
    read_model_json,
    resolve_folder,
)
from llava.template_choice import default_template_for, release_of
from llava.templates.of_folder import template_of_folder

if TYPE_CHECKING:
    from llava.model.language_model.config_keys import LlavaConfigKeys

Kind = Literal["flat", "nested", "projector", "lora", "text"]

LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
"""The sizes that transformers' `LlamaConfig` assumes for keys that a config does not have."""
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
"""Keys that every decoder's config has, read before transformers is imported."""
_LLAMA_TYPES = ("llama", "llava", "llava_llama")
"""Values of `model_type` in the configs of LLaVA on LLaMA; `llava` also stands in those of other decoders."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What one folder is. `config.json` is read once, when this is made."""

    path: Path
    kind: Kind
    config_json: Mapping[str, Any]
    """The content of `config.json`, unchanged."""
    settings: Mapping[str, Any]
    """The same in the keys of the model's config class, with `model_type` and the sizes of the decoder filled in."""
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
        """The key in `conv_templates` of the template that the model is meant to be asked with, or `chat_template`.

        Raises:
            UnknownTemplate: nothing says which.
        """
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

    @property
    def decoder(self) -> str:
        """transformers' model type of the language model, such as `llama` or `qwen3`."""
        return decoder_type(self.settings["model_type"])

    def config(self) -> LlavaConfigKeys:
        """Builds the model's config, which imports transformers.

        Raises:
            CheckpointError: a decoder that cannot become a LLaVA, or a value that its config cannot have.
        """
        config_class = llava_class(self.decoder).config_class
        settings = {key: value for key, value in self.settings.items() if key != "model_type"}
        try:
            return config_class(**settings)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path / 'config.json'}: {str(error).splitlines()[0]}") from error

    def open_weights(self) -> Checkpoint:
        """Opens the weights; a linear projector that was exported as two layers is one layer again, and one whose
        decoder multiplies its inputs has the factor in its last layer.

        Raises:
            CheckpointError: no weights, or broken ones.
        """
        checkpoint = one_layer(open_checkpoint(self.path), self.config_json)
        warn_of_quantised_config(self.config_json, self.path)
        if self.kind != "nested" or self.decoder not in INPUT_SCALE_KEYS:
            return checkpoint
        return with_scaled_projector(checkpoint, input_scale(self.config()))

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
        CheckpointError: no or a broken `config.json`, or a model that is no LLaVA and no language model.
    """
    if is_bare_adapter(path):
        return _of_bare_adapter(path, base)
    config_json = read_model_json(path / "config.json")
    if "text_config" in config_json or "vision_config" in config_json:
        settings, vision = nested_settings(path, config_json)
        folder = ModelFolder(path, "nested", config_json, _checked(settings, path, nested=True), vision)
        is_adapter = (path / "adapter_config.json").is_file() and not _has_full_weights(path)
        return replace(folder, kind="lora") if is_adapter else folder
    settings = {**config_json, "model_type": _flat_decoder(config_json)}
    folder = ModelFolder(path, "text", config_json, _checked(settings, path))
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


def _flat_decoder(config_json: Mapping[str, Any]) -> str:
    """Returns the type of the decoder that a config in the original's format describes.

    LLaVA's releases on other decoders than LLaMA name them in `model_type` (`llava_mistral`), in the name of the class
    (`LlavaQwenForCausalLM` with `model_type` `llava`), or in both.
    """
    kind = str(config_json.get("model_type", "llama"))
    if kind not in _LLAMA_TYPES:
        return decoder_type(kind)
    named = re.fullmatch(r"Llava(\w+)ForCausalLM", str((config_json.get("architectures") or [""])[0]))
    return decoder_type(named[1].lower()) if named else "llama"


def _checked(settings: Mapping[str, Any], path: Path, *, nested: bool = False) -> dict[str, Any]:
    """Returns the settings of a LLaVA with defaults filled in.

    Raises:
        CheckpointError: a size that is not a positive integer, a decoder that is not known, or an absent key that has
            no default.
    """
    # Whether the weights are quantised is decided when they are loaded, not by the folder.
    left_out = ("transformers_version", "quantization_config")
    checked = {key: value for key, value in settings.items() if key not in left_out}
    decoder = decoder_type(str(settings["model_type"]))
    checked["model_type"] = f"llava_{decoder}"
    checked = _defaults_of(decoder, checked, path) | checked
    for name in LLAMA_DEFAULTS if decoder == "llama" else _SIZES:
        if not isinstance(checked[name], int) or checked[name] < 1:
            raise CheckpointError(
                f"{path / 'config.json'}: {name} is {checked[name]!r}; it must be a positive integer."
            )
    has_vision = checked.get("mm_vision_tower") is not None or bool(checked.get("use_mm_proj"))
    if not checked.get("conv_mode") and release_of(checked) != "v0":
        checked |= template_of_folder(path, decoder, is_release=has_vision and not nested)
    if has_vision and checked.get("mm_hidden_size") is None:
        raise CheckpointError(
            f"{path / 'config.json'}: has mm_vision_tower but no mm_hidden_size (the width of the tower's features; "
            "1024 for CLIP ViT-L). Add the key."
        )
    if has_vision and checked.get("mm_vision_select_layer") is None:
        checked["mm_vision_select_layer"] = -1  # the original's meaning of an absent key
    if has_vision:
        checked["mm_vision_select_layer"] = read_select_layer(
            checked["mm_vision_select_layer"], f"{path / 'config.json'}: mm_vision_select_layer"
        )
    return checked


def _defaults_of(decoder: str, settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns the sizes that transformers assumes for a decoder, as far as a config may lack them."""
    if decoder == "llama":
        return dict(LLAMA_DEFAULTS)
    if decoder in TESTED and all(name in settings for name in _SIZES):
        return {}
    try:
        llava_class(decoder)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: is a model of type {decoder!r}. {error}") from None
    defaults = decoder_config_class(decoder)()
    return {name: getattr(defaults, name, None) for name in _SIZES}

"""Decides everything about loading a model before a weight is read: what lies where, and how and where it will run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, InvalidRequest
from llava.model.loading.adapted import adapt
from llava.model.loading.device import check_device, choose_device, choose_device_map, choose_dtype, named_dtype
from llava.model.loading.model_folder import ModelFolder, read_base, read_model_folder
from llava.model.loading.quantization import Quantization, choose_quantization
from llava.model.loading.tensor_check import check_tensors
from llava.model.weights.adapter import open_adapter
from llava.model.weights.lora import read_adapter
from llava.model.weights.names import TOWER_PREFIX
from llava.model.weights.reader import Checkpoint, resolve_folder

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What will be loaded, from where, and how. Nothing in it changes; `llava.model.builder` carries it out."""

    folder: ModelFolder
    """The folder that was asked for, with the settings that the model will have."""
    weights_folder: Path
    """The folder of the language model: the base for a projector or an adapter, else the same folder."""
    checkpoint: Checkpoint
    """The weights in `weights_folder`, opened."""
    tensors: Mapping[str, str]
    """Our name of each tensor of the language model and projector -> its name in `checkpoint`."""
    tower_tensors: Mapping[str, str]
    """The same for a vision tower whose weights are among the model's; empty for a tower with its own folder."""
    tower: str | None
    """Folder or hub id of the vision tower, in place of what the config says; None leaves it to the config."""
    tower_folder: Path | None
    """Folder that describes a vision tower among `tower_tensors` that lies elsewhere than the model's."""
    adapter: Path | None
    """File or folder with the projector to load on top of `checkpoint`."""
    quantization: Quantization
    dtype: torch.dtype
    device: str
    device_map: str | dict[str, Any]
    max_memory: dict[int | str, str] | None
    """Memory to use on each device, as accelerate takes it."""
    attn_implementation: str | None
    """transformers' name of the attention function; None leaves the choice to transformers."""

    @property
    def num_parameters(self) -> int:
        """Parameters in the checkpoint, a vision tower among them included."""
        names = (*self.tensors.values(), *self.tower_tensors.values())
        return sum(prod(self.checkpoint.shape(name)) for name in names)

    @property
    def num_bytes(self) -> int:
        """Size of the language model and the projector in their files."""
        return sum(
            prod(self.checkpoint.shape(name)) * self.checkpoint.dtype(name).itemsize for name in self.tensors.values()
        )

    def stays_mapped(self, dtype: torch.dtype) -> bool:
        """Whether loading in a number format leaves the weights in the map of their files, unread."""
        return (
            self.device == "cpu"
            and self.quantization == "none"
            and not self.is_lora
            and all(self.checkpoint.dtype(name) == dtype for name in self.tensors.values())
        )

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder.path if self.folder.has_tokenizer else self.weights_folder

    @property
    def is_lora(self) -> bool:
        """Whether the folder holds a LoRA adapter, which `checkpoint` has in it."""
        return self.folder.kind == "lora"


def make_plan(
    model_path: str | Path,
    *,
    model_base: str | Path | None = None,
    load_8bit: bool = False,
    load_4bit: bool = False,
    device_map: str | dict[str, Any] | None = "auto",
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    vision_tower: str | Path | None = None,
    mm_projector: str | Path | None = None,
    attn_implementation: str | None = None,
    max_memory: dict[int | str, str] | None = None,
) -> LoadPlan:
    """Reads the folder's config and the headers of its weights, once each, and checks them against each other.

    Args and Raises: as `llava.model.builder.load_pretrained_model`.
    """
    folder = read_model_folder(resolve_folder(model_path), base=model_base)
    device = device or choose_device()
    check_device(device)
    quantization = choose_quantization(load_8bit, load_4bit, device)
    adapter = _adapter_of(folder, mm_projector)
    if mm_projector is not None:
        folder = _with_projector(folder, mm_projector, vision_tower)
    base = _base_of(folder, model_base)
    folder = _in_words_of(folder, base)
    checkpoint = base.open_weights()
    names = base.tensor_names(checkpoint)
    tower_folder = None
    if folder.kind == "lora":
        adapted = adapt(read_adapter(folder.path), folder, base, checkpoint, vision_tower=vision_tower)
        checkpoint, names, tower_folder = adapted.checkpoint, dict(adapted.names), adapted.tower_folder
        folder = replace(folder, settings=adapted.settings, vision_settings=base.vision_settings)
    elif folder.needs_base:
        # Rows for image tokens are added to the base's vocabulary after loading.
        folder = replace(folder, settings={**folder.settings, "vocab_size": base.settings["vocab_size"]})
    check_tensors(folder.settings, checkpoint, names, projector_elsewhere=adapter is not None)
    if quantization == "int8 on a CPU":
        dtype = "float32"
    num_parameters = sum(prod(checkpoint.shape(name)) for name in names.values())
    return LoadPlan(
        folder=folder,
        weights_folder=base.path,
        checkpoint=checkpoint,
        tensors={ours: theirs for ours, theirs in names.items() if not ours.startswith(TOWER_PREFIX)},
        tower_tensors={ours: theirs for ours, theirs in names.items() if ours.startswith(TOWER_PREFIX)},
        tower=None if vision_tower is None or tower_folder is not None else str(vision_tower),
        tower_folder=tower_folder,
        adapter=adapter,
        quantization=quantization,
        dtype=named_dtype(dtype or choose_dtype(device, num_parameters, base.config_json.get("torch_dtype"))),
        device=device,
        device_map=choose_device_map(device, device_map),
        max_memory=max_memory,
        attn_implementation=attn_implementation,
    )


def _adapter_of(folder: ModelFolder, mm_projector: str | Path | None) -> Path | None:
    if mm_projector is not None:
        return Path(mm_projector)
    return folder.path if folder.kind == "projector" else None


def _base_of(folder: ModelFolder, model_base: str | Path | None) -> ModelFolder:
    """Returns the folder of the language model.

    Raises:
        InvalidRequest: it is needed and was not given.
    """
    if not folder.needs_base:
        return folder
    if model_base is None:
        what = "only a projector"
        hint = ""
        if folder.kind == "lora":
            what, hint = "a LoRA adapter", f" (the adapter names {folder.base_name!r})"
        raise InvalidRequest(f"{folder.path}: holds {what}; give the language model with --model-base{hint}.")
    return read_base(model_base)


def _in_words_of(folder: ModelFolder, base: ModelFolder) -> ModelFolder:
    """Takes the base's template for a projector or an adapter that has no record of its own."""
    if not folder.needs_base or folder.settings.get("conv_mode") or folder.release == "v0":
        return folder
    words = {key: base.settings[key] for key in ("conv_mode", "chat_template") if base.settings.get(key)}
    return replace(folder, settings={**folder.settings, **words})


def _with_projector(folder: ModelFolder, mm_projector: str | Path, vision_tower: str | Path | None) -> ModelFolder:
    """Joins a plain language model and a projector file, as v0's `--mm-projector` and `--vision-tower` do.

    Raises:
        InvalidRequest: no vision tower.
        CheckpointError: a file without a projector.
    """
    if vision_tower is None:
        raise InvalidRequest("--mm-projector needs --vision-tower: the tower that the projector was trained with.")
    adapter = open_adapter(mm_projector)
    weight = next((name for name in adapter if name.endswith(("mm_projector.weight", "mm_projector.0.weight"))), None)
    if weight is None:
        raise CheckpointError(f"{mm_projector}: has no projector (no tensor named mm_projector.*).")
    depth = sum(1 for name in adapter if "mm_projector." in name and name.endswith(".weight"))
    return folder.with_settings(
        {
            "mm_vision_tower": str(vision_tower),
            "use_mm_proj": True,
            "mm_hidden_size": adapter.shape(weight)[1],
            "mm_projector_type": "linear" if weight.endswith("mm_projector.weight") else f"mlp{depth}x_gelu",
            "mm_vision_select_layer": folder.settings.get("mm_vision_select_layer") or -2,
        }
    )

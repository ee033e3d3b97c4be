"""Shows what a model folder holds, and what it lacks, from its configs and the headers of its weight files alone."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import run
from llava.errors import LlavaError, UnknownTemplate

if TYPE_CHECKING:
    from llava.model.loading.model_folder import ModelFolder
    from llava.model.weights.reader import Checkpoint

_DELTA_NORM = 0.2
"""The final norm of LLaMA and Vicuna is of the order of 1, that of a delta near 0."""


@dataclass
class WeightsInfo:
    """What is known about one folder; strings that do not apply are empty."""

    path: str
    kind: str = ""
    """The kind of model, in words."""
    era: str = ""
    """The release: `v0` or `v1 and later`, which differ in how images stand in a prompt."""
    parameters: int = 0
    """Number of parameters in the files."""
    size: str = ""
    """Layers, width and vocabulary, in words."""
    dtype: str = ""
    """Number formats of the weights, the most frequent first."""
    files: str = ""
    """Number, format and size of the weight files."""
    projector: str = ""
    """Kind of projector, and the widths that it connects."""
    vision_tower: str = ""
    """Where the tower is, and which of its layers is used."""
    template: str = ""
    """Name of the prompt template."""
    context_tokens: int = 0
    """Tokens that prompt, images and answer may have together."""
    is_delta: bool = False
    """Whether the weights are a delta."""
    base: str = ""
    """The base of a delta, a projector or an adapter, if the folder names it."""
    missing: list[str] = field(default_factory=list)
    """What the folder needs before it can be used, and why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="Model folder, or hub id (which is downloaded first).")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")


def main(args: argparse.Namespace) -> int:
    from llava.model.weights.reader import resolve_folder

    info = inspect(resolve_folder(args.path))
    print(json.dumps(asdict(info), indent=2) if args.json else describe(info))
    return 1 if info.missing else 0


def inspect(path: Path) -> WeightsInfo:
    """Reads the configs and headers of a folder; what is wrong with it is collected in `missing`, not raised.

    Raises:
        CheckpointError: there is no config.json, or it is not that of a LLaVA or LLaMA.
    """
    from llava.model.loading.model_folder import read_model_folder
    from llava.model.weights.reader import read_model_json

    folder = read_model_folder(path)
    info = WeightsInfo(str(path), kind=_KINDS[folder.kind], context_tokens=folder.context_length)
    if folder.has_vision:
        info.era = "v0" if folder.release == "v0" else "v1 and later"
        try:
            info.template = folder.template
        except UnknownTemplate:
            info.template = "unknown: give one with --conv-mode"
        _describe_tower(info, folder)
    if folder.needs_base:
        _describe_adapter(info, folder)
    else:
        _describe_weights(info, folder)
    if not folder.has_tokenizer:
        info.missing.append("a tokenizer (tokenizer.model or tokenizer.json)")
    if (path / "delta_base.json").is_file():
        info.is_delta, info.base = True, str(read_model_json(path / "delta_base.json").get("name") or "")
    if info.is_delta:
        info.kind = f"delta weights of a {info.kind}"
        info.missing.append("its base: add the two with `llava weights apply-delta` (llava.model.apply_delta)")
    return info


_KINDS = {
    "flat": "LLaVA in the original's format",
    "nested": "LLaVA in transformers' format",
    "projector": "projector of a LLaVA, without the language model",
    "lora": "LoRA adapter of a LLaVA, without the language model",
    "text": "language model without images",
}


def _describe_weights(info: WeightsInfo, folder: ModelFolder) -> None:
    from llava.model.loading.tensor_check import check_tensors
    from llava.model.weights.folder import describe_size

    try:
        checkpoint = folder.open_weights()
        names = folder.tensor_names(checkpoint)
        check_tensors(folder.settings, checkpoint, names)
    except LlavaError as error:
        info.missing.append(str(error))
        return
    dtypes: Counter[str] = Counter()
    for name in names.values():
        dtypes[checkpoint.dtype_name(name)] += prod(checkpoint.shape(name))
    settings = folder.settings
    info.parameters = sum(dtypes.values())
    info.size = describe_size(settings["num_hidden_layers"], settings["hidden_size"], settings["vocab_size"])
    info.dtype = ", ".join(name for name, _ in dtypes.most_common())
    suffix = "safetensors" if checkpoint.files[0].suffix == ".safetensors" else "bin"
    total = sum(file.stat().st_size for file in checkpoint.files)
    info.files = f"{len(checkpoint.files)} {suffix}, {total / 1e9:.2f} GB"
    info.is_delta = _mean_size(checkpoint, names["model.norm.weight"]) < _DELTA_NORM


def _mean_size(checkpoint: Checkpoint, name: str) -> float:
    """Returns the mean absolute value of a vector."""
    values = checkpoint.vector(name)
    if values is None:
        values = checkpoint.tensor(name).float().tolist()
    return sum(abs(value) for value in values) / len(values)


def _describe_tower(info: WeightsInfo, folder: ModelFolder) -> None:
    settings = folder.settings
    kind = settings.get("mm_projector_type") or "linear"
    info.projector = f"{kind}, {settings['mm_hidden_size']} to {settings['hidden_size']}"
    name = str(settings.get("mm_vision_tower"))
    layer = f"layer {settings['mm_vision_select_layer']}"
    if folder.vision_settings is not None:
        info.vision_tower = f"in the checkpoint, {folder.vision_settings['image_size']} pixels, {layer}"
    elif (folder.path / name / "config.json").is_file():
        info.vision_tower = f"{name}/ in the folder, {layer}"
    elif Path(name).is_dir():
        info.vision_tower = f"{name}, {layer}"
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        info.vision_tower = f"{name}, downloaded from the hub when the model is loaded, {layer}"
    else:
        info.vision_tower = f"{name}, {layer}"
        info.missing.append(
            f"the vision tower {name!r}: it is neither in the folder nor here. Give it with --vision-tower."
        )


def _describe_adapter(info: WeightsInfo, folder: ModelFolder) -> None:
    from llava.model.weights.adapter import open_adapter
    from llava.model.weights.lora import WHOLE_FILE, open_lora
    from llava.model.weights.reader import Checkpoint

    try:
        if folder.kind == "projector":
            parts = [open_adapter(folder.path)]
        else:
            info.base = folder.base_name or ""
            parts = [open_lora(folder.path)]
            if (folder.path / WHOLE_FILE).is_file():
                parts.append(Checkpoint([folder.path / WHOLE_FILE]))
            else:
                info.missing.append(f"{WHOLE_FILE}, which holds the projector")
    except LlavaError as error:
        info.missing.append(str(error))
        return
    info.parameters = sum(prod(part.shape(name)) for part in parts for name in part)
    info.files = ", ".join(file.name for part in parts for file in part.files)
    info.missing.append(f"the language model: give it with --model-base {info.base or 'DIR'}")


def describe(info: WeightsInfo) -> str:
    """Returns the lines that `llava weights info` prints."""
    size = f"{info.parameters / 1e6:,.1f} million parameters; {info.size}".rstrip("; ") if info.parameters else ""
    rows = [
        ("folder", info.path),
        ("kind", info.kind),
        ("release", info.era),
        ("size", size),
        ("dtype", info.dtype),
        ("files", info.files),
        ("projector", info.projector),
        ("vision tower", info.vision_tower),
        ("template", info.template),
        ("context", f"{info.context_tokens} tokens"),
        ("base", info.base),
        *(("missing" if index == 0 else "", text) for index, text in enumerate(info.missing)),
    ]
    return "\n".join(f"{name:<14}{text}" for name, text in rows if text)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

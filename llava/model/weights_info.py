"""Says what a model folder holds, and what it lacks, from its configs and the headers of its weight files alone."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.errors import LlavaError

_DELTA_NORM = 0.2
"""The final norm of LLaMA and Vicuna is of the order of 1, that of a delta near 0."""


@dataclass
class WeightsInfo:
    """What is known of one folder; empty strings where a thing does not apply."""

    path: str
    kind: str = ""
    """What it is, in words."""
    era: str = ""
    """`v0` or `v1 and later`; how images stand in its prompts."""
    parameters: int = 0
    size: str = ""
    dtype: str = ""
    files: str = ""
    projector: str = ""
    vision_tower: str = ""
    template: str = ""
    context_tokens: int = 0
    is_delta: bool = False
    base: str = ""
    """Of a delta, a projector or an adapter: what it belongs to, as far as it says so."""
    missing: list[str] = field(default_factory=list)
    """What would have to be there before the folder can be used, and why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="model folder, or hub id (which is fetched first)")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def main(args: argparse.Namespace) -> int:
    from llava.model.weights.reader import resolve_folder

    info = inspect(resolve_folder(args.path))
    print(json.dumps(asdict(info), indent=2) if args.json else describe(info))
    return 1 if info.missing else 0


def inspect(folder: Path) -> WeightsInfo:
    """Reads configs and headers; what is wrong is collected in `missing`, not raised.

    Raises:
        CheckpointError: there is no config.json, or none of a LLaVA or LLaMA.
    """
    from llava.model.builder import context_length
    from llava.model.loading.flavours import read_flavour
    from llava.model.weights.reader import read_json
    from llava.template_choice import default_template_for, release_of

    flavour = read_flavour(folder)
    config = flavour.config
    info = WeightsInfo(str(folder), kind=_KINDS[flavour.kind], context_tokens=context_length(config))
    if config.has_vision:
        release = release_of(config)
        info.era = "v0" if release == "v0" else "v1 and later"
        info.template = default_template_for(config, name=folder.name)
        _describe_tower(info, folder, flavour)
    if flavour.kind in ("projector", "lora"):
        _describe_adapter(info, folder, flavour.kind)
    else:
        _describe_weights(info, folder, flavour)
    if not any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        info.missing.append("a tokenizer (tokenizer.model or tokenizer.json)")
    stated = read_json(folder / "delta_base.json") if (folder / "delta_base.json").is_file() else None
    if stated is not None:
        info.is_delta, info.base = True, str(stated.get("name") or "")
    if info.is_delta:
        info.kind = f"delta weights of a {info.kind}"
        info.missing.append("its base: add the two with `python -m llava.model.apply_delta`")
    return info


_KINDS = {
    "flat": "LLaVA in the original's format",
    "nested": "LLaVA in transformers' format",
    "projector": "projector of a LLaVA, without the language model",
    "lora": "LoRA adapter of a LLaVA, without the language model",
    "text": "language model without images",
}


def _describe_weights(info: WeightsInfo, folder: Path, flavour: Any) -> None:
    from llava.model.builder import check_tensors
    from llava.model.transformers_format.layout import one_layer
    from llava.model.weights.reader import open_checkpoint, read_json

    try:
        checkpoint = one_layer(open_checkpoint(folder), read_json(folder / "config.json"))
        sources = flavour.rename(checkpoint)
        check_tensors(flavour.config, checkpoint, sources)
    except LlavaError as error:
        info.missing.append(str(error))
        return
    dtypes: Counter[str] = Counter()
    for name in sources.values():
        dtypes[str(checkpoint.dtype(name)).removeprefix("torch.")] += prod(checkpoint.shape(name))
    config = flavour.config
    info.parameters = sum(dtypes.values())
    info.size = f"{config.num_hidden_layers} layers of width {config.hidden_size}, {config.vocab_size} tokens"
    info.dtype = ", ".join(name for name, _ in dtypes.most_common())
    suffix = "safetensors" if checkpoint.files[0].suffix == ".safetensors" else "bin"
    total = sum(file.stat().st_size for file in checkpoint.files)
    info.files = f"{len(checkpoint.files)} {suffix}, {total / 1e9:.2f} GB"
    norm = checkpoint.tensor(sources["model.norm.weight"]).float()
    info.is_delta = bool(norm.abs().mean() < _DELTA_NORM)


def _describe_tower(info: WeightsInfo, folder: Path, flavour: Any) -> None:
    config = flavour.config
    kind = config.mm_projector_type or "linear"
    info.projector = f"{kind}, {config.mm_hidden_size} to {config.hidden_size}"
    name = str(config.mm_vision_tower)
    layer = f"layer {config.mm_vision_select_layer}"
    if flavour.vision_config is not None:
        info.vision_tower = f"in the checkpoint, {flavour.vision_config.image_size} pixels, {layer}"
    elif (folder / name / "config.json").is_file():
        info.vision_tower = f"{name}/ in the folder, {layer}"
    elif Path(name).is_dir():
        info.vision_tower = f"{name}, {layer}"
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        info.vision_tower = f"{name}, fetched from the hub when it is loaded, {layer}"
    else:
        info.vision_tower = f"{name}, {layer}"
        info.missing.append(f"the vision tower {name!r}: neither in the folder nor here. Give it with --vision-tower.")


def _describe_adapter(info: WeightsInfo, folder: Path, kind: str) -> None:
    from llava.model.weights.adapter import open_adapter
    from llava.model.weights.lora import ADAPTER_FILES, WHOLE_FILE
    from llava.model.weights.reader import Checkpoint, open_checkpoint, read_json

    try:
        if kind == "projector":
            parts = [open_adapter(folder)]
        else:
            info.base = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
            parts = [open_checkpoint(folder, names=ADAPTER_FILES)]
            if (folder / WHOLE_FILE).is_file():
                parts.append(Checkpoint([folder / WHOLE_FILE]))
            else:
                info.missing.append(f"{WHOLE_FILE}, which holds the projector")
    except LlavaError as error:
        info.missing.append(str(error))
        return
    info.parameters = sum(prod(part.shape(name)) for part in parts for name in part)
    info.files = ", ".join(file.name for part in parts for file in part.files)
    info.missing.append(f"the language model: give it with --model-base {info.base or 'DIR'}")


def describe(info: WeightsInfo) -> str:
    """The lines that `llava weights info` prints."""
    rows = [
        ("folder", info.path),
        ("what", info.kind),
        ("release", info.era),
        (
            "size",
            f"{info.parameters / 1e6:,.1f} million parameters; {info.size}".rstrip("; ") if info.parameters else "",
        ),
        ("precision", info.dtype),
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

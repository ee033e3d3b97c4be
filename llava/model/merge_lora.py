"""Merges a LoRA run into its base, which gives one folder that needs neither base nor adapter.

    python -m llava.model.merge_lora --model-path LORA --model-base BASE --save-model-path MERGED

Weights are read and written block by block, so a model of any size needs a few hundred megabytes of memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import run
from llava.errors import CheckpointError
from llava.model.weights.reader import OWN_TOWER, read_model_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from llava.model.loading.adapted import AdaptedBase
    from llava.model.loading.model_folder import ModelFolder
    from llava.model.weights.folder import WriteSettings
    from llava.model.weights.reader import Checkpoint
    from llava.model.weights.writer import CheckpointWriter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava.model.weights.folder import add_writing_arguments

    parser.add_argument("--model-path", required=True, metavar="DIR", help="Folder of the LoRA run.")
    parser.add_argument(
        "--model-base", metavar="DIR", help="Folder or hub id of its base (default: the one that the adapter names)."
    )
    parser.add_argument("--save-model-path", required=True, metavar="DIR", help="Folder to create.")
    parser.add_argument(
        "--vision-tower",
        metavar="DIR",
        help="Vision tower, if the adapter changes it (default: the one that the run names).",
    )
    add_writing_arguments(parser, dtype=None)


def main(args: argparse.Namespace) -> int:
    from llava.model.weights.folder import WriteSettings, check_distinct
    from llava.model.weights.reader import resolve_folder

    folder = resolve_folder(args.model_path)
    if not (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder}: has no adapter_config.json, so it is not a LoRA run. Give the folder that training wrote."
        )
    base = args.model_base or read_model_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise CheckpointError(f"{folder / 'adapter_config.json'}: does not name a base. Give one with --model-base.")
    check_distinct({"--model-path": folder, "--model-base": base, "--save-model-path": args.save_model_path})
    options = WriteSettings.from_args(args)
    merge(folder, base, Path(args.save_model_path), options, vision_tower=args.vision_tower)
    print(f"{args.save_model_path}: ready")
    return 0


def merge(
    folder: Path, base: str | Path, target: Path, options: WriteSettings, *, vision_tower: str | None = None
) -> None:
    """Writes the model `base` with the adapter in `folder` to the folder `target`.

    The result is in the original's format, or in transformers' if that is the format of the base and the adapter's
    folder has no config of ours. The weights keep the base's number format by default.

    Args:
        vision_tower: folder or hub id of the vision tower, if the adapter changes it.

    Raises:
        CheckpointError: the adapter does not fit the base, a value is not finite, or the disk is full.
        InvalidRequest: the target exists.
    """
    from llava.model.loading.adapted import adapt
    from llava.model.loading.model_folder import read_base, read_model_folder
    from llava.model.loading.tensor_check import check_tensors
    from llava.model.weights.folder import (
        OTHER_FILES,
        SourceFolder,
        copy_companions,
        open_target,
        upgraded_config,
    )
    from llava.model.weights.lora import read_adapter
    from llava.model.weights.writer import TensorSpec

    adapter, model, run = read_adapter(folder), read_base(base), read_model_folder(folder, base=base)
    adapted = adapt(adapter, run, model, model.open_weights(), vision_tower=vision_tower)
    check_tensors(adapted.settings, adapted.checkpoint, adapted.names)
    weights, names = adapted.checkpoint, _names_in_target(adapted, run, model)
    settings = _config(adapted, run, model)
    dtype = options.dtype or weights.dtype(adapted.names["model.norm.weight"])
    specs = [TensorSpec(name, weights.shape(theirs), dtype) for name, theirs in names.items()]
    # The run's own folder has the changed settings; runs of the original have no tokenizer there.
    base_files = SourceFolder("base model", model.path, settings, weights)
    with open_target(target, specs, options) as writer:
        for spec in specs:
            writer.write(spec.name, _blocks(weights, names[spec.name], dtype))
        writer.write_json("config.json", upgraded_config(settings, dtype))
        if run.has_tokenizer:
            copy_companions(writer, base_files, OTHER_FILES)
            copy_companions(writer, SourceFolder("run", run.path, settings, weights))
        else:
            copy_companions(writer, base_files)
        if not _is_nested(run, model):
            _describe_tower(writer, adapted, run, model)
        writer.finish()


def _is_nested(run: ModelFolder, base: ModelFolder) -> bool:
    """Tells whether the result is in transformers' format."""
    return base.kind == "nested" and run.vision_settings is not None


def _names_in_target(adapted: AdaptedBase, run: ModelFolder, base: ModelFolder) -> dict[str, str]:
    """Maps the name of each tensor of the result to its name in the adapted checkpoint."""
    from llava.model.weights.names import TOWER_PREFIX, saved_name

    tower_type = ""
    if base.vision_settings is not None:
        tower_type = str(base.vision_settings["model_type"])
    elif adapted.tower_folder is not None:
        tower_type = str(read_model_json(adapted.tower_folder / "config.json").get("model_type"))
    names = {}
    for ours, theirs in adapted.names.items():
        renamed = base.kind == "nested" or (ours.startswith(TOWER_PREFIX) and adapted.tower_folder is not None)
        keeps_format = _is_nested(run, base) or not renamed
        names[theirs if keeps_format else saved_name(ours, tower_type)] = theirs
    return names


def _config(adapted: AdaptedBase, run: ModelFolder, base: ModelFolder) -> dict[str, Any]:
    """Returns the config of the result."""
    vocabulary = {"vocab_size": adapted.settings["vocab_size"]}
    if _is_nested(run, base):
        settings = dict(base.config_json)
        settings["text_config"] = {**(settings.get("text_config") or {}), **vocabulary}
        return settings
    own = {} if base.kind == "nested" else dict(base.config_json)
    settings = {**own, **run.config_json, **vocabulary}
    # A run on a quantised base says so; the result is not quantised.
    settings.pop("quantization_config", None)
    if adapted.settings.get("unfreeze_mm_vision_tower"):
        settings["unfreeze_mm_vision_tower"] = True
    tower = base.settings.get("mm_vision_tower")
    inside = base.path / str(tower)
    named = Path(str(settings.get("mm_vision_tower")))
    if named.is_absolute() and (inside / "config.json").is_file() and named.resolve() == inside.resolve():
        settings["mm_vision_tower"] = tower  # it is copied, so the result can be moved
    return settings


def _describe_tower(writer: CheckpointWriter, adapted: AdaptedBase, run: ModelFolder, base: ModelFolder) -> None:
    """Writes what is needed to build a vision tower whose weights are among the model's."""
    if not adapted.settings.get("unfreeze_mm_vision_tower"):
        return
    place = writer.folder / OWN_TOWER
    if (place / "config.json").is_file():
        return  # copied with the base's or the run's files
    place.mkdir(exist_ok=True)
    source = run.path / OWN_TOWER if (run.path / OWN_TOWER / "config.json").is_file() else adapted.tower_folder
    if source is None and base.vision_settings is not None:
        writer.write_json(f"{OWN_TOWER}/config.json", dict(base.vision_settings))
        source = base.path
    elif source is not None:
        writer.copy(source / "config.json", f"{OWN_TOWER}/config.json")
    for name in ("preprocessor_config.json", "processor_config.json"):
        if source is not None and (source / name).is_file():
            writer.copy(source / name, f"{OWN_TOWER}/{name}")


def _blocks(weights: Checkpoint, name: str, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yields slices of one tensor; sums are in float32 and rounded once."""
    for first, last in weights.row_ranges(name):
        yield weights.rows(name, first, last).to(dtype)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

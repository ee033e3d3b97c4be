"""Merges a LoRA run into its base, which gives one folder that needs neither base nor adapter.

    python -m llava.model.merge_lora --model-path LORA --model-base BASE --save-model-path MERGED

Weights are read and written block by block, so a model of any size needs a few hundred megabytes of memory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import run
from llava.errors import CheckpointError
from llava.model.weights.reader import EMBEDDING

if TYPE_CHECKING:
    from llava.model.weights.folder import SourceFolder, WriteSettings
    from llava.model.weights.lora import LoraAdapter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava.model.weights.folder import add_writing_arguments

    parser.add_argument("--model-path", required=True, metavar="DIR", help="Folder of the LoRA run.")
    parser.add_argument(
        "--model-base", metavar="DIR", help="Folder or hub id of its base (default: the one that the adapter names)."
    )
    parser.add_argument("--save-model-path", required=True, metavar="DIR", help="Folder to create.")
    add_writing_arguments(parser, dtype=None)


def main(args: argparse.Namespace) -> int:
    from llava.model.weights.folder import WriteSettings, check_distinct, open_source
    from llava.model.weights.lora import read_adapter
    from llava.model.weights.reader import read_model_json, resolve_folder

    folder = resolve_folder(args.model_path)
    if not (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder}: has no adapter_config.json, so it is not a LoRA run. Give the folder that training wrote."
        )
    base_path = args.model_base or read_model_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base_path:
        raise CheckpointError(f"{folder / 'adapter_config.json'}: does not name a base. Give one with --model-base.")
    check_distinct({"--model-path": folder, "--model-base": base_path, "--save-model-path": args.save_model_path})
    base = open_source(base_path, "base model")
    merge(read_adapter(folder), base, folder, Path(args.save_model_path), WriteSettings.from_args(args))
    print(f"{args.save_model_path}: ready")
    return 0


def merge(adapter: LoraAdapter, base: SourceFolder, folder: Path, target: Path, options: WriteSettings) -> None:
    """Writes `base` with `adapter`, which was read from `folder`, to the folder `target`.

    The weights keep the base's number format by default.

    Raises:
        CheckpointError: the adapter does not fit the base, a value is not finite, or the disk is full.
        InvalidRequest: the target exists.
    """
    from dataclasses import replace

    from llava.model.weights.folder import write_model
    from llava.model.weights.lora import check_fit, merged, merged_specs
    from llava.model.weights.reader import read_model_json

    check_fit(adapter, base, folder)
    dtype = options.dtype or base.weights.dtype(EMBEDDING)
    specs = merged_specs(adapter, base, dtype)
    rows = next(spec.shape[0] for spec in specs if spec.name == EMBEDDING)
    # The run's own folder has the changed settings; runs of the original have no tokenizer there.
    settings = {**base.config, **read_model_json(folder / "config.json"), "vocab_size": rows}
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))
    described = replace(base, folder=folder if has_tokenizer else base.folder, config=settings)
    write_model(
        target,
        specs,
        options,
        lambda spec: merged(adapter, base, spec.name, spec.dtype),
        like=described,
        dtype=dtype,
    )


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

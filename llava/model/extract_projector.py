"""Extracts the projector and the rows of the image tokens from a checkpoint: a file for --pretrain_mm_mlp_adapter.

    llava weights extract-projector --model-path /path/to/LLaVA --output mm_projector.bin

Reads folders with model.safetensors, pytorch_model.bin, their sharded forms, or mm_projector.bin, and only the tensors
that it extracts. The file is a flat table under the checkpoint's own names, which all releases read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava.command_line import run
from llava.errors import CheckpointError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-path",
        "--model_name_or_path",
        "--model_path",
        required=True,
        metavar="DIR",
        dest="model_path",
        help="Folder of a checkpoint, of either training stage.",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="Output file: a .bin file, or .safetensors if the name ends so. Its folder is created.",
    )


def main(args: argparse.Namespace) -> int:
    return extract(Path(args.model_path), Path(args.output))


def extract(folder: Path, output: Path) -> int:
    """Writes the projector of the checkpoint in `folder` to the file `output`; returns the exit code.

    Raises:
        CheckpointError: no checkpoint, no projector in it, or `output` is a folder.
    """
    from llava.model.weights.adapter import ADAPTER_FILES, names_to_extract, save_adapter
    from llava.model.weights.reader import open_checkpoint

    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder. Give the folder of a checkpoint.")
    if output.is_dir():
        raise CheckpointError(f"{output}: is a folder. Give --output the name of the file to write.")
    checkpoint = open_checkpoint(folder, names=ADAPTER_FILES)
    names = names_to_extract(checkpoint, with_rows=_has_trained_rows(folder))
    if not any("mm_projector" in name for name in names):
        raise CheckpointError(f"{folder}: has no projector (no tensor named mm_projector.*). Is it a LLaVA checkpoint?")
    save_adapter({name: checkpoint.tensor(name).clone() for name in names}, output)
    print(f"{output}: {', '.join(f'{name} {list(checkpoint.shape(name))}' for name in names)}")
    return 0


def _has_trained_rows(folder: Path) -> bool:
    """Whether the start and end tokens have trained rows; assumed of a checkpoint whose config does not say."""
    from llava.model.weights.reader import read_model_json

    if not (folder / "config.json").is_file():
        return True
    return read_model_json(folder / "config.json").get("mm_use_im_start_end") is not False


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

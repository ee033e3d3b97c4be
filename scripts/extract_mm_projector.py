"""Takes the projector and the rows of the image tokens out of a checkpoint: a file for --pretrain_mm_mlp_adapter.

Reads folders with model.safetensors, pytorch_model.bin, their sharded forms, or mm_projector.bin, and of those only the
wanted tensors. The file is a flat table under the checkpoint's own names: the form that all releases read and write.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import run
from llava.errors import CheckpointError

if TYPE_CHECKING:
    from llava.model.weights.reader import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_name_or_path",
        "--model-path",
        "--model_path",
        required=True,
        metavar="DIR",
        dest="model_path",
        help="folder of a checkpoint, of either stage",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write; its folder is made")


def main(args: argparse.Namespace) -> int:
    from llava.model.weights.adapter import ADAPTER_FILES
    from llava.model.weights.reader import open_checkpoint
    from llava.train.checkpoints.adapter import save_adapter

    folder, output = Path(args.model_path), Path(args.output)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder. Give the folder of a checkpoint.")
    if output.is_dir():
        raise CheckpointError(f"{output}: is a folder. --output takes the name of the file to write.")
    checkpoint = open_checkpoint(folder, names=ADAPTER_FILES)
    names = wanted_names(checkpoint, with_rows=_has_trained_rows(folder))
    if not any("mm_projector" in name for name in names):
        raise CheckpointError(f"{folder}: has no projector (no tensor named mm_projector.*). Is it a LLaVA checkpoint?")
    save_adapter({name: checkpoint.tensor(name).clone() for name in names}, output)
    print(f"{output}: {', '.join(f'{name} {list(checkpoint.shape(name))}' for name in names)}")
    return 0


def wanted_names(checkpoint: Checkpoint, *, with_rows: bool) -> list[str]:
    """The tensors to take; the embedding first, because readers of 2023 know tensors by their last name only."""
    parts = ("embed_tokens", "mm_projector", "image_newline") if with_rows else ("mm_projector", "image_newline")
    return [name for part in parts for name in checkpoint if part in name]


def _has_trained_rows(folder: Path) -> bool:
    """Start and end tokens have trained rows; a checkpoint that does not say whether it uses them keeps its own."""
    from llava.model.weights.reader import read_json

    if not (folder / "config.json").is_file():
        return True
    return read_json(folder / "config.json").get("mm_use_im_start_end") is not False


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

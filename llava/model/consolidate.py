"""Rewrites a checkpoint as a clean folder: safetensors shards, one number format, an up-to-date config.

    python -m llava.model.consolidate --src /path/to/checkpoint --dst /path/to/clean

Reads `.bin` and safetensors, sharded or not, and leaves out the buffers that files of 2023 contain. Use it for
checkpoints of old releases or other tools; models trained with this package need it only to change their number format
(--dtype).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import run

if TYPE_CHECKING:
    from llava.model.weights.folder import SourceFolder, WriteSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava.model.weights.folder import add_writing_arguments

    parser.add_argument("--src", required=True, metavar="DIR", help="Folder or hub id of the checkpoint to read.")
    parser.add_argument("--dst", required=True, metavar="DIR", help="Folder to create.")
    add_writing_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from llava.model.weights.folder import WriteSettings, check_distinct, open_source

    check_distinct({"--src": args.src, "--dst": args.dst})
    consolidate(open_source(args.src, "checkpoint"), Path(args.dst), WriteSettings.from_args(args))
    print(f"{args.dst}: ready")
    return 0


def consolidate(source: SourceFolder, target: Path, options: WriteSettings) -> None:
    """Rewrites the checkpoint `source` to the folder `target`, in float16 by default.

    Raises:
        CheckpointError: a value that is not finite, or a full disk; the target stays as it was.
        InvalidRequest: the target exists.
    """
    import torch

    from llava.model.weights.folder import converted, converted_specs, write_model

    dtype = options.dtype or torch.float16
    specs = converted_specs(source, dtype)
    write_model(target, specs, options, lambda spec: converted(source, spec.name, spec.dtype), like=source, dtype=dtype)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

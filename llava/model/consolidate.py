"""Writes a checkpoint again as one clean folder: safetensors shards, one precision, the config of today.

    python -m llava.model.consolidate --src /path/to/checkpoint --dst /path/to/clean

Reads `.bin` and safetensors, sharded or not, and leaves out the buffers that files of 2023 carry along. Use it on what
old releases or other tools wrote; models trained here need it only to change their precision (--dtype).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import run

if TYPE_CHECKING:
    from llava.model.weights.folder import Source, Writing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava.model.weights.folder import add_writing_arguments

    parser.add_argument("--src", required=True, metavar="DIR", help="checkpoint to read, folder or hub id")
    parser.add_argument("--dst", required=True, metavar="DIR", help="folder to make")
    add_writing_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from llava.model.weights.folder import check_distinct, open_source, writing_options

    check_distinct({"--src": args.src, "--dst": args.dst})
    consolidate(open_source(args.src, "checkpoint"), Path(args.dst), writing_options(args))
    print(f"{args.dst}: ready")
    return 0


def consolidate(source: Source, target: Path, options: Writing) -> None:
    """Writes the checkpoint `source` again to the folder `target`, in float16 unless told.

    Raises:
        CheckpointError: a value that is not finite, or no room on the disk; the target is as it was before.
        InvalidRequest: the target exists.
    """
    import torch

    from llava.model.weights.folder import converted, converted_specs, write_model

    dtype = options.dtype or torch.float16
    specs = converted_specs(source, dtype)
    write_model(target, specs, options, lambda spec: converted(source, spec.name, spec.dtype), like=source, dtype=dtype)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

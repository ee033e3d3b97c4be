"""Adds delta weights to their base: the difference that a LLaVA release ships, to your LLaMA weights.

    python -m llava.model.apply_delta --base /path/to/llama-7b --target /path/to/LLaVA-7B-v0 --delta /path/to/delta

Both are read block by block, so a model of any size needs a few hundred megabytes of memory. Nothing is written before
the two have been checked to belong together, and the target appears only when it is complete.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import run
from llava.errors import CheckpointError

if TYPE_CHECKING:
    from llava.model.weights.folder import SourceFolder, WriteSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava.model.weights.folder import add_delta_arguments, add_writing_arguments

    add_delta_arguments(parser, target="Folder to create.", delta="Folder or hub id of the delta weights.")
    add_writing_arguments(parser)
    parser.add_argument("--verify", action="store_true", help="Read the target back and compare every value.")
    parser.add_argument("--force", action="store_true", help="Continue even if base or delta look wrong.")


def main(args: argparse.Namespace) -> int:
    from llava.model.weights.folder import WriteSettings, check_distinct, open_source

    check_distinct({"--base": args.base, "--target": args.target, "--delta": args.delta})
    base, delta = open_source(args.base, "base"), open_source(args.delta, "delta")
    _check(base, delta, force=args.force)
    apply_delta(base, delta, Path(args.target), WriteSettings.from_args(args))
    if args.verify:
        verify(base, delta, open_source(args.target, "target"), quiet=args.quiet)
        print(f"{args.target}: read back, every value is correct")
    print(f"{args.target}: ready. Try it with: llava ask --model-path {args.target} --image-file FILE --query TEXT")
    return 0


def _check(base: SourceFolder, delta: SourceFolder, *, force: bool) -> None:
    from llava.model.weights import delta as rules
    from llava.model.weights.folder import check_tokenizer

    rules.check_fit(delta, base)
    rules.check_complete(delta, "delta")
    check_tokenizer(delta, delta.rows(rules.EMBEDDING))
    if not force:
        rules.check_is_delta(delta, base)
        print(f"{base.folder}: {rules.check_base(delta, base)}", file=sys.stderr)


def apply_delta(base: SourceFolder, delta: SourceFolder, target: Path, options: WriteSettings) -> None:
    """Writes base + delta, with the delta's config and tokenizer, to the folder `target`, in float16 by default.

    Raises:
        CheckpointError: a value that is not finite, or a full disk; the target stays as it was.
        InvalidRequest: the target exists.
    """
    import torch

    from llava.model.weights.delta import combined, specs_of
    from llava.model.weights.folder import write_model

    dtype = options.dtype or torch.float16
    specs = specs_of(delta, dtype)
    write_model(
        target,
        specs,
        options,
        lambda spec: combined(spec.name, delta, base, dtype, torch.add),
        like=delta,
        dtype=dtype,
    )


def verify(base: SourceFolder, delta: SourceFolder, target: SourceFolder, *, quiet: bool = True) -> None:
    """Computes every value again and compares it with the target's files.

    Raises:
        CheckpointError: names the first tensor that differs.
    """
    import torch

    from llava.model.weights.delta import combined, specs_of
    from llava.model.weights.folder import progress_bar

    if set(target.weights) != set(delta.names):
        raise CheckpointError(f"{target.folder}: its tensors are not those of the delta. Apply the delta again.")
    dtype = target.weights.dtype(next(iter(target.weights)))
    specs = specs_of(delta, dtype)
    with progress_bar(sum(spec.num_bytes for spec in specs), "verifying", quiet=quiet) as advance:
        for spec in specs:
            at = 0
            for block in combined(spec.name, delta, base, dtype, torch.add):
                length = len(block) if block.dim() else 0
                written = target.weights.rows(spec.name, at, at + length)
                at += length
                if not torch.equal(written, block):
                    raise CheckpointError(
                        f"{target.weights.file_of(spec.name)}: {spec.name} is not base + delta. The disk or the memory "
                        "of this machine may be at fault; apply the delta again."
                    )
                advance(block.nbytes)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

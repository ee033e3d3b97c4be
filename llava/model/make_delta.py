"""Makes delta weights: what to add to a base model to get yours, so that you can share it where the base may not be.

    python -m llava.model.make_delta --base /path/to/llama-7b --target /path/to/LLaVA-7B-v0 --delta /path/to/delta

The counterpart of `python -m llava.model.apply_delta`. With --hub-repo-id the delta is also uploaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import run
from llava.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from llava.model.weights.folder import Source, Writing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava.model.weights.folder import add_delta_arguments, add_writing_arguments

    add_delta_arguments(parser, target="your model, folder or hub id", delta="folder to make")
    parser.add_argument(
        "--hub-repo-id", metavar="OWNER/NAME", help="upload the delta there as well (log in with `hf auth login` first)"
    )
    parser.add_argument("--hub-private", action="store_true", help="make that repository private")
    add_writing_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from llava.model.weights.folder import check_distinct, open_source, writing_options

    check_distinct({"--base": args.base, "--target": args.target, "--delta": args.delta})
    base, target = open_source(args.base, "base"), open_source(args.target, "model")
    returned = make_delta(base, target, Path(args.delta), writing_options(args))
    print(f"{args.delta}: ready. {returned}")
    if args.hub_repo_id:
        print(f"{args.hub_repo_id}: uploaded, {upload(Path(args.delta), args.hub_repo_id, private=args.hub_private)}")
    return 0


class Rounding:
    """Counts what a delta of this precision cannot give back: base + (target - base) is rounded twice."""

    def __init__(self) -> None:
        self.values = self.inexact = 0
        self.largest = 0.0

    def subtract(self, target: Tensor, base: Tensor) -> Tensor:
        """target - base, counting where adding the base again would not give the target."""
        delta = target - base
        error = ((delta + base).float() - target.float()).abs()
        self.values += error.numel()
        self.inexact += int((error != 0).sum())
        self.largest = max(self.largest, error.max().item() if error.numel() else 0.0)
        return delta

    def __str__(self) -> str:
        if not self.inexact:
            return "Applied to the base it gives every value back exactly."
        return (
            f"Applied to the base it gives back {100 * (1 - self.inexact / self.values):.1f} % of the values exactly, "
            f"the others to within {self.largest:.1e}; --dtype float32 gives back all, at twice the size."
        )


def make_delta(base: Source, target: Source, delta: Path, options: Writing) -> Rounding:
    """Writes target - base, with the target's config and tokenizer, to the folder `delta`; in float16 unless told.

    Raises:
        CheckpointError: the two do not belong together, a value is not finite, or the disk is full.
        InvalidRequest: the folder exists.
    """
    import torch

    from llava.model.weights.delta import BASE_FILE, base_statement, check_complete, check_fit, combined, specs_of
    from llava.model.weights.folder import write_model

    check_fit(target, base)
    check_complete(target, "model")
    dtype = options.dtype or torch.float16
    specs, rounding = specs_of(target, dtype), Rounding()
    write_model(
        delta,
        specs,
        options,
        lambda spec: combined(spec.name, target, base, dtype, rounding.subtract),
        like=target,
        dtype=dtype,
        more={BASE_FILE: base_statement(base)},
    )
    return rounding


def upload(folder: Path, repo_id: str, *, private: bool = False) -> str:
    """Puts a folder into a model repository of the hub, which is made if there is none; returns its address.

    Raises:
        CheckpointError: not logged in, no right to write there, no network, or `private` and the repository is there
            already for all to see; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    from llava.model.weights.reader import hub_errors, hub_reason

    hub = HfApi()
    try:
        address = hub.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not hub.model_info(repo_id).private:
            raise CheckpointError(
                f"{repo_id}: the delta is in {folder}, but was not uploaded: the repository exists and is public. "
                "Make it private in its settings, give another name, or leave out --hub-private."
            )
        hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Add delta weights")
    except hub_errors() as error:
        raise CheckpointError(
            f"{repo_id}: the delta is in {folder}, but could not be uploaded ({hub_reason(error)}). "
            "Log in with `hf auth login`, check the name, and upload the folder with `hf upload`."
        ) from error
    return str(address)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

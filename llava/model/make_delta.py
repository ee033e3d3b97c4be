"""Makes delta weights: the difference between your model and its base, to share a model whose base must not be shared.

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

    from llava.model.weights.folder import SourceFolder, WriteSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava.model.weights.folder import add_delta_arguments, add_writing_arguments

    add_delta_arguments(parser, target="Folder or hub id of your model.", delta="Folder to create.")
    parser.add_argument(
        "--hub-repo-id",
        metavar="OWNER/NAME",
        help="Hub repository to upload the delta to (log in with `hf auth login` first).",
    )
    parser.add_argument("--hub-private", action="store_true", help="Make that repository private.")
    add_writing_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from llava.model.weights.folder import WriteSettings, check_distinct, open_source

    check_distinct({"--base": args.base, "--target": args.target, "--delta": args.delta})
    base, target = open_source(args.base, "base"), open_source(args.target, "model")
    rounding = make_delta(base, target, Path(args.delta), WriteSettings.from_args(args))
    print(f"{args.delta}: ready. {rounding}")
    if args.hub_repo_id:
        print(f"{args.hub_repo_id}: uploaded, {upload(Path(args.delta), args.hub_repo_id, private=args.hub_private)}")
    return 0


class RoundingCount:
    """Counts the values that a delta cannot restore exactly, because base + (target - base) is rounded twice."""

    def __init__(self) -> None:
        self.values = self.inexact = 0
        self.largest = 0.0

    def subtract(self, target: Tensor, base: Tensor) -> Tensor:
        """Returns target - base, and counts the values where adding the base again does not give the target."""
        delta = target - base
        error = ((delta + base).float() - target.float()).abs()
        self.values += error.numel()
        self.inexact += int((error != 0).sum())
        self.largest = max(self.largest, error.max().item() if error.numel() else 0.0)
        return delta

    def __str__(self) -> str:
        if not self.inexact:
            return "Applied to the base, it restores every value exactly."
        return (
            f"Applied to the base, it restores {100 * (1 - self.inexact / self.values):.1f} % of the values exactly "
            f"and the others to within {self.largest:.1e}. --dtype float32 restores all, at twice the size."
        )


def make_delta(base: SourceFolder, target: SourceFolder, delta: Path, options: WriteSettings) -> RoundingCount:
    """Writes target - base, with the target's config and tokenizer, to the folder `delta`, in float16 by default.

    Raises:
        CheckpointError: the two models do not belong together, a value is not finite, or the disk is full.
        InvalidRequest: the folder exists.
    """
    import torch

    from llava.model.weights.delta import BASE_FILE, base_statement, check_complete, check_fit, combined, specs_of
    from llava.model.weights.folder import write_model

    check_fit(target, base)
    check_complete(target, "model")
    dtype = options.dtype or torch.float16
    specs, rounding = specs_of(target, dtype), RoundingCount()
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
    """Uploads a folder to a model repository of the hub, which is created if needed; returns its address.

    Raises:
        CheckpointError: not logged in, no permission, no network, or `private` although the repository exists and is
            public. The folder stays as it is.
    """
    from huggingface_hub import HfApi

    from llava.model.weights.reader import hub_errors, hub_reason

    hub = HfApi()
    try:
        address = hub.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not hub.model_info(repo_id).private:
            raise CheckpointError(
                f"{repo_id}: the delta is in {folder}, but was not uploaded: the repository exists and is public. "
                "Make it private in its settings, choose another name, or leave out --hub-private."
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

"""Assembles the trained parts into one folder: model and tower in bfloat16, tokenizer and settings."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from llava.command_line import run
from llava.errors import CheckpointError
from scripts.pocket.folders import add_out, add_work

TOWER = "vision_tower"
"""Folder of the tower inside the model folder."""
LARGEST_BYTES = 40_000_000
"""Largest size of the whole folder."""
COPIED = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
FORGOTTEN = ("is_local", "local_files_only", "name_or_path")
"""Keys of tokenizer_config.json that record how it was loaded during training."""


def to_half(source: Path, target: Path, *, prefix: str = "") -> None:
    """Copies a safetensors file with its floating-point tensors in bfloat16.

    Args:
        prefix: what every name shall begin with.
    """
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(source)
    half = {
        prefix + name.removeprefix(prefix): t.to(torch.bfloat16) if t.is_floating_point() else t
        for name, t in tensors.items()
    }
    save_file({name: tensor.contiguous() for name, tensor in half.items()}, target, metadata={"format": "pt"})
    target.chmod(0o644)


def rewrite(source: Path, target: Path, **changes: object) -> None:
    """Copies a JSON object with some keys changed, or removed if the new value is None."""
    value = {**json.loads(source.read_text()), **changes}
    kept = {key: item for key, item in value.items() if not (key in changes and item is None)}
    target.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def assemble(model: Path, tower: Path, target: Path) -> int:
    """Writes the folder and returns its size in bytes.

    Raises:
        CheckpointError: a part is missing, or the result is too large for the repository.
    """
    for part in (model / "model.safetensors", tower / "model.safetensors"):
        if not part.is_file():
            raise CheckpointError(f"{part}: no such file. Train this part first with scripts/pocket/make.py.")
    (target / TOWER).mkdir(parents=True, exist_ok=True)
    to_half(model / "model.safetensors", target / "model.safetensors")
    # transformers 5 leaves the prefix out when it saves; 4 reads a file without it as noise, and both read one with it.
    to_half(tower / "model.safetensors", target / TOWER / "model.safetensors", prefix="vision_model.")
    rewrite(model / "config.json", target / "config.json", mm_vision_tower=TOWER, dtype="bfloat16")
    rewrite(tower / "config.json", target / TOWER / "config.json", dtype="bfloat16")
    shutil.copyfile(tower / "preprocessor_config.json", target / TOWER / "preprocessor_config.json")
    for name in COPIED:
        shutil.copyfile(model / name, target / name)
    settings = target / "tokenizer_config.json"
    context = json.loads((target / "config.json").read_text())["max_position_embeddings"]
    rewrite(settings, settings, model_max_length=context, **dict.fromkeys(FORGOTTEN))
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    if size > LARGEST_BYTES:
        raise CheckpointError(f"{target}: {size / 1e6:.1f} MB, the limit is {LARGEST_BYTES / 1e6:.0f} MB.")
    return size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_work(parser)
    add_out(parser, "llava/pocket/tiny")


def main(args: argparse.Namespace) -> int:
    size = assemble(args.work / "stage2", args.work / "tower", args.out)
    print(f"wrote {args.out}, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

"""Initialises the projector by least squares from the tower's patches to the language model's embeddings.

Each patch of a training image is mapped to the sum of the embeddings of the words for what it shows. Stage 1 starts
from this projector, because training one from random weights takes long while the language model is frozen.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

import numpy as np

from llava.command_line import run
from scripts.pocket import fashion, patches
from scripts.pocket.folders import add_fashion, add_work
from scripts.pocket.patch_words import photograph_table, read_words, scene_tables, scene_words

if TYPE_CHECKING:
    import torch

DAMPING = 1e-3
"""Ridge term, relative to the mean square of the features; keeps the weights of nearly constant directions small."""


def solve(features: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Solves a weighted ridge regression; returns projector weight [hidden, width] and bias [hidden], float32."""
    import torch

    features, wanted, weight = features.double(), wanted.double(), (weight / weight.sum()).double()[:, None]
    middle, aim = (features * weight).sum(0), (wanted * weight).sum(0)
    centred = features - middle
    covariance = centred.mT @ (centred * weight)
    damping = DAMPING * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.double)
    solution = torch.linalg.solve(covariance + damping, centred.mT @ ((wanted - aim) * weight)).mT
    return solution.float().contiguous(), (aim - solution @ middle).float()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_work(parser)
    add_fashion(parser)
    parser.add_argument(
        "--pictures", type=int, default=3000, metavar="N", help="Scenes, and photographs, to use (default: 3000)."
    )


def main(args: argparse.Namespace) -> int:
    import torch
    from transformers import CLIPVisionModel

    from scripts.pocket.tower import enlarged, features, normalise

    tower = CLIPVisionModel.from_pretrained(args.work / "tower")
    words = read_words(args.work / "language")
    seen, wanted, weight = [], [], []
    with np.load(args.work / "scenes.npz") as stored:
        pictures, targets = stored["pictures"][: args.pictures], stored["targets"][: args.pictures]
    pixels, labels = fashion.read(fashion.locate(args.work, args.fashion), "train")
    photographs = np.repeat(enlarged(pixels[: args.pictures])[..., None], 3, axis=-1)
    tables = scene_tables(words)
    clothes = photograph_table(words)
    with torch.no_grad():
        for first in range(0, args.pictures, 250):
            part = slice(first, first + 250)
            for batch in (pictures[part], photographs[part]):
                seen.append(features(tower, normalise(batch))[:, 1:].flatten(0, 1))
            wanted.append(scene_words(targets[part], tables).flatten(0, 1))
            shown = torch.from_numpy(labels[first : min(first + 250, args.pictures)].astype(np.int64))
            wanted.append(clothes[shown].repeat_interleave(patches.GRID**2, 0))
            kinds = torch.from_numpy(targets[part, 0].astype(np.int64)).flatten()
            # Most patches are background, and all patches of a photograph have the same target.
            weight.append(torch.where(kinds == patches.BACKGROUND_KIND, 0.3, 1.0))
            weight.append(torch.full((len(wanted[-1]),), 0.2))
    aims = torch.cat(wanted)
    matrix, bias = solve(torch.cat(seen), aims, torch.cat(weight))
    left = (torch.cat(seen) @ matrix.mT + bias - aims).square().mean() / aims.var(0).mean()
    print(f"projector from {len(aims)} patches, {left:.2f} of the words' variance left")
    path = args.work / "projector_start.bin"
    rows = words.table.mean(0).repeat(2, 1)  # <im_start> and <im_end>
    tensors = {
        "model.mm_projector.weight": matrix,
        "model.mm_projector.bias": bias,
        "model.embed_tokens.weight": rows,
    }
    torch.save(tensors, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

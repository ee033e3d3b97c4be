"""Draws the training scenes and records what the tower should see in each of their patches.

The result is one .npz file with the images as bytes and a small number for each patch and question.
"""

from __future__ import annotations

import argparse
import os
import sys
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from llava.command_line import run
from scripts.pocket import scenes

PATCH = scenes.CELL
"""Side of a patch in pixels. A patch is a cell of a scene, so each patch shows at most one whole object."""
GRID = scenes.SIDE // PATCH
IGNORED = -1
BACKGROUND_KIND = len(scenes.KINDS)
PHOTOGRAPH_KIND = BACKGROUND_KIND + 1
HELD_OUT_SEED = 10_000_000
"""First seed of the scenes that are never trained on."""

# The questions about each patch, with their numbers of answers.
TARGETS = {
    "kind": len(scenes.KINDS) + 2,
    "colour": len(scenes.COLOURS),
    "size": len(scenes.SIZES),
    "cell": 9,
    "background": len(scenes.BACKGROUNDS),
    "count": scenes.MOST_OBJECTS,
}


def targets(scene: scenes.Scene) -> dict[str, np.ndarray]:
    """Returns for each name in TARGETS an int8 array of the 9 patches in reading order; -1 is not asked."""
    answer = {name: np.full((GRID, GRID), IGNORED, dtype=np.int8) for name in TARGETS}
    answer["kind"][:] = BACKGROUND_KIND
    answer["cell"][:] = np.arange(GRID * GRID).reshape(GRID, GRID)
    answer["background"][:] = list(scenes.BACKGROUNDS).index(scene.background)
    answer["count"][:] = len(scene.objects) - 1
    for item in scene.objects:
        answer["kind"][item.row, item.column] = scenes.KINDS.index(item.kind)
        answer["colour"][item.row, item.column] = list(scenes.COLOURS).index(item.colour)
        answer["size"][item.row, item.column] = scenes.SIZES.index(item.size)
    return {name: values.reshape(-1) for name, values in answer.items()}


def _draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    scene = scenes.sample(seed)
    values = targets(scene)
    return np.asarray(scenes.render(scene)), np.stack([values[name] for name in TARGETS])


def build(path: Path, first_seed: int, count: int, workers: int) -> None:
    """Writes `pictures`, [n, 66, 66, 3] uint8, and `targets`, [n, len(TARGETS), 9] int8, to an .npz file."""
    pictures = np.empty((count, scenes.SIDE, scenes.SIDE, 3), dtype=np.uint8)
    answers = np.empty((count, len(TARGETS), GRID * GRID), dtype=np.int8)
    with Pool(workers) as pool:
        drawn = pool.imap(_draw, range(first_seed, first_seed + count), chunksize=250)
        for index, (picture, answer) in enumerate(drawn):
            pictures[index], answers[index] = picture, answer
            if (index + 1) % 5000 == 0:
                print(f"{index + 1} of {count} scenes drawn", flush=True)
    temporary = path.with_name(path.name + ".tmp.npz")
    np.savez(temporary, pictures=pictures, targets=answers)
    os.replace(temporary, path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--work", type=Path, default=Path("work/pocket"), metavar="DIR", help="Output folder (default: work/pocket)."
    )
    parser.add_argument("--scenes", type=int, default=50_000, metavar="N", help="Training scenes (default: 50000).")
    parser.add_argument(
        "--held-out", type=int, default=1000, metavar="N", help="Scenes that measure progress (default: 1000)."
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="Processes (default: one per core)."
    )


def main(args: argparse.Namespace) -> int:
    args.work.mkdir(parents=True, exist_ok=True)
    for name, seed, count in (("scenes", 0, args.scenes), ("scenes_watch", HELD_OUT_SEED * 2, args.held_out)):
        path = args.work / f"{name}.npz"
        if path.exists():
            print(f"{path} exists already")
            continue
        build(path, seed, count, args.workers)
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

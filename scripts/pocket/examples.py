"""Writes the two example images: the first sneaker in Fashion-MNIST's test split, and a held-out scene.

Both are chosen by their position, not by the model's answers.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

from llava.command_line import run
from scripts.pocket import fashion, patches, scenes

SHOWN = "sneaker"
SIDE = 264
"""Side of the images in pixels."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("work/pocket"),
        metavar="DIR",
        help="Folder of the parts (default: work/pocket).",
    )
    parser.add_argument(
        "--fashion",
        type=Path,
        metavar="DIR",
        help="Folder of the Fashion-MNIST files (default: the installed package).",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("playground/images"),
        metavar="DIR",
        help="Output folder (default: playground/images).",
    )


def main(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    pictures, labels = fashion.read(fashion.locate(args.work, args.fashion), "test")
    first = list(labels).index(fashion.CLASSES.index(SHOWN))
    fashion.picture(pictures[first], SIDE).convert("L").save(args.out / f"{SHOWN}.png", optimize=True)
    held_out = map(scenes.sample, itertools.count(patches.HELD_OUT_SEED))
    scene = next(scene for scene in held_out if len(scene.objects) == 3)
    scenes.render(scene, SIDE).save(args.out / "scene.png", optimize=True)
    print(f"photograph {first} of the test split, scene {scene.seed}, in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

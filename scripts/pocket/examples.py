"""Writes the two example images: the first sneaker in Fashion-MNIST's test split, and a held-out scene.

Both are chosen by their position, not by the model's answers.
"""

from __future__ import annotations

import argparse
import itertools
import sys

from llava.command_line import run
from scripts.pocket import fashion, patches, scenes
from scripts.pocket.folders import add_fashion, add_out, add_work

SHOWN = "sneaker"
SIDE = 264
"""Side of the images in pixels."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_work(parser)
    add_fashion(parser)
    add_out(parser, "playground/images")


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

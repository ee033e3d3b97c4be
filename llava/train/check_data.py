"""Checks a training file before it is trained on: every record, and on request every image and every length.

The exit code is 1 if training would refuse the file or a record of it, and 0 if there are only warnings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava.command_line import run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="Training file (JSON or JSON Lines).")
    parser.add_argument(
        "--image-folder", metavar="DIR", help="Folder that the image paths are relative to (default: that of FILE)."
    )
    parser.add_argument("--images", action="store_true", help="Also open every image, on all cores.")
    parser.add_argument(
        "--version", default="v0", metavar="NAME", help="Training template, as for llava train (default: v0)."
    )
    parser.add_argument(
        "--allow-outside-images", action="store_true", help="Accept image paths that lead out of the image folder."
    )
    parser.add_argument("--all", action="store_true", help="List every finding, not only the first of each kind.")
    parser.add_argument("--output", metavar="FILE", help="File to write the report to, as JSON.")
    lengths = parser.add_argument_group("lengths", "The exact number of tokens of each record.")
    lengths.add_argument("--model", metavar="DIR", help="Folder or hub id of the model, for its tokenizer.")
    lengths.add_argument(
        "--vision-tower", metavar="DIR", help="Folder or hub id of the vision tower (default: the model's own)."
    )
    lengths.add_argument(
        "--mm-use-im-start-end", action="store_true", help="Count <im_start> and <im_end> around each image."
    )
    lengths.add_argument(
        "--image-aspect-ratio",
        metavar="NAME",
        help="square, pad, keep or anyres (default: the model's own or square).",
    )
    lengths.add_argument(
        "--model-max-length", type=int, default=2048, metavar="N", help="Longest sequence in tokens (default: 2048)."
    )
    lengths.add_argument("--plot", metavar="FILE", help="File to draw the histogram of lengths to (PNG).")
    lengths.add_argument(
        "--sample", type=int, metavar="N", help="Show record N (counting from 0) with its trained text marked."
    )


def main(args: argparse.Namespace) -> int:
    from llava.errors import InvalidRequest
    from llava.train.data_check.report import check_file
    from llava.train.data_check.settings import CheckSettings

    if args.model is None and (args.plot is not None or args.sample is not None):
        raise InvalidRequest("--plot and --sample need --model, for its tokenizer.")
    if args.model_max_length < 1:
        raise InvalidRequest(f"--model-max-length {args.model_max_length}: must be at least 1.")
    settings = CheckSettings(
        file=Path(args.file),
        image_folder=Path(args.image_folder) if args.image_folder else Path(args.file).parent,
        version=args.version,
        opens_images=args.images,
        allows_outside_images=args.allow_outside_images,
        lists_all=args.all,
        output=None if args.output is None else Path(args.output),
        model=args.model,
        vision_tower=args.vision_tower,
        start_end=args.mm_use_im_start_end,
        aspect_ratio=args.image_aspect_ratio,
        max_length=args.model_max_length,
        plot=None if args.plot is None else Path(args.plot),
        sample=args.sample,
    )
    return check_file(settings)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

"""Checks a training file before it is trained on: every record, and on request every image and every length.

The exit code is 1 if training would refuse the file or a record of it, and 0 if there are only warnings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava.command_line import WRONG_USAGE, run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="Training file (JSON or JSON Lines).")
    parser.add_argument(
        *_both("--image-folder"),
        metavar="DIR",
        help="Folder that the image paths are relative to (default: that of FILE).",
    )
    parser.add_argument("--images", action="store_true", help="Also open every image, on all cores.")
    parser.add_argument(
        "--version",
        type=_version,
        default="v0",
        metavar="NAME",
        help="Training template, as for llava train (default: v0).",
    )
    parser.add_argument(
        *_both("--allow-outside-images"),
        action="store_true",
        help="Accept image paths that lead out of the image folder.",
    )
    parser.add_argument("--all", action="store_true", help="List every finding, not only the first of each kind.")
    parser.add_argument("--output", metavar="FILE", help="File to write the report to, as JSON.")
    lengths = parser.add_argument_group("lengths", "The exact number of tokens of each record.")
    lengths.add_argument("--model", metavar="DIR", help="Folder or hub id of the model, for its tokenizer.")
    lengths.add_argument(
        *_both("--vision-tower"),
        metavar="DIR",
        help="Folder or hub id of the vision tower (default: the model's own).",
    )
    lengths.add_argument(
        *_both("--mm-use-im-start-end"),
        action="store_true",
        help="Count <im_start> and <im_end> around each image.",
    )
    lengths.add_argument(
        *_both("--image-aspect-ratio"),
        metavar="NAME",
        help="How images are fitted to the tower: square, pad, keep or anyres (default: the model's own, or square).",
    )
    lengths.add_argument(
        *_both("--model-max-length"),
        type=_positive,
        default=2048,
        metavar="N",
        help="Longest sequence in tokens (default: 2048).",
    )
    lengths.add_argument("--plot", metavar="FILE", help="File to draw the histogram of lengths to (PNG).")
    lengths.add_argument(
        "--sample",
        type=_not_negative,
        metavar="N",
        help="Show record N (counting from 0) with its trained text marked.",
    )


def main(args: argparse.Namespace) -> int:
    from llava.train.data_check.report import check_file
    from llava.train.data_check.settings import CheckSettings

    if args.model is None and (args.plot is not None or args.sample is not None):
        print("error: --plot and --sample need --model, for its tokenizer.", file=sys.stderr)
        return WRONG_USAGE
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


def _both(flag: str) -> tuple[str, str]:
    """Returns a flag as it is spelt here, and as `llava train` spells it."""
    return flag, "--" + flag[2:].replace("-", "_")


def _version(text: str) -> str:
    from llava.errors import InvalidRequest
    from llava.train.data.layouts import training_template

    if text == "auto":
        return text
    try:
        training_template(text)
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--version ")) from None
    return text


def _positive(text: str) -> int:
    return _whole_number(text, least=1)


def _not_negative(text: str) -> int:
    return _whole_number(text, least=0)


def _whole_number(text: str, *, least: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

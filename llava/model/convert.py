"""Converts a LLaVA between the original's format and transformers', with all files beside the weights.

    python -m llava.model.convert --model-path /path/to/LLaVA-7B-v0 --output /path/to/export

An export contains the vision tower, the processor and the chat template. transformers
(`LlavaForConditionalGeneration`, or `LlavaNextForConditionalGeneration` for tiled images) and engines such as vLLM and
SGLang load it without this package. A folder in transformers' format is converted back to the original's. Weights are
read and written block by block.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava.command_line import run
from llava.errors import InvalidRequest

FORMATS = ("transformers", "original")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava.model.weights.folder import add_writing_arguments

    parser.add_argument("--model-path", required=True, metavar="DIR", help="Folder or hub id of the LLaVA to read.")
    parser.add_argument("--output", required=True, metavar="DIR", help="Folder to create.")
    parser.add_argument("--to", choices=FORMATS, help="Format to write (default: the other one).")
    parser.add_argument(
        "--vision-tower", metavar="DIR", help="Folder of the vision tower (default: the checkpoint's own)."
    )
    parser.add_argument(
        "--conv-mode", metavar="NAME", help="Prompt template to export (default: the checkpoint's own)."
    )
    add_writing_arguments(parser, dtype=None)


def main(args: argparse.Namespace) -> int:
    from llava.model.loading.model_folder import read_model_folder
    from llava.model.transformers_format.export import export
    from llava.model.transformers_format.restore import restore
    from llava.model.weights.folder import WriteSettings, check_distinct
    from llava.model.weights.reader import resolve_folder

    check_distinct({"--model-path": args.model_path, "--output": args.output})
    folder = read_model_folder(resolve_folder(args.model_path))
    if folder.kind not in ("flat", "nested"):
        what = {"text": "a language model without images", "lora": "a LoRA run", "projector": "only a projector"}
        hint = " Merge it first with `llava weights merge-lora`." if folder.kind == "lora" else ""
        raise InvalidRequest(f"{folder.path}: holds {what[folder.kind]}; only a whole LLaVA can be converted.{hint}")
    current = "original" if folder.kind == "flat" else "transformers"
    wanted = args.to or next(name for name in FORMATS if name != current)
    if wanted == current:
        raise InvalidRequest(f"{folder.path}: is already in the {wanted} format.")
    target, options = Path(args.output), WriteSettings.from_args(args)
    if wanted == "transformers":
        notes = export(folder, target, options, vision_tower=args.vision_tower, conv_mode=args.conv_mode)
    else:
        notes = restore(folder, target, options)
    print("\n".join(notes))
    print(f"{args.output}: ready")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

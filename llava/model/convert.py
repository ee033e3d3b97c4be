"""Converts a LLaVA between its own format and transformers', with everything beside the weights.

    python -m llava.model.convert --model-path /path/to/LLaVA-7B-v0 --output /path/to/export

Exports load in transformers (`LlavaForConditionalGeneration`, or `LlavaNextForConditionalGeneration` for tiled
images) and are in the format that engines such as vLLM and SGLang read, with no need of this package: vision tower,
processor and chat template are in the folder. A folder in transformers' format is turned back into the original's.
Reads and writes block by block.
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

    parser.add_argument("--model-path", required=True, metavar="DIR", help="LLaVA to read, folder or hub id")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--to", choices=FORMATS, help="format to write (the one that it is not in)")
    parser.add_argument("--vision-tower", metavar="DIR", help="folder of the tower (what the checkpoint says)")
    parser.add_argument("--conv-mode", metavar="NAME", help="template to export (the checkpoint's own)")
    add_writing_arguments(parser, dtype=None)


def main(args: argparse.Namespace) -> int:
    from llava.model.loading.flavours import read_flavour
    from llava.model.transformers_format.export import export
    from llava.model.transformers_format.restore import restore
    from llava.model.weights.folder import check_distinct, writing_options
    from llava.model.weights.reader import resolve_folder

    check_distinct({"--model-path": args.model_path, "--output": args.output})
    folder = resolve_folder(args.model_path)
    flavour = read_flavour(folder)
    if flavour.kind not in ("flat", "nested"):
        what = {"text": "a language model without images", "lora": "a LoRA run", "projector": "only a projector"}
        hint = " Merge it first with `llava weights merge-lora`." if flavour.kind == "lora" else ""
        raise InvalidRequest(f"{folder}: holds {what[flavour.kind]}; a whole LLaVA can be converted.{hint}")
    wanted = args.to or ("original" if flavour.kind == "nested" else "transformers")
    if wanted == ("original" if flavour.kind == "flat" else "transformers"):
        raise InvalidRequest(f"{folder}: is in the {wanted} format already.")
    target, options = Path(args.output), writing_options(args)
    if wanted == "transformers":
        said = export(folder, flavour, target, options, vision_tower=args.vision_tower, conv_mode=args.conv_mode)
    else:
        said = restore(folder, flavour, target, options)
    print("\n".join(said))
    print(f"{args.output}: ready")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

"""Asks a LLaVA one question about one or several images and prints its answer.

Without --model-name the small embedded model answers. The answer goes to standard output, everything else to standard
error; on a terminal the answer appears as it is written.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.answering.arguments import add_answer_arguments, add_model_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--image-file",
        "-i",
        action="append",
        default=[],
        metavar="IMAGE",
        help="path, data URI or http(s) address; repeat for several images",
    )
    parser.add_argument("--sep", default=None, metavar="CHARACTER", help="splits one --image-file into several images")
    parser.add_argument("--query", "-q", required=True, metavar="TEXT", help="the question")
    add_answer_arguments(parser, max_new_tokens=512)
    parser.add_argument("--seed", type=int, default=None, help="makes sampling repeatable (default: not)")
    # Accepted and unused, as in the original.
    parser.add_argument("--num-chunks", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--chunk-idx", type=int, default=0, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    from llava.mm_utils import load_image
    from llava.model.loading.arguments import find_model, load
    from llava.text_generation.settings import Sampling

    sampling = Sampling(args.temperature, args.top_p, args.num_beams, args.max_new_tokens, seed=args.seed)
    files = [part for file in args.image_file for part in (file.split(args.sep) if args.sep else [file])]
    images = [load_image(file, allow_url=True) for file in files]

    folder, name, notice = find_model(args.model_path)
    if notice:
        print(notice, file=sys.stderr)

    from llava.engine import Answer, Engine, Request
    from llava.prompting import build_prompt

    tokenizer, model, image_processor, context_length = load(args, folder)
    prompt = build_prompt(model.config, args.query, len(images), conv_mode=args.conv_mode, name=name)
    request = Request(prompt.text, tuple(images), sampling, stop=(prompt.stop,), prefixes=prompt.roles)
    streams = sys.stdout.isatty()
    with Engine(model, tokenizer, image_processor, context_length) as engine:
        for event in engine.iterate(request):
            if isinstance(event, Answer):
                result = event
            elif streams:
                _write(event.text)
    print("" if streams else result.text)
    if result.finish_reason == "length":
        print(f"note: the answer was cut at {result.num_new_tokens} tokens (--max-new-tokens)", file=sys.stderr)
    return 0


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

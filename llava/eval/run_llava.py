"""Asks a LLaVA one question about one or several pictures and prints its answer.

Without --model-name the small embedded model answers. The answer goes to standard output, everything else to standard
error; on a terminal the answer appears as it is written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava.command_line import run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-name",
        "--model-path",
        dest="model_path",
        metavar="MODEL",
        help="model folder, hub id, or the name of an embedded model (default: the embedded model `tiny`)",
    )
    parser.add_argument(
        "--model-base", metavar="MODEL", help="the language model, where --model-path holds a projector or LoRA only"
    )
    parser.add_argument(
        "--image-file",
        "-i",
        action="append",
        default=[],
        metavar="PICTURE",
        help="path, data URI or http(s) address; repeat for several pictures",
    )
    parser.add_argument(
        "--sep", default=None, metavar="CHARACTER", help="splits one --image-file into several pictures"
    )
    parser.add_argument("--query", "-q", required=True, metavar="TEXT", help="the question")
    parser.add_argument("--vision-tower", metavar="FOLDER", help="the vision tower, in place of what the model says")
    parser.add_argument("--mm-projector", metavar="FILE", help="projector to put before a plain LLaMA --model-name")
    parser.add_argument("--conv-mode", metavar="TEMPLATE", help="prompt template (default: the checkpoint's own)")
    parser.add_argument("--temperature", type=float, default=0.2, help="0 is greedy, at most 2 (default: 0.2)")
    parser.add_argument("--top-p", "--top_p", type=float, default=None, help="nucleus sampling (default: off)")
    parser.add_argument("--num-beams", "--num_beams", type=int, default=1, help="beam search (default: 1, none)")
    parser.add_argument(
        "--max-new-tokens", "--max_new_tokens", type=int, default=512, help="tokens to write at most (default: 512)"
    )
    parser.add_argument("--seed", type=int, default=None, help="makes sampling repeatable (default: not)")
    parser.add_argument("--device", default=None, help="cuda, cuda:N, mps or cpu (default: the best there is)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: chosen by device")
    parser.add_argument("--load-8bit", action="store_true", help="quantise to 8 bits (CPU, or CUDA with extra `quant`)")
    parser.add_argument("--load-4bit", action="store_true", help="quantise to 4 bits (CUDA, extra `quant`)")
    # Accepted and unused, as in the original.
    parser.add_argument("--num-chunks", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--chunk-idx", type=int, default=0, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    from llava.generation import Sampling
    from llava.mm_utils import get_model_name_from_path, load_image
    from llava.pocket import resolve

    sampling = Sampling(args.temperature, args.top_p, args.num_beams, args.max_new_tokens, seed=args.seed)
    files = [part for file in args.image_file for part in (file.split(args.sep) if args.sep else [file])]
    pictures = [load_image(file, allow_url=True) for file in files]

    path, notice = resolve(args.model_path)
    if notice:
        print(notice, file=sys.stderr)

    from llava.engine import Answer, Engine, Request
    from llava.model.builder import load_pretrained_model
    from llava.prompting import build_prompt

    tokenizer, model, image_processor, context_length = load_pretrained_model(
        path,
        args.model_base,
        load_8bit=args.load_8bit,
        load_4bit=args.load_4bit,
        device=args.device,
        dtype=args.dtype,
        vision_tower=args.vision_tower,
        mm_projector=args.mm_projector,
    )
    prompt = build_prompt(
        model.config,
        args.query,
        len(pictures),
        conv_mode=args.conv_mode,
        name=get_model_name_from_path(str(Path(path).absolute())),
    )
    request = Request(prompt.text, tuple(pictures), sampling, stop=(prompt.stop,), prefixes=prompt.roles)
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

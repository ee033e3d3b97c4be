"""Asks a LLaVA one question about one or several images and prints its answer.

Without --model-name the embedded model `tiny` answers. Only the answer goes to standard output, everything else to
standard error. On a terminal the answer appears as it is written.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava.command_line import run
from llava.eval.answering.arguments import add_answer_arguments, add_model_arguments
from llava.model.loading.arguments import ModelSettings, announce, find_model
from llava.text_generation.answer_events import Answer
from llava.text_generation.settings import Sampling

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

_WORTH_THREADS = 50_000_000
"""Number of parameters; on a CPU, several threads wait for each other longer than they work on a smaller model."""


@dataclass(frozen=True, slots=True)
class AskSettings:
    """What one question is, and how it is answered."""

    query: str
    """The question."""
    images: tuple[str, ...]
    """Paths, data URIs or http(s) addresses."""
    sampling: Sampling
    """How the answer is sampled."""
    conv_mode: str | None
    """Name of the prompt template; None takes the checkpoint's own."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> AskSettings:
        """
        Raises:
            InvalidRequest: a sampling value out of range.
        """
        sampling = Sampling(args.temperature, args.top_p, args.num_beams, args.max_new_tokens, seed=args.seed)
        images: list[str] = []
        for file in args.image_file:
            images += file.split(args.sep) if args.sep else [file]
        return cls(args.query, tuple(images), sampling, args.conv_mode)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--image-file",
        "-i",
        action="append",
        default=[],
        metavar="IMAGE",
        help="Path, data URI or http(s) address of an image. Repeat it for several images.",
    )
    parser.add_argument("--sep", metavar="CHARACTER", help="Separator of several images in one --image-file.")
    parser.add_argument("--query", "-q", required=True, metavar="TEXT", help="The question.")
    add_answer_arguments(parser, max_new_tokens=512)
    parser.add_argument(
        "--seed", type=int, metavar="N", help="Random seed, to repeat a sampled answer (default: none)."
    )
    # The original accepts these and does not use them.
    parser.add_argument("--num-chunks", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--chunk-idx", type=int, default=0, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    from llava.images.loading import load_image

    settings, model = AskSettings.from_args(args), ModelSettings.from_args(args)
    images = tuple(load_image(image, allow_url=True) for image in settings.images)
    folder, name, notice = find_model(model.model_path)
    announce(name, notice)
    answer = ask(settings, model, images, folder, name)
    if answer.finish_reason == "length":
        print(f"note: the answer was cut at {answer.num_new_tokens} tokens (--max-new-tokens)", file=sys.stderr)
    return 0


def ask(
    settings: AskSettings, model: ModelSettings, images: tuple[Image.Image, ...], folder: Path, name: str
) -> Answer:
    """Loads the model in `folder`, asks it the question, and prints the answer, on a terminal piece by piece.

    Raises:
        LlavaError: the model cannot be loaded, or it cannot answer the question.
    """
    from llava.engine import Engine, EngineSettings, Request
    from llava.prompting import build_prompt

    tokenizer, llava, image_processor, context_length = model.load(folder)
    if llava.num_parameters() < _WORTH_THREADS:
        import torch

        torch.set_num_threads(1)
    prompt = build_prompt(llava.config, settings.query, len(images), conv_mode=settings.conv_mode, name=name)
    request = Request(prompt.text, images, settings.sampling, stop=(prompt.stop,), prefixes=prompt.roles)
    streams = sys.stdout.isatty()
    # Batching costs half a second to start and to stop, which a single question does not earn back.
    with Engine(llava, tokenizer, image_processor, context_length, EngineSettings(one_by_one=True)) as engine:
        for event in engine.iterate(request):
            if isinstance(event, Answer):
                answer = event
            elif streams:
                sys.stdout.write(event.text)
                sys.stdout.flush()
    print("" if streams else answer.text)
    return answer


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

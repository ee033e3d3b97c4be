"""Makes the embedded model `tiny` from nothing: images, tower, language model, both stages, folder and evaluation.

Each part runs in its own process, resumes if it was interrupted, and is skipped once it is done. The duration of each
part is recorded in times.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llava.command_line import run
from llava.errors import LlavaError
from scripts.pocket.folders import add_fashion, add_out, add_work
from scripts.pocket.records import write_json


class PartFailed(LlavaError):
    """A part ended with an error, which it has printed."""

    code = "part_failed"


@dataclass(frozen=True)
class Part:
    """A step of making the model."""

    name: str
    """Name for `--only` and for messages."""
    command: list[str]
    """Command that makes the part."""
    result: Path
    """File that exists once the part is done."""


def parts(args: argparse.Namespace) -> list[Part]:
    """Returns all parts in order."""
    work = args.work

    def script(name: str, *flags: str) -> list[str]:
        return [sys.executable, "-m", f"scripts.pocket.{name}", "--work", str(work), *flags]

    fashion = ["--fashion", str(args.fashion)] if args.fashion else []
    threads = ["--threads", str(args.threads)] if args.threads else []
    minutes = ["--minutes", str(args.tower_minutes)] if args.tower_minutes else []
    model = str(args.out)
    return [
        Part("scenes", script("patches"), work / "scenes_watch.npz"),
        Part("tower", script("tower", *fashion, *threads, *minutes), work / "tower" / "preprocessor_config.json"),
        Part("language model", script("language", *threads), work / "language" / "model.safetensors"),
        Part("records", script("records", *fashion), work / "stage2.json"),
        Part("projector", script("projector", *fashion), work / "projector_start.bin"),
        Part("stage 1", _stage1(args), work / "stage1" / "mm_projector.bin"),
        Part("stage 2", _stage2(args), work / "stage2" / "model.safetensors"),
        Part("assemble", script("assemble", "--out", model), args.out / "config.json"),
        Part(
            "evaluate",
            script("evaluate", *fashion, "--model", model, "--out", str(work / "figures.json")),
            work / "figures.json",
        ),
    ]


BATCH = 32
"""Number of conversations per step of stages 1 and 2, over all processes."""


def _train(args: argparse.Namespace, data: str, output: str, *flags: str) -> list[str]:
    """Returns a command of the project's trainer."""
    work = args.work
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(args.processes)]
    return [
        sys.executable,
        *(launcher if args.processes > 1 else []),
        *("-m", "llava.train.train", "--model_name_or_path", str(work / "language"), "--version", "v0"),
        *("--data_path", str(work / data), "--image_folder", str(work / "pictures")),
        *("--vision_tower", str(work / "tower"), "--mm_vision_select_layer", "-2", "--mm_use_im_start_end", "True"),
        *("--output_dir", str(work / output), "--lazy_preprocess", "True", "--model_max_length", "512"),
        *("--optim", "muon", "--lr_scheduler_type", "cosine", "--warmup_ratio", "0.02", "--weight_decay", "0.02"),
        # Grouping by length would separate scenes from photographs, and the model would swing between the two.
        *("--logging_steps", "10", "--report_to", "none"),
        *flags,
    ]


def _stage1(args: argparse.Namespace) -> list[str]:
    """Returns the command that trains the projector and the rows of <im_start> and <im_end>."""
    flags = ["--tune_mm_mlp_adapter", "True", "--pretrain_mm_mlp_adapter", str(args.work / "projector_start.bin")]
    flags += ["--max_steps", "40", "--per_device_train_batch_size", str(BATCH // args.processes)]
    return _train(args, "stage1.json", "stage1", *flags, "--learning_rate", "3e-3", "--save_strategy", "no")


def _stage2(args: argparse.Namespace) -> list[str]:
    """Returns the command that trains the projector and the language model."""
    flags = ["--pretrain_mm_mlp_adapter", str(args.work / "stage1" / "mm_projector.bin")]
    flags += ["--max_steps", "1000", "--per_device_train_batch_size", str(BATCH // args.processes)]
    flags += ["--save_steps", "100", "--save_total_limit", "1"]
    return _train(args, "stage2.json", "stage2", *flags, "--learning_rate", "6e-4")


def make(part: Part, times: Path, clock: Callable[[], float] = time.monotonic) -> None:
    """Runs a part, unless its result exists, and adds its duration in minutes to the file `times`.

    Raises:
        PartFailed: the part ended with an error.
    """
    if part.result.exists():
        print(f"{part.name}: {part.result} exists already", flush=True)
        return
    print(f"{part.name}: {' '.join(part.command)}", flush=True)
    start = clock()
    code = subprocess.run(part.command, check=False).returncode
    spent = json.loads(times.read_text()) if times.exists() else {}
    spent[part.name] = round(spent.get(part.name, 0) + (clock() - start) / 60, 1)
    write_json(times, spent)
    if code:
        raise PartFailed(f"{part.name}: ended with exit code {code}. Run the same command again to resume.")
    print(f"{part.name}: done after {spent[part.name]} minutes", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_work(parser)
    add_out(parser, "work/pocket/tiny")
    add_fashion(parser)
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="Number of torch threads (default: torch's choice)."
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=2,
        metavar="N",
        help="Number of processes of both stages; must divide 32 (default: 2).",
    )
    parser.add_argument(
        "--tower-minutes", type=float, metavar="MINUTES", help="Time limit of the tower's training (default: none)."
    )
    parser.add_argument("--only", metavar="PART", help="Make only this part (default: all).")
    parser.add_argument("--list", action="store_true", help="List the parts and their state instead of making them.")


def main(args: argparse.Namespace) -> int:
    for part in parts(args):
        if args.list:
            print(f"{part.name:16} {'done' if part.result.exists() else 'open'}  {part.result}")
        elif args.only in (None, part.name):
            args.work.mkdir(parents=True, exist_ok=True)
            make(part, args.work / "times.json")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

"""Makes the embedded model `tiny` from nothing: pictures, tower, language model, both stages, the folder, its figures.

Each part runs in a process of its own, goes on where it was interrupted, and is left out once it is done. How long each
took is kept in times.json.
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
from scripts.pocket.records import write_json


class PartFailed(LlavaError):
    """One part of the making ended with an error of its own, printed above."""

    code = "part_failed"


@dataclass(frozen=True)
class Part:
    """One step of the making."""

    name: str
    command: list[str]
    result: Path
    """There once the part is done."""


def parts(args: argparse.Namespace) -> list[Part]:
    """All parts, in order."""
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
"""Conversations a step of stage 2, over all processes."""


def _train(args: argparse.Namespace, data: str, output: str, *flags: str) -> list[str]:
    """A command of the project's own trainer."""
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
        # Batches of like length would hold scenes alone or photographs alone: the model then swings between the two.
        *("--logging_steps", "10", "--report_to", "none"),
        *flags,
    ]


def _stage1(args: argparse.Namespace) -> list[str]:
    """The projector alone, and the two rows of <im_start> and <im_end>."""
    flags = ["--tune_mm_mlp_adapter", "True", "--pretrain_mm_mlp_adapter", str(args.work / "projector_start.bin")]
    flags += ["--max_steps", "40", "--per_device_train_batch_size", str(BATCH // args.processes)]
    return _train(args, "stage1.json", "stage1", *flags, "--learning_rate", "3e-3", "--save_strategy", "no")


def _stage2(args: argparse.Namespace) -> list[str]:
    """Projector and language model."""
    flags = ["--pretrain_mm_mlp_adapter", str(args.work / "stage1" / "mm_projector.bin")]
    flags += ["--max_steps", "1000", "--per_device_train_batch_size", str(BATCH // args.processes)]
    flags += ["--save_steps", "100", "--save_total_limit", "1"]
    return _train(args, "stage2.json", "stage2", *flags, "--learning_rate", "6e-4")


def make(part: Part, times: Path, clock: Callable[[], float] = time.monotonic) -> None:
    """Runs one part, unless its result is there, and adds its minutes to the file of times.

    Raises:
        PartFailed: it ended with an error.
    """
    if part.result.exists():
        print(f"{part.name}: {part.result} is there", flush=True)
        return
    print(f"{part.name}: {' '.join(part.command)}", flush=True)
    start = clock()
    code = subprocess.run(part.command, check=False).returncode
    spent = json.loads(times.read_text()) if times.exists() else {}
    spent[part.name] = round(spent.get(part.name, 0) + (clock() - start) / 60, 1)
    write_json(times, spent)
    if code:
        raise PartFailed(f"{part.name}: ended with exit code {code}. Run the same command again to go on from there.")
    print(f"{part.name}: done after {spent[part.name]} minutes", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", type=Path, default=Path("work/pocket"), help="folder of the parts (work/pocket)")
    parser.add_argument("--out", type=Path, default=Path("work/pocket/tiny"), help="the result (work/pocket/tiny)")
    parser.add_argument("--fashion", type=Path, metavar="DIR", help="Fashion-MNIST files (the installed package)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (torch's choice)")
    parser.add_argument("--processes", type=int, default=2, help="of the two stages; divides 32 (2)")
    parser.add_argument("--tower-minutes", type=float, help="end the tower's training after this time (no limit)")
    parser.add_argument("--only", metavar="PART", help="make this part alone")
    parser.add_argument("--list", action="store_true", help="print the parts and whether they are done")


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

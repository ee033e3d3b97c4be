"""Serves one model: loads it, answers a first question with it, then registers with the controller.

Speaks the original's protocol (/worker_generate_stream) and OpenAI's (/v1/chat/completions). Without --model-path the
small embedded model answers. It is ready when it says "Uvicorn running on".

    python -m llava.serve.model_worker --controller http://localhost:10000 --port 40000
        --worker http://localhost:40000 --model-path ./LLaVA-13B-v0
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from llava.command_line import run
from llava.serve.worker_command import add_worker_arguments, image_hosts, run_worker

_MODEL_SETTINGS: Final = ("model_path", "model_base", "model_name", "vision_tower", "device", "dtype", "num_gpus")
_MODEL_SWITCHES: Final = ("load_8bit", "load_4bit", "use_flash_attn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_worker_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is loaded."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model-path", metavar="MODEL", help="model folder, hub id, or an embedded model (default: tiny)"
    )
    model.add_argument(
        "--model-base", metavar="MODEL", help="the language model, where --model-path holds a projector or LoRA only"
    )
    model.add_argument("--model-name", metavar="NAME", help="name to serve it under (default: the path's last part)")
    model.add_argument("--vision-tower", metavar="FOLDER", help="the vision tower, in place of what the model says")
    model.add_argument("--device", help="cuda, cuda:N, mps or cpu (default: the best there is)")
    model.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: chosen by device")
    model.add_argument(
        "--num-gpus", type=int, metavar="N", help="GPUs to spread the model over (default: all that are visible)"
    )
    model.add_argument("--load-8bit", action="store_true", help="quantise to 8 bits (CPU, or CUDA with extra `quant`)")
    model.add_argument("--load-4bit", action="store_true", help="quantise to 4 bits (CUDA, extra `quant`)")
    model.add_argument("--use-flash-attn", action="store_true", help="FlashAttention 2 (CUDA, extra `flash-attn`)")
    # Accepted and unused: whether a model sees, and how it wants pictures cut, its own config says.
    model.add_argument("--multi-modal", action="store_true", help=argparse.SUPPRESS)
    model.add_argument("--keep-aspect-ratio", action="store_true", help=argparse.SUPPRESS)


def model_flags(args: argparse.Namespace) -> list[str]:
    """What `add_model_arguments` read, as it would be typed, for a worker that another command starts."""
    settings = ((f"--{name.replace('_', '-')}", getattr(args, name)) for name in _MODEL_SETTINGS)
    typed = [word for flag, value in settings if value is not None for word in (flag, str(value))]
    return typed + [f"--{name.replace('_', '-')}" for name in _MODEL_SWITCHES if getattr(args, name)]


def main(args: argparse.Namespace) -> int:
    from llava.mm_utils import get_model_name_from_path
    from llava.model.checkpoint import read_json, resolve_folder
    from llava.pocket import resolve
    from llava.serve.engine_backend import EngineBackend
    from llava.serve.pictures import PictureReader

    path, notice = resolve(args.model_path)
    # What is wrong with the path is said at once, not after PyTorch's import.
    folder = resolve_folder(path)
    read_json(folder / "config.json")
    if notice:
        print(notice, file=sys.stderr)
    named_after = path if Path(path).expanduser() != folder else str(folder.absolute())
    backend = EngineBackend(
        name=args.model_name or get_model_name_from_path(named_after),
        load=lambda: _load(args, folder),
        pictures=PictureReader(allowed_hosts=image_hosts(args)),
        asked_limit=args.limit_model_concurrency,
    )
    return run_worker(args, backend, title="LLaVA model worker")


def _load(args: argparse.Namespace, folder: Path) -> Any:
    """Model and engine; takes minutes for a large model."""
    from llava.engine import Engine, Request
    from llava.model.builder import load_pretrained_model
    from llava.model.device import placement
    from llava.serve.engine_backend import LoadedModel

    tokenizer, model, image_processor, context_length = load_pretrained_model(
        folder,
        args.model_base,
        load_8bit=args.load_8bit,
        load_4bit=args.load_4bit,
        use_flash_attn=args.use_flash_attn,
        dtype=args.dtype,
        vision_tower=args.vision_tower,
        **placement(args.device, args.num_gpus),
    )
    engine = Engine(model, tokenizer, image_processor, context_length)
    return LoadedModel(engine, model.config, Request)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

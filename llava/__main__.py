"""The console script `llava`: one word a command, the same parsers as `python -m llava.x.y`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from llava import __version__
from llava.command_line import DONE, WRONG_USAGE, run


@dataclass(frozen=True)
class Command:
    module: str
    """Imported only when the command is asked for."""

    summary: str


COMMANDS = {
    "ask": Command("llava.eval.run_llava", "ask one question about one or more images"),
    "chat": Command("llava.serve.cli", "chat about images in the terminal, here or with a server's model"),
    "controller": Command("llava.serve.controller", "serve: where workers register and requests are passed on"),
    "worker": Command("llava.serve.model_worker", "serve: one model, registered with a controller or by itself"),
    "openai-worker": Command("llava.serve.openai_worker", "serve: another OpenAI-compatible engine as a worker"),
    "web": Command("llava.serve.web", "serve: controller, worker and web page in one command"),
    "page": Command("llava.serve.gradio_web_server", "serve: the web page alone, for a controller that runs"),
    "arena-report": Command("llava.serve.arena_report", "rank the models of the arena by the votes in its logs"),
    "eval": Command("llava.eval.tools", "benchmarks: prepare data, gather and mark answers"),
    "doctor": Command("llava.doctor", "versions, devices, optional parts found or missing, and why"),
    "train": Command("llava.train.train", "pretrain the projector, or fine-tune"),
    "weights": Command("llava.model.tools", "what is in a model folder; deltas, merging, conversion"),
}

ALIASES = {"run": "ask"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `llava COMMAND ...`; returns the exit code (2 for an unknown command)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        print(_help(), file=sys.stderr)
        return WRONG_USAGE
    name, *rest = words
    if name in ("-h", "--help"):
        print(_help())
        return DONE
    if name in ("-V", "--version"):
        print(f"llava {__version__}")
        return DONE
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        print(_unknown(name), file=sys.stderr)
        return WRONG_USAGE
    return _start(command, prog=f"llava {name}", argv=rest)


def _start(command: Command, *, prog: str, argv: list[str]) -> int:
    module = import_module(command.module)
    if hasattr(module, "add_arguments"):
        return run(module.add_arguments, module.main, description=module.__doc__, argv=argv, prog=prog)
    return int(module.main(argv, prog=prog))  # training reads its own dataclasses


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: llava COMMAND ...    (llava COMMAND --help tells its options)",
            "",
            *lines,
            "",
            "  --version  print the version",
            "  --help     print this",
        ]
    )


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, [*COMMANDS, *ALIASES], n=1)
    hint = f"Did you mean `llava {close[0]}`?" if close else f"There are: {', '.join(COMMANDS)}."
    return f"error: llava has no command {name!r}. {hint}"


if __name__ == "__main__":
    sys.exit(main())

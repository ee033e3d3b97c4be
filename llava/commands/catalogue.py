"""Lists the commands of `llava` and builds their parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

from llava.command_line import Tools, command_parser

COMMANDS: Tools = {
    "Ask and chat": {
        "ask": ("llava.eval.run_llava", "Ask one question about one or more images."),
        "chat": ("llava.serve.cli", "Chat about images in the terminal, with a local or a served model."),
    },
    "Serve": {
        "web": ("llava.serve.web", "Start a controller, a worker and the web page."),
        "controller": ("llava.serve.controller", "Start a controller, which distributes requests to workers."),
        "worker": ("llava.serve.model_worker", "Start a worker, which serves one model."),
        "openai-worker": ("llava.serve.openai_worker", "Register another OpenAI-compatible server as a worker."),
        "page": ("llava.serve.gradio_web_server", "Start the web page for a running controller."),
    },
    "Train": {
        "train": ("llava.train.train", "Pretrain the projector, or fine-tune a model."),
        "data": ("llava.train.tools", "Check training data."),
    },
    "Evaluate": {
        "eval": ("llava.eval.tools", "Run a benchmark tool: prepare data, answer, score, report."),
        "arena-report": ("llava.serve.arena_report", "Rank the models of the arena by the votes in its logs."),
    },
    "Weights": {
        "weights": ("llava.model.tools", "Inspect, convert, merge and export model folders."),
    },
    "Tools": {
        "doctor": ("llava.doctor", "Check the installation and the devices."),
        "completion": ("llava.commands.completion", "Print a completion script for your shell."),
    },
}

ALIASES = {"run": "ask"}

GROUPS = ("llava.eval.tools", "llava.model.tools", "llava.train.tools")
"""The modules of COMMANDS that hold a table of tools, `TOOLS`."""

MODULES_ONLY = {
    "llava.eval.convert_seed_bench": "Evaluate",
    "llava.serve.register_worker": "Serve",
    "llava.serve.test_message": "Serve",
    "llava.train.train_mem": "Train",
}
"""Commands of the original that run as `python -m` only, and the headings that they belong under."""


@dataclass(frozen=True)
class CatalogueEntry:
    """One command or one tool of a group."""

    heading: str
    words: tuple[str, ...]
    """What follows `llava`, such as ("eval", "pope"); empty if the command runs as `python -m` only."""
    module: str
    summary: str

    @property
    def program(self) -> str:
        """What follows `python -m`; a package with a `__main__` keeps its command beside it."""
        return self.module.removesuffix(".command")

    @property
    def prog(self) -> str:
        return " ".join(("llava", *self.words)) if self.words else f"python -m {self.program}"

    def parser(self) -> argparse.ArgumentParser:
        """The parser of the command; importing its module loads nothing heavy."""
        module = import_module(self.module)
        if hasattr(module, "add_arguments"):
            return command_parser(module.add_arguments, description=module.__doc__, prog=self.prog)
        from llava.train.setup.arguments import help_parser

        return help_parser(self.prog, module.__doc__)


def entries() -> Iterator[CatalogueEntry]:
    """Yields every command in the order of `llava --help`, the tools of a group in place of the group."""
    for heading, group in COMMANDS.items():
        for name, (module, summary) in group.items():
            if module in GROUPS:
                yield from _tools_of(heading, name, import_module(module).TOOLS)
            else:
                yield CatalogueEntry(heading, (name,), module, summary)
        for module, place in MODULES_ONLY.items():
            if place == heading:
                yield CatalogueEntry(heading, (), module, "")


def _tools_of(heading: str, group: str, tools: Tools) -> Iterator[CatalogueEntry]:
    for tool_group in tools.values():
        for name, (module, summary) in tool_group.items():
            yield CatalogueEntry(heading, (group, name), module, summary)


def tools_of_groups() -> list[str]:
    """Every command of two words, such as "eval pope"."""
    return [" ".join(entry.words) for entry in entries() if len(entry.words) == 2]


def whole_parser() -> argparse.ArgumentParser:
    """A parser of the whole command line of `llava`, for shell completion."""
    root = argparse.ArgumentParser(prog="llava")
    groups: dict[tuple[str, ...], argparse._SubParsersAction[argparse.ArgumentParser]] = {(): root.add_subparsers()}
    for entry in entries():
        if not entry.words:
            continue
        *group, name = entry.words
        if tuple(group) not in groups:
            groups[tuple(group)] = groups[()].add_parser(group[0], help=_summaries()[group[0]]).add_subparsers()
        groups[tuple(group)].add_parser(name, help=entry.summary, parents=[entry.parser()], add_help=False)
    return root


def _summaries() -> dict[str, str]:
    return {name: summary for group in COMMANDS.values() for name, (_, summary) in group.items()}

"""Small benchmark files, made up, and commands run on them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.eval.scoring.marks import read_marks
from tests.support.science_qa import write_lines

__all__ = ["answers", "evaluate", "odd", "said", "values", "write_json", "write_lines"]


def evaluate(module: str, *words: object, **flags: object) -> int:
    """Runs `python -m llava.eval.MODULE` here; `result_file=x` is `--result-file x`."""
    command = import_module(f"llava.eval.{module}")
    argv = [str(word) for word in words]
    for name, value in flags.items():
        argv += [f"--{name.replace('_', '-')}", str(value)]
    return run(command.add_arguments, command.main, argv=argv)


def answers(path: Path, texts: Iterable[tuple[object, str]], **more: Any) -> Path:
    """JSON Lines as the generator writes them, from pairs of id and text."""
    return write_lines(path, [{"question_id": i, "text": text, "model_id": "tiny", **more} for i, text in texts])


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def said(path: Path) -> dict:
    """What a scorer wrote, its marks checked by their reader."""
    read_marks(path)
    return json.loads(path.read_text())


def values(path: Path) -> dict[str, float]:
    return {name: round(one, 2) for name, one in said(path)["figures"].items()}


def odd(path: Path) -> dict[str, list[str]]:
    return {name: said(path)[name] for name in ("missing", "duplicate", "unknown", "unparsable")}

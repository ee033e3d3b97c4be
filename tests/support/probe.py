"""Runs modules and files as `python` would, each in a fork of one clean interpreter, and tells what they loaded.

A fork of an interpreter that has loaded only the standard library costs milliseconds; starting one costs more than most
commands need to print their help.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SERVER = r"""
import argparse, asyncio, collections, contextlib, dataclasses, functools, http, importlib.metadata, io, json, logging
import os, pathlib, re, runpy, subprocess, sys, tempfile, textwrap, traceback, typing, urllib.request

def run(kind, target, argv):
    sys.argv = [target, *argv]
    text, code = io.StringIO(), None
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            if kind == "module":
                runpy.run_module(target, run_name="__main__", alter_sys=True)
            elif kind == "file":
                runpy.run_path(target, run_name="__main__")
            else:
                __import__(target)
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            code = traceback.format_exc()
    return [code, sorted(sys.modules), text.getvalue()]

for line in sys.stdin:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with open(writer, "w") as out:
            json.dump(run(*json.loads(line)), out)
            out.flush()
        os._exit(0)
    os.close(writer)
    with open(reader) as given:
        print(given.read(), flush=True)
    os.waitpid(child, 0)
"""


@dataclass(frozen=True)
class Probed:
    """What a program did."""

    code: object
    """Its exit code; None if it did not exit, a traceback if it failed."""
    modules: frozenset[str]
    """The names in sys.modules at its end."""
    text: str
    """What it printed."""


class Prober:
    """The clean interpreter; a context manager."""

    def __init__(
        self, folder: Path, *, interpreter: str | Path = sys.executable, environment: dict[str, str] | None = None
    ):
        """Programs run in `folder`, with `environment` in place of that of this process."""
        self._process = subprocess.Popen(
            [interpreter, "-c", SERVER],
            cwd=folder,
            env={**(os.environ if environment is None else environment), "COLUMNS": "120"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def module(self, name: str, *arguments: str) -> Probed:
        """As `python -m NAME ARGUMENTS...`."""
        return self._ask("module", name, arguments)

    def file(self, path: str, *arguments: str) -> Probed:
        """As `python PATH ARGUMENTS...`."""
        return self._ask("file", path, arguments)

    def imported(self, module: str) -> Probed:
        """As `python -c "import MODULE"`."""
        return self._ask("import", module, ())

    def _ask(self, kind: str, target: str, arguments: Sequence[str]) -> Probed:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([kind, target, arguments]) + "\n")
        self._process.stdin.flush()
        code, modules, text = json.loads(self._process.stdout.readline())
        return Probed(code, frozenset(modules), text)

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate(timeout=60)

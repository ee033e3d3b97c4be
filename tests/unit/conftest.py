"""Unit tests run in one process: a test that starts another one belongs in `tests/integration`."""

from __future__ import annotations

import multiprocessing.process
import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent

LIBRARY_TOOLS = {"fc-list", "ldconfig", "uname", "lscpu", "gcc", "cc"}
"""Programs that libraries call when they are imported for the first time on a machine."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Covers a test with its fixtures, those of a module or of the session included."""
    if not item.path.is_relative_to(HERE):  # pytest asks every conftest about every test
        return (yield)
    start = subprocess.Popen.__init__

    def popen(self: Any, args: Any, *more: Any, **options: Any) -> None:
        program = args if isinstance(args, (str, os.PathLike)) else args[0]
        if Path(os.fspath(program).split()[0]).name not in LIBRARY_TOOLS:
            refuse(args)
        start(self, args, *more, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", popen)
        patch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
        for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
            if hasattr(os, name):
                patch.setattr(os, name, refuse)
        return (yield)


def refuse(*arguments: Any, **options: Any) -> Any:
    pytest.fail(f"a unit test started a process ({arguments}); move it to tests/integration")

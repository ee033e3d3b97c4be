"""The rule that unit tests start no process is enforced, whichever way a process is started."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest

WAYS = {
    "subprocess": lambda: subprocess.run([sys.executable, "-c", ""], check=False),
    "fork": lambda: os._exit(0) if os.fork() == 0 else None,
    "spawn": lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ),
    "system": lambda: os.system("true"),
    "multiprocessing": lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_unit_test_that_starts_a_process_fails(way: str):
    with pytest.raises(pytest.fail.Exception, match="started a process"):
        WAYS[way]()

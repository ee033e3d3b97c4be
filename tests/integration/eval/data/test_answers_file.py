"""The answers file on a full disk."""

from __future__ import annotations

import subprocess
import sys

from tests.unit.eval.data.test_answers_file import ids_in, write

FILLS_THE_DISK = """
import resource, sys
from tests.unit.eval.data.test_answers_file import *
resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
try:
    write(Path(sys.argv[1]), 1, 2, 3)
finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_full_disk_leaves_the_answers_before_it_whole(tmp_path, repository):
    """With a limit on the size of files, which a process meets as it meets the end of a disk: within a line."""
    path = tmp_path / "a.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FILLS_THE_DISK, path], cwd=repository, capture_output=True, text=True, check=False
    )
    assert "cannot be written: File too large. Earlier records are unharmed" in done.stderr
    assert ids_in(path) == [1, 2]
    write(path, 3)
    assert ids_in(path) == [1, 2, 3]

"""`llava weights info` reads headers, and never waits for PyTorch."""

from __future__ import annotations

import pytest

# Runs the command, and fails if it imported anything large.
PROBE = """
import sys
from llava.__main__ import main
code = main(["weights", "info", *sys.argv[1:]])
large = [name for name in ("torch", "transformers", "numpy") if name in sys.modules]
sys.exit(f"imported {large}" if large else code)
"""


@pytest.mark.parametrize("name", ["llava-v0-tiny", "llava-v0-tiny-delta", "llava-v1.5-tiny", "llama-vicuna-tiny"])
def test_a_folder_is_described_without_the_large_libraries(run_python, data, name):
    done = run_python("-c", PROBE, data / name)
    assert "imported" not in done.stderr, done.stderr
    assert "million parameters" in done.stdout

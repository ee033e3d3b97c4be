"""Memory that loading an image takes, as the peak resident size of a process of its own.

A refused image costs less than 4 MiB beyond its own bytes, however large it claims to be; a decoded one costs the bytes
per pixel that `ImageLimits` documents.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from llava.errors import ImageTooLarge
from tests.support.images import encoded
from tests.unit.images.test_loading import GOOD_PNG, HOSTILE

MEASURE = r"""
import re, sys
import numpy
from pathlib import Path
from llava.errors import ImageError
from llava.mm_utils import load_image
load_image(sys.argv[2])
def peak():  # not ru_maxrss: a child begins with the peak of the process that started it
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
try:
    print(load_image(sys.argv[1]).size[0], end=" ")
except ImageError as error:
    print(type(error).__name__, end=" ")
print(peak() - before)
"""


def measure(path: Path, warm_up: Path) -> tuple[str, int]:
    """What loading gave, and by how many bytes it raised the peak of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(warm_up)], capture_output=True, text=True, check=True
    )
    outcome, growth = done.stdout.split()
    return outcome, int(growth)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", [name for name, (_, error, _) in HOSTILE.items() if error is ImageTooLarge])
def test_a_bomb_is_refused_without_being_unpacked(tmp_path, name):
    warm_up, path = tmp_path / "warm.png", tmp_path / "bomb"
    warm_up.write_bytes(GOOD_PNG)
    path.write_bytes(HOSTILE[name][0])
    outcome, growth = measure(path, warm_up)
    assert outcome == "ImageTooLarge"
    assert growth < 4 * 2**20  # unpacked, the smallest of these takes 21 MB, the others gigabytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "mode", "bytes_per_pixel"),
    [
        ("PNG", "RGB", 10),
        ("PNG", "RGBA", 10),
        ("PNG", "LA", 14),  # grey and alpha are first spread to RGBA
        ("PNG", "I;16", 10),
        ("JPEG", "CMYK", 10),
        ("GIF", "P", 10),
        ("WEBP", "RGBA", 18),
    ],
)
def test_a_large_image_takes_a_bounded_number_of_bytes_a_pixel(tmp_path, kind, mode, bytes_per_pixel):
    warm_up, path = tmp_path / "warm", tmp_path / "large"
    warm_up.write_bytes(encoded(Image.new(mode, (64, 48)), kind))
    width, height = 3000, 2000
    path.write_bytes(encoded(Image.new(mode, (width, height)), kind))
    outcome, growth = measure(path, warm_up)
    assert outcome == str(width)
    assert growth < bytes_per_pixel * width * height

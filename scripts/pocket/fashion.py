"""Reads the Fashion-MNIST photographs: 70,000 grey 28x28 images of clothing in ten classes (MIT licence).

They come from the Debian package `dataset-fashion-mnist`, either installed or downloaded and unpacked into a folder.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from llava.errors import DataError

WATCHED = 2000
"""Number of training photographs, at the end of the split, that only measure progress and are not trained on."""

CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


class PhotographsMissing(DataError):
    """The photographs are neither installed nor in the given folder."""

    code = "photographs_missing"


def locate(work: Path, folder: Path | None = None) -> Path:
    """Returns the folder with the four files: the given one, the installed one, or one unpacked in `work`.

    Raises:
        PhotographsMissing: no folder has the files, and they could not be downloaded.
    """
    unpacked = work / "fashion-mnist"
    for candidate in [folder] if folder else [INSTALLED, unpacked]:
        if all((candidate / name).is_file() for names in FILES.values() for name in names):
            return candidate
    if folder is None and shutil.which("apt-get") and shutil.which("dpkg"):
        _unpack(work, unpacked)
        return unpacked
    raise PhotographsMissing(
        f"{folder or INSTALLED}: Fashion-MNIST is missing. Install it with `apt-get install {PACKAGE}`, "
        "or set --fashion to their folder."
    )


def _unpack(work: Path, target: Path) -> None:
    """Downloads the Debian package and extracts its four files; does not need root."""
    staging = work / "deb"
    staging.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=staging, check=True, capture_output=True)
        package = next(staging.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=staging, check=True, capture_output=True)
        shutil.copytree(staging / "usr/share/datasets/fashion-mnist", target, dirs_exist_ok=True)
    except (subprocess.CalledProcessError, StopIteration, OSError) as error:
        raise PhotographsMissing(
            f"{PACKAGE}: could not be downloaded ({error}). Run `apt-get update`, or `apt-get install {PACKAGE}`."
        ) from error
    shutil.rmtree(staging)


def read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images, [n, 28, 28] uint8, and classes, [n] uint8, of `train` (60,000) or `test` (10,000)."""
    pictures, labels = (_idx(folder / name) for name in FILES[split])
    return pictures, labels


def _idx(path: Path) -> np.ndarray:
    """Reads an idx file: a magic number that ends in the number of axes, the axes (big-endian), the bytes."""
    data = gzip.decompress(path.read_bytes())
    axes = data[3]
    shape = np.frombuffer(data, dtype=">i4", count=axes, offset=4)
    values = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * axes)
    if data[:3] != b"\0\0\x08" or values.size != int(np.prod(shape)):
        raise DataError(f"{path}: not a complete idx file of bytes. Reinstall {PACKAGE}.")
    return values.reshape(tuple(int(n) for n in shape))


def picture(pixels: np.ndarray, side: int) -> Image.Image:
    """Enlarges a 28x28 grey photograph to an RGB image of `side` pixels, with the image processor's filter."""
    return Image.fromarray(pixels).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)

"""Trains like `llava.train.train`, with FlashAttention if it is installed and the GPU supports it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llava.train import train
from llava.train.parallel.first_process import rank


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Parses flags and trains; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "-h" in words or "--help" in words:
        return train.main(words, prog=prog)
    return train.main(words, prog=prog, choose_attention=choose_attention)


def choose_attention() -> str:
    """Returns `flash_attention_2` if it can run, else `sdpa`, PyTorch's own, and prints the reason."""
    from importlib.util import find_spec

    import torch

    if not torch.cuda.is_available():
        reason = "there is no CUDA GPU"
    elif find_spec("flash_attn") is None:
        reason = "flash-attn is not installed"
    elif torch.cuda.get_device_capability() < (8, 0):
        reason = "this GPU is older than Ampere"
    else:
        return "flash_attention_2"
    if rank() == 0:
        print(f"[llava.train] attention: PyTorch's own (sdpa), because {reason}", flush=True)
    return "sdpa"


if __name__ == "__main__":
    sys.exit(main())

"""Tools for model folders: what is in one, deltas, merging, one precision, transformers' format.

All of them read and write block by block, so a model of any size needs a few hundred megabytes of memory.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llava.command_line import Tools, run_group

TOOLS: Tools = {
    "Model folders": {
        "info": ("llava.model.weights_info", "what a folder holds, and what it lacks"),
        "apply-delta": ("llava.model.apply_delta", "base + delta = a LLaVA"),
        "make-delta": ("llava.model.make_delta", "a LLaVA - its base = what you may share"),
        "consolidate": ("llava.model.consolidate", "any checkpoint as clean safetensors in one precision"),
        "convert": ("llava.model.convert", "to transformers' format (vLLM, SGLang) and back"),
        "merge-lora": ("llava.model.merge_lora", "a LoRA run and its base as one model"),
    },
}


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Runs the tool that the first word names; returns its exit code."""
    return run_group(TOOLS, description=__doc__, argv=argv, prog=prog)


if __name__ == "__main__":
    sys.exit(main())

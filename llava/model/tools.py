"""Inspects and converts model folders: deltas, LoRA, projectors, number formats, transformers' format.

Every tool reads and writes block by block, so a model of any size needs a few hundred megabytes of memory.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llava.command_line import Tools, run_group

TOOLS: Tools = {
    "Model folders": {
        "info": ("llava.model.weights_info", "Show what a model folder holds and lacks."),
        "apply-delta": ("llava.model.apply_delta", "Add delta weights to their base."),
        "make-delta": ("llava.model.make_delta", "Make delta weights of a LLaVA and its base."),
        "consolidate": ("llava.model.consolidate", "Rewrite a checkpoint as clean safetensors in one number format."),
        "convert": ("llava.model.convert", "Convert to transformers' format (vLLM, SGLang) and back."),
        "extract-projector": ("llava.model.extract_projector", "Extract the projector of a checkpoint to a file."),
        "merge-lora": ("llava.model.merge_lora", "Merge a LoRA run into its base."),
    },
}


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Runs the tool that the first word names; returns its exit code."""
    return run_group(TOOLS, description=__doc__, argv=argv, prog=prog)


if __name__ == "__main__":
    sys.exit(main())

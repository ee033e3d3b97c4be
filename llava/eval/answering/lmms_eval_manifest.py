"""What lmms-eval finds under its entry point: the name of our model class, which it imports when it is asked for."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The `ModelManifest` of `--model llava_engine`."""
    from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

    return ModelManifest(
        model_id="llava_engine",
        simple_class_path="llava.eval.answering.lmms_eval_model.LlavaEngine",
        aliases=("llava-engine",),
    )

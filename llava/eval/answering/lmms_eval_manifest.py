"""Tells lmms-eval through its entry point where the model class is; lmms-eval imports it on demand."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Returns the `ModelManifest` of `--model llava_engine`."""
    from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

    return ModelManifest(
        model_id="llava_engine",
        simple_class_path="llava.eval.answering.lmms_eval_model.LlavaEngine",
        aliases=("llava-engine",),
    )

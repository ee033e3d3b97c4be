"""Tells by what factor a decoder multiplies the embeddings that it is given."""

from __future__ import annotations

from typing import Any, Final

INPUT_SCALE_KEYS: Final = {"granite": "embedding_multiplier"}
"""Type of each decoder that multiplies whatever it is given -> the config key of the factor. Decoders that scale in
their token embedding, such as Gemma, are not among them."""


def input_scale(config: Any) -> float:
    """Returns the factor by which the decoder of a LLaVA's config multiplies its inputs."""
    key = INPUT_SCALE_KEYS.get(config.model_type.removeprefix("llava_"))
    return float(getattr(config, key)) if key else 1.0

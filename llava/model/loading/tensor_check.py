"""Compares the tensors of a checkpoint with those that its config asks for, from headers alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, ShapeMismatch
from llava.model.multimodal_projector.builder import projector_shapes
from llava.model.weights.names import TOWER_PREFIX
from llava.model.weights.reader import EMBEDDING, OUTPUT, Checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)


def expected_shapes(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the name and shape of every tensor in the files of the model that `settings` describes, without the
    vision tower.

    Args:
        settings: `ModelFolder.settings`.

    Raises:
        CheckpointError: an unknown kind of projector, or a decoder that cannot become a LLaVA.
    """
    if settings.get("model_type", "llava_llama") != "llava_llama":
        from llava.model.language_model.file_names import shapes_in_files

        return shapes_in_files(settings)
    hidden, vocabulary = settings["hidden_size"], settings["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (vocabulary, hidden)}
    layer = _layer_shapes(settings)
    for index in range(settings["num_hidden_layers"]):
        shapes.update({f"model.layers.{index}.{name}": shape for name, shape in layer.items()})
    shapes["model.norm.weight"] = (hidden,)
    if settings.get("mm_vision_tower") is not None or settings.get("use_mm_proj"):
        kind = settings.get("mm_projector_type") or "linear"
        bias = settings.get("mm_projector_bias") is not False
        for name, shape in projector_shapes(kind, settings["mm_hidden_size"], hidden, bias=bias).items():
            shapes[f"model.mm_projector.{name}"] = shape
        if "unpad" in (settings.get("mm_patch_merge_type") or ""):
            shapes["model.image_newline"] = (hidden,)
    if not settings.get("tie_word_embeddings"):
        shapes[OUTPUT] = (vocabulary, hidden)
    return shapes


def _layer_shapes(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the tensors of one decoder layer of LLaMA."""
    hidden, inner, num_heads = (settings[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    head = settings.get("head_dim") or hidden // num_heads
    keys = head * (settings.get("num_key_value_heads") or num_heads)
    attention = {
        "q_proj": (head * num_heads, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, head * num_heads),
    }
    mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    shapes: dict[str, tuple[int, ...]] = {}
    for block, matrices, has_bias in (
        ("self_attn", attention, settings.get("attention_bias")),
        ("mlp", mlp, settings.get("mlp_bias")),
    ):
        for name, shape in matrices.items():
            shapes[f"{block}.{name}.weight"] = shape
            if has_bias:
                shapes[f"{block}.{name}.bias"] = shape[:1]
    shapes["input_layernorm.weight"] = shapes["post_attention_layernorm.weight"] = (hidden,)
    return shapes


def check_tensors(
    settings: Mapping[str, Any],
    checkpoint: Checkpoint,
    names: Mapping[str, str],
    *,
    projector_elsewhere: bool = False,
) -> None:
    """Checks that a checkpoint has every tensor of its model, in the right shape.

    Args:
        settings: `ModelFolder.settings`.
        names: our name of each tensor -> its name in `checkpoint`.
        projector_elsewhere: whether the projector comes from another file.

    Raises:
        ShapeMismatch: a tensor of the wrong shape.
        CheckpointError: missing tensors.
    """
    folder = checkpoint.files[0].parent
    expected = expected_shapes(settings)
    missing = [name for name in expected if name not in names]
    if projector_elsewhere:
        missing = [name for name in missing if "mm_projector" not in name and "image_newline" not in name]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(expected)} tensors are missing, the first is {missing[0]}. "
            + _why_missing(missing)
        )
    for name, shape in expected.items():
        if name in names and checkpoint.shape(names[name]) != shape:
            theirs = names[name]
            raise ShapeMismatch(theirs, checkpoint.file_of(theirs), checkpoint.shape(theirs), shape)
    unknown = [theirs for ours, theirs in names.items() if ours not in expected and not ours.startswith(TOWER_PREFIX)]
    if settings.get("tie_word_embeddings"):
        unknown = [name for name in unknown if not name.endswith(OUTPUT)]
    if unknown:
        log.warning("%s: %d tensors are not used, such as %s", folder, len(unknown), unknown[0])


def _why_missing(missing: list[str]) -> str:
    if missing == [OUTPUT]:
        return (
            "If the model's output layer is its token embedding, set tie_word_embeddings to true in config.json; "
            "otherwise the download is incomplete."
        )
    if all("mm_projector" in name for name in missing):
        return "The folder has no projector of the kind that config.json describes (mm_projector_type)."
    return "The download is incomplete, or config.json belongs to another model."

"""Writes a folder of transformers' LLaVA or LLaVA-NeXT, or an export of ours, in the original's format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.model.transformers_format.plan import EMBEDDINGS, TOKENIZER_KEY, Plan, Tower, open_parts

if TYPE_CHECKING:
    import torch

    from llava.model.loading.flavours import Flavour
    from llava.model.weights.folder import Writing
    from llava.model.weights.writer import CheckpointWriter


def restore(folder: Path, flavour: Flavour, target: Path, options: Writing) -> list[str]:
    """Writes the transformers-format checkpoint in `folder` in the original's format; returns what there is to say.

    Raises:
        CheckpointError: something is missing in the folder; nothing was written.
        InvalidRequest: a tower that is no CLIP, or a target that exists.
    """
    from llava.model.loading.flavours import TOWER_PREFIX
    from llava.model.multimodal_encoder.builder import load_image_processor
    from llava.model.transformers_format.layout import SOURCE_KEY
    from llava.model.weights.folder import open_target
    from llava.model.weights.reader import OWN_TOWER, read_json

    checkpoint, sources, tower = open_parts(folder, flavour, None)
    source = read_json(folder / "config.json").get(SOURCE_KEY) or {}
    rows = source.get("config", {}).get("vocab_size")
    # LLaVA-NeXT trains its tower along, so there it stays with the rest; a frozen one gets a folder of its own.
    trained = bool(flavour.config.image_grid_pinpoints)
    plan, towers = Plan(checkpoint, options.dtype), Plan(tower.weights, options.dtype)
    for ours, theirs in sources.items():
        plan.add(ours, source=theirs, rows=rows if ours in EMBEDDINGS else None)
    for name, theirs in tower.names.items():
        if trained:
            plan.add(f"{TOWER_PREFIX}vision_tower.vision_model.{name}", source=theirs, checkpoint=tower.weights)
        else:
            towers.add(name, source=theirs)
    settings = _original_config(flavour.config, source, plan.dominant_dtype, trained=trained)
    image_processor = load_image_processor(tower.folder)
    with open_target(target, plan.specs, options) as writer:
        plan.write(writer)
        writer.write_json("config.json", settings)
        if (folder / "generation_config.json").is_file():
            writer.copy(folder / "generation_config.json")
        _restore_tokenizer(writer, folder, source.get(TOKENIZER_KEY), rows)
        _write_tower(writer.folder / OWN_TOWER, tower, towers, image_processor)
        writer.finish()
    return [f"LlavaLlamaForCausalLM, projector {settings.get('mm_projector_type') or 'linear'}, tower in {OWN_TOWER}/"]


def _original_config(config: Any, source: dict[str, Any], dtype: torch.dtype, *, trained: bool) -> dict[str, Any]:
    from llava.model.weights.folder import upgraded_config
    from llava.model.weights.reader import OWN_TOWER

    settings = {**config.to_dict(), **source.get("config", {})}
    settings.update(mm_vision_tower=OWN_TOWER, unfreeze_mm_vision_tower=trained, model_type="llava_llama")
    return upgraded_config(settings, dtype)


def _restore_tokenizer(
    writer: CheckpointWriter, folder: Path, saved: dict[str, Any] | None, num_tokens: int | None
) -> None:
    """The tokenizer as it was before the export, or under the class by which the original's tools know it.

    `num_tokens`: of the original; the export's token for an image came after them.
    """
    from llava.model.weights.folder import TOKENIZER_FILES
    from llava.model.weights.reader import read_json

    if saved and (folder / "tokenizer.model").is_file():
        writer.copy(folder / "tokenizer.model")
        for name, content in saved.items():
            writer.write_json(name, content)
        return
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            writer.copy(folder / name)
    if num_tokens is not None and (folder / "tokenizer.json").is_file():
        content = read_json(folder / "tokenizer.json")
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < num_tokens]
        writer.write_json("tokenizer.json", content)
    if (folder / "tokenizer_config.json").is_file():
        settings = read_json(folder / "tokenizer_config.json")
        writer.write_json("tokenizer_config.json", settings | {"tokenizer_class": "LlamaTokenizer"})


def _write_tower(folder: Path, tower: Tower, plan: Plan, image_processor: Any) -> None:
    """A folder that `mm_vision_tower` can name; without weights where they are among the model's."""
    from llava.model.weights.writer import CheckpointWriter

    with CheckpointWriter(folder, plan.specs) as writer:
        plan.write(writer)
        described = {**tower.config.to_dict(), "model_type": "clip_vision_model", "architectures": ["CLIPVisionModel"]}
        writer.write_json("config.json", described)
        image_processor.save_pretrained(writer.folder)
        writer.finish()

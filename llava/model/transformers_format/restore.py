"""Writes a folder of transformers' LLaVA or LLaVA-NeXT, or an export of this package, in the original's format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.model.transformers_format.plan import EMBEDDINGS, TOKENIZER_KEY, ConversionPlan, TowerWeights, open_parts

if TYPE_CHECKING:
    import torch

    from llava.model.language_model.config_keys import LlavaConfigKeys
    from llava.model.loading.model_folder import ModelFolder
    from llava.model.weights.folder import WriteSettings
    from llava.model.weights.writer import CheckpointWriter


def restore(folder: ModelFolder, target: Path, options: WriteSettings) -> list[str]:
    """Writes the transformers-format checkpoint in `folder` in the original's format.

    Returns:
        Lines to tell the user about the result.

    Raises:
        CheckpointError: something is missing in the folder; nothing was written.
        InvalidRequest: a tower that is not CLIP, or a target that exists.
    """
    from llava.model.multimodal_encoder.builder import load_image_processor
    from llava.model.transformers_format.layout import SOURCE_KEY
    from llava.model.weights.folder import open_target
    from llava.model.weights.names import TOWER_PREFIX
    from llava.model.weights.reader import OWN_TOWER

    checkpoint, sources, tower = open_parts(folder, None)
    source = folder.config_json.get(SOURCE_KEY) or {}
    rows = source.get("config", {}).get("vocab_size")
    # LLaVA-NeXT trains its tower, so its weights stay with the model's; a frozen tower gets its own folder.
    trained = bool(folder.settings.get("image_grid_pinpoints"))
    plan, towers = ConversionPlan(checkpoint, options.dtype), ConversionPlan(tower.weights, options.dtype)
    for ours, theirs in sources.items():
        plan.add(ours, source=theirs, rows=rows if ours in EMBEDDINGS else None)
    for name, theirs in tower.names.items():
        if trained:
            plan.add(f"{TOWER_PREFIX}vision_tower.vision_model.{name}", source=theirs, checkpoint=tower.weights)
        else:
            towers.add(name, source=theirs)
    settings = _original_config(folder.config(), source, plan.dominant_dtype, trained=trained)
    image_processor = load_image_processor(tower.folder)
    with open_target(target, plan.specs, options) as writer:
        plan.write(writer)
        writer.write_json("config.json", settings)
        if (folder.path / "generation_config.json").is_file():
            writer.copy(folder.path / "generation_config.json")
        _restore_tokenizer(writer, folder.path, source.get(TOKENIZER_KEY), rows)
        _write_tower(writer.folder / OWN_TOWER, tower, towers, image_processor)
        writer.finish()
    return [f"LlavaLlamaForCausalLM, projector {settings.get('mm_projector_type') or 'linear'}, tower in {OWN_TOWER}/"]


def _original_config(
    config: LlavaConfigKeys, source: dict[str, Any], dtype: torch.dtype, *, trained: bool
) -> dict[str, Any]:
    from llava.model.weights.folder import upgraded_config
    from llava.model.weights.reader import OWN_TOWER

    settings = {**config.to_dict(), **source.get("config", {})}
    settings.update(mm_vision_tower=OWN_TOWER, unfreeze_mm_vision_tower=trained, model_type="llava_llama")
    return upgraded_config(settings, dtype)


def _restore_tokenizer(
    writer: CheckpointWriter, folder: Path, saved: dict[str, Any] | None, num_tokens: int | None
) -> None:
    """Writes the tokenizer as it was before the export, or under the class name that the original's tools know.

    Args:
        num_tokens: size of the original's vocabulary; the export's image token came after it.
    """
    from llava.model.weights.folder import TOKENIZER_FILES
    from llava.model.weights.reader import read_model_json

    if saved and (folder / "tokenizer.model").is_file():
        writer.copy(folder / "tokenizer.model")
        for name, content in saved.items():
            writer.write_json(name, content)
        return
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            writer.copy(folder / name)
    if num_tokens is not None and (folder / "tokenizer.json").is_file():
        content = read_model_json(folder / "tokenizer.json")
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < num_tokens]
        writer.write_json("tokenizer.json", content)
    if (folder / "tokenizer_config.json").is_file():
        settings = read_model_json(folder / "tokenizer_config.json")
        writer.write_json("tokenizer_config.json", settings | {"tokenizer_class": "LlamaTokenizer"})


def _write_tower(folder: Path, tower: TowerWeights, plan: ConversionPlan, image_processor: Any) -> None:
    """Writes a folder that `mm_vision_tower` can name, without weights if they are among the model's."""
    from llava.model.weights.writer import CheckpointWriter

    with CheckpointWriter(folder, plan.specs) as writer:
        plan.write(writer)
        described = {**tower.config.to_dict(), "model_type": "clip_vision_model", "architectures": ["CLIPVisionModel"]}
        writer.write_json("config.json", described)
        image_processor.save_pretrained(writer.folder)
        writer.finish()

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
        InvalidRequest: a tower that cannot be converted, or a target that exists.
    """
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
            plan.add(f"{TOWER_PREFIX}vision_tower.{name}", source=theirs, checkpoint=tower.weights)
        else:
            towers.add(name, source=theirs)
    settings = _original_config(folder.config(), source, plan.dominant_dtype, trained=trained)
    with open_target(target, plan.specs, options) as writer:
        plan.write(writer)
        writer.write_json("config.json", settings)
        if (folder.path / "generation_config.json").is_file():
            writer.copy(folder.path / "generation_config.json")
        _restore_tokenizer(writer, folder.path, source.get(TOKENIZER_KEY), rows)
        _write_tower(writer.folder / OWN_TOWER, tower, towers)
        writer.finish()
    projector = settings.get("mm_projector_type") or "linear"
    return [f"{settings['architectures'][0]}, projector {projector}, tower in {OWN_TOWER}/"]


def _original_config(
    config: LlavaConfigKeys, source: dict[str, Any], dtype: torch.dtype, *, trained: bool
) -> dict[str, Any]:
    from llava.model.language_model.decoders import llava_class
    from llava.model.weights.folder import upgraded_config
    from llava.model.weights.reader import OWN_TOWER

    settings = {**config.to_dict(), **source.get("config", {})}
    settings.update(mm_vision_tower=OWN_TOWER, unfreeze_mm_vision_tower=trained, model_type=config.model_type)
    settings["architectures"] = [llava_class(config.model_type).__name__]
    return upgraded_config(settings, dtype)


def _restore_tokenizer(
    writer: CheckpointWriter, folder: Path, saved: dict[str, Any] | None, num_tokens: int | None
) -> None:
    """Writes the tokenizer as it was before the export, or under the class name that the original's tools know.

    Args:
        num_tokens: size of the original's vocabulary; the export's image token came after it.
    """
    from llava.model.transformers_format.export_tokenizer import POST_PROCESSOR_KEY, restored_tokenizer_json
    from llava.model.weights.folder import TOKENIZER_FILES
    from llava.model.weights.reader import read_model_json

    names = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    contents = {name: read_model_json(folder / name) for name in names if name.endswith(".json")}
    if saved is None:
        # No export of this package: the file says itself which class it is for.
        settings = contents.get("tokenizer_config.json", {})
        if settings.get("tokenizer_class") == "LlamaTokenizerFast" or "tokenizer_class" not in settings:
            contents["tokenizer_config.json"] = settings | {"tokenizer_class": "LlamaTokenizer"}
    else:
        contents = {name: content for name, content in contents.items() if name == "tokenizer.json"}
        if POST_PROCESSOR_KEY not in saved and "tokenizer.model" in names:
            contents.pop("tokenizer.json", None)  # the checkpoint had only the model of its tokenizer
        if "tokenizer.json" in contents:
            contents["tokenizer.json"] = restored_tokenizer_json(contents["tokenizer.json"], saved, num_tokens)
        contents |= {name: content for name, content in saved.items() if name in TOKENIZER_FILES}
    if "tokenizer.model" in names:
        writer.copy(folder / "tokenizer.model")
    for name, content in contents.items():
        writer.write_json(name, content)


def _write_tower(folder: Path, tower: TowerWeights, plan: ConversionPlan) -> None:
    """Writes a folder that `mm_vision_tower` can name, without weights if they are among the model's."""
    from llava.model.weights.writer import CheckpointWriter

    with CheckpointWriter(folder, plan.specs) as writer:
        plan.write(writer)
        described = {
            **tower.config.to_dict(),
            "model_type": tower.config.model_type,
            "architectures": [tower.family.model_class],
        }
        writer.write_json("config.json", described)
        tower.image_processor.save_pretrained(writer.folder)
        writer.finish()

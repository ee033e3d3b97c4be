"""Writes a LLaVA of the original's format as transformers' classes read it, together with the files they need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llava.errors import InvalidRequest
from llava.model.transformers_format.plan import EMBEDDINGS, TOKENIZER_KEY, ConversionPlan, open_parts

if TYPE_CHECKING:
    from llava.model.language_model.config_keys import LlavaConfigKeys
    from llava.model.loading.model_folder import ModelFolder
    from llava.model.transformers_format.plan import TowerWeights
    from llava.model.weights.folder import WriteSettings

_AFTER_LAYERS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""Config keys of what some decoders' causal classes do to the logits, and transformers' LLaVA does not."""
_PROJECTORS = ("linear", "mlp2x_gelu", "norm_mlp2x_gelu")


def export(
    folder: ModelFolder,
    target: Path,
    options: WriteSettings,
    *,
    vision_tower: str | None = None,
    conv_mode: str | None = None,
) -> list[str]:
    """Writes the flat checkpoint in `folder` in transformers' format.

    Args:
        vision_tower: folder or hub id of the tower; None takes the one that the checkpoint names.
        conv_mode: name of the template to export; None takes the checkpoint's own.

    Returns:
        Lines to tell the user about the export.

    Raises:
        CheckpointError: something is missing in the folder; nothing was written.
        InvalidRequest: a projector, tower or template that the format has no place for; nothing was written.
    """
    from llava.model.language_model.input_scale import input_scale
    from llava.model.transformers_format import layout
    from llava.model.transformers_format.export_config import exported_config, image_processor_settings
    from llava.model.transformers_format.export_tokenizer import (
        exported_tokenizer,
        image_tokens,
        tokenizer_settings,
        write_tokenizer,
    )
    from llava.model.weights.folder import open_target

    checkpoint, sources, tower = open_parts(folder, vision_tower)
    config = folder.config()
    kind = config.mm_projector_type or "linear"
    if kind not in _PROJECTORS:
        raise InvalidRequest(
            f"{folder.path}: has a projector of type {kind!r}; transformers' format has only {', '.join(_PROJECTORS)}."
        )
    tokenizer, begins_with = exported_tokenizer(folder)
    plan = ConversionPlan(checkpoint, options.dtype)
    scale = input_scale(config)
    form = None
    if kind == "linear":
        form = layout.linear_form(int(config.mm_hidden_size or 0), config.hidden_size)
        weight = checkpoint.tensor(sources["model.mm_projector.weight"])
        bias = checkpoint.tensor(sources["model.mm_projector.bias"])
        for name, value in layout.two_layers(weight / scale, bias / scale, form).items():
            plan.add(f"{layout.PROJECTOR}{name}", value=value)
    rows = max(len(tokenizer), checkpoint.shape(sources[EMBEDDINGS[0]])[0])
    for ours, theirs in sources.items():
        if form is not None and ".mm_projector." in ours:
            continue
        if scale != 1 and (".mm_projector.2." in ours or ours.endswith("image_newline")):
            # transformers' class gives the decoder the features themselves, and the decoder multiplies them.
            plan.add(layout.exported_name(ours), value=checkpoint.tensor(theirs) / scale)
            continue
        plan.add(layout.exported_name(ours), source=theirs, rows=rows if ours in EMBEDDINGS else None)
    if config.tie_word_embeddings and "lm_head.weight" not in sources:
        plan.add("language_model.lm_head.weight", source=sources[EMBEDDINGS[0]], rows=rows)
    for name in tower.names:
        plan.add(f"vision_tower.{name}", source=tower.names[name], checkpoint=tower.weights)
    image_token = image_tokens(config, tokenizer)
    settings = exported_config(config, tower, rows, tokenizer.vocab[image_token.feature], form)
    settings["torch_dtype"] = str(plan.dominant_dtype).removeprefix("torch.")
    settings[layout.SOURCE_KEY][TOKENIZER_KEY] = tokenizer_settings(folder.path)
    template = _chat_template(folder.path, config, image_token.in_prompt, begins_with, conv_mode)
    processor = image_processor_settings(config, tower)
    with open_target(target, plan.specs, options) as writer:
        plan.write(writer)
        writer.write_json("config.json", settings)
        writer.write_json("preprocessor_config.json", processor)
        writer.write_json(
            "processor_config.json",
            {
                "processor_class": processor["processor_class"],
                "image_token": image_token.feature,
                "num_additional_image_tokens": tower.num_prefix_tokens,
                "patch_size": tower.config.patch_size,
                "vision_feature_select_strategy": settings["vision_feature_select_strategy"],
            },
        )
        (writer.folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        write_tokenizer(writer, folder.path, tokenizer, begins_with)
        tokens = {f"{name}_token_id": getattr(config, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        writer.write_json("generation_config.json", tokens)
        writer.finish()
    return _notes(form, settings, image_token.feature, config, tower)


def _chat_template(folder: Path, config: LlavaConfigKeys, image: str, begins_with: str, conv_mode: str | None) -> str:
    from llava.model.transformers_format.chat_template import chat_template
    from llava.template_choice import conversation_for

    return chat_template(conversation_for(config, conv_mode, name=folder.name), image=image, bos=begins_with)


def _notes(
    form: str | None, settings: dict[str, object], image_token: str, config: LlavaConfigKeys, tower: TowerWeights
) -> list[str]:
    architectures = settings["architectures"]
    assert isinstance(architectures, list)
    lines = [f"{architectures[0]}, image token {image_token}"]
    if form == "pair":
        lines.append("The linear projector is written as two layers that give the same result; any engine can run it.")
    if form == "identity":
        lines.append(
            "The linear projector is written without an activation (projector_hidden_act: linear), because the "
            f"language model ({config.hidden_size}) is less than twice as wide as the tower's features "
            f"({config.mm_hidden_size}). transformers can run it; vLLM does not support this activation."
        )
    if config.image_aspect_ratio == "keep":
        lines.append("transformers has no counterpart of image_aspect_ratio keep: images are cropped to a square.")
    left_out = [key for key in _AFTER_LAYERS if getattr(config, key, None)]
    if left_out:
        lines.append(
            f"transformers' LLaVA does not apply {', '.join(left_out)} of this language model: greedy answers are the "
            "same, probabilities are not."
        )
    return lines

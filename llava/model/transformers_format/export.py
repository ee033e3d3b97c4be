"""Writes a LLaVA of the original's format as transformers' classes read it, together with the files they need."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, InvalidRequest
from llava.model.transformers_format.plan import EMBEDDINGS, TOKENIZER_KEY, ConversionPlan, TowerWeights, open_parts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from llava.model.language_model.config_keys import LlavaConfigKeys
    from llava.model.loading.model_folder import ModelFolder
    from llava.model.weights.folder import WriteSettings
    from llava.model.weights.writer import CheckpointWriter

IMAGE_TOKEN = "<image>"


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
    from llava.model.transformers_format import layout
    from llava.model.weights.folder import open_target

    checkpoint, sources, tower = open_parts(folder, vision_tower)
    config = folder.config()
    kind = config.mm_projector_type or "linear"
    if kind not in ("linear", "mlp2x_gelu"):
        raise InvalidRequest(
            f"{folder.path}: has a projector of type {kind!r}; transformers' format has only linear and mlp2x_gelu."
        )
    tokenizer = _exported_tokenizer(folder)
    plan = ConversionPlan(checkpoint, options.dtype)
    form = None
    if kind == "linear":
        form = layout.linear_form(int(config.mm_hidden_size or 0), config.hidden_size)
        weight = checkpoint.tensor(sources["model.mm_projector.weight"])
        bias = checkpoint.tensor(sources["model.mm_projector.bias"])
        for name, value in layout.two_layers(weight, bias, form).items():
            plan.add(f"{layout.PROJECTOR}{name}", value=value)
    rows = max(len(tokenizer), checkpoint.shape(sources[EMBEDDINGS[0]])[0])
    for ours, theirs in sources.items():
        if form is not None and ".mm_projector." in ours:
            continue
        plan.add(layout.exported_name(ours), source=theirs, rows=rows if ours in EMBEDDINGS else None)
    if config.tie_word_embeddings and "lm_head.weight" not in sources:
        plan.add("language_model.lm_head.weight", source=sources[EMBEDDINGS[0]], rows=rows)
    for name in tower.names:
        plan.add(f"vision_tower.vision_model.{name}", source=tower.names[name], checkpoint=tower.weights)
    settings = _exported_config(config, tower, rows, tokenizer, form, plan.dominant_dtype)
    settings[layout.SOURCE_KEY][TOKENIZER_KEY] = _tokenizer_settings(folder.path)
    template = _chat_template(folder.path, config, tokenizer, conv_mode)
    processor = _image_processor_settings(config, tower)
    with open_target(target, plan.specs, options) as writer:
        plan.write(writer)
        writer.write_json("config.json", settings)
        writer.write_json("preprocessor_config.json", processor)
        writer.write_json("processor_config.json", _processor_settings(config, tower, tokenizer, processor))
        (writer.folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        _write_tokenizer(writer, folder.path, tokenizer)
        tokens = {f"{name}_token_id": getattr(config, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        writer.write_json("generation_config.json", tokens)
        writer.finish()
    return _notes(form, settings, tokenizer, config)


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    """Reads the small files beside `tokenizer.model`, to restore later; {} if the tokenizer has another form."""
    from llava.model.weights.folder import TOKENIZER_FILES
    from llava.model.weights.reader import read_model_json

    if (folder / "tokenizer.json").is_file():
        return {}
    names = [name for name in TOKENIZER_FILES if name != "tokenizer.model"]
    return {name: read_model_json(folder / name) for name in names if (folder / name).is_file()}


def _exported_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerFast:
    """Loads the checkpoint's tokenizer and gives it a token for an image."""
    from tokenizers import AddedToken

    from llava.model.loading.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder.path)
    if folder.release != "v0":
        # Later releases tokenise the texts before and after an image separately, whitespace included.
        token = AddedToken(IMAGE_TOKEN, lstrip=False, rstrip=False, normalized=False, special=True)
        tokenizer.add_tokens([token], special_tokens=True)
    first = tokenizer("a").input_ids[0]
    if first in tokenizer.all_special_ids:
        # Trainers of v0 wrote "</s>" here, yet every text began with id 1.
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(first)
    tokenizer.model_max_length = folder.context_length
    return tokenizer


def _image_tokens(config: LlavaConfigKeys, tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """Returns the token that becomes an image's features, and the text of one image in a prompt."""
    from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN

    vocabulary = tokenizer.get_vocab()
    token = IMAGE_TOKEN if IMAGE_TOKEN in vocabulary else DEFAULT_IMAGE_PATCH_TOKEN
    if token not in vocabulary:
        raise CheckpointError(
            f"{tokenizer.name_or_path}: the tokenizer has no {token}. Copy the checkpoint's tokenizer into the folder."
        )
    wrapped = f"{DEFAULT_IM_START_TOKEN}{token}{DEFAULT_IM_END_TOKEN}" if config.mm_use_im_start_end else token
    return token, wrapped


def _exported_config(
    config: LlavaConfigKeys,
    tower: TowerWeights,
    rows: int,
    tokenizer: PreTrainedTokenizerFast,
    form: str | None,
    dtype: torch.dtype,
) -> dict[str, Any]:
    from transformers import LlamaConfig

    from llava.model.transformers_format.layout import LINEAR_FORM_KEY, SOURCE_KEY

    known = set(LlamaConfig().to_dict())
    ours = config.to_dict()
    text = {key: value for key, value in ours.items() if key in known and key not in ("architectures", "_name_or_path")}
    text.update(model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=rows)
    # transformers 4 reads the base of the rotary embedding from this key alone.
    text["rope_theta"] = (text.get("rope_parameters") or {}).get("rope_theta", 10_000.0)
    patches = (tower.config.image_size // tower.config.patch_size) ** 2
    full = config.mm_vision_select_feature == "cls_patch"
    tiled = config.image_aspect_ratio == "anyres"
    settings: dict[str, Any] = {
        "architectures": ["LlavaNextForConditionalGeneration" if tiled else "LlavaForConditionalGeneration"],
        "model_type": "llava_next" if tiled else "llava",
        "text_config": text,
        "vision_config": {**tower.config.to_dict(), "model_type": "clip_vision_model"},
        "image_token_index": tokenizer.convert_tokens_to_ids(_image_tokens(config, tokenizer)[0]),
        "image_seq_length": patches + full,
        "projector_hidden_act": "linear" if form == "identity" else "gelu",
        "vision_feature_layer": config.mm_vision_select_layer,
        "vision_feature_select_strategy": "full" if full else "default",
        "tie_word_embeddings": False,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "torch_dtype": str(dtype).removeprefix("torch."),
        # Everything that this format has no place for; `convert --to original` reads it.
        SOURCE_KEY: {"config": {key: value for key, value in ours.items() if key not in known or key in _KEPT}},
    }
    if form is not None:
        settings[SOURCE_KEY][LINEAR_FORM_KEY] = form
    if tiled:
        if config.mm_patch_merge_type != "spatial_unpad":
            raise InvalidRequest(
                f"mm_patch_merge_type is {config.mm_patch_merge_type!r}, but transformers' LLaVA-NeXT has only "
                "spatial_unpad."
            )
        settings["image_grid_pinpoints"] = _grid(config)
        settings["use_image_newline_parameter"] = True
    return settings


def _grid(config: LlavaConfigKeys) -> list[list[int]]:
    """Returns the grids of tiles as transformers writes them, (height, width); LLaVA writes (width, height)."""
    pinpoints = config.image_grid_pinpoints or []
    if isinstance(pinpoints, str):
        pinpoints = ast.literal_eval(pinpoints)
    return [[height, width] for width, height in pinpoints]


_KEPT = ("vocab_size", "architectures", "model_type", "tie_word_embeddings")


def _chat_template(
    folder: Path, config: LlavaConfigKeys, tokenizer: PreTrainedTokenizerFast, conv_mode: str | None
) -> str:
    from llava.conversation import template
    from llava.model.transformers_format.chat_template import chat_template
    from llava.template_choice import default_template_for, release_of

    conversation = template(conv_mode or default_template_for(config, name=folder.name), release=release_of(config))
    bos = tokenizer.bos_token if tokenizer("a").input_ids[0] == tokenizer.bos_token_id else ""
    return chat_template(conversation, image=_image_tokens(config, tokenizer)[1], bos=bos)


def _processor_settings(
    config: LlavaConfigKeys, tower: TowerWeights, tokenizer: PreTrainedTokenizerFast, image_processor: dict[str, Any]
) -> dict[str, Any]:
    return {
        "processor_class": image_processor["processor_class"],
        "image_token": _image_tokens(config, tokenizer)[0],
        "num_additional_image_tokens": 1,  # CLIP's class token
        "patch_size": tower.config.patch_size,
        "vision_feature_select_strategy": "full" if config.mm_vision_select_feature == "cls_patch" else "default",
    }


def _write_tokenizer(writer: CheckpointWriter, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    from llava.model.weights.reader import read_model_json

    tokenizer.save_pretrained(writer.folder)
    writer.write_json("tokenizer_config.json", _portable(read_model_json(writer.folder / "tokenizer_config.json")))
    if (folder / "tokenizer.model").is_file():
        writer.copy(folder / "tokenizer.model")


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns a tokenizer_config.json that both transformers 4 and 5 read.

    For any other class name they would build their own LLaMA tokenizer instead of reading the one that is written.
    """
    left_out = ("backend", "is_local", "local_files_only", "extra_special_tokens")
    kept = {key: value for key, value in settings.items() if key not in left_out}
    more = settings.get("extra_special_tokens") or []
    return kept | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": more,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _image_processor_settings(config: LlavaConfigKeys, tower: TowerWeights) -> dict[str, Any]:
    from llava.model.multimodal_encoder.builder import load_image_processor

    settings = {
        key: value
        for key, value in load_image_processor(tower.folder).to_dict().items()
        if value is not None and not key.endswith("_processor_type")
    }
    shape = config.image_aspect_ratio
    if shape == "anyres":
        return settings | {
            "image_processor_type": "LlavaNextImageProcessor",
            "processor_class": "LlavaNextProcessor",
            "image_grid_pinpoints": _grid(config),
            "do_pad": True,
        }
    if shape == "pad":
        return settings | {
            "image_processor_type": "LlavaImageProcessor",
            "processor_class": "LlavaProcessor",
            "do_pad": True,
        }
    return settings | {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"}


def _notes(
    form: str | None, settings: dict[str, Any], tokenizer: PreTrainedTokenizerFast, config: LlavaConfigKeys
) -> list[str]:
    lines = [f"{settings['architectures'][0]}, image token {_image_tokens(config, tokenizer)[0]}"]
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
    return lines

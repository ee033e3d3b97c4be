"""Writes a LLaVA of the original's format as transformers' classes read it, with everything beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import CheckpointError, InvalidRequest
from llava.model.transformers_format.plan import EMBEDDINGS, TOKENIZER_KEY, Plan, Tower, open_parts

if TYPE_CHECKING:
    import torch

    from llava.model.loading.flavours import Flavour
    from llava.model.weights.folder import Writing
    from llava.model.weights.writer import CheckpointWriter

IMAGE_TOKEN = "<image>"


def export(
    folder: Path,
    flavour: Flavour,
    target: Path,
    options: Writing,
    *,
    vision_tower: str | None = None,
    conv_mode: str | None = None,
) -> list[str]:
    """Writes the flat checkpoint in `folder` in transformers' format; returns what there is to say about it.

    Raises:
        CheckpointError: something is missing in the folder; nothing was written.
        InvalidRequest: a projector, tower or template that the format has no place for; nothing was written.
    """
    from llava.model.transformers_format import layout
    from llava.model.weights.folder import open_target
    from llava.template_choice import release_of

    checkpoint, sources, tower = open_parts(folder, flavour, vision_tower)
    config = flavour.config
    kind = config.mm_projector_type or "linear"
    if kind not in ("linear", "mlp2x_gelu"):
        raise InvalidRequest(
            f"{folder}: has a projector of type {kind!r}; transformers' format holds linear and mlp2x_gelu."
        )
    tokenizer = _exported_tokenizer(folder, release_of(config), config)
    plan = Plan(checkpoint, options.dtype)
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
    settings[layout.SOURCE_KEY][TOKENIZER_KEY] = _tokenizer_settings(folder)
    template = _chat_template(folder, config, tokenizer, conv_mode)
    processor = _image_processor_settings(config, tower)
    with open_target(target, plan.specs, options) as writer:
        plan.write(writer)
        writer.write_json("config.json", settings)
        writer.write_json("preprocessor_config.json", processor)
        writer.write_json("processor_config.json", _processor_settings(config, tower, tokenizer, processor))
        (writer.folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        _write_tokenizer(writer, folder, tokenizer)
        tokens = {f"{name}_token_id": getattr(config, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        writer.write_json("generation_config.json", tokens)
        writer.finish()
    return _notes(form, settings, tokenizer, config)


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    """The small files that make a tokenizer of `tokenizer.model`, to be put back later; {} if there are others."""
    from llava.model.weights.folder import TOKENIZER_FILES
    from llava.model.weights.reader import read_json

    if (folder / "tokenizer.json").is_file():
        return {}
    names = [name for name in TOKENIZER_FILES if name != "tokenizer.model"]
    return {name: read_json(folder / name) for name in names if (folder / name).is_file()}


def _exported_tokenizer(folder: Path, release: str, config: Any) -> Any:
    """The checkpoint's tokenizer, with a token for an image."""
    from tokenizers import AddedToken

    from llava.model.builder import context_length
    from llava.model.loading.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    if release != "v0":
        # Later releases tokenise the text on either side of an image by itself, whitespace included.
        token = AddedToken(IMAGE_TOKEN, lstrip=False, rstrip=False, normalized=False, special=True)
        tokenizer.add_tokens([token], special_tokens=True)
    first = tokenizer("a").input_ids[0]
    if first in tokenizer.all_special_ids:
        # Trainers of v0 wrote "</s>" here, yet every text began with id 1.
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(first)
    tokenizer.model_max_length = context_length(config)
    return tokenizer


def _image_tokens(config: Any, tokenizer: Any) -> tuple[str, str]:
    """The token that becomes an image's features, and the text of one image in a prompt."""
    from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN

    vocabulary = tokenizer.get_vocab()
    token = IMAGE_TOKEN if IMAGE_TOKEN in vocabulary else DEFAULT_IMAGE_PATCH_TOKEN
    if token not in vocabulary:
        raise CheckpointError(
            f"{tokenizer.name_or_path}: the tokenizer has no {token}. Copy the checkpoint's own tokenizer."
        )
    wrapped = f"{DEFAULT_IM_START_TOKEN}{token}{DEFAULT_IM_END_TOKEN}" if config.mm_use_im_start_end else token
    return token, wrapped


def _exported_config(
    config: Any, tower: Tower, rows: int, tokenizer: Any, form: str | None, dtype: torch.dtype
) -> dict[str, Any]:
    from transformers import LlamaConfig

    from llava.model.transformers_format.layout import LINEAR_FORM_KEY, SOURCE_KEY

    known = set(LlamaConfig().to_dict())
    ours = config.to_dict()
    text = {key: value for key, value in ours.items() if key in known and key not in ("architectures", "_name_or_path")}
    text.update(model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=rows)
    # transformers 4 knows the base of the rotary embedding by this key alone.
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
        # What this format has no place for; `convert --to original` reads it.
        SOURCE_KEY: {"config": {key: value for key, value in ours.items() if key not in known or key in _KEPT}},
    }
    if form is not None:
        settings[SOURCE_KEY][LINEAR_FORM_KEY] = form
    if tiled:
        if config.mm_patch_merge_type != "spatial_unpad":
            raise InvalidRequest(
                f"mm_patch_merge_type is {config.mm_patch_merge_type!r}; transformers' LLaVA-NeXT knows spatial_unpad."
            )
        # LLaVA writes (width, height), transformers (height, width).
        settings["image_grid_pinpoints"] = [[height, width] for width, height in config.image_grid_pinpoints]
        settings["use_image_newline_parameter"] = True
    return settings


_KEPT = ("vocab_size", "architectures", "model_type", "tie_word_embeddings")


def _chat_template(folder: Path, config: Any, tokenizer: Any, conv_mode: str | None) -> str:
    from llava.conversation import template
    from llava.model.transformers_format.chat_template import chat_template
    from llava.template_choice import default_template_for, release_of

    conversation = template(conv_mode or default_template_for(config, name=folder.name), release=release_of(config))
    bos = tokenizer.bos_token if tokenizer("a").input_ids[0] == tokenizer.bos_token_id else ""
    return chat_template(conversation, image=_image_tokens(config, tokenizer)[1], bos=bos)


def _processor_settings(config: Any, tower: Tower, tokenizer: Any, image_processor: dict[str, Any]) -> dict[str, Any]:
    return {
        "processor_class": image_processor["processor_class"],
        "image_token": _image_tokens(config, tokenizer)[0],
        "num_additional_image_tokens": 1,  # CLIP's class token
        "patch_size": tower.config.patch_size,
        "vision_feature_select_strategy": "full" if config.mm_vision_select_feature == "cls_patch" else "default",
    }


def _write_tokenizer(writer: CheckpointWriter, folder: Path, tokenizer: Any) -> None:
    from llava.model.weights.reader import read_json

    tokenizer.save_pretrained(writer.folder)
    writer.write_json("tokenizer_config.json", _portable(read_json(writer.folder / "tokenizer_config.json")))
    if (folder / "tokenizer.model").is_file():
        writer.copy(folder / "tokenizer.model")


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json that transformers 4 reads as well as 5.

    By any other class name they would build their own LLaMA tokenizer in place of the one that is written.
    """
    left_out = ("backend", "is_local", "local_files_only", "extra_special_tokens")
    kept = {key: value for key, value in settings.items() if key not in left_out}
    more = settings.get("extra_special_tokens") or []
    return kept | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": more,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _image_processor_settings(config: Any, tower: Tower) -> dict[str, Any]:
    from llava.model.multimodal_encoder.builder import load_image_processor

    settings = {
        key: value
        for key, value in load_image_processor(tower.folder).to_dict().items()
        if value is not None and not key.endswith("_processor_type")
    }
    shape = config.image_aspect_ratio
    if shape == "anyres":
        grid = [[height, width] for width, height in config.image_grid_pinpoints]
        return settings | {
            "image_processor_type": "LlavaNextImageProcessor",
            "processor_class": "LlavaNextProcessor",
            "image_grid_pinpoints": grid,
            "do_pad": True,
        }
    if shape == "pad":
        return settings | {
            "image_processor_type": "LlavaImageProcessor",
            "processor_class": "LlavaProcessor",
            "do_pad": True,
        }
    return settings | {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"}


def _notes(form: str | None, settings: dict[str, Any], tokenizer: Any, config: Any) -> list[str]:
    lines = [f"{settings['architectures'][0]}, image token {_image_tokens(config, tokenizer)[0]}"]
    if form == "pair":
        lines.append("the linear projector is written as two layers that give the same result; any engine can run it")
    if form == "identity":
        lines.append(
            "the linear projector is written without an activation (projector_hidden_act: linear), because the "
            f"language model ({config.hidden_size}) is less than twice as wide as the tower's features "
            f"({config.mm_hidden_size}): transformers runs it, vLLM does not know this activation"
        )
    if config.image_aspect_ratio == "keep":
        lines.append("image_aspect_ratio keep has no counterpart there: images are cropped to a square")
    return lines

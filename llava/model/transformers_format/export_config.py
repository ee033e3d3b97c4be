"""Builds the `config.json` and the image processor's settings of an export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llava.errors import InvalidRequest
from llava.model.transformers_format.layout import LINEAR_FORM_KEY, SOURCE_KEY

if TYPE_CHECKING:
    from llava.model.language_model.config_keys import LlavaConfigKeys
    from llava.model.transformers_format.plan import TowerWeights

_KEPT: Final = ("vocab_size", "architectures", "model_type", "tie_word_embeddings")
_CLASSES: Final = {
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    "vipllava": "VipLlavaForConditionalGeneration",
}
_PROCESSORS: Final = {
    "llava": ("LlavaImageProcessor", "LlavaProcessor"),
    "llava_next": ("LlavaNextImageProcessor", "LlavaNextProcessor"),
    "llava_onevision": ("LlavaOnevisionImageProcessor", "LlavaOnevisionProcessor"),
    "vipllava": ("LlavaImageProcessor", "LlavaProcessor"),
}


def exported_config(
    config: LlavaConfigKeys, tower: TowerWeights, num_tokens: int, image_token_id: int, form: str | None
) -> dict[str, Any]:
    """Returns the `config.json` of an export.

    Args:
        num_tokens: rows of the written embedding.
        form: the form that a linear projector takes; None for a projector of two layers.

    Raises:
        InvalidRequest: settings that transformers' classes have no place for.
    """
    kind = model_type(config)
    _check_tower(kind, config, tower)
    ours = config.to_dict()
    text = text_config(config)
    text["vocab_size"] = num_tokens
    patches = (tower.image_size // tower.config.patch_size) ** 2
    full = select_strategy(config, tower) == "full"
    layer = config.mm_vision_select_layer
    settings: dict[str, Any] = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "text_config": text,
        "vision_config": tower.config.to_dict() | {"model_type": tower.config.model_type},
        "image_token_index": image_token_id,
        "image_seq_length": patches + (tower.num_prefix_tokens if full else 0),
        "projector_hidden_act": "linear" if form == "identity" else "gelu",
        "vision_feature_layer": layer,
        "vision_feature_select_strategy": "full" if full else "default",
        "tie_word_embeddings": False,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        # Everything that this format has no place for; `convert --to original` reads it.
        SOURCE_KEY: {"config": {key: value for key, value in ours.items() if key not in text or key in _KEPT}},
    }
    if config.mm_projector_bias is False:
        settings["multimodal_projector_bias"] = False
    if form is not None:
        settings[SOURCE_KEY][LINEAR_FORM_KEY] = form
    if kind == "vipllava":
        settings["vision_feature_layers"] = layer if isinstance(layer, list) else [layer]
    if kind in ("llava_next", "llava_onevision"):
        settings["image_grid_pinpoints"] = _grid(config, tower)
        settings["use_image_newline_parameter"] = True
    if kind == "llava_onevision":
        settings["vision_aspect_ratio"] = config.image_aspect_ratio
    return settings


def model_type(config: LlavaConfigKeys) -> str:
    """Returns the `model_type` of the class of transformers that computes what a model does.

    Raises:
        InvalidRequest: there is none.
    """
    mode, merge = config.image_aspect_ratio or "", config.mm_patch_merge_type or "flat"
    normed = (config.mm_projector_type or "").startswith("norm_")
    if not mode.startswith("anyres"):
        return "vipllava" if normed else "llava"
    if normed:
        raise InvalidRequest(
            f"mm_projector_type is {config.mm_projector_type}, and images are cut into tiles; transformers has this "
            "projector only in ViP-LLaVA, which has no tiles."
        )
    if merge != "spatial_unpad":
        raise InvalidRequest(
            f"mm_patch_merge_type is {merge!r}, but transformers' LLaVA-NeXT and LLaVA-OneVision have only "
            "spatial_unpad."
        )
    return "llava_next" if mode == "anyres" else "llava_onevision"


def _check_tower(kind: str, config: LlavaConfigKeys, tower: TowerWeights) -> None:
    """Checks that transformers' class takes the same features from a tower.

    Raises:
        InvalidRequest: names what differs.
    """
    if kind == "vipllava" and select_strategy(config, tower) == "full":
        raise InvalidRequest(
            f"transformers' ViP-LLaVA drops the first feature of each image, which is a patch or kept here (tower "
            f"{tower.config.model_type}, mm_vision_select_feature {config.mm_vision_select_feature or 'patch'})."
        )
    # Of the towers that can be exported, DINOv2 alone fits its position embeddings to any size by itself.
    fits = tower.config.model_type == "dinov2" and kind in ("llava", "vipllava")
    if tower.image_size != tower.config.image_size and not fits:
        raise InvalidRequest(
            f"{tower.folder}: the image processor makes images of {tower.image_size} pixels and the tower's config "
            f"says {tower.config.image_size}; transformers' LLaVA needs both to be the same for this tower."
        )


def text_config(config: LlavaConfigKeys) -> dict[str, Any]:
    """Returns the decoder's own config, readable by transformers 4 and 5."""
    from llava.model.language_model.decoders import decoder_config_class, decoder_type, llava_class

    kind = decoder_type(config.model_type)
    known = set(decoder_config_class(kind)().to_dict())
    ours = config.to_dict()
    text = {key: value for key, value in ours.items() if key in known and key not in ("architectures", "_name_or_path")}
    text.update(model_type=kind, architectures=[llava_class(kind).causal_class.__name__], tie_word_embeddings=False)
    rope = text.get("rope_parameters") or {}
    if "rope_theta" in rope or not rope:
        # transformers 4 reads the base of the rotary embedding from this key alone.
        text["rope_theta"] = rope.get("rope_theta", 10_000.0)
    return text


def select_strategy(config: LlavaConfigKeys, tower: TowerWeights) -> str:
    """Returns which features are kept, in transformers' words: `default` drops the first one, `full` drops none."""
    if tower.num_prefix_tokens == 0 or config.mm_vision_select_feature == "cls_patch":
        return "full"
    return "default"


def _grid(config: LlavaConfigKeys, tower: TowerWeights) -> list[list[int]]:
    """Returns the grids of tiles as transformers writes them, (height, width); LLaVA writes (width, height)."""
    from llava.mm_utils import grid_resolutions

    return [[height, width] for width, height in grid_resolutions(config.image_grid_pinpoints, tower.image_size)]


def image_processor_settings(config: LlavaConfigKeys, tower: TowerWeights) -> dict[str, Any]:
    """Returns the `preprocessor_config.json` of an export."""
    own = tower.image_processor
    settings = {
        key: value for key, value in own.to_dict().items() if value is not None and not key.endswith("_processor_type")
    }
    kind = model_type(config)
    image_processor, processor = _PROCESSORS[kind]
    settings["processor_class"] = processor
    if kind in ("llava_next", "llava_onevision"):
        more = {"image_processor_type": image_processor, "image_grid_pinpoints": _grid(config, tower), "do_pad": True}
        return settings | more
    if config.image_aspect_ratio == "pad":
        return settings | {"image_processor_type": image_processor, "do_pad": True}
    return settings | {"image_processor_type": type(own).__name__.removesuffix("Pil")}

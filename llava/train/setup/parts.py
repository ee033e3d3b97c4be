"""From arguments to the parts of a run: model, tokenizer, data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_PAD_TOKEN
from llava.conversation import Conversation, SeparatorStyle
from llava.errors import InvalidRequest
from llava.model.builder import load_pretrained_model
from llava.model.llava_arch import fill_with_mean, resize_embeddings
from llava.model.loading.tokenizer import add_special_tokens, load_tokenizer
from llava.model.weights.reader import resolve_folder
from llava.template_choice import LATER_KEYS
from llava.train.data.dataset import ConversationDataset, ImageLoader
from llava.train.data.labels import ImageTokens, token_id, training_template
from llava.train.data.records import Record
from llava.train.setup.arguments import DataArguments, ModelArguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llava.train.setup.training_arguments import TrainingArguments

_SAID_BY_LATER_RELEASES = {name: plain for name, plain in LATER_KEYS.items() if plain is not None}
"""Settings that v0 did not write down, and what it always had."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run needs before its data."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: Conversation
    image_tokens: ImageTokens
    start_end_ids: tuple[int, ...]
    """Ids of `<im_start>` and `<im_end>` where the run uses them."""


def prepare_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    *,
    attn_implementation: str | None = None,
) -> Prepared:
    """Loads the language model in float32, gives it tower, projector and image tokens, and sets the template.

    Raises:
        CheckpointError: weights, tower or tokenizer that cannot be used.
        InvalidRequest: flags that do not fit the model or each other.
    """
    template = training_template(model_args.version)
    folder = resolve_folder(str(model_args.model_name_or_path))
    # Master weights are float32 whatever the file holds: 16-bit weights would lose most small updates.
    _, model, _, _ = load_pretrained_model(
        folder,
        device="cpu",
        device_map=None,
        dtype=torch.float32,
        vision_tower=model_args.vision_tower,
        attn_implementation=attn_implementation,
    )
    tokenizer = load_tokenizer(folder, tokenization="sentencepiece", model_max_length=training_args.model_max_length)
    _set_padding(tokenizer, model, add_token=model_args.version == "v0")
    if model_args.legacy_bos:
        tokenizer.bos_token = tokenizer.eos_token
    as_patches = not template.image_first
    start_end_ids: tuple[int, ...] = ()
    if model_args.vision_tower is not None or model.config.has_vision:
        _add_vision(model, tokenizer, model_args, as_patches=as_patches)
        _write_settings(model.config, template, model_args, data_args, training_args)
        if model_args.mm_use_im_start_end:
            start_end_ids = (token_id(tokenizer, DEFAULT_IM_START_TOKEN), token_id(tokenizer, DEFAULT_IM_END_TOKEN))
    images = ImageTokens(as_patches, start_end=bool(start_end_ids))
    return Prepared(model, tokenizer, template, images, start_end_ids)


def prepare_data(
    prepared: Prepared,
    records: list[Record],
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
) -> ConversationDataset:
    """The dataset of a run.

    Raises:
        DataError: records with images and no vision tower.
    """
    model, images = prepared.model, None
    if model.config.has_vision:
        tower = model.get_vision_tower()
        images = ImageLoader(image_folder(data_args), tower.image_processor, model.config, _PositionCounter(tower))
    return ConversationDataset(
        records,
        prepared.tokenizer,
        prepared.template,
        prepared.image_tokens,
        images,
        max_length=training_args.model_max_length,
        bos_token_id=prepared.tokenizer.eos_token_id if model_args.legacy_bos else None,
    )


def image_folder(data_args: DataArguments) -> Path:
    """Where the records' image paths begin: `--image_folder`, else beside the training file."""
    return Path(data_args.image_folder) if data_args.image_folder else Path(str(data_args.data_path)).parent


class _PositionCounter:
    """How many positions a processed image takes; keeps the numbers of the tower, not its weights."""

    def __init__(self, tower: Any) -> None:
        self.patch = tower.config.patch_size
        self.extra = tower.num_features(self.patch, self.patch) - 1

    def __call__(self, pixels: Tensor, size: tuple[int, int]) -> int:
        height, width = pixels.shape[-2:]
        rows, columns = height // self.patch, width // self.patch
        positions = rows * columns + self.extra
        if pixels.dim() == 3:
            return positions
        # At most: removing padding makes it fewer, line ends add one a row of patches.
        return pixels.shape[0] * (positions + rows)


def _set_padding(tokenizer: PreTrainedTokenizerBase, model: Any, *, add_token: bool) -> None:
    if add_token and tokenizer.pad_token is None:
        num_new = add_special_tokens(tokenizer, [DEFAULT_PAD_TOKEN])  # type: ignore[arg-type]
        tokenizer.pad_token = DEFAULT_PAD_TOKEN
        resize_embeddings(model, len(tokenizer))
        fill_with_mean(model, num_new)
    elif tokenizer.pad_token is None or not add_token:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token


def _add_vision(
    model: Any, tokenizer: PreTrainedTokenizerBase, model_args: ModelArguments, *, as_patches: bool
) -> None:
    if as_patches and not model_args.mm_use_im_patch_token:
        raise InvalidRequest(
            f"--version {model_args.version} writes images as <im_patch> tokens: leave --mm_use_im_patch_token on."
        )
    config = model.config
    had_projector = getattr(model.get_model(), "mm_projector", None) is not None
    kind = _chosen(model_args, config, "mm_projector_type", "linear")
    if had_projector and kind != (config.mm_projector_type or "linear"):
        raise InvalidRequest(
            f"--mm_projector_type {kind}: {model_args.model_name_or_path} already has a projector of type "
            f"{config.mm_projector_type or 'linear'}. Leave the flag out, or start from the plain language model."
        )
    if as_patches:
        _refuse_later_settings(model_args, config)
    if model_args.vision_tower is not None or not had_projector:
        model.initialize_vision_modules(
            model_args.vision_tower,
            mm_vision_select_layer=_chosen(model_args, config, "mm_vision_select_layer", -1),
            mm_vision_select_feature=_chosen(model_args, config, "mm_vision_select_feature", "patch"),
            mm_projector_type=kind,
            mm_patch_merge_type=_chosen(model_args, config, "mm_patch_merge_type", "flat"),
            pretrain_mm_mlp_adapter=model_args.pretrain_mm_mlp_adapter,
            dtype=torch.float32,
        )
    model.initialize_vision_tokenizer(
        tokenizer,
        mm_use_im_start_end=model_args.mm_use_im_start_end,
        mm_use_im_patch_token=model_args.mm_use_im_patch_token,
        pretrain_mm_mlp_adapter=model_args.pretrain_mm_mlp_adapter,
    )
    model.get_vision_tower().requires_grad_(False)


def _refuse_later_settings(model_args: ModelArguments, config: Any) -> None:
    """A v0 checkpoint is told by what it does not say; with later settings readers would take it for a later one."""
    for name, meaning in _SAID_BY_LATER_RELEASES.items():
        chosen = _chosen(model_args, config, name, meaning)
        if chosen != meaning:
            raise InvalidRequest(
                f"--{name} {chosen} does not go with --version {model_args.version}, whose checkpoints have "
                f"{meaning}. Use --version v1."
            )


def _chosen(model_args: ModelArguments, config: Any, name: str, default: Any) -> Any:
    """The flag where it was given, else the model's own setting, else the default."""
    given = getattr(model_args, name)
    if given is not None:
        return given
    own = getattr(config, name, None)
    return default if own is None else own


def _write_settings(
    config: Any,
    template: Conversation,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
) -> None:
    """What the checkpoint must remember to be used as it was trained."""
    if data_args.image_aspect_ratio is not None:
        config.image_aspect_ratio = data_args.image_aspect_ratio
    if data_args.image_grid_pinpoints is not None:
        config.image_grid_pinpoints = _grid(data_args.image_grid_pinpoints)
    config.tune_mm_mlp_adapter = model_args.tune_mm_mlp_adapter
    config.freeze_mm_mlp_adapter = training_args.freeze_mm_mlp_adapter
    if template.sep_style is not SeparatorStyle.PLAIN:
        config.conv_mode = _template_name(template, model_args.version)
    if template.image_first:
        config.mm_use_im_patch_token = model_args.mm_use_im_patch_token
        config.tokenizer_padding_side = "right"
        config.tokenizer_model_max_length = training_args.model_max_length
        return
    # Readers tell a v0 checkpoint, whose images are runs of <im_patch>, by the keys that it does not have.
    config.mm_use_im_patch_token = None
    for name, meaning in _SAID_BY_LATER_RELEASES.items():
        if getattr(config, name) == meaning:
            setattr(config, name, None)


def _template_name(template: Conversation, version: str) -> str:
    return template.name or version


def _grid(text: str) -> list[list[int]]:
    try:
        grid = json.loads(text)
        return [[int(width), int(height)] for width, height in grid]
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"--image_grid_pinpoints {text}: not a JSON list of [width, height] pairs in pixels ({error})."
        ) from None

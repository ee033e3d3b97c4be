"""Builds the model, tokenizer and dataset of a training run from its settings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_PAD_TOKEN
from llava.conversation import Conversation, SeparatorStyle
from llava.errors import CheckpointError, InvalidRequest
from llava.model.llava_arch import fill_with_mean, resize_embeddings
from llava.model.loading.language_model import progress_bars
from llava.model.loading.plan import make_plan
from llava.model.loading.tokenizer import add_special_tokens, load_tokenizer
from llava.model.multimodal_encoder.families import SelectLayer, read_select_layer
from llava.model.weights.reader import resolve_folder
from llava.template_choice import LATER_KEYS
from llava.train.data.dataset import ConversationDataset, ImageLoader, PositionCounter
from llava.train.data.labels import ImageTokens, token_id
from llava.train.data.layouts import training_template
from llava.train.data.records import Record
from llava.train.parallel.loading import load_for_training
from llava.train.setup.arguments import DataArguments, ModelArguments
from llava.train.setup.quantized import load_quantized
from llava.train.setup.trainable import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llava.train.setup.training_arguments import TrainingArguments

_V0_SETTINGS = {name: value for name, value in LATER_KEYS.items() if value is not None}
"""Settings that v0 checkpoints do not record, and their only value in v0."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The parts of a run that the dataset depends on."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: Conversation
    image_tokens: ImageTokens
    start_end_ids: tuple[int, ...]
    """Ids of `<im_start>` and `<im_end>`; empty if the run does not use them."""
    base_num_tokens: int
    """Rows of the embedding of the model that the run starts from."""


def prepare_model(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    stage: Stage,
    *,
    attn_implementation: str | None = None,
) -> Prepared:
    """Loads the language model and adds the vision tower, the projector and the image tokens.

    What trains is float32 whatever the files hold, because 16-bit weights would lose most small updates; what is frozen
    has the format that the run computes in. Under FSDP2 only the first process has the values.

    Args:
        stage: what trains.

    Raises:
        CheckpointError: the weights, the tower or the tokenizer cannot be used.
        InvalidRequest: flags contradict the model or each other.
    """
    template = training_template(model_args.version, model_args.model_name_or_path)
    folder = _base_folder(str(model_args.model_name_or_path))
    frozen_dtype = training_args.compute_dtype
    tower_dtype = torch.float32 if stage.tower else frozen_dtype
    plan = make_plan(
        folder,
        device="cpu",
        device_map={"": training_args.device} if training_args.quantized is not None else None,
        dtype=tower_dtype,
        vision_tower=model_args.vision_tower,
        attn_implementation=attn_implementation,
    )
    sharded = training_args.shards_parameters
    tokenizer = load_tokenizer(folder, tokenization="sentencepiece", model_max_length=training_args.model_max_length)
    if training_args.quantized is not None:
        model = load_quantized(plan, tokenizer, training_args.quantized, stage, frozen_dtype)
    else:
        model = load_for_training(
            plan,
            tokenizer,
            lambda name: torch.float32 if stage.trains(name) else frozen_dtype,
            # A model that will be sharded stays in host memory until each process takes its share.
            device="cpu" if sharded else training_args.device,
            empty=sharded and training_args.process_index > 0,
        )
    _set_padding(tokenizer, model, add_token=model_args.version == "v0")
    if model_args.legacy_bos:
        tokenizer.bos_token = tokenizer.eos_token
    as_patches = not template.image_first
    start_end_ids: tuple[int, ...] = ()
    if model_args.vision_tower is not None or model.config.has_vision:
        _add_vision(model, tokenizer, model_args, as_patches=as_patches, tower_dtype=tower_dtype)
        _write_settings(model.config, template, model_args, data_args, training_args)
        if stage.tower:
            model.config.unfreeze_mm_vision_tower = True
        if model_args.mm_use_im_start_end:
            start_end_ids = (token_id(tokenizer, DEFAULT_IM_START_TOKEN), token_id(tokenizer, DEFAULT_IM_END_TOKEN))
    elif stage.tower:
        raise InvalidRequest("--unfreeze_mm_vision_tower: the model has no vision tower. Set --vision_tower.")
    images = ImageTokens(as_patches, start_end=bool(start_end_ids))
    return Prepared(model, tokenizer, template, images, start_end_ids, plan.folder.settings["vocab_size"])


def _base_folder(name: str) -> Path:
    """Finds the folder of the model to start from.

    Raises:
        CheckpointError: there is none.
        InvalidRequest: the folder holds an adapter and no model.
    """
    folder = resolve_folder(name)
    if (folder / "adapter_config.json").is_file():
        raise InvalidRequest(
            f"--model_name_or_path {name}: holds a LoRA adapter. Give its base here, and the adapter as "
            "--lora_weight_path with --lora_enable True; or merge the two first with `llava weights merge-lora`."
        )
    return folder


def prepare_data(
    prepared: Prepared,
    records: list[Record],
    model_args: ModelArguments,
    training_args: TrainingArguments,
    *,
    folder: Path,
) -> ConversationDataset:
    """Builds the dataset of a run.

    Args:
        folder: folder of the images.

    Raises:
        DataError: a record has an image, but there is no vision tower.
    """
    model, images = prepared.model, None
    if model.config.has_vision:
        tower = model.get_vision_tower()
        images = ImageLoader(folder, tower.image_processor, model.config, PositionCounter(tower))
    return ConversationDataset(
        records,
        prepared.tokenizer,
        prepared.template,
        prepared.image_tokens,
        images,
        max_length=training_args.model_max_length,
        bos_token_id=prepared.tokenizer.eos_token_id if model_args.legacy_bos else None,
        collects_bad=True,
    )


def image_folder(data_args: DataArguments) -> Path:
    """Returns the folder of the images: `--image_folder`, else the training file's own folder."""
    return Path(data_args.image_folder) if data_args.image_folder else Path(str(data_args.data_path)).parent


def eval_image_folder(data_args: DataArguments) -> Path:
    """Returns the folder of the held-out records' images."""
    if data_args.eval_image_folder or data_args.image_folder:
        return Path(str(data_args.eval_image_folder or data_args.image_folder))
    return Path(str(data_args.eval_data_path)).parent


def _set_padding(tokenizer: PreTrainedTokenizerBase, model: Any, *, add_token: bool) -> None:
    if add_token and tokenizer.pad_token is None:
        num_new = add_special_tokens(tokenizer, [DEFAULT_PAD_TOKEN])  # type: ignore[arg-type]
        tokenizer.pad_token = DEFAULT_PAD_TOKEN
        resize_embeddings(model, len(tokenizer))
        fill_with_mean(model, num_new)
    elif tokenizer.pad_token is None or not add_token:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token


def _add_vision(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    model_args: ModelArguments,
    *,
    as_patches: bool,
    tower_dtype: torch.dtype,
) -> None:
    if as_patches and not model_args.mm_use_im_patch_token:
        raise InvalidRequest(
            f"--mm_use_im_patch_token False does not work with --version {model_args.version}, "
            "which writes images as <im_patch> tokens. Remove the flag."
        )
    config = model.config
    settings = _VisionSettings.choose(model_args, config)
    had_projector = getattr(model.get_model(), "mm_projector", None) is not None
    projector_type = config.mm_projector_type or "linear"
    if had_projector and settings.mm_projector_type != projector_type:
        raise InvalidRequest(
            f"--mm_projector_type {settings.mm_projector_type}: {model_args.model_name_or_path} already has a "
            f"{projector_type} projector. Remove the flag, or start from the plain language model."
        )
    if as_patches:
        _refuse_later_settings(settings, model_args.version)
    if model_args.vision_tower is not None or not had_projector:
        with progress_bars(False):
            model.initialize_vision_modules(
                model_args.vision_tower,
                **asdict(settings),
                pretrain_mm_mlp_adapter=model_args.pretrain_mm_mlp_adapter,
                dtype=tower_dtype,
                projector_dtype=torch.float32,
            )
    else:
        _refuse_ignored(settings, _VisionSettings.choose(ModelArguments(), config))
    model.initialize_vision_tokenizer(
        tokenizer,
        mm_use_im_start_end=model_args.mm_use_im_start_end,
        mm_use_im_patch_token=model_args.mm_use_im_patch_token,
        pretrain_mm_mlp_adapter=model_args.pretrain_mm_mlp_adapter,
    )


@dataclass(frozen=True, slots=True)
class _VisionSettings:
    """How the model sees images; the names are those of the config."""

    mm_vision_select_layer: SelectLayer
    mm_vision_select_feature: str
    mm_projector_type: str
    mm_patch_merge_type: str

    @classmethod
    def choose(cls, model_args: ModelArguments, config: Any) -> _VisionSettings:
        """Takes each setting from its flag, else from the model's config, else the default."""
        return cls(
            _first_set(_layer(model_args.mm_vision_select_layer), config.mm_vision_select_layer, -1),
            _first_set(model_args.mm_vision_select_feature, config.mm_vision_select_feature, "patch"),
            _first_set(model_args.mm_projector_type, config.mm_projector_type, "linear"),
            _first_set(model_args.mm_patch_merge_type, config.mm_patch_merge_type, "flat"),
        )


def _layer(flag: str | None) -> SelectLayer | None:
    try:
        return None if flag is None else read_select_layer(flag, "--mm_vision_select_layer")
    except CheckpointError as error:
        raise InvalidRequest(str(error)) from error


def _first_set(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _refuse_ignored(chosen: _VisionSettings, own: _VisionSettings) -> None:
    """Refuses flags that say something else than the model whose vision tower and projector are used as they are."""
    for name, value in asdict(own).items():
        if getattr(chosen, name) != value:
            raise InvalidRequest(
                f"--{name} {getattr(chosen, name)}: the model has {value}, and its vision tower is used as it is. "
                "Remove the flag, or also set --vision_tower."
            )


def _refuse_later_settings(settings: _VisionSettings, version: str) -> None:
    """Refuses what v0 lacks: a v0 checkpoint is recognised by the config keys of later releases that it lacks."""
    for name, meaning in _V0_SETTINGS.items():
        chosen = getattr(settings, name)
        if chosen != meaning:
            raise InvalidRequest(
                f"--{name} {chosen} does not work with --version {version}, which requires {meaning}. Use --version v1."
            )


def _write_template(config: Any, template: Conversation, version: str) -> None:
    """Records what the model is to be asked in. Captions teach no words, so `plain` leaves the record as it is."""
    if template.sep_style is not SeparatorStyle.PLAIN:
        config.conv_mode = template.name or version
        config.chat_template = template.jinja or None


def _write_settings(
    config: Any,
    template: Conversation,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
) -> None:
    """Writes the settings that a checkpoint needs to be used the way it was trained."""
    if data_args.image_aspect_ratio is not None:
        config.image_aspect_ratio = data_args.image_aspect_ratio
    if data_args.image_grid_pinpoints is not None:
        config.image_grid_pinpoints = _grid(data_args.image_grid_pinpoints)
    _write_template(config, template, model_args.version)
    config.tune_mm_mlp_adapter = model_args.tune_mm_mlp_adapter
    config.freeze_mm_mlp_adapter = training_args.freeze_mm_mlp_adapter
    if template.image_first:
        config.mm_use_im_patch_token = model_args.mm_use_im_patch_token
        config.tokenizer_padding_side = "right"
        config.tokenizer_model_max_length = training_args.model_max_length
        return
    # Readers recognise a v0 checkpoint, whose images are runs of <im_patch>, by the keys that it lacks.
    config.mm_use_im_patch_token = None
    for name, meaning in _V0_SETTINGS.items():
        if getattr(config, name) == meaning:
            setattr(config, name, None)


def _grid(text: str) -> list[list[int]]:
    try:
        grid = json.loads(text)
        return [[int(width), int(height)] for width, height in grid]
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"--image_grid_pinpoints {text}: expected a JSON list of [width, height] pairs in pixels ({error})."
        ) from None

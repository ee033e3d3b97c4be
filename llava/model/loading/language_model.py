"""Loads the language model and the projector of a plan, and prepares them to answer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN
from llava.errors import CheckpointError, InvalidRequest, WeightsNotFinite
from llava.model.loading.quantization import bitsandbytes_config
from llava.model.loading.tokenizer import add_special_tokens
from llava.model.weights.finite import WatchedTensor

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedTokenizerFast

    from llava.model.language_model.causal_lm import LlavaCausalLM
    from llava.model.language_model.config_keys import LlavaConfigKeys
    from llava.model.loading.plan import LoadPlan

_CHECKED_THOUGH_MAPPED_BYTES = 1 << 30
"""Weights that stay in the map of their file are not read by loading them. Up to this size they are read nonetheless,
to find what is not finite; beyond, the first request whose logits are not finite finds it."""
_WORTH_A_PROGRESS_BAR = 1_000_000_000
"""Number of parameters; smaller models are loaded before anyone would see a bar."""


def load_language_model(
    plan: LoadPlan, *, quantization_config: BitsAndBytesConfig | None = None, dtype: torch.dtype | None = None
) -> LlavaCausalLM:
    """Loads language model and projector, without the vision tower.

    Args:
        quantization_config: transformers' settings of bitsandbytes, in place of those of the plan.
        dtype: number format of what is not quantised, in place of that of the plan.

    Raises:
        InvalidRequest: an option needs a library that is not installed.
        WeightsNotFinite: a tensor that was read holds NaN or infinite values.
    """
    from llava.model.language_model.decoders import llava_class

    is_read = not plan.stays_mapped(dtype or plan.dtype) or plan.num_bytes <= _CHECKED_THOUGH_MAPPED_BYTES
    options: dict[str, Any] = {
        "max_memory": plan.max_memory,
        "quantization_config": quantization_config or bitsandbytes_config(plan.quantization),
        "attn_implementation": plan.attn_implementation,
    }
    not_finite: list[WeightsNotFinite] = []
    try:
        with progress_bars(plan.num_parameters >= _WORTH_A_PROGRESS_BAR), _without_load_report():
            model: LlavaCausalLM = llava_class(plan.folder.decoder).from_pretrained(
                None,
                config=plan.folder.config(),
                state_dict={
                    ours: WatchedTensor(plan.checkpoint, theirs, not_finite) if is_read else plan.checkpoint[theirs]
                    for ours, theirs in plan.tensors.items()
                },
                dtype=dtype or plan.dtype,
                device_map=plan.device_map,
                **{name: value for name, value in options.items() if value is not None},
            )
    except ImportError as error:
        raise InvalidRequest(str(error).strip().splitlines()[0]) from error
    if not_finite:
        raise not_finite[0]
    # Training leaves use_cache off in released configs, which makes generation quadratic.
    model.config.use_cache = True
    check_takes_embeddings(model, plan.folder.decoder)
    set_generation_config(model, plan.weights_folder)
    return model


def check_takes_embeddings(model: LlavaCausalLM, decoder: str) -> None:
    """Checks that a decoder that was never tested gives the same for token embeddings as for token ids.

    Raises:
        CheckpointError: it does not, so features of images would not mean the same to it as in training.
    """
    import torch

    from llava.model.language_model.decoders import TESTED

    if decoder in TESTED:
        return
    ids = torch.arange(4, device=model.device)[None]
    with torch.no_grad():
        by_ids = model.model(input_ids=ids, use_cache=False).last_hidden_state
        embeds = model.get_input_embeddings()(ids)
        by_embeddings = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    if not torch.equal(by_ids, by_embeddings):
        raise CheckpointError(
            f"the decoder {decoder!r} treats token embeddings differently from token ids, so it cannot be given images."
        )


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Shows or hides transformers' progress bars inside the block."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.is_progress_bar_enabled()
    _switch_progress_bars(shown)
    try:
        yield
    finally:
        _switch_progress_bars(before)


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Hides transformers' table of tensors inside the block: the plan has compared them all, and a projector that comes
    from another file is not `newly initialized`, as the table would say."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _switch_progress_bars(shown: bool) -> None:
    from transformers.utils import logging as transformers_logging

    if shown:
        transformers_logging.enable_progress_bar()
    else:
        transformers_logging.disable_progress_bar()


def set_generation_config(model: LlavaCausalLM, folder: Path) -> None:
    """Reads the folder's `generation_config.json`, if it has one, without its sampling settings."""
    if (folder / "generation_config.json").is_file():
        from transformers import GenerationConfig

        with warnings.catch_warnings():
            # Released files set temperature without sampling; every call of ours sets both.
            warnings.simplefilter("ignore")
            model.generation_config = GenerationConfig.from_pretrained(folder)
    for name in ("temperature", "top_p", "top_k"):
        setattr(model.generation_config, name, None)
    if model.generation_config.pad_token_id is None:
        ends = model.generation_config.eos_token_id or model.config.eos_token_id
        model.generation_config.pad_token_id = ends[0] if isinstance(ends, list) else ends


def add_image_tokens(model: LlavaCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Gives the tokenizer the image tokens that the config asks for, and the model a row for each token.

    Raises:
        CheckpointError: a v0 checkpoint has trained rows for tokens that its tokenizer lacks.
    """
    from llava.model.llava_arch import fill_with_mean, resize_embeddings

    config = model.config
    if not config.has_vision:
        return
    needed = _needed_tokens(config)
    vocabulary = tokenizer.get_vocab()
    absent = [token for token in needed if token not in vocabulary]
    if absent:
        if len(tokenizer) + len(absent) <= model.model.embed_tokens.weight.shape[0] and config.uses_patch_runs:
            raise CheckpointError(
                f"{folder}: the tokenizer lacks {', '.join(absent)}, which this v0 checkpoint has trained rows for. "
                "Copy added_tokens.json and the tokenizer files of the checkpoint into the folder."
            )
        num_new = add_special_tokens(tokenizer, absent)
        resize_embeddings(model, len(tokenizer))
        fill_with_mean(model, num_new)
    resize_embeddings(model, len(tokenizer))
    if DEFAULT_IMAGE_PATCH_TOKEN in needed:
        config.im_patch_token = tokenizer.convert_tokens_to_ids(DEFAULT_IMAGE_PATCH_TOKEN)


def _needed_tokens(config: LlavaConfigKeys) -> list[str]:
    needed = []
    if config.uses_patch_runs or config.mm_use_im_patch_token:
        needed.append(DEFAULT_IMAGE_PATCH_TOKEN)
    if config.mm_use_im_start_end:
        needed += [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN]
    return needed

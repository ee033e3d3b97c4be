"""From a question and its pictures to what the model is given: prompt text, token ids, pixels.

The generations of LLaVA differ here. v0 puts the picture behind the question, as a run of `<im_patch>` tokens, and its
evaluators leave the assistant's turn to the model; later releases put one marker before the question and open the turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_TOKEN,
    IMAGE_PLACEHOLDER,
)
from llava.conversation import SeparatorStyle, template
from llava.errors import ImageTokenMismatch
from llava.mm_utils import expand_image_tokens, process_images, tokenizer_image_token
from llava.template_choice import default_template_for, era_of

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(frozen=True)
class Prompt:
    """One question in the words of a template."""

    text: str
    """With one `<image>` a picture."""
    stop: str
    """The text that ends an answer."""
    roles: tuple[str, ...]
    """What the model may write before its answer proper, such as `Assistant:`."""


@dataclass(frozen=True)
class ModelInputs:
    """One prompt, ready for `LlavaLlamaForCausalLM.generate`."""

    input_ids: torch.Tensor
    """[1, length], int64."""
    images: list[torch.Tensor]
    """One a picture, [3, H, W] or [tiles, 3, H, W]."""
    image_sizes: list[tuple[int, int]]
    """(width, height) of the originals."""


def build_prompt(
    config: Any, question: str, num_pictures: int, *, conv_mode: str | None = None, name: str = ""
) -> Prompt:
    """Puts a single question into a template.

    Args:
        config: the model's config.
        question: may say itself where the pictures go, by `<image>` or `<image-placeholder>`; otherwise they go where
            the checkpoint's generation expects them.
        conv_mode: name of a template; None takes the checkpoint's own.
        name: the model's name, for checkpoints whose config cannot tell their template.

    Raises:
        ImageTokenMismatch: the question has another number of markers than there are pictures.
        UnknownTemplate: no such `conv_mode`.
    """
    era = era_of(config)
    chosen = template(conv_mode, era=era) if conv_mode else template(default_template_for(config, name=name), era=era)
    conversation = chosen.copy()
    conversation.append_message(conversation.roles[0], place_pictures(question, num_pictures, first=era != "v0"))
    if era != "v0" or conversation.sep_style is SeparatorStyle.HEADED:
        conversation.append_message(conversation.roles[1], None)
    return Prompt(
        text=conversation.get_prompt(),
        stop=conversation.stop_str,
        roles=("###", *(f"{role}:" for role in (conversation.roles[1], "Assistant", "Response"))),
    )


def place_pictures(question: str, num_pictures: int, *, first: bool) -> str:
    """The question with one `<image>` a picture, before it (`first`) or behind it, unless it has them already."""
    question = question.replace(IMAGE_PLACEHOLDER, DEFAULT_IMAGE_TOKEN)
    found = question.count(DEFAULT_IMAGE_TOKEN)
    if found == num_pictures:
        return question
    if found:
        raise ImageTokenMismatch(
            f"the question has {found} {DEFAULT_IMAGE_TOKEN} markers, but {num_pictures} pictures were given. "
            "Write one marker a picture, or none."
        )
    if first:
        return f"{DEFAULT_IMAGE_TOKEN}\n" * num_pictures + question
    return question + f"\n{DEFAULT_IMAGE_TOKEN}" * num_pictures


def encode_prompt(
    text: str, pictures: Sequence[Image.Image], model: Any, tokenizer: Any, image_processor: Any
) -> ModelInputs:
    """Tokenises a prompt and prepares its pictures, as the checkpoint expects both.

    Args:
        text: with one `<image>` a picture.
        pictures: Pillow pictures in reading order.

    Raises:
        ImageTokenMismatch: `text` has another number of markers than there are pictures, or the model sees no pictures.
    """
    if text.count(DEFAULT_IMAGE_TOKEN) != len(pictures):
        raise ImageTokenMismatch(
            f"the prompt has {text.count(DEFAULT_IMAGE_TOKEN)} {DEFAULT_IMAGE_TOKEN} markers "
            f"for {len(pictures)} pictures."
        )
    if pictures and image_processor is None:
        raise ImageTokenMismatch("this model reads text only; it has neither vision tower nor projector.")
    images = list(process_images(pictures, image_processor, model.config)) if pictures else []
    sizes = [picture.size for picture in pictures]
    counts = model.count_features(images, sizes) if images else []
    input_ids = prompt_ids(text, counts, model.config, tokenizer)
    return ModelInputs(input_ids[None].to(model.device), images, sizes)


def prompt_ids(text: str, counts: Sequence[int], config: Any, tokenizer: Any) -> torch.Tensor:
    """Tokenises a prompt with one `<image>` a picture, as the checkpoint's generation expects it.

    Args:
        counts: features of each picture, which only v0 spells out; later generations take any.

    Returns:
        [length], int64: for v0 with a run of `<im_patch>` a picture, otherwise with one `IMAGE_TOKEN_INDEX`.
    """
    import torch

    if config.uses_patch_runs:
        expanded = expand_image_tokens(text, list(counts), bool(config.mm_use_im_start_end))
        return torch.tensor(tokenizer(expanded).input_ids, dtype=torch.long)
    if config.mm_use_im_start_end:
        wrapped = f"{DEFAULT_IM_START_TOKEN}{DEFAULT_IMAGE_TOKEN}{DEFAULT_IM_END_TOKEN}"
        text = text.replace(DEFAULT_IMAGE_TOKEN, wrapped)
    return torch.as_tensor(tokenizer_image_token(text, tokenizer, return_tensors="pt"))

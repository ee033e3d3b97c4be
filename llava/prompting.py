"""From a question and its images to what the model is given: prompt text, token ids, pixels.

The generations of LLaVA differ here. v0 puts the image behind the question, as a run of `<im_patch>` tokens, and its
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
    """With one `<image>` an image."""
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
    """One an image, [3, H, W] or [tiles, 3, H, W]."""
    image_sizes: list[tuple[int, int]]
    """(width, height) of the originals."""


def build_prompt(
    config: Any, question: str, num_images: int, *, conv_mode: str | None = None, name: str = ""
) -> Prompt:
    """Puts a single question into a template.

    Args:
        config: the model's config.
        question: may say itself where the images go, by `<image>` or `<image-placeholder>`; otherwise they go where
            the checkpoint's generation expects them.
        conv_mode: name of a template; None takes the checkpoint's own.
        name: the model's name, for checkpoints whose config cannot tell their template.

    Raises:
        ImageTokenMismatch: the question has another number of markers than there are images.
        UnknownTemplate: no such `conv_mode`.
    """
    era = era_of(config)
    chosen = template(conv_mode, era=era) if conv_mode else template(default_template_for(config, name=name), era=era)
    conversation = chosen.copy()
    conversation.append_message(conversation.roles[0], place_images(question, num_images, first=era != "v0"))
    if era != "v0" or conversation.sep_style is SeparatorStyle.HEADED:
        conversation.append_message(conversation.roles[1], None)
    return Prompt(
        text=conversation.get_prompt(),
        stop=conversation.stop_str,
        roles=("###", *(f"{role}:" for role in (conversation.roles[1], "Assistant", "Response"))),
    )


def place_images(question: str, num_images: int, *, first: bool) -> str:
    """The question with one `<image>` an image, before it (`first`) or behind it, unless it has them already."""
    question = question.replace(IMAGE_PLACEHOLDER, DEFAULT_IMAGE_TOKEN)
    found = question.count(DEFAULT_IMAGE_TOKEN)
    if found == num_images:
        return question
    if found:
        raise ImageTokenMismatch(
            f"the question has {found} {DEFAULT_IMAGE_TOKEN} markers, but {num_images} images were given. "
            "Write one marker an image, or none."
        )
    if first:
        return f"{DEFAULT_IMAGE_TOKEN}\n" * num_images + question
    return question + f"\n{DEFAULT_IMAGE_TOKEN}" * num_images


def encode_prompt(
    text: str, images: Sequence[Image.Image], model: Any, tokenizer: Any, image_processor: Any
) -> ModelInputs:
    """Tokenises a prompt and prepares its images, as the checkpoint expects both.

    Args:
        text: with one `<image>` an image.
        images: Pillow images in reading order.

    Raises:
        ImageTokenMismatch: `text` has another number of markers than there are images, or the model sees no images.
    """
    if text.count(DEFAULT_IMAGE_TOKEN) != len(images):
        raise ImageTokenMismatch(
            f"the prompt has {text.count(DEFAULT_IMAGE_TOKEN)} {DEFAULT_IMAGE_TOKEN} markers for {len(images)} images."
        )
    if images and image_processor is None:
        raise ImageTokenMismatch("this model reads text only; it has neither vision tower nor projector.")
    pixels = list(process_images(images, image_processor, model.config)) if images else []
    sizes = [image.size for image in images]
    counts = model.count_features(pixels, sizes) if pixels else []
    input_ids = prompt_ids(text, counts, model.config, tokenizer)
    return ModelInputs(input_ids[None].to(model.device), pixels, sizes)


def prompt_ids(text: str, counts: Sequence[int], config: Any, tokenizer: Any) -> torch.Tensor:
    """Tokenises a prompt with one `<image>` an image, as the checkpoint's generation expects it.

    Args:
        counts: features of each image, which only v0 spells out; later generations take any.

    Returns:
        [length], int64: for v0 with a run of `<im_patch>` an image, otherwise with one `IMAGE_TOKEN_INDEX`.
    """
    import torch

    if config.uses_patch_runs:
        expanded = expand_image_tokens(text, list(counts), bool(config.mm_use_im_start_end))
        return torch.tensor(tokenizer(expanded).input_ids, dtype=torch.long)
    if config.mm_use_im_start_end:
        wrapped = f"{DEFAULT_IM_START_TOKEN}{DEFAULT_IMAGE_TOKEN}{DEFAULT_IM_END_TOKEN}"
        text = text.replace(DEFAULT_IMAGE_TOKEN, wrapped)
    return torch.as_tensor(tokenizer_image_token(text, tokenizer, return_tensors="pt"))

"""Turns a question and its images into the model's input: prompt text, token ids and pixels.

Releases of LLaVA differ here. v0 puts an image after the question, as a run of `<im_patch>` tokens, and lets the model
write the assistant's role name. Later releases put one marker before the question and write the role name themselves.
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
from llava.conversation import SeparatorStyle
from llava.errors import ImageTokenMismatch
from llava.mm_utils import expand_image_tokens, process_images, tokenizer_image_token
from llava.template_choice import conversation_for, release_of

if TYPE_CHECKING:
    import torch
    from PIL import Image


_LEGACY_ENDING = "\n\n### Response:"
"""What v0's evaluators append to a question in the template `simple_legacy`, whose example has it too."""


@dataclass(frozen=True)
class Prompt:
    """A question in the text of a template."""

    text: str
    """The prompt, with one `<image>` for each image."""
    stop: str
    """Text that ends an answer."""
    roles: tuple[str, ...]
    """Prefixes that the model may write before its answer, such as `Assistant:`."""


@dataclass(frozen=True)
class ModelInputs:
    """Input of `LlavaLlamaForCausalLM.generate` for one prompt."""

    input_ids: torch.Tensor
    """Token ids, [1, length], int64."""
    images: list[torch.Tensor]
    """One tensor per image, [3, H, W] or [tiles, 3, H, W]."""
    image_sizes: list[tuple[int, int]]
    """Original (width, height) of each image."""


def build_prompt(
    config: Any, question: str, num_images: int, *, conv_mode: str | None = None, name: str = ""
) -> Prompt:
    """Puts a single question into a template.

    Args:
        config: the model's config.
        question: the question. `<image>` or `<image-placeholder>` marks where an image goes; without markers, the
            images go where the checkpoint's release expects them.
        num_images: number of images.
        conv_mode: name of a template; None uses the checkpoint's own.
        name: name of the model, used if the config does not determine the template.

    Raises:
        ImageTokenMismatch: the numbers of markers and images differ.
        UnknownTemplate: there is no template called `conv_mode`, or nothing says which one the checkpoint needs.
    """
    release = release_of(config)
    conversation = conversation_for(config, conv_mode, name=name)
    question = place_images(question, num_images, first=release != "v0")
    if conversation.name == "simple_legacy":
        question += _LEGACY_ENDING
    conversation.append_message(conversation.roles[0], question)
    if release != "v0" or conversation.sep_style is SeparatorStyle.HEADED:
        conversation.append_message(conversation.roles[1], None)
    return Prompt(
        text=conversation.get_prompt(),
        stop=conversation.stop_str,
        roles=("###", *(f"{role}:" for role in (conversation.roles[1], "Assistant", "Response"))),
    )


def place_images(question: str, num_images: int, *, first: bool) -> str:
    """Adds one `<image>` for each image to a question that has no markers yet.

    Args:
        question: the question; an `<image-placeholder>` in it becomes `<image>`.
        num_images: number of images.
        first: puts the markers before the question instead of after it.

    Raises:
        ImageTokenMismatch: the question has markers, but not as many as there are images.
    """
    question = question.replace(IMAGE_PLACEHOLDER, DEFAULT_IMAGE_TOKEN)
    found = question.count(DEFAULT_IMAGE_TOKEN)
    if found == num_images:
        return question
    if found:
        raise ImageTokenMismatch(
            f"the question has {found} {DEFAULT_IMAGE_TOKEN} markers, but {num_images} images were given. "
            "Write one marker per image, or none at all."
        )
    if first:
        return f"{DEFAULT_IMAGE_TOKEN}\n" * num_images + question
    return question + f"\n{DEFAULT_IMAGE_TOKEN}" * num_images


def encode_prompt(
    text: str, images: Sequence[Image.Image], model: Any, tokenizer: Any, image_processor: Any
) -> ModelInputs:
    """Tokenises a prompt and preprocesses its images the way the checkpoint expects.

    Args:
        text: the prompt, with one `<image>` for each image.
        images: Pillow images in the order of their markers.

    Raises:
        ImageTokenMismatch: the numbers of markers and images differ, or the model cannot read images.
    """
    if text.count(DEFAULT_IMAGE_TOKEN) != len(images):
        raise ImageTokenMismatch(
            f"the prompt has {text.count(DEFAULT_IMAGE_TOKEN)} {DEFAULT_IMAGE_TOKEN} markers for {len(images)} images."
        )
    if images and image_processor is None:
        raise ImageTokenMismatch("this model reads text only; it has neither vision tower nor projector.")
    pixels = list(process_images(images, image_processor, model.config, num_images=len(images))) if images else []
    sizes = [image.size for image in images]
    counts = model.count_features(pixels, sizes) if pixels else []
    input_ids = prompt_ids(text, counts, model.config, tokenizer)
    return ModelInputs(input_ids[None].to(model.device), pixels, sizes)


def prompt_ids(text: str, counts: Sequence[int], config: Any, tokenizer: Any) -> torch.Tensor:
    """Tokenises a prompt the way the checkpoint's release expects.

    Args:
        text: the prompt, with one `<image>` for each image.
        counts: number of features of each image; only v0 uses it.

    Returns:
        Token ids, [length], int64. Each image is a run of `<im_patch>` in v0, and one `IMAGE_TOKEN_INDEX` later.
    """
    import torch

    if config.uses_patch_runs:
        expanded = expand_image_tokens(text, list(counts), bool(config.mm_use_im_start_end))
        return torch.tensor(tokenizer(expanded).input_ids, dtype=torch.long)
    if config.mm_use_im_start_end:
        wrapped = f"{DEFAULT_IM_START_TOKEN}{DEFAULT_IMAGE_TOKEN}{DEFAULT_IM_END_TOKEN}"
        text = text.replace(DEFAULT_IMAGE_TOKEN, wrapped)
    return torch.as_tensor(tokenizer_image_token(text, tokenizer, return_tensors="pt"))

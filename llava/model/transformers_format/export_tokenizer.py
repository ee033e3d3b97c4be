"""Writes the tokenizer of an export.

The chat template of an export begins with the begin-of-sequence token, as engines expect, so its tokenizer adds none:
ids are the same whether a chat is tokenised in one step (`apply_chat_template(tokenize=True)`) or in two
(`apply_chat_template`, then `processor(text=...)`). The tokenizer's own way is kept for `convert --to original`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.errors import CheckpointError
from llava.model.loading.tokenizer import BEGINS_WITH_KEY, without_first_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava.model.language_model.config_keys import LlavaConfigKeys
    from llava.model.loading.model_folder import ModelFolder
    from llava.model.weights.writer import CheckpointWriter

POST_PROCESSOR_KEY = "post_processor"
"""Key of an export's kept tokenizer settings that holds what its tokenizer.json did with special tokens."""


@dataclass(frozen=True, slots=True)
class ImageToken:
    """How an image stands in the prompts of an export."""

    feature: str
    """The token that stands for one feature of an image."""
    in_prompt: str
    """The text of one image in a prompt."""


def exported_tokenizer(folder: ModelFolder) -> tuple[PreTrainedTokenizerFast, str]:
    """Loads the checkpoint's tokenizer and gives it a token for an image.

    Returns:
        The tokenizer, which adds no token by itself, and the token that every prompt began with ("" for none).
    """
    from tokenizers import AddedToken

    from llava.model.loading.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder.path)
    if folder.release != "v0":
        # Later releases tokenise the texts before and after an image separately, whitespace included.
        token = AddedToken(DEFAULT_IMAGE_TOKEN, lstrip=False, rstrip=False, normalized=False, special=True)
        tokenizer.add_tokens([token], special_tokens=True)
    first = tokenizer("a").input_ids[0]
    begins_with = ""
    if first in tokenizer.all_special_ids:
        # Trainers of v0 wrote "</s>" here, yet every text began with id 1.
        begins_with = str(tokenizer.convert_ids_to_tokens(first))
        tokenizer.bos_token = begins_with
        without_first_token(tokenizer)
    tokenizer.model_max_length = folder.context_length
    return tokenizer, begins_with


def image_tokens(config: LlavaConfigKeys, tokenizer: PreTrainedTokenizerFast) -> ImageToken:
    """Returns how an image stands in prompts.

    Raises:
        CheckpointError: the tokenizer lacks the token.
    """
    vocabulary = tokenizer.get_vocab()
    token = DEFAULT_IMAGE_TOKEN if DEFAULT_IMAGE_TOKEN in vocabulary else DEFAULT_IMAGE_PATCH_TOKEN
    if token not in vocabulary:
        raise CheckpointError(
            f"{tokenizer.name_or_path}: the tokenizer has no {token}. Copy the checkpoint's tokenizer into the folder."
        )
    wrapped = f"{DEFAULT_IM_START_TOKEN}{token}{DEFAULT_IM_END_TOKEN}" if config.mm_use_im_start_end else token
    return ImageToken(token, wrapped)


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """Reads what an export changes in the small files of a tokenizer, to restore it later."""
    from llava.model.weights.folder import TOKENIZER_FILES
    from llava.model.weights.reader import read_model_json

    whole = ("tokenizer.model", "tokenizer.json")
    names = [name for name in TOKENIZER_FILES if name not in whole and (folder / name).is_file()]
    settings: dict[str, Any] = {name: read_model_json(folder / name) for name in names}
    if (folder / "tokenizer.json").is_file():
        settings[POST_PROCESSOR_KEY] = read_model_json(folder / "tokenizer.json").get("post_processor")
    return settings


def write_tokenizer(
    writer: CheckpointWriter, folder: Path, tokenizer: PreTrainedTokenizerFast, begins_with: str
) -> None:
    """Writes the tokenizer of an export, readable by transformers 4 and 5.

    Args:
        folder: the checkpoint, whose `tokenizer.model` is copied.
        begins_with: the token that prompts begin with, which the tokenizer does not add.
    """
    from llava.model.weights.reader import read_model_json

    tokenizer.chat_template = None  # the export has one with images, in the same file
    tokenizer.save_pretrained(writer.folder)
    settings = read_model_json(writer.folder / "tokenizer_config.json")
    left_out = ("backend", "is_local", "local_files_only", "extra_special_tokens", "add_bos_token", "add_eos_token")
    more = settings.get("extra_special_tokens") or []
    settings = {key: value for key, value in settings.items() if key not in left_out}
    settings |= {
        # For any other class name they would build their own tokenizer instead of reading the one that is written.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": more,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if begins_with:
        settings[BEGINS_WITH_KEY] = begins_with
    writer.write_json("tokenizer_config.json", settings)
    if (folder / "tokenizer.model").is_file():
        writer.copy(folder / "tokenizer.model")


def restored_tokenizer_json(content: dict[str, Any], kept: dict[str, Any], num_tokens: int | None) -> dict[str, Any]:
    """Returns the `tokenizer.json` that a checkpoint had before it was exported.

    Args:
        content: the export's.
        kept: what `tokenizer_settings` returned.
        num_tokens: size of the checkpoint's vocabulary; the export's image token came after it. None keeps all tokens.
    """
    content = json.loads(json.dumps(content))
    if num_tokens is not None:
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < num_tokens]
    if POST_PROCESSOR_KEY in kept:
        content["post_processor"] = kept[POST_PROCESSOR_KEY]
    return content

"""Finds the words that a model folder was made for, from its own chat template and its decoder.

Nothing is guessed from the name of the folder here. A template of ours is taken only if it renders what the folder's
own template renders; a template that none of ours equals is kept as it is. Nothing here imports PyTorch or
transformers.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from llava.conversation import Conversation, SeparatorStyle, conv_templates
from llava.errors import TemplateError
from llava.templates.jinja_text import ROLES, render, with_end_token

log = logging.getLogger(__name__)

FOLDER_TEMPLATE: Final = "chat_template"
"""The value of `conv_mode` for a template that the config itself has, as Jinja text under `chat_template`."""

FAMILIES: Final = (
    "llama_3",
    "llava_llama_3",
    "qwen_1_5",
    "chatml",
    "gemma",
    "phi_3",
    "olmo_2",
    "mistral_instruct",
    "zephyr",
)
"""Our templates of other families, in the order in which they are compared."""

_OF_DECODER: Final = {
    "mistral": "mistral_instruct",
    "mixtral": "mistral_instruct",
    "qwen2": "qwen_1_5",
    "qwen2_moe": "qwen_1_5",
    "qwen3": "chatml",
    "qwen3_moe": "chatml",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "phi3": "phi_3",
    "olmo2": "olmo_2",
    "olmo3": "olmo_2",
    "mpt": "mpt",
}
"""Type of a decoder -> the template that its family is used with, for a folder without a chat template."""
_OF_RELEASES: Final = {"llama_3": "llava_llama_3"}
"""The template of a family -> that of LLaVA-NeXT's releases on it."""
_CONTROL: Final = re.compile(r"<\|[\w|]+\|?>|<start_of_turn>|\[INST\]|<｜")
"""Control tokens of chat templates. The templates of LLaVA on Vicuna have none."""
_FILES: Final = ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json")


def template_of_folder(path: Path, decoder: str, *, is_release: bool = False) -> dict[str, str]:
    """Returns the settings that record a folder's template: `conv_mode`, and `chat_template` for one of its own.

    They are empty if neither the folder's chat template nor its decoder says anything, as for LLaVA on Vicuna, whose
    releases are told apart elsewhere (`llava.template_choice`).

    Args:
        decoder: transformers' type of the language model.
        is_release: whether the folder is a LLaVA in the original's format, whose releases trained some families with a
            system text of their own; its tokenizer's chat template is that of the language model before.
    """
    record = _template_of_folder(path, decoder)
    if is_release and record.get("conv_mode") in _OF_RELEASES:
        return {"conv_mode": _OF_RELEASES[record["conv_mode"]]}
    return record


def _template_of_folder(path: Path, decoder: str) -> dict[str, str]:
    text = chat_template_text(path)
    if text is not None and (decoder != "llama" or _CONTROL.search(text)):
        try:
            same = next((name for name in FAMILIES if _renders_as(conv_templates[name], text)), None)
        except TemplateError as error:
            log.warning("%s: %s. Give a template with --conv-mode.", path, error)
            return {}
        return {"conv_mode": same} if same else {"conv_mode": FOLDER_TEMPLATE, "chat_template": text}
    if decoder == "llama" and _has_token(path, "<|start_header_id|>"):
        return {"conv_mode": "llama_3"}
    return {"conv_mode": _OF_DECODER[decoder]} if decoder in _OF_DECODER else {}


def chat_template_text(path: Path) -> str | None:
    """Reads the chat template of a folder, wherever its writer put it; None if it has none."""
    text = _written_template(path)
    return None if text is None else with_end_token(text, _end_token(path))


def _end_token(path: Path) -> str:
    """Returns the token that the tokenizer's settings name as the end of a sequence."""
    try:
        token = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return ""
    return str(token.get("content") if isinstance(token, Mapping) else token or "")


def _written_template(path: Path) -> str | None:
    for name in _FILES:
        file = path / name
        try:
            content = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if name.endswith(".jinja"):
            return content
        try:
            settings = json.loads(content)
        except ValueError:
            continue  # whoever needs the file reports it
        text = settings.get("chat_template") if isinstance(settings, Mapping) else None
        if isinstance(text, list):  # several named ones
            named = {each.get("name"): each.get("template") for each in text if isinstance(each, Mapping)}
            text = named.get("default")
        if isinstance(text, str) and text.strip():
            return text
    return None


def _renders_as(template: Conversation, text: str) -> bool:
    """Returns whether a template of ours writes what a Jinja text writes, from one question to three.

    Raises:
        TemplateError: the Jinja text renders not even one question.
    """
    says = ["Hi.", "Hello!", "What is\nthis?", "A cat.", "Sure?"]
    for count in (1, 3, 5):
        messages = [{"role": ROLES[index % 2], "content": said} for index, said in enumerate(says[:count])]
        try:
            expected = render(text, messages, opens=True)
        except TemplateError:
            if count == 1:
                raise
            return False
        conversation = template.copy()
        for index, said in enumerate(says[:count]):
            conversation.append_message(template.roles[index % 2], said)
        conversation.append_message(template.roles[1], None)
        if conversation.get_prompt() != expected:
            return False
    return True


def _has_token(path: Path, token: str) -> bool:
    for name in ("tokenizer_config.json", "added_tokens.json", "tokenizer.json"):
        try:
            if token in (path / name).read_text(encoding="utf-8"):
                return True
        except (OSError, UnicodeDecodeError):
            continue
    return False


def folder_template(text: str) -> Conversation:
    """Returns an empty conversation in the Jinja text of a folder."""
    empty = Conversation("", ROLES, [], 0, SeparatorStyle.JINJA, "", None, "chat_template", name=FOLDER_TEMPLATE)
    return replace(empty, jinja=text)

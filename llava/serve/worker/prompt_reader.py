"""Reads a flattened prompt back into the turns it was made from, for engines that accept messages instead of prompts.

A prompt does not name its template, but its roles and separators reveal it. A result is accepted only if rendering it
again gives exactly the same prompt; any other prompt becomes a single message of the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, SeparatorStyle, conv_templates, conv_templates_v0
from llava.serve.worker.openai_messages import ChatTurn, Dialogue, ImageSource

_CHATML_SYSTEM: Final = "<|im_start|>system\n"
_MARKER: Final = re.compile(
    rf"\n?(?:<Image>|{DEFAULT_IM_START_TOKEN})?{DEFAULT_IMAGE_TOKEN}(?:</Image>|{DEFAULT_IM_END_TOKEN})?\n?"
)
"""An image marker, together with everything that templates put around one."""


@dataclass(frozen=True)
class Reading:
    """The result of reading a flattened prompt."""

    dialogue: Dialogue
    stop: str | None
    """The text that ends an answer in the prompt's template. The engine's own template has its own."""


def read_prompt(prompt: str, images: list[ImageSource]) -> Reading:
    """Returns the dialogue of a flattened prompt.

    Args:
        images: one image per `<image>` marker of the prompt, in their order.
    """
    for form in _forms():
        conversation = _parse(prompt, form)
        if conversation is not None:
            dialogue = _dialogue(conversation, images)
            if dialogue is not None:
                return Reading(dialogue, form.stop_str)
    return Reading(Dialogue(None, (ChatTurn("user", _parts(prompt, iter(images))),)), None)


@cache
def _forms() -> tuple[Conversation, ...]:
    """Returns the templates without their texts: one for each combination of style, roles and separators."""
    forms: dict[object, Conversation] = {}
    for conversation in (*conv_templates.values(), *conv_templates_v0.values()):
        key = (conversation.sep_style, conversation.roles, conversation.sep, conversation.sep2)
        if conversation.sep_style is not SeparatorStyle.PLAIN:
            forms.setdefault(key, replace(conversation, system="", messages=[], offset=0, image_first=False))
    return tuple(forms.values())


def _parse(prompt: str, form: Conversation) -> Conversation | None:
    """Returns the conversation that renders to `prompt` in this form and ends in an open turn of the assistant."""
    read = _READERS.get(form.sep_style, _read_roles)
    conversation = read(prompt, form)
    if conversation is None or len(conversation.messages) < 2 or conversation.messages[-1] != [form.roles[1], None]:
        return None
    roles = [role for role, _ in conversation.messages]
    if roles != [form.roles[index % 2] for index in range(len(roles))]:
        return None
    return conversation if conversation.get_prompt() == prompt else None


def _read_roles(prompt: str, form: Conversation) -> Conversation | None:
    """Splits at role names that follow a separator, which mark the turns in all styles except [INST]."""
    role_end = "" if form.sep_style is SeparatorStyle.MPT else ":"
    gap = " " if form.sep_style is SeparatorStyle.HEADED else ""
    separators = [form.sep] if gap else [text for text in (form.sep, form.sep2) if text]
    behind = "|".join(f"(?<={re.escape(text)})" for text in separators)
    names = "|".join(re.escape(role + role_end) for role in form.roles)
    head, *pieces = re.split(f"(?:{behind}){gap}({names})", prompt)
    if not pieces:
        return None
    messages: list[list[str | None]] = []
    for marker, body in zip(pieces[0::2], pieces[1::2], strict=True):
        is_open = not body and len(messages) == len(pieces) // 2 - 1
        messages.append([marker.removesuffix(role_end), None if is_open else _body(body, form)])
    return replace(form, system=_system(head, form), messages=messages)


def _body(body: str, form: Conversation) -> str:
    if form.sep_style is SeparatorStyle.HEADED:
        body = body.removesuffix(form.sep).removesuffix(form.sep2 or "")
    else:
        ends = [text for text in (form.sep2, form.sep) if text and body.endswith(text)]
        body = body.removesuffix(ends[0]) if ends else body
    return body if form.sep_style is SeparatorStyle.MPT else body.removeprefix(" ")


def _system(head: str, form: Conversation) -> str:
    if form.sep_style is SeparatorStyle.HEADED:
        return head.removesuffix(form.sep).removesuffix(2 * (form.sep2 or ""))
    return head.removesuffix(form.sep)


def _read_instructions(prompt: str, form: Conversation) -> Conversation | None:
    head, *rounds = prompt.split("[INST] ")
    if head or not rounds:
        return None
    messages: list[list[str | None]] = []
    for each in rounds:
        question, _, between = each.partition(" [/INST]")
        said = between.removeprefix(" ").removesuffix(f" {form.sep2 or ''}{form.sep}") if between else None
        messages += [[form.roles[0], question], [form.roles[1], said]]
    system = re.match(r"<<SYS>>\n(.*?)\n<</SYS>>\n\n", str(messages[0][1]), flags=re.DOTALL)
    if system:
        messages[0][1] = str(messages[0][1])[system.end() :]
    return replace(form, system=system[1] if system else "", messages=messages)


def _read_turns(prompt: str, form: Conversation) -> Conversation | None:
    """Splits where a turn's end and the next role stand together."""
    ends = {form.roles[0]: form.sep + form.roles[1], form.roles[1]: (form.sep2 or form.sep) + form.roles[0]}
    system, rest = "", prompt
    if form.system_role and prompt.startswith(form.system_role):
        system, _, rest = prompt.removeprefix(form.system_role).partition(form.sep + form.roles[0])
        rest = form.roles[0] + rest
    messages: list[list[str | None]] = []
    role = form.roles[0]
    if not rest.startswith(role):
        return None
    rest = rest.removeprefix(role)
    while rest:
        text, found, rest = rest.partition(ends[role])
        if not found:
            return None
        messages.append([role, text])
        role = form.roles[1] if role == form.roles[0] else form.roles[0]
    return replace(form, system=system, messages=[*messages, [role, None]])


_READERS: Final = {SeparatorStyle.LLAMA_2: _read_instructions, SeparatorStyle.TURNS: _read_turns}
"""How prompts are read back, by style; in all other styles roles follow separators."""


def _dialogue(conversation: Conversation, images: list[ImageSource]) -> Dialogue | None:
    """Returns the conversation as turns with their images, or None if an image is outside the user's turns."""
    left = iter(images)
    turns: list[ChatTurn] = []
    for index, (_, text) in enumerate(conversation.messages[:-1]):
        if index % 2 and DEFAULT_IMAGE_TOKEN in text:
            return None
        parts = _parts(text, left) if index % 2 == 0 else (text,)
        if not parts:
            return None
        turns.append(ChatTurn("assistant" if index % 2 else "user", parts))
    system = conversation.system.removeprefix(_CHATML_SYSTEM).strip()
    return None if DEFAULT_IMAGE_TOKEN in system else Dialogue(system or None, tuple(turns))


def _parts(text: str, images: Iterator[ImageSource]) -> tuple[str | ImageSource, ...]:
    parts: list[str | ImageSource] = []
    begin = 0
    for marker in _MARKER.finditer(text):
        parts += [text[begin : marker.start()], next(images)]
        begin = marker.end()
    parts.append(text[begin:])
    return tuple(part for part in parts if isinstance(part, ImageSource) or part.strip())

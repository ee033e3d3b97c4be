"""Turns the messages of a chat request into one prompt in the checkpoint's own template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_PLACEHOLDER
from llava.conversation import Conversation, SeparatorStyle
from llava.errors import ImageTokenMismatch, InvalidRequest, TemplateError
from llava.prompting import Prompt, place_images
from llava.serve.protocol.constants import MAX_IMAGES
from llava.serve.protocol.openai_requests import ChatMessage, ImagePart, RefusalPart, TextPart
from llava.template_choice import conversation_for, release_of

_CHATML_SYSTEM: Final = "<|im_start|>system\n"


@dataclass(frozen=True)
class ImageSource:
    """An image of a turn, not read yet."""

    source: str
    """A data URI or an address, as the client sent it."""
    name: str
    """The name of the image in error messages, such as `messages[0].content[1]`."""


@dataclass(frozen=True)
class ChatTurn:
    """One turn of a dialogue."""

    role: Literal["user", "assistant"]
    parts: tuple[str | ImageSource, ...]
    """Texts and images in reading order; no text is empty."""

    @property
    def images(self) -> list[ImageSource]:
        """The images of the turn, in reading order."""
        return [part for part in self.parts if isinstance(part, ImageSource)]


@dataclass(frozen=True)
class Dialogue:
    """A conversation in which the turns of user and assistant alternate, ending with the user's."""

    system: str | None
    turns: tuple[ChatTurn, ...]

    @property
    def images(self) -> list[ImageSource]:
        """The images of all turns, in reading order."""
        return [image for turn in self.turns for image in turn.images]


def read_dialogue(messages: Sequence[ChatMessage]) -> Dialogue:
    """Checks the order of messages and returns them as a dialogue.

    Raises:
        TemplateError: names a message that is empty or out of order.
        InvalidRequest: there are more than `MAX_IMAGES` images.
    """
    system: list[str] = []
    turns: list[ChatTurn] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.role in ("system", "developer"):
            if turns:
                raise TemplateError(f"{where}: a system message must come before the first question.")
            system.append(_system_text(where, message))
            continue
        expected = ("user", "assistant")[len(turns) % 2]
        if message.role != expected:
            raise TemplateError(
                f"{where}: the role is {message.role!r}, expected {expected!r}: user and assistant must alternate, "
                "starting with the user. Join consecutive messages of one role."
            )
        turns.append(ChatTurn("user" if message.role == "user" else "assistant", _parts(where, message)))
    if not turns:
        raise TemplateError("messages: there is no user message to answer.")
    if turns[-1].role == "assistant":
        raise TemplateError(
            f"messages[{len(messages) - 1}]: the last message is the assistant's; it must be the user's. "
            "Continuing an answer is not supported."
        )
    dialogue = Dialogue("\n".join(system) if system else None, tuple(turns))
    if len(dialogue.images) > MAX_IMAGES:
        raise InvalidRequest(f"the request has {len(dialogue.images)} images; the limit is {MAX_IMAGES}.")
    return dialogue


def _system_text(where: str, message: ChatMessage) -> str:
    texts = []
    for part in message.parts:
        if not isinstance(part, TextPart):
            raise TemplateError(f"{where}: a {message.role} message must contain text only.")
        texts.append(part.text)
    return "\n".join(texts)


def _parts(where: str, message: ChatMessage) -> tuple[str | ImageSource, ...]:
    parts: list[str | ImageSource] = []
    for index, part in enumerate(message.parts):
        if isinstance(part, ImagePart):
            if message.role == "assistant":
                raise TemplateError(f"{where}.content[{index}]: only messages of the user may contain images.")
            parts.append(ImageSource(part.image_url.url, f"{where}.content[{index}]"))
            continue
        text = part.refusal if isinstance(part, RefusalPart) else part.text
        if text:
            parts.append(text)
    if not parts:
        raise TemplateError(f"{where}: the {message.role}'s message is empty.")
    return tuple(parts)


def dialogue_prompt(dialogue: Dialogue, config: Any, *, name: str = "", conv_mode: str | None = None) -> Prompt:
    """Returns the dialogue as a prompt that opens the assistant's turn, with one `<image>` marker per image.

    Images are placed where the checkpoint's training placed them: before the question, or after it for v0. If texts and
    images of a message alternate, their order is kept, because it is significant.

    Args:
        config: the model's config; it decides the template.
        name: the model's name, for checkpoints whose config does not determine their template.
        conv_mode: name of a template; None takes the checkpoint's own.

    Raises:
        UnknownTemplate: there is no template named `conv_mode`.
        ImageTokenMismatch: a text contains image markers of its own.
        TemplateError: the template cannot express the dialogue.
    """
    release = release_of(config)
    conversation = conversation_for(config, conv_mode, name=name)
    if conversation.sep_style is SeparatorStyle.PLAIN:
        raise TemplateError(f"the model cannot chat: its template {conversation.name!r} is plain text without roles.")
    if dialogue.system is not None:
        conversation = conversation.with_system(dialogue.system)
    for turn in dialogue.turns:
        if turn.role == "assistant":
            conversation.append_message(conversation.roles[1], _literal("\n".join(map(str, turn.parts))))
        else:
            conversation.append_message(conversation.roles[0], _user_message(conversation, turn, first=release != "v0"))
    conversation.append_message(conversation.roles[1], None)
    return Prompt(
        text=conversation.get_prompt(),
        stop=conversation.stop_str,
        roles=("###", *(f"{role}:" for role in (conversation.roles[1], "Assistant", "Response"))),
    )


def _user_message(conversation: Conversation, turn: ChatTurn, *, first: bool) -> Any:
    if _interleaved(turn.parts):
        marked = [DEFAULT_IMAGE_TOKEN if isinstance(part, ImageSource) else _literal(part) for part in turn.parts]
        return "\n".join(marked)
    texts = [part for part in turn.parts if isinstance(part, str)]
    text = place_images("\n".join(texts), len(turn.images), first=first)
    # Given a tuple, a template can move the images of a first turn to a place of its own (mmtag).
    return (text, turn.images, None) if turn.images else text


def _interleaved(parts: Sequence[str | ImageSource]) -> bool:
    """Returns whether an image is between two texts, or a text between two images."""
    changes = sum(isinstance(a, str) != isinstance(b, str) for a, b in pairwise(parts))
    return changes > 1


def _literal(text: str) -> str:
    """Returns the text, after checking that it contains no image marker."""
    if DEFAULT_IMAGE_TOKEN in text or IMAGE_PLACEHOLDER in text:
        raise ImageTokenMismatch(
            f"a message's text contains the marker {DEFAULT_IMAGE_TOKEN}, which is reserved here. "
            "Remove it; images are placed automatically."
        )
    return text

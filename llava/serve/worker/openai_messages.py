"""From the messages of a chat request to one prompt in the words of the checkpoint's own template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_PLACEHOLDER
from llava.conversation import Conversation, SeparatorStyle, template
from llava.errors import ImageTokenMismatch, InvalidRequest, TemplateError
from llava.prompting import Prompt, place_images
from llava.serve.protocol.openai_requests import ImagePart, Message, RefusalPart, TextPart
from llava.serve.protocol.original import MAX_IMAGES
from llava.template_choice import default_template_for, release_of

_CHATML_SYSTEM: Final = "<|im_start|>system\n"


@dataclass(frozen=True)
class ImageSource:
    """An image's place in a turn."""

    source: str
    """Data URI or address, as it came."""
    name: str
    """What messages call it, such as `messages[0].content[1]`."""


@dataclass(frozen=True)
class Turn:
    role: Literal["user", "assistant"]
    parts: tuple[str | ImageSource, ...]
    """Texts and images in reading order, no text empty."""

    @property
    def images(self) -> list[ImageSource]:
        return [part for part in self.parts if isinstance(part, ImageSource)]


@dataclass(frozen=True)
class Dialogue:
    """A conversation in which turns alternate and the last is the user's."""

    system: str | None
    turns: tuple[Turn, ...]

    @property
    def images(self) -> list[ImageSource]:
        """In reading order."""
        return [image for turn in self.turns for image in turn.images]


def read_dialogue(messages: Sequence[Message]) -> Dialogue:
    """Checks the order of messages and sorts them into a dialogue.

    Raises:
        TemplateError: roles out of order, an empty turn, a system message after the first turn, an assistant's last
            word; names the message.
        InvalidRequest: more than `MAX_IMAGES` images.
    """
    system: list[str] = []
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.role in ("system", "developer"):
            if turns:
                raise TemplateError(f"{where}: a system message goes before the first question, not after it.")
            system.append(_system_text(where, message))
            continue
        expected = ("user", "assistant")[len(turns) % 2]
        if message.role != expected:
            raise TemplateError(
                f"{where}: the role is {message.role!r}, expected {expected!r}: turns of user and assistant alternate, "
                "beginning with the user. Join neighbouring messages of one role into one."
            )
        turns.append(Turn("user" if message.role == "user" else "assistant", _parts(where, message)))
    if not turns:
        raise TemplateError("messages: there is no user message to answer.")
    if turns[-1].role == "assistant":
        raise TemplateError(
            f"messages[{len(messages) - 1}]: the last message is the assistant's. End with the user's; to continue an "
            "answer is not supported."
        )
    dialogue = Dialogue("\n".join(system) if system else None, tuple(turns))
    if len(dialogue.images) > MAX_IMAGES:
        raise InvalidRequest(f"{len(dialogue.images)} images in one request, the limit is {MAX_IMAGES}.")
    return dialogue


def _system_text(where: str, message: Message) -> str:
    texts = []
    for part in message.parts:
        if not isinstance(part, TextPart):
            raise TemplateError(f"{where}: a {message.role} message holds text only.")
        texts.append(part.text)
    return "\n".join(texts)


def _parts(where: str, message: Message) -> tuple[str | ImageSource, ...]:
    parts: list[str | ImageSource] = []
    for index, part in enumerate(message.parts):
        if isinstance(part, ImagePart):
            if message.role == "assistant":
                raise TemplateError(f"{where}.content[{index}]: only the user's messages may hold images.")
            parts.append(ImageSource(part.image_url.url, f"{where}.content[{index}]"))
            continue
        text = part.refusal if isinstance(part, RefusalPart) else part.text
        if text:
            parts.append(text)
    if not parts:
        raise TemplateError(f"{where}: the {message.role}'s message is empty.")
    return tuple(parts)


def dialogue_prompt(dialogue: Dialogue, config: Any, *, name: str = "", conv_mode: str | None = None) -> Prompt:
    """The dialogue as a prompt that opens the assistant's turn, with one `<image>` an image.

    Images go where the checkpoint's training had them (before the question, or behind it in v0); only where texts
    and images of one message take turns, their order is kept, because then it means something.

    Args:
        config: the model's config; decides the template.
        name: the model's name, for checkpoints whose config cannot tell their template.
        conv_mode: name of a template; None takes the checkpoint's own.

    Raises:
        UnknownTemplate: no such `conv_mode`.
        ImageTokenMismatch: a text says `<image>` itself, and not once an image.
        TemplateError: the template has no place for such a dialogue.
    """
    release = release_of(config)
    conversation = template(conv_mode or default_template_for(config, name=name), release=release).copy()
    if conversation.sep_style is SeparatorStyle.PLAIN:
        raise TemplateError(
            f"the model's template {conversation.name!r} holds one text and no roles; such a checkpoint cannot chat."
        )
    if dialogue.system is not None:
        conversation.system = _system(conversation, dialogue.system)
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


def _system(conversation: Conversation, text: str) -> str:
    return _CHATML_SYSTEM + text if conversation.system.startswith(_CHATML_SYSTEM) else text


def _user_message(conversation: Conversation, turn: Turn, *, first: bool) -> Any:
    if _interleaved(turn.parts):
        marked = [DEFAULT_IMAGE_TOKEN if isinstance(part, ImageSource) else _literal(part) for part in turn.parts]
        return "\n".join(marked)
    texts = [part for part in turn.parts if isinstance(part, str)]
    text = place_images("\n".join(texts), len(turn.images), first=first)
    # A tuple is what lets a template move the images of a first turn to a place of its own (mmtag).
    return (text, turn.images, None) if turn.images else text


def _interleaved(parts: Sequence[str | ImageSource]) -> bool:
    """Whether an image stands between two texts, or a text between two images."""
    changes = sum(isinstance(a, str) != isinstance(b, str) for a, b in pairwise(parts))
    return changes > 1


def _literal(text: str) -> str:
    """A text in which no marker may stand, because its images have places of their own."""
    if DEFAULT_IMAGE_TOKEN in text or IMAGE_PLACEHOLDER in text:
        raise ImageTokenMismatch(
            f"a message's text says {DEFAULT_IMAGE_TOKEN} itself beside images of its own, or in the assistant's "
            "turn. Remove the marker from the text."
        )
    return text

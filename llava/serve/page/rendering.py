"""Conversations as gradio's chatbot shows them, and from what it shows back to the turn that is meant."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from llava.serve.client.conversation import Chat, Turn
from llava.serve.client.images import ChatImage
from llava.serve.client.wording import sentence

_THUMBNAIL_SIDE: Final = 512
_HTML: Final = {
    "type": "component",
    "component": "html",
    "constructor_args": {},
    "props": {"html_template": "${value}", "css_template": "", "js_on_load": "", "visible": True, "buttons": []},
}
"""A message that is gradio's HTML component."""
_CODE: Final = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)
_TAG: Final = re.compile(r"<(?=[a-zA-Z/!?])")
_ESCAPED_TAG: Final = re.compile(r"\\<(?=[a-zA-Z/!?])")


def shown(chat: Chat, *, waiting: bool = False) -> list[dict[str, Any]]:
    """The messages of the chatbot; `waiting` adds the place where the answer will come."""
    messages = [message for _, message in _placed(chat)]
    if waiting:
        messages.append(_html("assistant", '<div class="llava-waiting" role="status">thinking …</div>'))
    return messages


def turn_at(chat: Chat, message_index: int | Sequence[int]) -> int:
    """Which turn a message of the chatbot belongs to.

    Args:
        message_index: as gradio's events say it; of a pair the first number counts.
    """
    index = message_index if isinstance(message_index, int) else message_index[0]
    places = [place for place, _ in _placed(chat)]
    return places[min(max(index, 0), len(places) - 1)]


def literal(text: str) -> str:
    """Markdown in which tags stand as they were written; the chatbot would drop them without a word."""
    return _outside_code(text, lambda part: _TAG.sub(r"\\<", part))


def as_typed(text: str) -> str:
    """What `literal` was given."""
    return _outside_code(text, lambda part: _ESCAPED_TAG.sub("<", part))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts = _CODE.split(text)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def _placed(chat: Chat) -> list[tuple[int, dict[str, Any]]]:
    return [(place, message) for place, turn in enumerate(chat.turns) for message in _messages(turn)]


def _messages(turn: Turn) -> list[dict[str, Any]]:
    messages = []
    if turn.images:
        messages.append(_html(turn.role, "".join(map(_image, turn.images))))
    if turn.text:
        messages.append({"role": turn.role, "content": literal(turn.text)})
    if turn.error:
        messages.append(
            _html(turn.role, f'<div class="llava-error" role="alert">{html.escape(sentence(turn.error))}</div>')
        )
    if turn.figures.finish_reason is not None and (figures := _figures(turn)):
        messages.append(_html(turn.role, f'<div class="llava-figures">{html.escape(figures)}</div>'))
    return messages


def _figures(turn: Turn) -> str:
    """The line under an answer that ended by itself."""
    figures = str(turn.figures)
    if turn.text:
        return figures
    return f"an empty answer · {figures}" if figures else "an empty answer"


def _html(role: str, content: str) -> dict[str, Any]:
    """What is no text of the conversation: neither copied nor edited with it."""
    return {"role": role, "content": {**_HTML, "value": content}}


def _image(image: ChatImage) -> str:
    alt = html.escape(image.name or "image", quote=True)
    return f'<img class="llava-image" src="{_thumbnail(image)}" alt="{alt}" title="{alt}">'


_THUMBNAILS: Final[WeakKeyDictionary[ChatImage, str]] = WeakKeyDictionary()
"""Of the images that some conversation holds: a growing answer is drawn many times a second, with all of them."""


def _thumbnail(image: ChatImage) -> str:
    """A data URI: what is shown needs no file on the server."""
    found = _THUMBNAILS.get(image)
    if found is None:
        found = _THUMBNAILS[image] = _made_smaller(image)
    return found


def _made_smaller(image: ChatImage) -> str:
    thumbnail = image.decode()
    thumbnail.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    file = io.BytesIO()
    thumbnail.save(file, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"

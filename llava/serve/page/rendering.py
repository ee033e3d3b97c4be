"""Renders conversations as messages of gradio's chatbot, and finds the turn that a message belongs to."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from llava.serve.client.conversation import Chat, Turn, as_sentence
from llava.serve.client.images import ChatImage

_THUMBNAIL_SIDE: Final = 512
_HTML: Final = {
    "type": "component",
    "component": "html",
    "constructor_args": {},
    "props": {"html_template": "${value}", "css_template": "", "js_on_load": "", "visible": True, "buttons": []},
}
"""A message that shows gradio's HTML component."""
_CODE: Final = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)
_TAG: Final = re.compile(r"<(?=[a-zA-Z/!?])")
_ESCAPED_TAG: Final = re.compile(r"\\<(?=[a-zA-Z/!?])")


def shown(chat: Chat, *, waiting: bool = False) -> list[dict[str, Any]]:
    """Returns the messages of the chatbot; `waiting` adds a placeholder for the answer."""
    messages = [message for _, message in _placed(chat)]
    if waiting:
        messages.append(_html("assistant", '<div class="llava-waiting" role="status">Thinking …</div>'))
    return messages


def turn_at(chat: Chat, message_index: int | Sequence[int]) -> int:
    """Returns the index of the turn that a message of the chatbot belongs to.

    Args:
        message_index: from a gradio event; of a pair, the first number counts.
    """
    index = message_index if isinstance(message_index, int) else message_index[0]
    places = [place for place, _ in _placed(chat)]
    return places[min(max(index, 0), len(places) - 1)]


def literal(text: str) -> str:
    """Returns Markdown that shows tags as they were written; the chatbot would silently drop them."""
    return _outside_code(text, lambda part: _TAG.sub(r"\\<", part))


def as_typed(text: str) -> str:
    """Returns the text from which `literal` made `text`."""
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
            _html(turn.role, f'<div class="llava-error" role="alert">{html.escape(as_sentence(turn.error))}</div>')
        )
    if turn.statistics.finish_reason is not None and (statistics := _statistics(turn)):
        messages.append(_html(turn.role, f'<div class="llava-statistics">{html.escape(statistics)}</div>'))
    return messages


def _statistics(turn: Turn) -> str:
    """The line under an answer that is complete."""
    statistics = str(turn.statistics)
    if turn.text:
        return statistics
    return f"empty answer · {statistics}" if statistics else "empty answer"


def _html(role: str, content: str) -> dict[str, Any]:
    """A message that is not text of the conversation, and is neither copied nor edited with it."""
    return {"role": role, "content": {**_HTML, "value": content}}


def _image(image: ChatImage) -> str:
    alt = html.escape(image.name or "image", quote=True)
    return f'<img class="llava-image" src="{_thumbnail(image)}" alt="{alt}" title="{alt}">'


_THUMBNAILS: Final[WeakKeyDictionary[ChatImage, str]] = WeakKeyDictionary()
"""Thumbnails of the images in use. A growing answer is drawn many times a second, with all of them."""


def _thumbnail(image: ChatImage) -> str:
    """A data URI, so that no file on the server is needed."""
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

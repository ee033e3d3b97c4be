"""Writes conversations to files and reads them back: as JSON for programs, as Markdown for people; images included.

The JSON holds a chat request's `model` and `messages`, so that any OpenAI client can continue the conversation, and
beside them what only our front ends know. The Markdown embeds its images and is marked so that it can be read back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import Any, Final

from llava.errors import DataError, LlavaError
from llava.serve.client.conversation import AnswerStatistics, Chat, Role, Turn
from llava.serve.client.images import ChatImage, read_image

FORMAT: Final = "llava-chat"
VERSION: Final = 1
MAX_FILE_BYTES: Final = 64 * 1024 * 1024

_HEADING: Final = {"user": "You", "assistant": "LLaVA"}
_IMAGE_LINE: Final = re.compile(r"!\[(?P<name>[^\]\n]*)\]\((?P<uri>data:image/[\w.+-]+;base64,[A-Za-z0-9+/=]+)\)")


# JSON


def to_json(chat: Chat) -> str:
    """Returns the conversation as a JSON document."""
    messages: list[dict[str, Any]] = []
    if chat.system:
        messages.append({"role": "system", "content": chat.system})
    document = {
        "format": FORMAT,
        "version": VERSION,
        "model": next((turn.model for turn in reversed(chat.turns) if turn.model), ""),
        "messages": [*messages, *map(_message, chat.turns)],
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def from_json(text: str, *, name: str = "conversation") -> Chat:
    """Reads what `to_json` wrote, or any JSON object with `messages` of OpenAI's protocol.

    Raises:
        DataError: `text` is neither; names the message at fault.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DataError(f"{name}: not JSON ({error}). Choose a saved conversation.") from error
    except RecursionError as error:
        raise DataError(f"{name}: nested too deeply to be a conversation.") from error
    messages = document.get("messages") if isinstance(document, dict) else None
    if not isinstance(messages, list):
        raise DataError(f"{name}: not a conversation; expected a JSON object with `messages`.")
    if document.get("format") == FORMAT and document.get("version") != VERSION:
        raise DataError(
            f"{name}: format version {document.get('version')!r}; this program reads version {VERSION}. Update LLaVA."
        )
    system: list[str] = []
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        where = f"{name}: messages[{index}]"
        if not isinstance(message, dict):
            raise DataError(f"{where}: expected an object with role and content.")
        role = message.get("role")
        if role in ("system", "developer"):
            system.append(_parts(message.get("content"), where)[0])
        elif role in ("user", "assistant"):
            turns.append(_turn(role, message, where))
        else:
            raise DataError(f"{where}: the role is {str(role)[:40]!r}; expected user, assistant or system.")
    return Chat(_alternating(turns, name), "\n".join(system))


def _message(turn: Turn) -> dict[str, Any]:
    content: Any = turn.text
    if turn.images:
        content = [
            {"type": "image_url", "image_url": {"url": image.as_data_uri()}, "name": image.name}
            for image in turn.images
        ]
        if turn.text:
            content.append({"type": "text", "text": turn.text})
    statistics = {key: value for key, value in dataclasses.asdict(turn.statistics).items() if value is not None}
    extra = {"model": turn.model, "error": turn.error, "figures": statistics}
    return {"role": turn.role, "content": content, **{key: value for key, value in extra.items() if value}}


def _turn(role: Role, message: dict[str, Any], where: str) -> Turn:
    text, images = _parts(message.get("content"), where)
    if images and role == "assistant":
        raise DataError(f"{where}: an answer has images; only questions can have images.")
    statistics = message.get("figures")
    return Turn(
        role,
        text,
        images,
        model=_text(message.get("model")),
        statistics=_statistics(statistics) if isinstance(statistics, dict) else AnswerStatistics(),
        error=_text(message.get("error")),
    )


def _parts(content: Any, where: str) -> tuple[str, tuple[ChatImage, ...]]:
    if isinstance(content, str) or content is None:
        return content or "", ()
    if not isinstance(content, list):
        raise DataError(f"{where}.content: expected text or a list of parts.")
    texts: list[str] = []
    images: list[ChatImage] = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            images.append(_image(part, f"{where}.content[{index}]"))
        else:
            raise DataError(f"{where}.content[{index}]: expected a part of type text or image_url.")
    return "\n".join(texts), tuple(images)


def _image(part: dict[str, Any], where: str) -> ChatImage:
    address = part.get("image_url")
    address = address.get("url") if isinstance(address, dict) else address
    if not isinstance(address, str) or not address.startswith("data:"):
        raise DataError(f"{where}: the image is not in the file; expected a data URI.")
    return _read(address, _text(part.get("name")), where)


def _read(uri: str, name: str, where: str) -> ChatImage:
    try:
        return read_image(uri, name=name)
    except LlavaError as error:
        raise DataError(f"{where}: {error}") from error


def _statistics(values: dict[str, Any]) -> AnswerStatistics:
    def number(key: str, kind: type | tuple[type, ...]) -> Any:
        value = values.get(key)
        fits = isinstance(value, kind) and not isinstance(value, bool)
        return value if fits and float(value) >= 0 else None  # type: ignore[arg-type]

    reason = values.get("finish_reason")
    return AnswerStatistics(
        finish_reason=reason if reason in ("stop", "length") else None,
        prompt_tokens=number("prompt_tokens", int),
        new_tokens=number("new_tokens", int),
        first_s=number("first_s", (int, float)),
        total_s=number("total_s", (int, float)),
    )


def _alternating(turns: list[Turn], name: str) -> tuple[Turn, ...]:
    for index, turn in enumerate(turns):
        expected = ("user", "assistant")[index % 2]
        if turn.role != expected:
            raise DataError(f"{name}: turn {index + 1} has the role {turn.role}; expected {expected}.")
    return tuple(turns)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


# Markdown


def to_markdown(chat: Chat) -> str:
    """Returns the conversation as a Markdown document, with its images inside."""
    mark = _mark(chat)
    blocks = [f"<!-- {FORMAT} {VERSION} {mark} -->"]
    if chat.system:
        blocks.append(f"<!-- {mark} system -->\n## System\n\n{chat.system}")
    for turn in chat.turns:
        heading = turn.model or _HEADING[turn.role]
        images = "".join(f"![{_label(image)}]({image.as_data_uri()})\n\n" for image in turn.images)
        blocks.append(f"<!-- {mark} {turn.role} -->\n## {heading}\n\n{images}<!-- {mark} text -->\n{turn.text}")
        if turn.error:
            blocks.append(f"<!-- {mark} error -->\n> {turn.error}")
    return "\n\n".join([*blocks, f"<!-- {mark} end -->\n"])


def from_markdown(text: str, *, name: str = "conversation") -> Chat:
    """Reads what `to_markdown` wrote; statistics are not in it.

    Raises:
        DataError: `text` was not written by `to_markdown`, or is incomplete.
    """
    text = text.replace("\r\n", "\n")
    head = re.match(rf"\ufeff?<!-- {FORMAT} (\d+) ([0-9a-f]+) -->\n", text)
    if head is None:
        raise DataError(f"{name}: not a saved conversation; its first line is not <!-- {FORMAT} ... -->.")
    mark = head[2]
    if not text.rstrip().endswith(f"<!-- {mark} end -->"):
        raise DataError(f"{name}: the end of the file is missing. Save the conversation again.")
    system = ""
    turns: list[Turn] = []
    for kind, body in re.findall(rf"<!-- {mark} (\w+) -->\n(.*?)(?=\n\n<!-- {mark} )", text, re.DOTALL):
        if kind in ("user", "assistant"):
            heading, _, rest = body.partition("\n\n")
            uris = _IMAGE_LINE.finditer(rest)
            where = f"{name}: turn {len(turns) + 1}"
            images = tuple(_read(found["uri"], found["name"], where) for found in uris)
            model = heading.removeprefix("## ") if kind == "assistant" else ""
            turns.append(Turn(kind, "", images, model="" if model == _HEADING["assistant"] else model))
        elif kind == "system":
            system = body.removeprefix("## System\n\n")
        elif turns and kind == "text":
            turns[-1] = dataclasses.replace(turns[-1], text=body)
        elif turns and kind == "error":
            turns[-1] = dataclasses.replace(turns[-1], error=body.removeprefix("> "))
    return Chat(_alternating(turns, name), system)


def _mark(chat: Chat) -> str:
    """Returns a word that no text of the conversation contains, so that no text can end its own block."""
    text = "\n".join([chat.system, *(part for turn in chat.turns for part in (turn.text, turn.error, turn.model))])
    mark = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]
    while mark in text:
        mark = hashlib.sha256(mark.encode()).hexdigest()[:12]
    return mark


def _label(image: ChatImage) -> str:
    return re.sub(r"[\[\]\n]", " ", image.name) or "image"


# Either


def read_chat(data: bytes, *, name: str = "conversation") -> Chat:
    """Reads a saved conversation, JSON or Markdown.

    Raises:
        DataError: `data` is neither, or is damaged.
    """
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"{name}: {len(data) / 2**20:.0f} MiB; the limit is {MAX_FILE_BYTES >> 20} MiB.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 text (byte {error.start}). Choose a saved conversation.") from error
    return from_markdown(text, name=name) if text.startswith("<!--") else from_json(text, name=name)

"""Saves and loads conversations for `/save`, `/load` and `/export`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from llava.errors import DataError, InvalidRequest
from llava.files.json_files import write_text
from llava.serve.client.conversation import Chat
from llava.serve.client.conversation_file import FORMAT, MAX_FILE_BYTES, read_chat, to_json, to_markdown

_HEAD_BYTES: Final = 4096
_MARKDOWN: Final = (".md", ".markdown")


def save(chat: Chat, path: Path) -> None:
    """Writes a conversation: Markdown if the name ends in .md, else JSON. An older conversation is replaced.

    Raises:
        InvalidRequest: the conversation is empty, or the file exists and is not a conversation.
        OSError: the file cannot be written.
    """
    if not chat.turns:
        raise InvalidRequest("the conversation is empty; there is nothing to save.")
    if path.is_file() and not _is_conversation(path):
        raise InvalidRequest(f"{path}: the file exists and is not a conversation. Choose another name.")
    write_text(path, to_markdown(chat) if path.suffix.lower() in _MARKDOWN else to_json(chat))


def load(path: Path) -> Chat:
    """Reads a conversation that `save` or the web page wrote.

    Raises:
        DataError: the file is not a conversation; says where.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if path.is_file() and size > MAX_FILE_BYTES:  # checked before the file is read
        raise DataError(f"{path}: {size / 2**20:.0f} MiB; the limit is {MAX_FILE_BYTES >> 20} MiB.")
    return read_chat(path.read_bytes(), name=str(path))


def new_name(suffix: str) -> Path:
    """Returns a name in the current folder that contains the time."""
    return Path(time.strftime("llava-chat-%Y%m%d-%H%M%S") + suffix)


def _is_conversation(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return not head.strip() or FORMAT.encode() in head

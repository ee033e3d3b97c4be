"""Writes the page's log, if the operator asks for one: JSON lines with the original's fields, one file per day.

`YYYY-MM-DD-conv.json` holds answers (`chat`), votes on one answer (`upvote`, `downvote`, `flag`) and votes between two
(`leftvote`, `rightvote`, `tievote`, `bothbad_vote`, in FastChat's format); images are stored beside it as
`serve_images/YYYY-MM-DD/MD5.EXTENSION`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from llava.errors import InvalidRequest, LlavaError
from llava.serve.arena.vote_log import LOG_SUFFIX, Vote
from llava.serve.client.conversation import Chat
from llava.serve.client.images import ChatImage

AnswerVote = Literal["upvote", "downvote", "flag"]

_EXTENSIONS: Final = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/gif": "gif"}


class LogFailed(LlavaError):
    """A line or an image of the log could not be written."""

    code = "log_failed"


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose message a line is about."""

    conversation_id: str
    address: str = ""
    """The client's network address; written only if the operator asked for addresses."""


class ConversationLog:
    """A log in one folder; its methods can be called from any thread."""

    def __init__(self, folder: Path, *, with_addresses: bool = False):
        """
        Raises:
            InvalidRequest: the folder cannot be created or written.
        """
        self._folder = folder
        self._with_addresses = with_addresses
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InvalidRequest(
                f"--log-dir {folder}: cannot be written ({error.strerror}). Choose another folder."
            ) from error

    def chat(self, chat: Chat, model: str, sender: Sender, *, start: float, finish: float) -> None:
        """Logs an answer, with the conversation before it.

        Args:
            start: when the question was asked, in seconds since 1970.
            finish: when the answer ended.

        Raises:
            LogFailed: the line or an image cannot be written.
        """
        line = {
            "type": "chat",
            "model": model,
            "start": round(start, 4),
            "finish": round(finish, 4),
            "state": _state(chat, model, sender),
            "images": [self._keep(image) for image in chat.images],
        }
        self._append(line, sender)

    def vote(self, kind: AnswerVote, chat: Chat, model: str, sender: Sender) -> None:
        """Logs a vote on the last answer.

        Raises:
            LogFailed: the line or an image cannot be written.
        """
        self._append({"type": kind, "model": model, "state": _state(chat, model, sender)}, sender)

    def battle(
        self, kind: Vote, chats: Sequence[Chat], models: Sequence[str], sender: Sender, *, anonymous: bool
    ) -> None:
        """Logs a vote between two answers.

        Raises:
            LogFailed: the line or an image cannot be written.
        """
        line = {
            "type": kind.value,
            "models": ["", ""] if anonymous else list(models),
            "states": [_state(chat, model, sender) for chat, model in zip(chats, models, strict=True)],
        }
        self._append(line, sender)

    def _append(self, line: dict[str, Any], sender: Sender) -> None:
        address = sender.address if self._with_addresses else ""
        text = json.dumps({"tstamp": round(time.time(), 4), **line, "ip": address}, ensure_ascii=False) + "\n"
        try:
            with self._lock, (self._folder / f"{_today()}{LOG_SUFFIX}").open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise LogFailed(
                f"the log could not be written ({error.strerror}). Please tell the operator of this page."
            ) from error

    def _keep(self, image: ChatImage) -> str:
        """Stores an image once a day; returns its name in the log."""
        digest = hashlib.md5(image.data, usedforsecurity=False).hexdigest()
        folder = self._folder / "serve_images" / _today()
        file = folder / f"{digest}.{_EXTENSIONS[image.media_type]}"
        try:
            if not file.exists():
                folder.mkdir(parents=True, exist_ok=True)
                part = file.with_suffix(f".part{threading.get_ident()}")
                part.write_bytes(image.data)
                part.replace(file)
        except OSError as error:
            raise LogFailed(
                f"an image could not be stored ({error.strerror}). Please tell the operator of this page."
            ) from error
        return digest


def _state(chat: Chat, model: str, sender: Sender) -> dict[str, Any]:
    """A conversation in the original's format. The separators stay empty: only the worker knows them."""
    return {
        "system": chat.system,
        "roles": ["user", "assistant"],
        "messages": [[turn.role, turn.text] for turn in chat.turns],
        "offset": 0,
        "sep": None,
        "sep2": None,
        "model_name": model,
        "conv_id": sender.conversation_id,
    }


def _today() -> str:
    return datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()

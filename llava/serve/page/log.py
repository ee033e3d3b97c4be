"""The page's log, if the operator wants one: JSON lines with the original's fields, a file a day.

`YYYY-MM-DD-conv.json` holds answers (`chat`), votes on one answer (`upvote`, `downvote`, `flag`) and votes between two
(`leftvote`, `rightvote`, `tievote`, `bothbad_vote`, in FastChat's format); images lie beside it as
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
    """Something that was to be kept could not be written; says why."""

    code = "log_failed"


@dataclass(frozen=True, slots=True)
class Sender:
    """Who a line is about."""

    conversation_id: str
    address: str = ""
    """The client's; written only where the operator asked for addresses."""


class ConversationLog:
    """Appends to the files of one folder, from any thread."""

    def __init__(self, folder: Path, *, with_addresses: bool = False):
        """
        Raises:
            InvalidRequest: the folder cannot be made, or nothing can be written there.
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
                f"--log-dir {folder}: cannot be written ({error.strerror}). Choose another."
            ) from error

    def chat(self, chat: Chat, model: str, sender: Sender, *, start: float, finish: float) -> None:
        """One answer, with the conversation before it.

        Args:
            start: when it was asked for, in seconds since 1970; `finish` when it ended.

        Raises:
            LogFailed: the disk does not take it.
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
        """What somebody thinks of the last answer.

        Raises:
            LogFailed: the disk does not take it.
        """
        self._append({"type": kind, "model": model, "state": _state(chat, model, sender)}, sender)

    def battle(
        self, kind: Vote, chats: Sequence[Chat], models: Sequence[str], sender: Sender, *, anonymous: bool
    ) -> None:
        """Which of two answers somebody likes better.

        Raises:
            LogFailed: the disk does not take it.
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
                f"the log could not be written ({error.strerror}). Tell the operator of this page."
            ) from error

    def _keep(self, image: ChatImage) -> str:
        """Writes an image once a day; returns the name that the log knows it by."""
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
                f"an image could not be kept ({error.strerror}). Tell the operator of this page."
            ) from error
        return digest


def _state(chat: Chat, model: str, sender: Sender) -> dict[str, Any]:
    """A conversation in the original's words; the separators are the worker's business and stay empty."""
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

"""Defines the settings of `llava chat`."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llava.model.loading.arguments import ModelSettings
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.terminal.graphics import Graphics


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What the command line asks for."""

    question: str | None
    """The one question to answer; None reads it from standard input or starts a chat."""
    image_files: tuple[str, ...]
    """Paths, data URIs or URLs of the first question's images; `-` is standard input."""
    output: Literal["json", "plain", "auto"]
    """Form of the answer to one question; `auto` renders Markdown if standard output is a terminal."""
    model: str | None
    """Model folder, hub id or embedded model; with `server`, a name that it serves. None takes the default."""
    server: str | None
    """URL of the server to ask; None loads a model in this process."""
    api_key_file: Path | None
    """File with the server's API key."""
    api_key_variable: str | None
    """Environment variable with the server's API key."""
    loading: ModelSettings
    """How a model is loaded in this process."""
    conv_mode: str | None
    """Prompt template; None takes the checkpoint's own."""
    system: str | None
    """System prompt; None takes the model's own."""
    answer: AnswerSettings
    """How answers are written."""
    conversation: Path | None
    """Saved conversation to continue."""
    history: Path | None
    """File for the lines that are typed; None keeps them in memory only."""
    thumbnails: Graphics | Literal["auto"]
    """How images are shown; `auto` takes the best that the terminal supports."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ChatSettings:
        """
        Raises:
            InvalidRequest: a setting of the answer is out of its bounds.
        """
        answer = AnswerSettings(args.temperature, args.top_p, args.max_new_tokens, args.seed)
        answer.check()
        history = None
        if not args.no_history:
            history = Path(args.history).expanduser() if args.history else default_history()
        return cls(
            question=args.question,
            image_files=tuple(args.image_file),
            output="json" if args.json else "plain" if args.plain else "auto",
            model=args.model_path,
            server=args.server,
            api_key_file=Path(args.api_key_file).expanduser() if args.api_key_file else None,
            api_key_variable=args.api_key_env,
            loading=ModelSettings.from_args(args),
            conv_mode=args.conv_mode,
            system=args.system,
            answer=answer,
            conversation=Path(args.load).expanduser() if args.load else None,
            history=history,
            thumbnails=args.thumbnails,
        )


def default_history() -> Path:
    """Returns the file for the lines that are typed, unless a flag names another one."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "llava" / "chat_history"

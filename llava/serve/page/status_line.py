"""Fills the status line under a chat: an error, a note, or nothing."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from llava.errors import LlavaError
from llava.serve.client.conversation import as_sentence


def error_line(error: LlavaError | str) -> Any:
    """Returns an update that shows an error."""
    return _line("llava-error", "alert", str(error))


def note_line(text: str) -> Any:
    """Returns an update that shows a note."""
    return _line("llava-note", "status", text)


def no_line() -> Any:
    """Returns an update that hides the line."""
    return gr.update(value="", visible=False)


def _line(style: str, role: str, text: str) -> Any:
    return gr.update(value=f'<div class="{style}" role="{role}">{html.escape(as_sentence(text))}</div>', visible=True)

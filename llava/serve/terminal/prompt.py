"""Reads questions and commands from the terminal: prompt_toolkit with our keys, completion and history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, get_common_complete_suffix
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style

_STYLE: Final = Style.from_dict(
    {
        "prompt": "bold ansigreen",
        "images": "ansicyan",
        "bottom-toolbar": "noreverse ansibrightblack",
        "bottom-toolbar.text": "noreverse ansibrightblack",
    }
)


class InputPrompt:
    """Reads messages and commands, one at a time."""

    def __init__(
        self,
        *,
        completer: Completer,
        history: History,
        toolbar: Callable[[], str],
        keyboard: Input | None = None,
        screen: Output | None = None,
    ):
        """
        Args:
            toolbar: returns the line at the bottom of the screen.
            keyboard: the terminal to read from (default: this process's own).
            screen: the terminal to write to (default: this process's own).
        """
        self._session: PromptSession[str] = PromptSession(
            completer=completer,
            complete_while_typing=Condition(self._is_naming_a_command),
            history=history,
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation="  ",
            bottom_toolbar=lambda: [("class:bottom-toolbar.text", toolbar())],
            enable_suspend=True,
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            style=_STYLE,
            mouse_support=False,
            reserve_space_for_menu=6,
            input=keyboard,
            output=screen,
        )

    async def read(self, *, images: int = 0, label: str = "", prefill: str = "") -> str:
        """Returns what was typed.

        Args:
            images: number of images for the next question, shown in the prompt.
            label: text before the prompt.
            prefill: text to edit.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            EOFError: Ctrl-D was pressed on an empty line.
        """
        noun = "image" if images == 1 else "images"
        attached = f"[{images} {noun}] " if images else ""
        message: StyleAndTextTuples = [("class:images", label + attached), ("class:prompt", "> ")]
        return await self._session.prompt_async(message, default=prefill)

    def _is_naming_a_command(self) -> bool:
        text = self._session.default_buffer.text
        return text.startswith("/") and " " not in text


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        state = buffer.complete_state
        if state is not None and state.current_completion is not None:
            buffer.complete_state = None  # accepts the choice of the menu
        elif buffer.document.current_line_before_cursor.endswith("\\") and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("tab")
    def complete(event: KeyPressEvent) -> None:
        _complete(event.current_buffer)

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _complete(buffer: Buffer) -> None:
    """Completes as a shell does: inserts the common part at once, then walks through the menu.

    prompt_toolkit's own completion runs in the background and would lose a Tab that comes meanwhile.
    """
    chosen = buffer.complete_state is not None and buffer.complete_state.current_completion is not None
    offered = [] if chosen else list(buffer.completer.get_completions(buffer.document, CompleteEvent()))
    common = get_common_complete_suffix(buffer.document, offered)
    if len(offered) == 1:
        buffer.apply_completion(offered[0])
    elif common:
        buffer.insert_text(common)
    elif buffer.complete_state is not None:
        buffer.complete_next()
    elif offered:
        buffer.start_completion()

"""Prints the chat on a terminal: growing answers, statistics, notes, errors and images."""

from __future__ import annotations

from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from rich.theme import Theme

from llava.serve.client.conversation import AnswerStatistics, Chat, Turn, as_sentence
from llava.serve.client.images import ChatImage
from llava.serve.terminal.capabilities import cell_size
from llava.serve.terminal.clean_text import printable
from llava.serve.terminal.graphics import Graphics, show
from llava.serve.terminal.markdown import Line, Lines, block_lines, blocks

_LINES_BELOW: Final = 2
"""Lines that the growing part of an answer leaves free: a taller one could not be redrawn."""


def make_console() -> Console:
    """Returns a console for standard output, with colours that are readable on light and dark backgrounds."""
    return Console(highlight=False, theme=Theme({"markdown.code": "bold cyan", "markdown.block_quote": "italic"}))


class AnswerView:
    """Prints an answer block by block, with an empty line between two blocks."""

    def __init__(self, console: Console):
        self._console = console
        self._begun = False

    def print(self, block: str) -> None:
        if lines := self.lines(block):
            self._console.print(Lines(lines))
            self._begun = True

    def lines(self, block: str) -> list[Line]:
        """Returns the block as it would be printed next."""
        lines = block_lines(block, self._console)
        return [[], *lines] if lines and self._begun else lines


class GrowingAnswer:
    """Shows an answer while it is being written. Finished blocks are printed once; only the last block is redrawn."""

    def __init__(self, console: Console):
        self._console = console
        self._answer = AnswerView(console)
        self._text = ""
        self._printed = 0
        """Number of characters that are printed for good."""
        self._live = Live(
            self, console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._waiting = Spinner("dots", Text("Thinking", style="dim"))

    def __enter__(self) -> GrowingAnswer:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()
        for block in blocks(self._rest):
            self._answer.print(block)

    def grow(self, text: str) -> None:
        """Takes the whole answer so far."""
        self._text = printable(text)

    def draw(self) -> None:
        """Draws the answer; to be called several times a second."""
        for block in blocks(self._rest)[:-1]:
            self._printed += len(block)  # before it is printed, because printing redraws the rest
            self._answer.print(block)
        self._live.refresh()

    @property
    def _rest(self) -> str:
        return self._text[self._printed :]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._text:
            yield self._waiting
            return
        # The rest is one block, because `draw` has just printed the others.
        lines = self._answer.lines(self._rest)
        yield Lines(lines[-max(1, console.height - _LINES_BELOW) :])


class View:
    """The terminal of a chat."""

    def __init__(self, console: Console, graphics: Graphics = "none"):
        self.console = console
        self._graphics = graphics

    def answer(self) -> GrowingAnswer:
        """Returns the view of the next answer, a context manager."""
        self.space()
        return GrowingAnswer(self.console)

    def statistics(self, statistics: AnswerStatistics, limit: str = "") -> None:
        """Prints the statistics of an answer, and which limit cut it."""
        if text := str(statistics):
            self.note(text)
        if limit:
            self.console.print(Text(limit, style="yellow"))
        self.space()

    def note(self, text: str) -> None:
        """Prints a note about the chat."""
        self.console.print(Text(printable(text), style="dim"))

    def error(self, message: str, hint: str = "") -> None:
        """Prints an error and what can be done about it."""
        self.console.print(Text(as_sentence(printable(message)), style="red"))
        if hint:
            self.note(hint)
        self.space()

    def space(self) -> None:
        """Prints an empty line, to set off the next prompt."""
        self.console.print()

    def image(self, image: ChatImage) -> None:
        """Prints a thumbnail, if the terminal can show one."""
        if self._graphics != "none":
            show(self.console, image.decode(), self._graphics, cell_size(self.console.file))

    def conversation(self, chat: Chat) -> None:
        """Prints a conversation that was loaded."""
        for turn in chat.turns:
            if turn.role == "user":
                self._question(turn)
            else:
                self._answer(turn)

    def _question(self, turn: Turn) -> None:
        names = "".join(f"[{printable(image.name) or 'image'}] " for image in turn.images)
        self.console.print(Text.assemble(("> ", "bold green"), (names, "cyan"), printable(turn.text)))
        self.space()

    def _answer(self, turn: Turn) -> None:
        answer = AnswerView(self.console)
        for block in blocks(printable(turn.text)):
            answer.print(block)
        if turn.error:
            self.error(turn.error)
        self.statistics(turn.statistics)

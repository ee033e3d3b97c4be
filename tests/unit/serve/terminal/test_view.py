"""What the terminal chat draws: Markdown that grows, text that is made safe, and images in four ways."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pyte
import pytest
from PIL import Image
from rich.console import Console

from llava.errors import ContextTooLong, RemoteError, WorkerLost
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.conversation import AnswerStatistics, Chat, Turn, as_sentence
from llava.serve.terminal.capabilities import choose_graphics, graphics_by_name
from llava.serve.terminal.clean_text import printable
from llava.serve.terminal.graphics import Box, CharacterCell, box_for, half_blocks, iterm, kitty, show, sixel
from llava.serve.terminal.hints import after_cut, after_error, is_at_fault
from llava.serve.terminal.markdown import blocks
from llava.serve.terminal.view import GrowingAnswer, View, make_console
from tests.support.images import noise

ANSWER = """# A *heading*

A **cat** sits
on a `mat` with a <b>tail</b> & [a link](http://example.org/page).

- one

  still one
- two

```python
def cat():

    return 1
```

| a | b |
|---|---|
| 1 | 2 |

3. third
4. fourth

The end"""


class Screen:
    """A terminal of the given size, and rich's console on it."""

    def __init__(self, columns: int = 60, rows: int = 30):
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self._stream = pyte.Stream(self._screen)
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, force_terminal=True, width=columns, height=rows, color_system="truecolor", _environ={}
        )

    def text(self) -> str:
        self._stream.feed(self.file.getvalue().replace("\n", "\r\n"))
        self.file.seek(0)
        self.file.truncate()
        above = ("".join(row[x].data for x in range(self._screen.columns)) for row in self._screen.history.top)
        lines = [*above, *self._screen.display]
        return "\n".join(line.rstrip() for line in lines).rstrip()

    @property
    def cells(self):
        return self._screen.buffer


def whole(answer: str, columns: int = 60) -> str:
    screen = Screen(columns, 200)
    with GrowingAnswer(screen.console) as growing:
        growing.grow(answer)
    return screen.text()


# Markdown


def test_blocks_together_are_the_text_whatever_it_is():
    assert "".join(blocks(ANSWER)) == ANSWER
    assert [block.strip().splitlines()[0] for block in blocks(ANSWER)] == [
        "# A *heading*",
        "A **cat** sits",
        "- one",
        "```python",
        "| a | b |",
        "3. third",
        "The end",
    ]
    assert blocks("") == []
    assert "".join(blocks("\n\n  \n")) in ("", "\n\n  \n")


def test_a_block_that_is_not_the_last_one_never_changes_as_the_text_grows():
    for length in range(0, len(ANSWER), 2):
        finished = blocks(ANSWER[:length])[:-1]
        assert blocks(ANSWER)[: len(finished)] == finished


@pytest.mark.parametrize("step", [3, 7])
@pytest.mark.parametrize("rows", [6, 40])
def test_an_answer_that_grew_looks_like_one_that_came_at_once(step, rows):
    screen = Screen(rows=rows)
    with GrowingAnswer(screen.console) as growing:
        for length in range(0, len(ANSWER) + step, step):
            growing.grow(ANSWER[:length])
            growing.draw()
            screen.text()
    assert screen.text() == whole(ANSWER)


def test_an_answer_is_drawn_without_its_marks_and_with_its_tags():
    text = whole(ANSWER)
    assert "A cat sits on a mat with a <b>tail</b> & a link" in text
    assert "(http://example.org/page)" in " ".join(text.split())
    assert " • one" in text
    assert re.search(r"^ 3 third", text, re.MULTILINE)
    assert "**" not in text
    assert "```" not in text


def test_a_block_taller_than_the_screen_shows_its_end_while_it_grows_and_stands_whole_after():
    code = "```\n" + "\n".join(f"line {number}" for number in range(50)) + "\n```"
    screen = Screen(rows=10)
    with GrowingAnswer(screen.console) as growing:
        growing.grow(code.removesuffix("```"))
        growing.draw()
        visible = screen.text().splitlines()
        assert visible[-1].strip() == "line 49"
        assert len(visible) <= 10
    assert [line.strip() for line in screen.text().splitlines()] == [f"line {number}" for number in range(50)]


def test_before_the_first_word_something_says_that_it_is_thinking():
    screen = Screen()
    with GrowingAnswer(screen.console) as growing:
        growing.draw()
        assert "Thinking" in screen.text()
    assert screen.text() == ""


# Text from elsewhere


def test_what_a_terminal_would_obey_is_taken_out_of_an_answer_and_of_errors():
    evil = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\rE\x08\n\tf\ud800"
    assert printable(evil) == "a]0;titleb[2Jc31mdE\n\tf\ufffd"
    screen = Screen()
    View(screen.console).error("evil \x1b[2J name")
    View(screen.console).note("evil \x1b]0;x\x07 note")
    with View(screen.console).answer() as growing:
        growing.grow("evil \x1b[2J answer")
    assert "\x1b[2J" not in screen.file.getvalue()
    assert "\x1b]0" not in screen.file.getvalue()


def test_text_that_looks_like_richs_own_markup_stands_as_it_is():
    screen = Screen()
    view = View(screen.console)
    view.note("[red]a[/red] :smile:")
    view.error("[bold]b")
    view.conversation(Chat().ask("[c]").answered(Turn("assistant", "[d] :cat:", error="[e] failed")))
    text = screen.text()
    for part in ("[red]a[/red] :smile:", "[bold]b", "[c]", "[d] :cat:", "[e] failed"):
        assert part in text


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("no model is served.", "No model is served."),
        ("cat.jpg: no such file.", "cat.jpg: no such file."),
        ("http://a cannot be reached.", "http://a cannot be reached."),
        ("", ""),
    ],
)
def test_a_sentence_begins_with_a_capital_and_a_name_stays_a_name(message, shown):
    assert as_sentence(message) == shown


def test_a_loaded_conversation_is_shown_whole():
    screen = Screen()
    chat = (
        Chat()
        .ask("What?")
        .answered(Turn("assistant", "A *cat*.", statistics=AnswerStatistics("stop", 50, 4, 0.5, 1.5)))
    )
    View(screen.console).conversation(chat)
    assert screen.text().splitlines() == ["> What?", "", "A cat.", "50 + 4 tokens · 3.0 tokens/s · first after 0.5 s"]


def test_the_colours_of_code_have_no_ground_of_their_own():
    assert make_console().get_style("markdown.code").bgcolor is None


# Limits and remedies


def test_each_limit_is_said_with_what_to_do():
    settings = AnswerSettings(max_tokens=100)
    assert after_cut(AnswerStatistics("stop", 50, 100), settings) == ""
    assert "at 100 tokens. /set max_tokens=200 and then /retry" in after_cut(
        AnswerStatistics("length", 50, 100), settings
    )
    assert "context of 1024 tokens is full. /clear" in after_cut(AnswerStatistics("length", 1000, 24), settings)
    assert "at 100 tokens" in after_cut(AnswerStatistics("length"), settings), "a server that tells no counts"


def test_only_what_can_never_be_answered_is_taken_back():
    assert is_at_fault(ContextTooLong(5000, 1024))
    assert is_at_fault(RemoteError("no", status=422))
    assert not is_at_fault(WorkerLost("gone"))
    assert not is_at_fault(RemoteError("busy", status=429))
    assert not is_at_fault(None)
    assert "/retry" in after_error(WorkerLost("gone"), first=True, taken_back=False)
    assert "/undo" in after_error(ContextTooLong(5000, 1024), first=False, taken_back=False)
    assert "/clear" in after_error(ContextTooLong(5000, 1024), first=False, taken_back=True)
    assert "/clear" not in after_error(ContextTooLong(5000, 1024), first=True, taken_back=True)


# Images


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((4000, 3000), Box(27, 10)),
        ((3000, 4000), Box(15, 10)),
        ((10_000, 100), Box(32, 1)),
        ((1, 10_000), Box(1, 10)),
        ((20, 20), Box(2, 1)),
        ((1, 1), Box(1, 1)),
    ],
)
def test_a_thumbnail_keeps_its_shape_within_its_place(size, box):
    assert box_for(size, CharacterCell(10, 20)) == box


def test_half_blocks_show_the_colours_of_the_image():
    image = Image.new("RGB", (2, 4))
    for x in range(2):
        for y in range(4):
            image.putpixel((x, y), (100 * x, 50 * y, 7))
    screen = Screen()
    screen.console.print(half_blocks(image, Box(2, 2)))
    assert screen.text() == "▀▀\n▀▀"
    for x in range(2):
        for y in range(2):
            cell = screen.cells[y][x]
            assert cell.fg == f"{100 * x:02x}{50 * 2 * y:02x}07"
            assert cell.bg == f"{100 * x:02x}{50 * (2 * y + 1):02x}07"


def test_kitty_gets_a_png_in_pieces_of_the_allowed_length():
    code = kitty(noise(200, 100), Box(20, 5))
    commands = re.findall(r"\x1b_G(.*?);(.*?)\x1b\\", code)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in commands) == code
    assert len(commands) > 1
    assert commands[0][0] == "a=T,f=100,q=2,c=20,r=5,m=1"
    assert {keys for keys, _ in commands[1:-1]} <= {"m=1"}
    assert commands[-1][0] == "m=0"
    assert max(len(data) for _, data in commands) <= 4096
    sent = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in commands))))
    assert np.array_equal(np.asarray(sent), np.asarray(noise(200, 100)))


def test_a_small_image_is_one_kitty_command():
    assert kitty(Image.new("RGB", (4, 4)), Box(1, 1)).count("\x1b_G") == 1


def test_iterm_gets_a_png_with_its_length_and_place():
    found = re.fullmatch(r"\x1b\]1337;File=(.*?):(.*?)\x07", iterm(noise(), Box(6, 3)))
    data = base64.b64decode(found[2])
    assert dict(pair.split("=") for pair in found[1].split(";")) == {
        "inline": "1",
        "size": str(len(data)),
        "width": "6",
        "height": "3",
        "preserveAspectRatio": "1",
    }
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(noise()))


def drawn(code: str) -> np.ndarray:
    """The image that sixels draw, [height, width, 3], by the rules of the VT340's manual."""
    header, body = re.fullmatch(r'\x1bPq"1;1;(\d+;\d+)(.*)\x1b\\', code, re.DOTALL).groups()
    width, height = map(int, header.split(";"))
    pixels, colours = np.zeros((height + 6, width, 3)), {}
    x, top, colour = 0, 0, None
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|([$-])", body):
        index, red, green, blue, count, repeated, single, move = token.groups()
        if index and red:
            colours[index] = (int(red), int(green), int(blue))
        elif index:
            colour = colours[index]
        elif move:
            x, top = 0, top + 6 * (move == "-")
        else:
            for _ in range(int(count or 1)):
                bits = ord(repeated or single) - 63
                for y in range(6):
                    if bits >> y & 1:
                        pixels[top + y, x] = colour
                x += 1  # noqa: SIM113
    return pixels[:height]


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (40, 12)])
def test_sixels_draw_the_image(size):
    image = noise(*size)
    expected = np.asarray(image.quantize(255).convert("RGB"), dtype=int) * 100 // 255
    assert np.array_equal(drawn(sixel(image)), expected)


def test_sixels_of_one_colour_are_short():
    assert len(sixel(Image.new("RGB", (320, 200), (9, 9, 9)))) < 700


@pytest.mark.parametrize(
    ("environment", "graphics"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "xterm-256color"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"KITTY_WINDOW_ID": "1", "TMUX": "/tmp/x", "TERM": "tmux-256color"}, None),
        ({"KITTY_WINDOW_ID": "1", "TERM": "screen-256color"}, None),
        ({"TERM": "xterm-256color"}, None),
    ],
)
def test_a_terminal_that_says_who_it_is_gets_its_own_images(environment, graphics):
    assert graphics_by_name(environment) == graphics


@pytest.mark.parametrize(
    "console",
    [
        Console(file=io.StringIO()),
        Console(file=io.StringIO(), force_terminal=True, color_system=None),
        Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"}),
    ],
    ids=["no terminal", "no colours", "dumb"],
)
def test_where_no_image_can_be_shown_none_is(console):
    assert choose_graphics(console, {"TERM": "xterm-kitty"}) == "none"
    show(console, noise(), "none")
    assert console.file.getvalue() == ""


@pytest.mark.parametrize("graphics", ["kitty", "iterm", "sixel"])
def test_no_more_pixels_travel_than_are_shown(graphics):
    screen = Screen()
    show(screen.console, noise(2000, 1000), graphics, CharacterCell(10, 20))
    assert 100 < len(screen.file.getvalue()) < 500_000

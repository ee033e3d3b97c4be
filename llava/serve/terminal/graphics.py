"""Draws images in a terminal: by the protocols of kitty and iTerm2, as sixels, or as half blocks of text."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from rich.color import Color
from rich.console import Console
from rich.segment import Segment
from rich.style import Style

from llava.serve.terminal.markdown import Lines

if TYPE_CHECKING:
    from PIL import Image

Graphics = Literal["kitty", "iterm", "sixel", "blocks", "none"]

MAX_COLUMNS: Final = 32
MAX_ROWS: Final = 10
_CHUNK: Final = 4096
"""Maximum length of a kitty command, in characters."""
_SIXEL_COLOURS: Final = 255
_SIXEL_CHARACTERS: Final = bytes(63 + min(value, 63) for value in range(256))
_REPEATS: Final = re.compile(r"(.)\1{3,}")


@dataclass(frozen=True, slots=True)
class CharacterCell:
    """Size of a character, in pixels."""

    width: int = 10
    height: int = 20


@dataclass(frozen=True, slots=True)
class Box:
    """Size of an image, in characters."""

    columns: int
    rows: int


def box_for(size: tuple[int, int], cell: CharacterCell, *, columns: int = MAX_COLUMNS, rows: int = MAX_ROWS) -> Box:
    """Returns the largest box of the image's shape that fits, but never one larger than the image itself.

    Args:
        size: width and height of the image, in pixels.
        columns: maximum width of the box.
        rows: maximum height of the box.
    """
    width, height = size
    scale = min(columns * cell.width / width, rows * cell.height / height, 1)
    return Box(
        min(columns, max(1, round(width * scale / cell.width))), min(rows, max(1, round(height * scale / cell.height)))
    )


def show(console: Console, image: Image.Image, graphics: Graphics, cell: CharacterCell | None = None) -> None:
    """Prints a thumbnail of an RGB image."""
    if graphics == "none":
        return
    cell = cell or CharacterCell()
    box = box_for(image.size, cell, columns=min(MAX_COLUMNS, console.width))
    if graphics == "blocks":
        console.print(half_blocks(image, box))
        return
    pixels = (box.columns * cell.width, box.rows * cell.height)
    if graphics == "kitty":
        code = kitty(_smaller(image, pixels), box)
    elif graphics == "iterm":
        code = iterm(_smaller(image, pixels), box)
    else:
        code = sixel(image.resize(pixels))
    console.file.write(code + "\n")
    console.file.flush()


def kitty(image: Image.Image, box: Box) -> str:
    """Returns commands of kitty's graphics protocol: PNG data in pieces, without a reply from the terminal."""
    data = base64.b64encode(_png(image)).decode("ascii")
    pieces = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    first = f"a=T,f=100,q=2,c={box.columns},r={box.rows},"
    return "".join(
        f"\x1b_G{first if index == 0 else ''}m={int(index < len(pieces) - 1)};{piece}\x1b\\"
        for index, piece in enumerate(pieces)
    )


def iterm(image: Image.Image, box: Box) -> str:
    """Returns iTerm2's command for an inline image."""
    data = _png(image)
    options = f"inline=1;size={len(data)};width={box.columns};height={box.rows};preserveAspectRatio=1"
    return f"\x1b]1337;File={options}:{base64.b64encode(data).decode('ascii')}\x07"


def sixel(image: Image.Image) -> str:
    """Returns DEC sixels: bands of six rows, each with one line of characters per colour."""
    quantized = image.quantize(_SIXEL_COLOURS)
    palette = quantized.getpalette() or []
    width, height = quantized.size
    pixels = quantized.tobytes()
    used = sorted(set(pixels))
    parts = [f'\x1bPq"1;1;{width};{height}']
    parts += [
        f"#{index};2;" + ";".join(str(v * 100 // 255) for v in palette[3 * index : 3 * index + 3]) for index in used
    ]
    for top in range(0, height, 6):
        lines: dict[int, bytearray] = {}
        for y in range(top, min(top + 6, height)):
            for x, colour in enumerate(pixels[y * width : (y + 1) * width]):
                lines.setdefault(colour, bytearray(width))[x] |= 1 << (y - top)
        parts.append("$".join(f"#{colour}{_sixel_characters(line)}" for colour, line in lines.items()) + "-")
    return "".join(parts) + "\x1b\\"


def half_blocks(image: Image.Image, box: Box) -> Lines:
    """Returns text in which each character shows two pixels, one above the other."""
    small = image.resize((box.columns, 2 * box.rows))
    return Lines(
        [
            Segment("▀", Style(color=_colour(small, x, 2 * y), bgcolor=_colour(small, x, 2 * y + 1)))
            for x in range(box.columns)
        ]
        for y in range(box.rows)
    )


def _colour(image: Image.Image, x: int, y: int) -> Color:
    red, green, blue = image.getpixel((x, y))  # type: ignore[misc]
    return Color.from_rgb(red, green, blue)


def _sixel_characters(line: bytearray) -> str:
    """One character per column; repeats are written as `!count`."""
    characters = line.rstrip(b"\0").translate(_SIXEL_CHARACTERS).decode("ascii")
    return _REPEATS.sub(lambda found: f"!{len(found[0])}{found[1]}", characters)


def _smaller(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image with no more pixels than are shown: the terminal may be at the end of a slow connection."""
    small = image.copy()
    small.thumbnail(size)
    return small


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()

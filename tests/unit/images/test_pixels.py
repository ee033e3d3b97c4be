"""Images of unusual depths and layouts have the colours that viewers show, or are refused; none is read wrong."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from PIL import Image

from llava.errors import UnsupportedImage
from llava.images.loading import load_image
from tests.unit.images.test_loading import chunk, png

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def grey(*levels: int) -> list[tuple[int, int, int]]:
    return [(level, level, level) for level in levels]


def row_of(data: bytes | Image.Image) -> list[Any]:
    image = load_image(data)
    return [image.getpixel((x, 0)) for x in range(image.width)]


def transparent(*levels: int) -> bytes:
    """The chunk that names a PNG's transparent colour."""
    return chunk(b"tRNS", struct.pack(f">{len(levels)}H", *levels))


def tiff(values: str, *samples: float, width: int, photometric: int = 1, **fields: int) -> bytes:
    """An uncompressed TIFF file of one row, written out by hand.

    Args:
        values: how a sample is packed, as `struct` names it.
        fields: the number of `channels`, the sample `form` (1 unsigned, 2 signed, 3 float), the `planes` (1 joined,
            2 apart), and the `bits` if they are not those of `values`.
    """
    body = struct.pack(f"<{len(samples)}{values}", *samples)
    channels, planes = fields.get("channels", 1), fields.get("planes", 1)
    bits = [fields.get("bits", 8 * struct.calcsize("<" + values))] * channels
    parts = channels if planes == 2 else 1
    start = 8 + 2 + 12 * 11 + 4
    lists = {258: bits, 273: [0] * parts, 279: [len(body) // parts] * parts, 339: [fields.get("form", 1)] * channels}
    long = [tag for tag, numbers in lists.items() if len(numbers) > 1]
    first = start + sum(4 * len(lists[tag]) for tag in long)
    lists[273] = [first + index * (len(body) // parts) for index in range(parts)]
    single = {256: width, 257: 1, 259: 1, 262: photometric, 277: channels, 278: 1, 284: planes}
    entries, outside = b"", b""
    for tag, numbers in sorted((lists | {tag: [number] for tag, number in single.items()}).items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, outside = struct.pack("<I", start + len(outside)), outside + packed
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + packed
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 11) + entries + b"\0\0\0\0" + outside + body


@pytest.mark.parametrize(
    ("depth", "row", "level", "expected"),
    [
        (1, [0b01_000000], 1, grey(0, 255)),  # the white pixel is transparent, and is white
        (1, [0b01_000000], 0, [WHITE, WHITE]),
        (2, [0b00_01_10_11], 1, [BLACK, WHITE, *grey(170, 255)]),
        (4, [0x01, 0x2F], 2, [*grey(0, 17), WHITE, WHITE]),
        (8, [0, 1, 2, 3], 2, [*grey(0, 1), WHITE, *grey(3)]),
        (16, [0x12, 0x34, 0x56, 0x78], 0x1234, [WHITE, *grey(86)]),
    ],
)
def test_the_transparent_grey_of_a_png_is_white_at_every_depth(depth, row, level, expected):
    data = png(len(expected), 1, depth=depth, data=b"\0" + bytes(row), extra=transparent(level))
    assert row_of(data) == expected


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_a_png_is_white_at_every_depth(depth):
    other = (40, 50, 60) if depth == 8 else (40_000, 50_000, 60_000)
    packed = struct.pack(f">6{'B' if depth == 8 else 'H'}", 1, 2, 3, *other)
    data = png(2, 1, colour=2, depth=depth, data=b"\0" + packed, extra=transparent(1, 2, 3))
    assert row_of(data)[0] == WHITE
    assert row_of(data)[1] != WHITE


def test_every_transparent_colour_of_a_palette_is_blended_with_white():
    palette = chunk(b"PLTE", bytes([0, 0, 0, 255, 0, 0, 0, 255, 0])) + chunk(b"tRNS", bytes([0, 255, 128]))
    data = png(4, 1, colour=3, depth=4, data=b"\0\x01\x20", extra=palette)
    assert row_of(data) == [WHITE, (255, 0, 0), (127, 255, 127), WHITE]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff("H", 0, 257, 32_768, 65_535, width=4), grey(0, 1, 128, 255)),
        (tiff("H", 0, 257, 32_768, 65_535, width=4, photometric=0), grey(255, 254, 127, 0)),
        (tiff("B", 0x00, 0x08, 0x00, 0xFF, 0xFF, 0xFF, width=4, bits=12), grey(0, 128, 255, 255)),
        (tiff("I", 0, 2**31, 2**32 - 1, width=3), grey(0, 128, 255)),
        (tiff("i", -100, -60, 100, width=3, form=2), grey(0, 51, 255)),
        (tiff("f", 0, 0.25, 1, width=3, form=3), grey(0, 64, 255)),
        (tiff("H", 65_535, 0, 32_768, 0, 65_535, 0, width=2, channels=3, photometric=2), [(255, 0, 128), (0, 255, 0)]),
        (tiff("B", 255, 0, 0, 255, 128, 0, width=2, channels=3, photometric=2, planes=2), [(255, 0, 128), (0, 255, 0)]),
    ],
    ids=["16 bits", "white is zero", "12 bits", "32 bits", "signed", "float", "16-bit colour", "channels apart"],
)
def test_a_tiff_has_its_colours_at_every_depth(data, expected):
    assert row_of(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        tiff("H", 65_535, 0, 0, 65_535, 32_768, 0, width=2, channels=3, photometric=2, planes=2),
        tiff("d", 0, 0.5, 1, width=3, form=3),
        tiff("f", 0, 0.5, 1, width=1, channels=3, photometric=2, form=3),
    ],
    ids=["16-bit channels apart", "64-bit float", "float colour"],
)
def test_a_tiff_whose_layout_would_be_misread_is_refused_by_name(data):
    with pytest.raises(UnsupportedImage, match="this TIFF image has a layout of pixels that cannot be read"):
        load_image(data)

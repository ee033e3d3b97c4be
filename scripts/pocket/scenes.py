"""Generates scenes: one to four coloured shapes or characters on a 3x3 layout, with the facts about them.

A scene depends only on its seed. It is drawn at four times its size and reduced with the filter of the image processor,
so a large and a small rendering give the tower the same pixels.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 66
OVERSAMPLE = 4
CELL = SIDE // 3

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "heart", "ring")
DIGITS = tuple("0123456789")
# I and O are left out because they look like 1 and 0 in this font.
LETTERS = tuple("ABCDEFGHJKLMNPQRSTUVWXYZ")
KINDS = SHAPES + DIGITS + LETTERS

COLOURS = {
    "red": (215, 30, 35),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 50),
    "green": (30, 150, 60),
    "blue": (40, 80, 215),
    "purple": (140, 50, 170),
    "white": (250, 250, 250),
    "black": (12, 12, 12),
}
BACKGROUNDS = {
    "white": (245, 245, 245),
    "black": (16, 16, 16),
    "grey": (128, 128, 128),
    "blue": (105, 150, 235),
    "green": (110, 190, 125),
    "yellow": (245, 228, 120),
    "red": (222, 95, 95),
    "purple": (180, 125, 205),
}
# Pairs of a background and an object colour that is hard to see on it.
HARD_TO_SEE = {("yellow", "white"), ("white", "yellow")}
SIZES = ("small", "large")
POSITIONS = (
    ("top left", "top middle", "top right"),
    ("middle left", "centre", "middle right"),
    ("bottom left", "bottom middle", "bottom right"),
)
MOST_OBJECTS = 4


@dataclass(frozen=True)
class Object:
    """An object in a scene."""

    kind: str
    """Name of a shape, a digit, or a capital letter."""
    colour: str
    size: str
    row: int
    column: int
    x: float
    """Centre from the left, in pixels of the 66x66 image."""
    y: float
    """Centre from the top, in the same pixels."""
    radius: float
    """Half of the side, in the same pixels."""
    angle: float
    """Rotation in degrees."""

    @property
    def position(self) -> str:
        """Name of the position, from POSITIONS."""
        return POSITIONS[self.row][self.column]

    @property
    def cell(self) -> int:
        """Cell in reading order, 0 to 8."""
        return 3 * self.row + self.column

    @property
    def family(self) -> str:
        """`shape`, `number` or `letter`."""
        if self.kind in SHAPES:
            return "shape"
        return "number" if self.kind in DIGITS else "letter"


@dataclass(frozen=True)
class Scene:
    """What an image shows; `objects` are in reading order."""

    seed: int
    background: str
    objects: tuple[Object, ...]

    @property
    def key(self) -> tuple:
        """A key that is equal for scenes with the same objects in the same places."""
        return (self.background, *((o.kind, o.colour, o.size, o.row, o.column) for o in self.objects))


def sample(seed: int) -> Scene:
    """Generates the scene of a seed."""
    rng = random.Random(seed)
    background = rng.choice(list(BACKGROUNDS))
    colours = [name for name in COLOURS if name != background and (background, name) not in HARD_TO_SEE]
    count = rng.choices(range(1, MOST_OBJECTS + 1), weights=(25, 30, 25, 20))[0]
    cells = sorted(rng.sample(range(9), count))
    objects: list[Object] = []
    for cell in cells:
        kind = rng.choice(rng.choice((SHAPES, SHAPES, DIGITS, LETTERS)))
        colour = rng.choice(colours)
        # Repeated kinds and colours make questions about numbers worthwhile.
        if objects and rng.random() < 0.25:
            kind = rng.choice(objects).kind
        if objects and rng.random() < 0.25:
            colour = rng.choice(objects).colour
        objects.append(_place(rng, kind, colour, *divmod(cell, 3)))
    return Scene(seed, background, tuple(objects))


def _place(rng: random.Random, kind: str, colour: str, row: int, column: int) -> Object:
    size = rng.choice(SIZES)
    radius = (5.6 if size == "small" else 9.3) + rng.uniform(-0.4, 0.4)
    slack = max(0.5, CELL / 2 - radius - 0.8)
    jitter = min(slack, 2.5)
    return Object(
        kind=kind,
        colour=colour,
        size=size,
        row=row,
        column=column,
        x=(column + 0.5) * CELL + rng.uniform(-jitter, jitter),
        y=(row + 0.5) * CELL + rng.uniform(-jitter, jitter),
        radius=radius,
        angle=rng.uniform(-8, 8),
    )


def render(scene: Scene, side: int = SIDE) -> Image.Image:
    """Draws a scene as an RGB image of `side` x `side` pixels: 66, or 264 for people."""
    rng = np.random.default_rng(scene.seed)
    large = SIDE * OVERSAMPLE
    canvas = Image.new("RGB", (large, large), _vary(BACKGROUNDS[scene.background], rng))
    for item in scene.objects:
        radius = round(item.radius * OVERSAMPLE)
        mask = _mask(item.kind, radius).rotate(item.angle, Image.Resampling.BILINEAR)
        corner = (round(item.x * OVERSAMPLE) - mask.width // 2, round(item.y * OVERSAMPLE) - mask.height // 2)
        canvas.paste(_vary(COLOURS[item.colour], rng), corner, mask)
    picture = canvas if side == large else canvas.resize((side, side), Image.Resampling.BICUBIC)
    return _texture(picture, rng)


def _vary(colour: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(part + rng.integers(-10, 11), 0, 255)) for part in colour)
    return red, green, blue


def _texture(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Adds a soft gradient to a quarter of the images and grain to another quarter."""
    choice = rng.random()
    if choice < 0.5:
        return picture
    side = picture.width
    if choice < 0.75:
        slope = np.linspace(-1, 1, side, dtype=np.float32)
        across, down = rng.uniform(-12, 12, size=2)
        change = (across * slope[None, :] + down * slope[:, None])[..., None]
    else:
        grain = rng.normal(0, rng.uniform(2, 9), size=(SIDE, SIDE, 1)).astype(np.float32)
        change = np.repeat(np.repeat(grain, side // SIDE, axis=0), side // SIDE, axis=1)
    pixels = np.asarray(picture, dtype=np.float32) + change
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@lru_cache(maxsize=4096)
def _mask(kind: str, radius: int) -> Image.Image:
    """Returns the object's outline as an 8-bit mask, with a margin for a small rotation."""
    half = radius * 5 // 4
    mask = Image.new("L", (2 * half, 2 * half), 0)
    draw = ImageDraw.Draw(mask)
    if kind in SHAPES:
        _draw_shape(draw, kind, half, radius)
    else:
        # The height of capitals and digits is about 0.72 of the font size.
        font = ImageFont.load_default(size=2 * radius / 0.78)
        draw.text((half, half), kind, fill=255, font=font, anchor="mm", stroke_width=max(1, radius // 14))
    return mask


def _draw_shape(draw: ImageDraw.ImageDraw, kind: str, centre: int, r: int) -> None:
    box = (centre - r, centre - r, centre + r, centre + r)
    if kind == "circle":
        draw.ellipse(box, fill=255)
    elif kind == "ring":
        draw.ellipse(box, fill=255)
        inner = round(r * 0.55)
        draw.ellipse((centre - inner, centre - inner, centre + inner, centre + inner), fill=0)
    elif kind == "square":
        s = round(r * 0.86)
        draw.rectangle((centre - s, centre - s, centre + s, centre + s), fill=255)
    elif kind == "cross":
        w = round(r * 0.34)
        draw.rectangle((centre - w, centre - r, centre + w, centre + r), fill=255)
        draw.rectangle((centre - r, centre - w, centre + r, centre + w), fill=255)
    else:
        draw.polygon([(centre + r * x, centre + r * y) for x, y in _outline(kind)], fill=255)


def _outline(kind: str) -> list[tuple[float, float]]:
    """Returns the corners in a unit square around 0, with y pointing down."""
    if kind == "triangle":
        return [(0, -1), (1, 0.85), (-1, 0.85)]
    if kind == "diamond":
        return [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]
    if kind == "star":
        turns = [(math.pi * i / 5, 1.0 if i % 2 == 0 else 0.42) for i in range(10)]
        return [(length * math.sin(turn), -length * math.cos(turn)) for turn, length in turns]
    steps = [2 * math.pi * i / 48 for i in range(48)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in steps
    ]

"""Generated scenes: one to four coloured shapes or characters on a 3x3 layout, with the facts about them.

A scene follows from its seed alone. The picture is drawn at four times the size and reduced with the filter that the
image processor uses, so that a large rendering and a small one give the tower the same pixels.
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
# I and O are left out: in this font they cannot be told from 1 and 0.
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
# An object in this colour would hardly show on this background.
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
    """One thing in a scene."""

    kind: str
    """A shape's name, a digit, or a capital letter."""
    colour: str
    size: str
    row: int
    column: int
    x: float
    """Centre, in pixels of the 66x66 picture."""
    y: float
    radius: float
    """Half of its side, in the same pixels."""
    angle: float
    """Degrees."""

    @property
    def position(self) -> str:
        """One of the nine names in POSITIONS."""
        return POSITIONS[self.row][self.column]

    @property
    def cell(self) -> int:
        """Its place in reading order, 0 to 8."""
        return 3 * self.row + self.column

    @property
    def family(self) -> str:
        """`shape`, `number` or `letter`."""
        if self.kind in SHAPES:
            return "shape"
        return "number" if self.kind in DIGITS else "letter"


@dataclass(frozen=True)
class Scene:
    """What a picture shows; `objects` in reading order."""

    seed: int
    background: str
    objects: tuple[Object, ...]

    @property
    def key(self) -> tuple:
        """Equal for two scenes that show the same things at the same places."""
        return (self.background, *((o.kind, o.colour, o.size, o.row, o.column) for o in self.objects))


def sample(seed: int) -> Scene:
    """The scene of a seed."""
    rng = random.Random(seed)
    background = rng.choice(list(BACKGROUNDS))
    colours = [name for name in COLOURS if name != background and (background, name) not in HARD_TO_SEE]
    count = rng.choices(range(1, MOST_OBJECTS + 1), weights=(25, 30, 25, 20))[0]
    cells = sorted(rng.sample(range(9), count))
    objects: list[Object] = []
    for cell in cells:
        kind = rng.choice(rng.choice((SHAPES, SHAPES, DIGITS, LETTERS)))
        colour = rng.choice(colours)
        # Repeats make counting worth asking about.
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
    """Draws a scene as an RGB picture of `side` x `side` pixels (66, or 264 for people to look at)."""
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
    """Half of the pictures stay plain, a quarter get a soft shade across, a quarter get grain."""
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
    """The object's outline as an 8-bit mask, with room around it for a small turn."""
    half = radius * 5 // 4
    mask = Image.new("L", (2 * half, 2 * half), 0)
    draw = ImageDraw.Draw(mask)
    if kind in SHAPES:
        _draw_shape(draw, kind, half, radius)
    else:
        # Capitals and digits are about 0.72 of the font's size high.
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
    """Corners in a unit square around 0, y down."""
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

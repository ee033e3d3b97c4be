"""Turns a decoded image of any mode into upright 8-bit RGB, as viewers show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llava.images.colour import in_srgb, lab_in_srgb, profile_of
from llava.images.headers import orientation

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_TURNS: Final = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_PNG_SCALES: Final = {"L;2": 85, "L;4": 17}
"""Pillow's names of grey pixels of 2 and 4 bits in a PNG -> the factor that makes 8 bits of them."""
_BITS_TAG, _PHOTOMETRIC_TAG, _SAMPLE_FORMAT_TAG = 258, 262, 339
_WHITE_IS_ZERO: Final = 0


def correct_transparency(image: Image.Image) -> None:
    """Scales the transparent colour of a PNG like its pixels, which Pillow omits for 2, 4 and 48 bits a pixel.

    Call it before the pixels are decoded; later it does nothing.
    """
    tile, colour = getattr(image, "tile", None), image.info.get("transparency")
    raw_mode = tile[0][3] if tile and image.format == "PNG" else None
    if raw_mode in _PNG_SCALES and isinstance(colour, int):
        image.info["transparency"] = colour * _PNG_SCALES[raw_mode]
    elif raw_mode == "RGB;16B" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns any Pillow image as upright 8-bit RGB in sRGB, with transparency on white.

    An upright, opaque RGB image without a profile, or with that of sRGB, is returned itself.
    """
    profile, turn = profile_of(image), _TURNS.get(orientation(image))
    original = image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _in_8_bits(image)
    if turn is not None:
        image = _turned(image, turn)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_white(image, profile, original)
    if image.mode == "LAB":
        return lab_in_srgb(image)
    if profile is not None:
        if image.mode not in ("RGB", "L", "CMYK"):
            image = image.convert("L" if image.mode == "1" else "RGB")
        image = in_srgb(image, profile, in_place=image is not original)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image, profile: bytes | None, original: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode in ("La", "RGBa"):  # Pillow converts these to RGBA only in two steps.
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode == "L" and profile is not None:  # with a transparent level
        image = image.convert("LA")
    if image.mode == "LA" and profile is not None:
        image, profile = in_srgb(image, profile), None
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    if profile is not None:
        layer = in_srgb(layer, profile, in_place=layer is not original)
    canvas = Image.new("RGB", layer.size, (255, 255, 255))
    canvas.paste(layer, mask=layer.getchannel("A"))
    return canvas


def _turned(image: Image.Image, turn: str) -> Image.Image:
    from PIL import Image

    turned = image.transpose(Image.Transpose[turn])
    # The copy would keep its orientation tag and be rotated again by the next reader.
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return turned


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Scales grey values to 8 bits; a transparent level becomes an alpha channel."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    bits, sample_format = tags.get(_BITS_TAG), tags.get(_SAMPLE_FORMAT_TAG, (1,))
    if image.mode == "I" and bits == (32,) and sample_format == (1,):
        values = values.view(np.uint32)  # Pillow has no mode for these.
    grey = _scaled(values, 4095 if bits == (12,) else 65_535)
    if tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:  # Pillow inverts such images only up to 8 bits.
        grey = 255 - grey
    level = image.info.get("transparency")
    if level is None:
        return Image.fromarray(grey)
    alpha = np.where(values == level, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def _scaled(values: np.ndarray[Any, Any], full: int) -> np.ndarray[Any, Any]:
    """Scales whole numbers within 0 to `full` by that range, others by the range that they appear to use.

    Args:
        values: grey values, [height, width].
        full: the value of white, unless there is a larger one.

    Returns:
        [height, width], uint8.
    """
    import numpy as np

    whole = values.dtype.kind in "iu"
    known = values if whole else values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if whole and low >= 0 and high <= full:
        table = np.rint(np.arange(full + 1) * (255 / full)).astype(np.uint8)
        scaled: np.ndarray[Any, Any] = table[values]
        return scaled
    if not whole and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    scale = 255 / (high - low) if high > low else 0.0
    grey = np.empty(values.shape, np.uint8)
    for row, line in enumerate(values):  # row by row: a float copy of all would be large
        grey[row] = np.clip(np.rint(np.nan_to_num((line.astype(np.float64) - low) * scale)), 0, 255)
    return grey

"""Converts images with an embedded colour profile to sRGB, the colours that viewers show and towers were trained on.

ICC profiles are followed for RGB, grey, CMYK and L*a*b* images, with the rendering intent that the profile names. A
profile that is sRGB changes nothing, bit for bit, and a broken one is ignored, as viewers do. The gamma and primaries
that a PNG may state without a profile are ignored.
"""

from __future__ import annotations

import io
import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

_MODES: Final = {"RGB": "RGB", "RGBA": "RGB", "RGBX": "RGB", "L": "GRAY", "LA": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}
"""Mode of an image -> colour space of the profiles that fit it."""


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Returns an image in sRGB, of mode RGB or, with transparency, RGBA.

    Args:
        image: an image of 8 bits a channel; a palette must have been looked up.
        profile: the image's ICC profile; None leaves all but L*a*b* as it is.

    Returns:
        The same object if nothing changes.
    """
    from PIL import ImageCms

    if image.mode not in _MODES or (profile is None and image.mode != "LAB"):
        return image
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    base = image.convert({"RGBA": "RGB", "LA": "L", "RGBX": "RGB"}.get(image.mode, image.mode))
    try:
        transform = _transform(profile, base.mode)
        converted = None if transform is None else ImageCms.applyTransform(base, transform)
    except (ImageCms.PyCMSError, ValueError, TypeError, OSError) as error:
        log.debug("a colour profile was ignored: %s", error)
        return image
    if converted is None:
        return image
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


@lru_cache(maxsize=16)  # the images of a camera share their profile
def _transform(profile: bytes | None, mode: str) -> Any:
    """Returns the transform from a profile to sRGB; None if it changes nothing or is for other images."""
    from PIL import ImageCms

    target = ImageCms.createProfile("sRGB")
    if profile is None:
        return ImageCms.buildTransform(ImageCms.createProfile("LAB"), target, mode, "RGB")
    source = ImageCms.getOpenProfile(io.BytesIO(profile))
    space = str(source.profile.xcolor_space).strip()
    if space != _MODES[mode]:
        log.debug("a colour profile for %s was ignored in an image of mode %s", space, mode)
        return None
    intent = ImageCms.Intent(ImageCms.getDefaultIntent(source))
    transform = ImageCms.buildTransform(source, target, mode, "RGB", renderingIntent=intent)
    return None if mode == "RGB" and _keeps_colours(transform) else transform


def _keeps_colours(transform: Any) -> bool:
    """Returns whether a transform from RGB is that of sRGB, up to rounding."""
    from PIL import Image, ImageCms

    levels = (0, 51, 102, 153, 204, 255)
    colours = bytes(value for red in levels for green in levels for blue in levels for value in (red, green, blue))
    before = Image.frombytes("RGB", (len(levels) ** 3, 1), colours)
    changed: Any = ImageCms.applyTransform(before, transform)
    after = changed.tobytes()
    return all(abs(one - other) <= 1 for one, other in zip(colours, after, strict=True))

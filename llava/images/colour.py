"""Converts images with an embedded colour profile to sRGB, the colours that viewers show and towers were trained on.

ICC profiles are followed for RGB, grey and CMYK images, with the rendering intent that the profile names; L*a*b* images
need none. A profile that is sRGB changes nothing, bit for bit, and one that is broken or for other images is ignored,
as viewers do. Colours stated without a profile (gAMA, cHRM and cICP of PNG, nclx of AVIF and HEIC) are ignored: most of
them say sRGB, and many of the others are wrong.
"""

from __future__ import annotations

import io
import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

_BASES: Final = {
    **dict.fromkeys(("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "YCbCr"), "RGB"),
    **dict.fromkeys(("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"), "L"),
    "CMYK": "CMYK",
}
"""Mode of an image -> mode of its colours alone."""
_SPACES: Final = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
"""Mode of colours -> colour space that an ICC profile for them names."""
_MAX_PROFILE_BYTES: Final = 8 * 1024 * 1024
"""The largest profiles of printing presses have 4 MB."""
_ABSOLUTE: Final = 3
_RELATIVE: Final = 1


def profile_of(image: Image.Image) -> bytes | None:
    """Returns the ICC profile to convert an image from; None if it has none, or one that changes nothing."""
    profile = image.info.get("icc_profile")
    base = _BASES.get(image.mode)
    if not isinstance(profile, bytes) or not profile or base is None:
        return None
    if len(profile) > _MAX_PROFILE_BYTES:
        log.debug("a colour profile of %d bytes was ignored", len(profile))
        return None
    return profile if _transform(profile, base) is not None else None


def in_srgb(image: Image.Image, profile: bytes, *, in_place: bool = False) -> Image.Image:
    """Returns an image in sRGB, of mode RGB or, with transparency, RGBA.

    Args:
        image: an image of mode RGB, RGBA, L, LA or CMYK.
        profile: what `profile_of` returned for this image, or for the one that it was made from.
        in_place: lets RGB and RGBA images be changed themselves, which takes no memory.
    """
    from PIL import ImageCms

    if image.mode == "LA":
        converted = in_srgb(image.getchannel("L"), profile)
        converted.putalpha(image.getchannel("A"))
        return converted
    transform = _transform(profile, image.mode)
    if in_place and image.mode in ("RGB", "RGBA"):
        ImageCms.applyTransform(image, transform, inPlace=True)
        return image
    return _applied(image, transform)


def lab_in_srgb(image: Image.Image) -> Image.Image:
    """Returns an image of mode LAB in RGB."""
    from PIL import ImageCms

    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return _applied(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))


def _applied(image: Image.Image, transform: Any) -> Image.Image:
    from PIL import ImageCms

    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None, "only a transform in place returns nothing"
    return converted


@lru_cache(maxsize=16)  # the images of a camera share their profile
def _transform(profile: bytes, mode: str) -> Any:
    """Returns the transform from a profile to sRGB; None if it changes nothing, is broken, or is for other images."""
    from PIL import ImageCms

    base = mode.removesuffix("A")
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        space = str(source.profile.xcolor_space).strip()
        if space != _SPACES[base]:
            log.debug("a colour profile for %s was ignored in an image of mode %s", space, mode)
            return None
        intent = ImageCms.getDefaultIntent(source)
        # The absolute intent would show the tint of the paper, which no viewer does.
        intent = ImageCms.Intent(_RELATIVE if intent == _ABSOLUTE else intent)
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(
            source, target, mode, "RGBA" if mode == "RGBA" else "RGB", renderingIntent=intent
        )
    except (ImageCms.PyCMSError, ValueError, TypeError, OSError) as error:
        log.debug("a colour profile was ignored: %s", error)
        return None
    return None if _keeps_colours(transform, mode) else transform


def _keeps_colours(transform: Any, mode: str) -> bool:
    """Returns whether a transform is that of sRGB, up to rounding."""
    from PIL import Image

    if mode == "CMYK":
        return False
    if mode == "L":
        before = Image.frombytes("L", (256, 1), bytes(range(256)))
    else:
        levels = (0, 51, 102, 153, 204, 255)
        colours = bytes(value for red in levels for green in levels for blue in levels for value in (red, green, blue))
        before = Image.frombytes("RGB", (len(levels) ** 3, 1), colours).convert(mode)
    changed = _applied(before, transform)
    pairs = zip(before.convert(changed.mode).tobytes(), changed.tobytes(), strict=True)
    return all(abs(one - other) <= 1 for one, other in pairs)

"""Colours are those that a viewer shows, whatever the file's profile."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from llava.images.loading import load_image
from tests.support.images import encoded, heic, noise

D50 = (0.9642, 1.0, 0.8249)
# Primaries adapted to D50 and the transfer curve that the ICC registers for Display P3.
P3_PRIMARIES = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def fixed(number: float) -> bytes:
    return struct.pack(">i", round(number * 65536))


def profile(space: str = "RGB ", name: str = "Display P3") -> bytes:
    """A matrix profile, written out by hand."""
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + b"".join(map(fixed, SRGB_CURVE))
    tags = {b"wtpt": b"XYZ " + bytes(4) + b"".join(map(fixed, D50))}
    if space == "GRAY":
        tags[b"kTRC"] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(1.0 * 256)) + bytes(2)  # linear
    else:
        for tag, primary in zip((b"rXYZ", b"gXYZ", b"bXYZ"), P3_PRIMARIES, strict=True):
            tags[tag] = b"XYZ " + bytes(4) + b"".join(map(fixed, primary))
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    text = name.encode("utf-16-be")
    tags[b"desc"] = b"mluc" + bytes(4) + struct.pack(">IIHHII", 1, 12, 0x656E, 0x5553, len(text), 28) + text
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = start + len(data)
    head = struct.pack(">I4sI", size, b"lcms", 0x04000000) + b"mntr" + space.encode() + b"XYZ " + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + b"".join(map(fixed, D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WebP", "JPEG", "AVIF"])
def test_display_p3_is_converted_whatever_the_format(kind):
    """Red of sRGB is (234, 51, 35) in Display P3; viewers show (255, 0, 0)."""
    options = {"WebP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "AVIF": {"quality": 100}}
    data = encoded(Image.new("RGB", (16, 16), (234, 51, 35)), kind, icc_profile=profile(), **options.get(kind, {}))
    red = np.asarray(load_image(data)).astype(int)
    assert np.abs(red - (255, 0, 0)).max() <= (2 if kind in ("JPEG", "AVIF") else 1)


def test_a_transparent_image_is_converted_before_it_is_drawn_on_white():
    image = Image.new("RGBA", (8, 8), (234, 51, 35, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    loaded = load_image(encoded(image, icc_profile=profile()))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert np.abs(np.subtract(loaded.getpixel((4, 4)), (255, 0, 0))).max() <= 1


def test_a_palette_is_converted_too():
    image = Image.new("RGB", (8, 8), (234, 51, 35)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert (
        np.abs(np.subtract(load_image(encoded(image, icc_profile=profile())).getpixel((1, 1)), (255, 0, 0))).max() <= 1
    )


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_linear_grey_becomes_brighter(mode):
    grey = Image.new("L", (8, 8), 55)
    image = grey if mode == "L" else Image.merge("LA", (grey, Image.new("L", (8, 8), 255)))
    loaded = load_image(encoded(image, icc_profile=profile("GRAY")))
    red, green, blue = loaded.getpixel((2, 2))
    assert red == green == blue
    assert 127 <= red <= 130, "0.2157 of the light is 128 of 255 in sRGB"


def test_lab_is_read():
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = ImageCms.applyTransform(Image.new("RGB", (8, 8), (200, 30, 60)), lab)
    loaded = load_image(encoded(image, "TIFF"))
    assert np.abs(np.subtract(loaded.getpixel((3, 3)), (200, 30, 60))).max() <= 3


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_profile_of_srgb_or_none_changes_no_bit(mode):
    image = noise().convert(mode)
    plain = load_image(encoded(image))
    with_profile = load_image(encoded(image, icc_profile=SRGB)) if mode != "L" else load_image(encoded(image))
    assert plain.tobytes() == with_profile.tobytes() == load_image(image.copy()).tobytes()


@pytest.mark.parametrize("broken", [b"x" * 200, profile()[:150], profile("GRAY"), b"\0" * 4096])
def test_a_broken_profile_or_one_for_other_images_is_ignored(broken):
    assert load_image(encoded(noise(), icc_profile=broken)).tobytes() == noise().tobytes()


def test_transparent_pixels_of_16_bit_grey_are_white():
    values = np.full((4, 4), 20_000, np.uint16)
    values[0, 0] = 1234
    data = encoded(Image.fromarray(values), transparency=None)
    chunk = b"tRNS" + struct.pack(">H", 1234)
    insert = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    place = data.index(b"IDAT") - 4
    loaded = load_image(data[:place] + insert + data[place:])
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((1, 1)) == (78, 78, 78)


def test_transparent_pixels_of_16_bit_colour_are_white():
    row = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0, 0)

    def part(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    head = part(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    transparent = part(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    data = b"\x89PNG\r\n\x1a\n" + head + transparent + part(b"IDAT", zlib.compress(row)) + part(b"IEND", b"")
    loaded = load_image(data)
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((1, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_the_formats_of_phones_are_read(kind):
    data = heic(quadrants()) if kind == "HEIF" else encoded(quadrants(), "AVIF", quality=100)
    for source in (data, f"data:application/octet-stream;base64,{b64encode(data).decode()}"):
        loaded = load_image(source)
        assert loaded.mode == "RGB"
        assert loaded.size == (64, 32)
        difference = np.abs(np.asarray(loaded).astype(int) - np.asarray(quadrants()))
        assert np.median(difference) <= 2


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_a_photograph_taken_sideways_stands_upright_once(kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    if kind == "HEIF":
        photo = pillow_heif.from_pillow(quadrants())
        photo.save(tmp_path / "photo.heic", quality=100, exif=exif.tobytes())
        data = (tmp_path / "photo.heic").read_bytes()
    else:
        data = encoded(quadrants(), "AVIF", quality=100, exif=exif.tobytes())
    loaded = load_image(data)
    assert loaded.size == (32, 64)
    corner = loaded.getpixel((28, 4))  # the red corner, turned from top left to top right
    assert np.abs(np.subtract(corner, (255, 0, 0))).max() <= 30


def quadrants() -> Image.Image:
    """Red top left, white elsewhere."""
    image = Image.new("RGB", (64, 32), "white")
    image.paste((255, 0, 0), (0, 0, 32, 16))
    return image

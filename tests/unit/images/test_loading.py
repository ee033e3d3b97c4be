"""Hostile and odd images through `load_image`: the right image, or a typed error that says what is wrong."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import struct
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from llava.errors import (
    ImageDamaged,
    ImageError,
    ImageFetchFailed,
    ImageTooLarge,
    ImageUnreadable,
    ImageUrlRefused,
    InvalidRequest,
    UnsupportedImage,
)
from llava.mm_utils import ImageLimits, load_image, load_image_from_base64
from tests.support.images import encoded, heic, noise

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def chunk(tag: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))


def png(width: int, height: int, *, colour: int = 0, depth: int = 8, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG file whose header says what it likes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def tiled_tiff(width: int, height: int, tile: int) -> bytes:
    """A TIFF file whose one tile is larger than its image."""
    body = zlib.compress(bytes(tile * tile))
    fields = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 0, 325: len(body)}
    start = 8 + 2 + 12 * len(fields) + 4
    fields[324] = start
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + entries + b"\0\0\0\0" + body


def quadrants() -> Image.Image:
    """Red top left, white elsewhere: shows which way is up."""
    image = Image.new("RGB", (32, 16), WHITE)
    image.paste(RED, (0, 0, 16, 8))
    return image


# Right images


def test_an_ordinary_image_keeps_its_exact_values(tmp_path):
    image = noise()
    path = tmp_path / "a.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes())):
        assert load_image(source).tobytes() == image.tobytes()
    with path.open("rb") as file:
        assert load_image(file).tobytes() == image.tobytes()
    assert load_image(image) is image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "MPO"])
def test_every_usual_format_is_read(kind):
    loaded = load_image(encoded(Image.new("RGB", (20, 10), (200, 30, 30)), kind))
    assert (loaded.mode, loaded.size) == ("RGB", (20, 10))
    assert np.abs(np.subtract(loaded.getpixel((10, 5)), (200, 30, 30))).max() <= 4


def test_a_tiff_of_tiles_is_read():
    assert load_image(tiled_tiff(10, 10, 16)).size == (10, 10)


def test_a_lying_extension_does_not_matter(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(noise()))
    assert load_image(path).tobytes() == noise().tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (20_000, 1), (1, 20_000)])
def test_extreme_shapes_are_read_as_they_are(size):
    assert load_image(encoded(Image.new("RGB", size, RED))).size == size


def test_16_bit_grey_is_scaled_and_not_clipped():
    ramp = np.array([[0, 257, 32_768, 65_535]], dtype=np.uint16)
    loaded = load_image(encoded(Image.fromarray(ramp)))
    assert [loaded.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0.5, 1]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], dtype=np.float32), [0, 100, 255]),
        (np.array([[-10, 0, 10]], dtype=np.float32), [0, 128, 255]),
        (np.array([[float("nan"), 0, 1]], dtype=np.float32), [0, 0, 255]),
        (np.array([[7, 7, 7]], dtype=np.float32), [7, 7, 7]),
        (np.array([[0, 32_768, 65_535]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 500_000, 1_000_000]], dtype=np.int32), [0, 128, 255]),
    ],
)
def test_grey_of_other_ranges_is_scaled_to_what_it_means(values, expected):
    loaded = load_image(encoded(Image.fromarray(values), "TIFF"))
    assert [loaded.getpixel((x, 0))[0] for x in range(3)] == expected


def test_16_bit_colour_is_read():
    row = b"\0" + struct.pack(">6H", 65_535, 0, 32_768, 0, 65_535, 0)
    loaded = load_image(png(2, 1, colour=2, depth=16, data=row))
    assert [loaded.getpixel((x, 0)) for x in range(2)] == [(255, 0, 128), (0, 255, 0)]


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))  # black, but invisible
    image.putpixel((1, 0), (255, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    loaded = load_image(encoded(image))
    assert [loaded.getpixel((x, 0)) for x in range(3)] == [WHITE, RED, (127, 127, 127)]


def test_an_opaque_alpha_channel_changes_nothing():
    image = noise(channels=4)
    image.putalpha(255)
    assert load_image(encoded(image)).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBa"])
def test_grey_and_palette_with_alpha_are_laid_on_white(mode):
    grey = Image.new("LA", (2, 1), (0, 0))
    grey.putpixel((1, 0), (0, 255))
    image = grey.convert("RGBA").convert(mode) if mode in ("RGBa", "PA") else grey.convert(mode)
    loaded = load_image(image)
    assert [loaded.getpixel((x, 0)) for x in range(2)] == [WHITE, BLACK]


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 0), 1)
    loaded = load_image(encoded(image, transparency=0))
    assert [loaded.getpixel((x, 0)) for x in range(2)] == [WHITE, RED]


def test_one_transparent_colour_of_an_rgb_image_is_white():
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((0, 0), (0, 0, 9))
    loaded = load_image(encoded(image, transparency=(0, 0, 9)))
    assert [loaded.getpixel((x, 0)) for x in range(2)] == [WHITE, RED]


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("1", "PNG"), ("L", "JPEG")])
def test_print_and_grey_modes_become_rgb(mode, kind):
    loaded = load_image(encoded(Image.new("RGB", (16, 16), WHITE).convert(mode), kind))
    assert loaded.mode == "RGB"
    assert min(loaded.getpixel((8, 8))) >= 250


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    data = encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert load_image(data).getpixel((4, 4)) == RED


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_image_taken_in_any_position_comes_out_upright_and_stays_so(kind, orientation):
    # How a camera held that way stores an upright image.
    stored = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    image = quadrants()
    for turn in stored:
        image = image.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    with Image.open(io.BytesIO(data)) as opened_by_the_caller:
        once = load_image(opened_by_the_caller)
    for result in (load_image(data), once, load_image(once)):
        assert result.size == (32, 16)
        assert result.getpixel((4, 4))[1] < 60
        assert min(result.getpixel((28, 4)) + result.getpixel((4, 12)) + result.getpixel((28, 12))) > 200


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's remarks on broken metadata
def test_broken_metadata_do_not_spoil_an_image():
    good = encoded(quadrants(), "JPEG")
    exif = b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 40
    assert load_image(good[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + good[2:]).size == (32, 16)


def test_where_a_photograph_was_taken_does_not_travel_on():
    exif = Image.Exif()
    exif[0x010F] = "Somebody's camera"
    assert load_image(encoded(noise(), "JPEG", exif=exif, comment=b"at home")).info == {}


# Wrong images

GOOD_PNG, GOOD_JPEG = encoded(noise()), encoded(noise(), "JPEG")
GOOD_WEBP, GOOD_GIF = encoded(noise(), "WEBP"), encoded(noise(), "GIF")
GOOD_AVIF, GOOD_HEIC = encoded(noise(), "AVIF"), heic(noise())
BROKEN_HEADER = bytearray(GOOD_PNG)
BROKEN_HEADER[29] ^= 0xFF  # the header's checksum

HOSTILE = {
    # name: (data, error, what the message says)
    "empty": (b"", UnsupportedImage, r"empty \(0 bytes\)"),
    "html": (b"<!DOCTYPE html>\n<html><body>404</body></html>", UnsupportedImage, "looks like HTML"),
    "html-without-doctype": (b"<!-- x --> <head></head>", UnsupportedImage, "looks like HTML"),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', UnsupportedImage, "SVG"),
    "pdf": (b"%PDF-1.7\n%", UnsupportedImage, "a PDF document"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UnsupportedImage, "PostScript"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0", ImageDamaged, "this HEIC image is truncated: 16 of at least 24 bytes"),
    "heic-empty": (b"\0\0\0\x10ftypheic\0\0\0\0", ImageDamaged, "this HEIC image .* is damaged or truncated"),
    "heic-truncated": (
        GOOD_HEIC[:-400],
        ImageDamaged,
        f"{len(GOOD_HEIC) - 400} of at least {len(GOOD_HEIC)}",
    ),
    "avif": (b"\0\0\0\x18ftypavif\0\0\0\0", ImageDamaged, "this AVIF image is truncated: 16 of at least 24 bytes"),
    "avif-truncated": (
        GOOD_AVIF[:-400],
        ImageDamaged,
        f"{len(GOOD_AVIF) - 400} of at least {len(GOOD_AVIF)}",
    ),
    "video": (b"\0\0\0\x18ftypisom\0\0\0\0", UnsupportedImage, "a video"),
    "zip": (b"PK\x03\x04" + b"\0" * 30, UnsupportedImage, "ZIP archive"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", UnsupportedImage, "git lfs pull"),
    "json": (b'{"error": "not found"}', UnsupportedImage, "looks like text"),
    "random": (bytes(range(128, 256)), UnsupportedImage, "unknown binary data"),
    "zeros": (b"\0" * 4096, UnsupportedImage, "zero bytes"),
    "fits": (b"SIMPLE  =                    T", UnsupportedImage, "looks like text"),
    "magic-only": (b"\x89PNG\r\n\x1a\n", ImageDamaged, "truncated: 8 of at least 9 bytes"),
    "png-truncated": (
        GOOD_PNG[:-2000],
        ImageDamaged,
        rf"truncated: {len(GOOD_PNG) - 2000} of at least {len(GOOD_PNG) - 12}",
    ),
    "png-bad-checksum": (bytes(BROKEN_HEADER), ImageDamaged, "PNG image .* damaged"),
    "png-no-pixels": (png(64, 64), ImageDamaged, "damaged"),
    "png-garbage-pixels": (GOOD_PNG[:60] + b"\xaa" * (len(GOOD_PNG) - 60), ImageDamaged, "PNG image"),
    "png-zero-size": (png(0, 10), ImageDamaged, "PNG|0 x 10"),
    "png-text-bomb": (
        png(1, 1, extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(b"A" * 50_000_000)), data=b"\0\0"),
        ImageDamaged,
        "PNG",
    ),
    "jpeg-truncated": (GOOD_JPEG[: len(GOOD_JPEG) // 2], ImageDamaged, "JPEG image is truncated: it ends after"),
    "jpeg-header-only": (GOOD_JPEG[:20], ImageDamaged, "JPEG image is truncated"),
    "webp-truncated": (
        GOOD_WEBP[:-500],
        ImageDamaged,
        rf"truncated: {len(GOOD_WEBP) - 500} of at least {len(GOOD_WEBP)}",
    ),
    "gif-truncated": (GOOD_GIF[:40], ImageDamaged, "GIF image"),
    "bmp-truncated": (encoded(noise(), "BMP")[:-100], ImageDamaged, "BMP image is truncated"),
    "tiff-truncated": (encoded(noise(), "TIFF")[:-3000], ImageDamaged, "TIFF image"),
    "tiff-loop": (b"II*\0\x08\0\0\0\0\0\x08\0\0\0", ImageDamaged, "TIFF image"),
    "png-bomb": (
        png(13_000, 13_000, depth=1, data=b"\0" * 13_000 * 1626),
        ImageTooLarge,
        "13000 x 13000 is 169.0 mega",
    ),
    "png-header-bomb": (png(60_000, 60_000), ImageTooLarge, "raise LLAVA_MAX_IMAGE_PIXELS"),
    "png-endless-side": (png(2**31 - 1, 1), ImageTooLarge, "longer side"),
    "gif-bomb": (b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + GOOD_GIF[10:], ImageTooLarge, "65000 x 65000"),
    "webp-bomb": (
        b"RIFF\xff\xff\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\xff\xff\0\xff\xff\0" + b"\0" * 40,
        ImageTooLarge,
        "65536 x 65536",
    ),
    "bmp-bomb": (
        b"BM" + struct.pack("<IIIIiiHH", 100, 0, 54, 40, 2**30, 2**30, 1, 24) + b"\0" * 60,
        ImageTooLarge,
        "1073741824 x 1073741824",
    ),
    "tiff-tile-bomb": (tiled_tiff(10, 10, 12_000), ImageTooLarge, "12000 x 12000"),
    "jpeg-bomb": (
        GOOD_JPEG.replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 65_500, 65_500), 1),
        ImageTooLarge,
        "65500 x 65500",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_is_a_typed_error_that_says_what_is_wrong(tmp_path, name):
    data, error, message = HOSTILE[name]
    path = tmp_path / f"{name}.png"
    path.write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        load_image(path)
    assert f"{name}.png" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "object at 0x" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's remarks on broken metadata
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "HEIC", "GIF", "BMP", "TIFF"])
def test_an_image_cut_or_altered_anywhere_is_read_or_a_typed_error(kind):
    data = heic(noise(24, 18)) if kind == "HEIC" else encoded(noise(24, 18), kind)
    random = np.random.default_rng(11)
    for position in random.integers(0, len(data), 150):
        altered = bytearray(data)
        altered[position] ^= int(random.integers(1, 256))
        for variant in (data[:position], bytes(altered)):
            with contextlib.suppress(ImageError):
                assert load_image(variant, limits=ImageLimits(max_pixels=10**6)).mode == "RGB"


def test_limits_are_checked_before_decoding(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(GOOD_PNG)
    uri = "data:;base64," + base64.b64encode(GOOD_PNG).decode()
    for source in (lambda: path, lambda: GOOD_PNG, lambda: io.BytesIO(GOOD_PNG), lambda: uri):
        with pytest.raises(ImageTooLarge, match="the limit is 1000 bytes"):
            load_image(source(), limits=ImageLimits(max_bytes=1000))
        with pytest.raises(ImageTooLarge, match="megapixels"):
            load_image(source(), limits=ImageLimits(max_pixels=64 * 48 - 1))
        assert load_image(source(), limits=ImageLimits(max_pixels=64 * 48, max_side=64)).size == (64, 48)
        with pytest.raises(ImageTooLarge, match="longer side is 63"):
            load_image(source(), limits=ImageLimits(max_side=63))
    with pytest.raises(ImageTooLarge):
        load_image(noise(), limits=ImageLimits(max_side=63))


def test_the_environment_raises_and_lowers_the_pixel_limit(monkeypatch):
    monkeypatch.setenv("LLAVA_MAX_IMAGE_PIXELS", "100")
    with pytest.raises(ImageTooLarge, match="LLAVA_MAX_IMAGE_PIXELS"):
        load_image(GOOD_PNG)
    monkeypatch.setenv("LLAVA_MAX_IMAGE_PIXELS", "400000000")
    with pytest.raises(
        ImageDamaged
    ):  # no longer too large, and Pillow's own limit of 179 megapixels does not interfere
        load_image(png(16_000, 12_000, data=b""))
    monkeypatch.setenv("LLAVA_MAX_IMAGE_PIXELS", "many")
    with pytest.raises(InvalidRequest, match="LLAVA_MAX_IMAGE_PIXELS='many'"):
        load_image(GOOD_PNG)


def test_no_warning_and_no_setting_of_pillow_is_touched(recwarn):
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    with pytest.raises(ImageTooLarge):
        load_image(HOSTILE["png-bomb"][0])
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "CMYK"])
def test_other_colour_spaces_of_a_caller_become_rgb(mode):
    loaded = load_image(Image.new("RGB", (4, 4), (200, 30, 30)).convert(mode))
    assert np.abs(np.subtract(loaded.getpixel((1, 1)), (200, 30, 30))).max() <= 2


def test_threads_load_good_and_bad_images_at_once():
    def load(index: int) -> bool:
        try:
            return load_image(GOOD_PNG if index % 2 else GOOD_PNG[:-2000]).tobytes() == noise().tobytes()
        except ImageDamaged:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(load, range(200))) == [bool(index % 2) for index in range(200)]


def test_an_image_of_a_caller_that_cannot_be_decoded_is_a_typed_error(tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(GOOD_JPEG[: len(GOOD_JPEG) // 2])
    with Image.open(path) as lazy, pytest.raises(ImageDamaged, match=r"cut\.jpg"):
        load_image(lazy)


# Sources


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "no such file"),
        (".", "is a folder"),
        ("a\0b.png", "not a valid path"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_a_path_that_leads_to_no_file_is_an_error_that_says_so(tmp_path, name, message):
    with pytest.raises(ImageUnreadable, match=message) as caught:
        load_image(f"{tmp_path}/{name}")
    assert len(str(caught.value)) < 600


def test_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageUnreadable, match="not a regular file"):
        load_image(tmp_path / "pipe.png")


@contextlib.contextmanager
def ordinary_user():
    """Root may read everything, so root becomes nobody for a while."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(me)


def test_a_file_that_may_not_be_read_is_an_error_that_says_so():
    # Not in tmp_path, whose parents nobody but its owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "secret.png"
        path.write_bytes(GOOD_PNG)
        path.chmod(0)
        with ordinary_user(), pytest.raises(ImageUnreadable, match=r"secret.png: cannot be read \(permission denied\)"):
            load_image(path)


def test_a_server_can_forbid_paths(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(GOOD_PNG)
    for source in (path, str(path)):
        with pytest.raises(ImageUnreadable, match="file names are not accepted"):
            load_image(source, allow_path=False)
    assert load_image("data:image/png;base64," + base64.b64encode(GOOD_PNG).decode(), allow_path=False).size == (64, 48)


@pytest.mark.parametrize("source", [None, 7, ["a.png"], object()])
def test_something_that_is_no_source_is_a_typed_error(source):
    with pytest.raises(UnsupportedImage, match="cannot load an image from"):
        load_image(source)


def test_a_file_opened_as_text_is_an_error_that_says_so(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("x")
    with path.open(encoding="utf-8") as file, pytest.raises(ImageUnreadable, match="binary mode"):
        load_image(file)


BASE64 = base64.b64encode(GOOD_PNG).decode()


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{BASE64}",
        f"data:image/jpeg;charset=utf-8;base64,{BASE64}",
        f"data:;base64,{BASE64}",
        f"DATA:image/png;BASE64,{BASE64}",
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        "data:image/png;base64," + "\n".join(BASE64[i : i + 76] for i in range(0, len(BASE64), 76)),
        "data:image/png;base64," + BASE64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in GOOD_PNG),
    ],
    ids=["plain", "parameters", "bare", "capitals", "unpadded", "lines", "percent", "not-base64"],
)
def test_data_uris_are_read_as_browsers_write_them(uri):
    assert load_image(uri).tobytes() == noise().tobytes()


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("data:image/png;base64", ImageDamaged, "no comma"),
        ("data:image/png;base64,!!!!", ImageDamaged, r"not valid base64 \(character '!' at position 0\)"),
        ("data:image/png;base64,iVBORw0KG\u00e9", ImageDamaged, "not valid base64"),
        ("data:image/png;base64,AAAAA", ImageDamaged, "the length is wrong"),
        ("data:image/png;base64,", UnsupportedImage, "empty"),
        ("data:text/html;base64," + base64.b64encode(b"<html></html>").decode(), UnsupportedImage, "HTML"),
        ("data:text/html,<html>", UnsupportedImage, "HTML"),
    ],
)
def test_a_bad_data_uri_is_a_typed_error(uri, error, message):
    with pytest.raises(error, match=message):
        load_image(uri)


def test_base64_is_read_with_and_without_its_prefix():
    assert load_image_from_base64(BASE64).tobytes() == noise().tobytes()
    assert load_image_from_base64(BASE64.encode()).tobytes() == noise().tobytes()
    assert load_image_from_base64(f"data:image/png;base64,{BASE64}").tobytes() == noise().tobytes()
    with pytest.raises(ImageDamaged, match="not valid base64"):
        load_image_from_base64("/etc/passwd !")
    with pytest.raises(UnsupportedImage):
        load_image_from_base64("/etc/passwd")
    with pytest.raises(ImageTooLarge):
        load_image_from_base64(BASE64, limits=ImageLimits(max_bytes=100))


def test_every_image_error_has_a_stable_code_and_status():
    table = {
        error.code: error.status
        for error in (ImageUnreadable, ImageTooLarge, UnsupportedImage, ImageDamaged, ImageUrlRefused, ImageFetchFailed)
    }
    assert json.dumps(table) == (
        '{"image_unreadable": 400, "image_too_large": 413, "unsupported_image": 415, "image_damaged": 400, '
        '"image_url_refused": 403, "image_fetch_failed": 400}'
    )

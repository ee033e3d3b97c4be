"""Turns images into pixel tensors, and prompts with images into token ids.

For other projects that import them from here, the module also exports `load_image` and its limits from
`llava.images.loading`, and `KeywordsStoppingCriteria` from `llava.text_generation.stopping`.
Importing this module does not load torch or Pillow.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    DEFAULT_IMAGE_TOKEN,
    IMAGE_TOKEN_INDEX,
)
from llava.errors import ImageShapeError, ImageTokenMismatch, InvalidRequest
from llava.images.headers import ImageLimits
from llava.images.loading import load_image, load_image_from_base64
from llava.images.pixels import to_rgb

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from llava.text_generation.stopping import KeywordsStoppingCriteria

__all__ = [
    "ImageLimits",
    "KeywordsStoppingCriteria",
    "divide_to_patches",
    "expand2square",
    "expand_image_tokens",
    "get_anyres_image_grid_shape",
    "get_model_name_from_path",
    "grid_resolutions",
    "load_image",
    "load_image_from_base64",
    "process_anyres_image",
    "process_images",
    "processed_edge",
    "resize_and_pad_image",
    "select_best_resolution",
    "tokenizer_image_token",
]

Size = tuple[int, int]
"""Width and height."""


def __getattr__(name: str) -> Any:
    if name == "KeywordsStoppingCriteria":
        from llava.text_generation.stopping import KeywordsStoppingCriteria

        return KeywordsStoppingCriteria
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Aspect modes

KEEP_LONGEST: Final = 448
KEEP_SHORTEST: Final = 224
"""Limits of the two sides in mode `keep`, in pixels. The original uses them for every tower."""

_PATCH: Final = 14
"""Side of a CLIP ViT-L patch in pixels; an image thinner than a patch would have no features."""

_CONVNEXT_DISTORTS_FROM: Final = 384
"""Side in pixels from which on ConvNeXt's image processor distorts an image and no longer crops it."""

_MAX_CANVAS_SIDE: Final = 8192
"""Longest side of a canvas in pixels, which takes 256 MiB; a longer image is scaled down before padding."""

_REDUCED_SIDE: Final = 2048
"""Longest side in pixels after scaling down for a canvas; still several times the input of any tower."""

_MAX_RESIZED_PIXELS: Final = 16_000_000
"""Largest image that `square` resizes. The ends of a larger one are cut off before its centre is cropped: resizing
20000 x 1 to a shortest edge of 224 would make a gigapixel."""


def process_images(
    images: Sequence[Image.Image], image_processor: Any, model_cfg: Any, *, num_images: int = 1
) -> torch.Tensor | list[torch.Tensor]:
    """Turns images into the model's `images` argument, in the mode that `image_aspect_ratio` selects.

    `square` (the default, also called `crop`) resizes the shortest edge to the tower's input and crops the centre.
    `pad` first pads the image to a square of the mean colour. `keep` preserves the aspect ratio, with sides of at most
    448 and 224 pixels. `resize` distorts the image to a square. `anyres` makes one reduced image and a grid of tiles;
    `anyres_max_N` does so with the image of a conversation that has one, and the model shrinks what it makes of more
    than N tiles; of several images each is padded to one tile (LLaVA-OneVision, Li et al. 2024).

    Args:
        images: Pillow images of any mode.
        image_processor: the tower's image processor, such as `CLIPImageProcessorPil`.
        model_cfg: the model's config, an object or a mapping with `image_aspect_ratio` and, for anyres,
            `image_grid_pinpoints`; None means `square`.
        num_images: number of images in the conversation that these are part of.

    Returns:
        float32 [n, 3, H, W] (anyres: [n, tiles, 3, H, W]) if all shapes are equal, else a list of n tensors.

    Raises:
        InvalidRequest: the aspect mode does not exist, or anyres has no grid pinpoints.
        ImageShapeError: the image is too thin for one patch in mode `keep`.
    """
    import torch

    mode = _read(model_cfg, "image_aspect_ratio") or "square"
    if num_images > 1 and tiles_only_one_image(model_cfg):
        tensors = [_process_image(to_rgb(image), image_processor, "pad", model_cfg)[None] for image in images]
    else:
        tensors = [_process_image(to_rgb(image), image_processor, mode, model_cfg) for image in images]
    if tensors and all(tensor.shape == tensors[0].shape for tensor in tensors):
        return torch.stack(tensors)
    return tensors


def tiles_only_one_image(model_cfg: Any) -> bool:
    """Returns whether the model cuts an image into tiles only if a conversation has no other."""
    return (_read(model_cfg, "image_aspect_ratio") or "").startswith("anyres_max_")


def _process_image(image: Image.Image, processor: Any, mode: str, model_cfg: Any) -> torch.Tensor:
    if mode in ("square", "crop"):
        # Towers that do not crop, such as SigLIP, see the whole image distorted.
        edge = _shortest_edge(processor)
        return _preprocess(_cut_to_centre(image, edge) if _crops(processor) else image, processor)
    if mode == "pad":
        return _preprocess(expand2square(image, _mean_colour(processor)), processor)
    if mode == "keep":
        return _keep(image, processor)
    if mode == "resize":
        edge = processed_edge(processor)
        return _preprocess_unchanged(image.resize((edge, edge)), processor)
    if mode == "anyres" or mode.startswith("anyres_max_"):
        pinpoints = _read(model_cfg, "image_grid_pinpoints")
        if not pinpoints:
            raise InvalidRequest(
                f"image_aspect_ratio is {mode!r}, but the config has no image_grid_pinpoints. Add them to config.json: "
                "[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]."
            )
        return process_anyres_image(image, processor, pinpoints)
    raise InvalidRequest(
        f"image_aspect_ratio {mode!r} is unknown. Use square, pad, keep, resize, anyres or anyres_max_N."
    )


def _preprocess(image: Image.Image, processor: Any, **options: Any) -> torch.Tensor:
    pixels: torch.Tensor = processor.preprocess(image, return_tensors="pt", **options)["pixel_values"][0]
    return pixels


def _preprocess_unchanged(image: Image.Image, processor: Any) -> torch.Tensor:
    """Rescales and normalises an image that has the tower's size: a tile must keep its border."""
    return _preprocess(image, processor, do_resize=False, do_center_crop=False)


def _keep(image: Image.Image, processor: Any) -> torch.Tensor:
    edge = _kept_edge(image.size)
    if not hasattr(processor, "crop_pct"):
        return _preprocess(image, processor, do_center_crop=False, size={"shortest_edge": edge})
    # ConvNeXt's processor cannot resize without cropping.
    scale = edge / min(image.size)
    size = int(image.width * scale), int(image.height * scale)
    return _preprocess_unchanged(image.resize(size, processor.resample), processor)


def _mean_colour(processor: Any) -> tuple[int, int, int]:
    red, green, blue = (int(channel * 255) for channel in processor.image_mean)
    return red, green, blue


def processed_edge(processor: Any) -> int:
    """Returns the side in pixels of the square that an image processor makes, which is that of a tile."""
    crop = getattr(processor, "crop_size", None)
    if crop and getattr(processor, "do_center_crop", True):
        return int(crop["height"])
    return _shortest_edge(processor)


def _crops(processor: Any) -> bool:
    """Tells whether a processor cuts off the ends of a longer image, rather than distort it."""
    if hasattr(processor, "crop_pct"):
        return _shortest_edge(processor) < _CONVNEXT_DISTORTS_FROM
    return bool(getattr(processor, "do_center_crop", False))


def _shortest_edge(processor: Any) -> int:
    size = processor.size
    edge = _read(size, "shortest_edge") or _read(size, "height")
    return int(edge)


def _kept_edge(size: Size) -> int:
    aspect = max(size) / min(size)
    edge = int(min(KEEP_LONGEST / aspect, KEEP_SHORTEST))
    if edge < _PATCH:
        raise ImageShapeError(
            f"an image of {size[0]} x {size[1]} pixels would be {edge} pixels thin in mode keep; the vision tower's "
            f"patches need {_PATCH}. Crop the image, or set image_aspect_ratio to pad or square."
        )
    return edge


def _cut_to_centre(image: Image.Image, edge: int) -> Image.Image:
    """Cuts off ends that the centre crop would drop anyway, if the resized image would take too much memory."""
    width, height = image.size
    shorter, longer = min(width, height), max(width, height)
    if edge * edge * longer <= _MAX_RESIZED_PIXELS * shorter:
        return image
    # Keeping the parity keeps the centre in place; three squares keep the new border out of the filter's reach.
    kept = 3 * shorter + (3 * shorter + longer) % 2
    start = (longer - kept) // 2
    box = (start, 0, start + kept, height) if width > height else (0, start, width, start + kept)
    return image.crop(box)


def expand2square(pil_img: Image.Image, background_color: tuple[int, int, int] | int) -> Image.Image:
    """Centres an image on a square canvas of the given colour; a square image is returned unchanged.

    An image longer than 8192 pixels is first scaled down to 2048, to limit the memory of its canvas.
    """
    from PIL import Image

    width, height = pil_img.size
    if width == height:
        return pil_img
    if isinstance(background_color, tuple) and len(pil_img.getbands()) != len(background_color):
        pil_img = to_rgb(pil_img)
    if max(width, height) > _MAX_CANVAS_SIDE:
        scale = _REDUCED_SIDE / max(width, height)
        pil_img = pil_img.resize((max(1, round(width * scale)), max(1, round(height * scale))))
        width, height = pil_img.size
    side = max(width, height)
    canvas = Image.new(pil_img.mode, (side, side), background_color)
    canvas.paste(pil_img, ((side - width) // 2, (side - height) // 2))
    return canvas


def select_best_resolution(original_size: Size, possible_resolutions: Sequence[Sequence[int]]) -> Size:
    """Returns the (width, height) that preserves most of an image's pixels and, among equals, wastes the fewest."""

    def merit(resolution: Sequence[int]) -> tuple[int, int]:
        width, height = resolution
        scale = min(width / original_size[0], height / original_size[1])
        shown = int(original_size[0] * scale) * int(original_size[1] * scale)
        kept = min(shown, original_size[0] * original_size[1])
        return kept, kept - width * height

    width, height = max(possible_resolutions, key=merit)
    return width, height


def resize_and_pad_image(image: Image.Image, target_resolution: Size) -> Image.Image:
    """Fits an image into (width, height), preserving its aspect ratio, and centres it on black."""
    from PIL import Image

    target_width, target_height = target_resolution
    scale_width, scale_height = target_width / image.width, target_height / image.height
    if scale_width < scale_height:
        size = target_width, min(math.ceil(image.height * scale_width), target_height)
    else:
        size = min(math.ceil(image.width * scale_height), target_width), target_height
    canvas = Image.new("RGB", (target_width, target_height), (0, 0, 0))
    canvas.paste(to_rgb(image).resize(size), ((target_width - size[0]) // 2, (target_height - size[1]) // 2))
    return canvas


def divide_to_patches(image: Image.Image, patch_size: int) -> list[Image.Image]:
    """Cuts an image into square tiles of `patch_size` pixels, row by row."""
    return [
        image.crop((left, top, left + patch_size, top + patch_size))
        for top in range(0, image.height, patch_size)
        for left in range(0, image.width, patch_size)
    ]


def get_anyres_image_grid_shape(image_size: Size, grid_pinpoints: Any, patch_size: int) -> Size:
    """Returns the columns and rows of the tile grid for an image.

    Args:
        image_size: (width, height) of the image in pixels.
        grid_pinpoints: list of (width, height) in pixels, its text, or a range of tiles such as `(1x1),...,(6x6)`.
        patch_size: side of a tile in pixels, which is the tower's input.
    """
    width, height = select_best_resolution(image_size, grid_resolutions(grid_pinpoints, patch_size))
    return width // patch_size, height // patch_size


def process_anyres_image(image: Image.Image, processor: Any, grid_pinpoints: Any) -> torch.Tensor:
    """Makes the tiles of an image.

    Returns:
        float32 [1 + columns * rows, 3, tile, tile]: the whole image distorted to one tile, then its tiles row by row.
    """
    import torch

    edge = processed_edge(processor)
    best = select_best_resolution(image.size, grid_resolutions(grid_pinpoints, edge))
    tiles = divide_to_patches(resize_and_pad_image(image, best), edge)
    whole = to_rgb(image).resize((edge, edge))
    return torch.stack([_preprocess_unchanged(tile, processor) for tile in [whole, *tiles]])


def grid_resolutions(grid_pinpoints: Any, tile: int) -> list[Size]:
    """Returns the (width, height) in pixels of every grid of tiles that a model may use.

    Args:
        grid_pinpoints: list of (width, height) in pixels, its text, or a range of tiles such as `(1x1),...,(6x6)`.
        tile: side of a tile in pixels.

    Raises:
        InvalidRequest: anything else.
    """
    ranges = re.findall(r"\((\d+)x(\d+)\)", grid_pinpoints) if isinstance(grid_pinpoints, str) else []
    if ranges:
        (columns, rows), (last_columns, last_rows) = ([int(number) for number in ranges[end]] for end in (0, -1))
        return [
            (tile * column, tile * row)
            for column in range(columns, last_columns + 1)
            for row in range(rows, last_rows + 1)
        ]
    try:
        listed = ast.literal_eval(grid_pinpoints) if isinstance(grid_pinpoints, str) else grid_pinpoints
        pinpoints = [(int(width), int(height)) for width, height in listed]
    except (ValueError, TypeError, SyntaxError) as error:
        raise InvalidRequest(
            f"image_grid_pinpoints {grid_pinpoints!r}: expected a list of (width, height), such as "
            "[[336, 672], [672, 336]]."
        ) from error
    if not pinpoints:
        raise InvalidRequest("image_grid_pinpoints is empty; it needs at least one (width, height).")
    return pinpoints


def _read(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


# Prompts


@overload
def tokenizer_image_token(
    prompt: str, tokenizer: Any, image_token_index: int = ..., return_tensors: None = ...
) -> list[int]: ...


@overload
def tokenizer_image_token(
    prompt: str, tokenizer: Any, image_token_index: int = ..., *, return_tensors: Literal["pt"]
) -> torch.Tensor: ...


@overload
def tokenizer_image_token(
    prompt: str, tokenizer: Any, image_token_index: int, return_tensors: Literal["pt"]
) -> torch.Tensor: ...


def tokenizer_image_token(
    prompt: str, tokenizer: Any, image_token_index: int = IMAGE_TOKEN_INDEX, return_tensors: str | None = None
) -> list[int] | torch.Tensor:
    """Tokenises a prompt, with `image_token_index` in place of each `<image>` (v1 and later).

    The pieces between the markers are tokenised separately; only the first keeps its begin-of-sequence token.

    Args:
        prompt: text with any number of `<image>` markers.
        tokenizer: tokenizer, called as `tokenizer(text).input_ids`.
        image_token_index: id that stands for one image.
        return_tensors: None for a list, "pt" for an int64 tensor [length].

    Raises:
        InvalidRequest: `return_tensors` has another value.
    """
    if return_tensors not in (None, "pt"):
        raise InvalidRequest(f"return_tensors must be 'pt' for a tensor or None for a list, not {return_tensors!r}.")
    first, *later = [list(tokenizer(text).input_ids) for text in prompt.split(DEFAULT_IMAGE_TOKEN)]
    begins = bool(first) and first[0] == tokenizer.bos_token_id
    ids = list(first)
    for chunk in later:
        ids += [image_token_index, *(chunk[1:] if begins else chunk)]
    if return_tensors is None:
        return ids
    import torch

    return torch.tensor(ids, dtype=torch.long)


def expand_image_tokens(text: str, num_patches: list[int] | int, use_im_start_end: bool) -> str:
    """Replaces each `<image>` by the run of `<im_patch>` that a v0 checkpoint reads.

    Args:
        text: prompt with `<image>` markers.
        num_patches: number of patches of each image in reading order, or one number for all images.
        use_im_start_end: puts `<im_start>` and `<im_end>` around each run.

    Raises:
        ImageTokenMismatch: the numbers of markers and images differ.
    """
    pieces = text.split(DEFAULT_IMAGE_TOKEN)
    counts = [num_patches] * (len(pieces) - 1) if isinstance(num_patches, int) else list(num_patches)
    if len(counts) != len(pieces) - 1:
        raise ImageTokenMismatch(
            f"the text has {len(pieces) - 1} {DEFAULT_IMAGE_TOKEN} markers for {len(counts)} images. "
            "Write one marker per image."
        )
    expanded = pieces[0]
    for count, piece in zip(counts, pieces[1:], strict=True):
        run = DEFAULT_IMAGE_PATCH_TOKEN * count
        expanded += (f"{DEFAULT_IM_START_TOKEN}{run}{DEFAULT_IM_END_TOKEN}" if use_im_start_end else run) + piece
    return expanded


def get_model_name_from_path(model_path: str) -> str:
    """Returns a model's name: the last part of its path, preceded by the parent folder for a `checkpoint-N`."""
    parts = str(model_path).replace("\\", "/").strip("/").split("/")
    if parts[-1].startswith("checkpoint-") and len(parts) > 1:
        return f"{parts[-2]}_{parts[-1]}"
    return parts[-1]

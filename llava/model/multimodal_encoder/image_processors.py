"""Finds the image processor of a tower, on Pillow, so that its pixels are those of 2023 without torchvision.

Files name their processor in three spellings, by the backend that wrote them: `CLIPImageProcessor`, `...Fast` and
`...Pil`; files of before 2023 name a feature extractor. The processors of transformers' LLaVA cut an image into tiles
themselves, which `llava.mm_utils` does here, so they are read as the processor of one tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llava.errors import CheckpointError
from llava.model.multimodal_encoder.families import family_of
from llava.model.weights.reader import read_model_json

_PLAIN: Final = (
    "BitImageProcessor",
    "CLIPImageProcessor",
    "ConvNextImageProcessor",
    "DeiTImageProcessor",
    "EfficientNetImageProcessor",
    "SiglipImageProcessor",
    "ViTImageProcessor",
)
_OF_LLAVA: Final = ("LlavaImageProcessor", "LlavaNextImageProcessor", "LlavaOnevisionImageProcessor")
_DINOV3: Final = "DINOv3ViTImageProcessor"
_PATCHES: Final = "Siglip2ImageProcessor"
_OF_ONE_TILE: Final = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "do_convert_rgb"),
)


def processor_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Reads the file that says how images are prepared.

    Returns:
        The file, and the settings of the image processor in it.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            content = read_model_json(folder / name)
            return folder / name, content.get("image_processor", content)
    raise CheckpointError(
        f"{folder}: has no preprocessor_config.json, which says how images are prepared. "
        "Copy the file of the vision tower into the folder."
    )


def load_image_processor(folder: Path, tower_type: str = "clip_vision_model") -> Any:
    """Loads the image processor of a tower's folder.

    Args:
        tower_type: `model_type` of the tower, which decides for files that do not name a processor.

    Raises:
        CheckpointError: no `preprocessor_config.json`, or a kind of processor that cannot be used.
    """
    import transformers

    file, settings = processor_settings(folder)
    name = _named(settings) or family_of(tower_type, folder).image_processor
    if name == _DINOV3:
        from llava.model.multimodal_encoder.dinov3_processor import DINOv3ViTImageProcessorPil

        return DINOv3ViTImageProcessorPil.from_pretrained(folder)
    if name == _PATCHES:
        return _square_of_patches(settings)
    if name not in (*_PLAIN, *_OF_LLAVA):
        raise CheckpointError(
            f"{file}: image_processor_type is {name!r}, which does not prepare images for a tower of one size. "
            f"Known: {', '.join(sorted((*_PLAIN, *_OF_LLAVA, _DINOV3, _PATCHES)))}."
        )
    # The processors that need torchvision have the plain names.
    processor = getattr(transformers, f"{name}Pil").from_pretrained(folder)
    _refuse_oblong(processor, file)
    return _of_one_tile(processor) if name in _OF_LLAVA else processor


def _refuse_oblong(processor: Any, file: Path) -> None:
    crops = getattr(processor, "do_center_crop", False)
    size = getattr(processor, "crop_size", None) if crops else processor.size
    height, width = (getattr(size, side, None) for side in ("height", "width"))
    if height != width:
        raise CheckpointError(
            f"{file}: makes images of {width} x {height} pixels; towers here take square ones. Set "
            f"{'crop_size' if crops else 'size'} to one number."
        )


def _named(settings: Mapping[str, Any]) -> str | None:
    name = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    name = name.removesuffix("Fast").removesuffix("Pil")
    return name.replace("FeatureExtractor", "ImageProcessor") or None


def _of_one_tile(processor: Any) -> Any:
    """Returns the plain processor that prepares a tile as a processor of transformers' LLaVA does."""
    from transformers import CLIPImageProcessorPil

    settings = {key: getattr(processor, key, None) for key in _OF_ONE_TILE}
    crops = bool(settings["do_center_crop"])
    if not crops:
        del settings["crop_size"]
    return CLIPImageProcessorPil(**settings | {"do_center_crop": crops})


def _square_of_patches(settings: Mapping[str, Any]) -> Any:
    """Returns the processor of squares with as many patches as a NaFlex tower is given at most."""
    from transformers import Siglip2ImageProcessorPil, SiglipImageProcessorPil

    theirs: Any = Siglip2ImageProcessorPil(**settings)
    edge = theirs.patch_size * int(theirs.max_num_patches**0.5)
    kept = {key: getattr(theirs, key) for key in ("resample", "image_mean", "image_std", "rescale_factor")}
    return SiglipImageProcessorPil(**kept, size={"height": edge, "width": edge}, do_convert_rgb=True)

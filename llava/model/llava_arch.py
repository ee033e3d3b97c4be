"""Makes a language model a LLaVA, with a vision tower, a projector, and images among its tokens.

`LlavaMetaModel` adds the modules to a decoder. `LlavaMetaForCausalLM` adds what happens to images: they are encoded and
projected, the tiles of large ones are merged, and the features are spliced into the text
(`llava.model.language_model.splice`). Both are mixins, so another language model needs some twenty lines
(`llava.model.language_model`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
)
from llava.errors import CheckpointError, ImageError, ImageTokenMismatch
from llava.model.language_model.input_scale import input_scale
from llava.model.language_model.splice import Spliced, has_markers, splice
from llava.model.multimodal_projector.builder import build_vision_projector

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava.model.multimodal_encoder.families import SelectLayer
    from llava.model.multimodal_encoder.vision_tower import VisionTower

_SHRINKS_ABOVE = 1.1
"""LLaVA-OneVision resamples a grid only if its side exceeds the limit by more than this factor."""

Images = Tensor | Sequence[Tensor]
"""[images, 3, H, W], or one entry for each image: [3, H, W], or [tiles, 3, H, W] for an image cut into tiles."""


class LlavaMetaModel:
    """Adds `mm_projector`, `image_newline` and (once loaded) `vision_tower` to a decoder."""

    config: Any

    def build_vision_modules(self) -> None:
        """Builds the projector that the config describes; called at the end of the decoder's `__init__`."""
        if not self.config.has_vision:
            return
        self.mm_projector = build_vision_projector(
            self.config.mm_projector_type or "linear",
            self.config.mm_hidden_size,
            self.config.hidden_size,
            bias=self.config.mm_projector_bias is not False,
        )
        if "unpad" in (self.config.mm_patch_merge_type or ""):
            self.image_newline = nn.Parameter(torch.empty(self.config.hidden_size).normal_(std=0.02))

    def get_vision_tower(self) -> VisionTower:
        """Returns the vision tower.

        Raises:
            CheckpointError: the model has none, or it is not attached yet.
        """
        tower = getattr(self, "vision_tower", None)
        if tower is None:
            raise CheckpointError(
                "this model has no vision tower. Load it with llava.model.builder.load_pretrained_model, "
                "or call model.initialize_vision_modules(vision_tower=...)."
            )
        return tower


class LlavaMetaForCausalLM:
    """Image understanding for a causal language model whose decoder is a `LlavaMetaModel`."""

    config: Any

    def get_model(self) -> Any:
        return self.model  # type: ignore[attr-defined]

    def get_vision_tower(self) -> VisionTower:
        return self.get_model().get_vision_tower()

    def attach_vision_tower(self, tower: VisionTower) -> None:
        """Moves a loaded tower to the device of the token embedding, where its features are needed, and attaches it.

        Raises:
            CheckpointError: the projector was trained with features of another width, or tiles are to be arranged as a
                grid and the tower keeps its class token.
        """
        embedding = self.get_input_embeddings().weight  # type: ignore[attr-defined]
        if tower.hidden_size != self.config.mm_hidden_size:
            raise CheckpointError(
                f"the vision tower's features are {tower.hidden_size} wide, the projector expects "
                f"{self.config.mm_hidden_size}. This checkpoint was trained with another tower."
            )
        merge = self.config.mm_patch_merge_type or "flat"
        if tower.keeps_class_token and merge != "flat":
            raise CheckpointError(
                f"mm_vision_select_feature is cls_patch, and mm_patch_merge_type {merge} arranges the features of "
                "tiles as a grid, in which the class token has no place. Set mm_vision_select_feature to patch."
            )
        self.get_model().vision_tower = tower.to(device=embedding.device)

    def set_vision_tower_apart(self) -> None:
        """Keeps the vision tower in use but outside the module tree, so that a frozen tower is neither trained, sharded
        nor saved, and stays in evaluation mode; its device is then the caller's affair."""
        model = self.get_model()
        tower = model._modules.pop("vision_tower")
        object.__setattr__(model, "vision_tower", tower.eval().requires_grad_(False))

    def encode_images(self, images: Images, image_sizes: Sequence[tuple[int, int]] | None = None) -> list[Tensor]:
        """Encodes and projects images.

        Args:
            images: see `Images`.
            image_sizes: (width, height) of each original image; needed if the model removes padding from tiles.

        Returns:
            One tensor [features, hidden] for each image.

        Raises:
            ImageError: pixels of a shape that cannot be used.
        """
        entries = list(images)
        batches = [entry if entry.dim() == 4 else entry[None] for entry in entries]
        encoded = self._encode_batches(batches)
        merged = [
            self._merge_tiles(tiles, image_sizes[i] if image_sizes is not None else None)
            if entry.dim() == 4
            else tiles[0]
            for i, (entry, tiles) in enumerate(zip(entries, encoded, strict=True))
        ]
        # A decoder that multiplies its inputs by a factor sees the features as they were projected.
        scale = input_scale(self.config)
        return merged if scale == 1 else [features / scale for features in merged]

    def count_features(self, images: Images, image_sizes: Sequence[tuple[int, int]] | None = None) -> list[int]:
        """Counts the features that `encode_images` makes of each image, without computing them.

        Raises:
            ImageError: an image cut into tiles whose original size is missing or does not match the tiles.
        """
        tower, width = self.get_vision_tower(), self.config.hidden_size
        counts = []
        for i, entry in enumerate(images):
            num_tiles = entry.shape[0] if entry.dim() == 4 else 1
            shape = num_tiles, tower.num_features(*entry.shape[-2:]), width
            tiles = torch.empty(shape, device="meta")
            size = image_sizes[i] if image_sizes is not None else None
            counts.append(len(self._merge_tiles(tiles, size) if entry.dim() == 4 else tiles[0]))
        return counts

    def _encode_batches(self, batches: list[Tensor]) -> list[Tensor]:
        """Runs the tower once for each distinct image size; returns [tiles, patches, hidden] for each entry."""
        model, tower = self.get_model(), self.get_vision_tower()
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, batch in enumerate(batches):
            if batch.dim() != 4:
                raise ImageError(f"image {i} has pixels of shape {list(batch.shape)}; expected [3, height, width].")
            groups.setdefault(tuple(batch.shape[1:]), []).append(i)
        encoded: dict[int, Tensor] = {}
        trained = any(parameter.requires_grad for parameter in tower.parameters())
        for members in groups.values():
            pixels = torch.cat([batches[i] for i in members])
            with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
                features = tower(pixels)
            projector_weight = next(model.mm_projector.parameters(), features)
            features = model.mm_projector(features.to(device=projector_weight.device, dtype=projector_weight.dtype))
            encoded.update(zip(members, features.split([len(batches[i]) for i in members]), strict=True))
        return [encoded[i] for i in range(len(batches))]

    def _merge_tiles(self, tiles: Tensor, image_size: tuple[int, int] | None) -> Tensor:
        """Joins the tiles of one image, [tiles, patches, hidden], into one sequence [features, hidden].

        `flat` puts one tile after the other. `spatial` puts the whole image first, then the tiles' patches in raster
        order over the whole grid. `spatial_unpad` also drops rows and columns of padding, and ends each row with
        `image_newline` (LLaVA-NeXT, Liu et al. 2024). `anyres_max_N` shrinks a grid of more than N tiles' patches to N
        tiles' (LLaVA-OneVision, Li et al. 2024).
        """
        merge = self.config.mm_patch_merge_type or "flat"
        if merge == "flat":
            return tiles.flatten(0, 1)
        unpad = "unpad" in merge
        newline = self.get_model().image_newline.to(tiles) if unpad else None
        if len(tiles) == 1:
            return torch.cat([tiles[0], newline[None]]) if newline is not None else tiles[0]
        grid = self._raster(tiles[1:], image_size)
        if newline is not None:
            assert image_size is not None
            grid = self._shrink(unpad_image(grid, image_size))
            grid = torch.cat([grid, newline[:, None, None].expand(-1, grid.shape[1], 1)], dim=-1)
        return torch.cat([tiles[0], grid.flatten(1).T])

    def _raster(self, tiles: Tensor, image_size: tuple[int, int] | None) -> Tensor:
        """Arranges tiles [tiles, patches, hidden] as [hidden, rows, columns] of the image they were cut from."""
        from llava.mm_utils import get_anyres_image_grid_shape

        tower = self.get_vision_tower()
        if image_size is None:
            raise ImageError(
                "this model cuts images into tiles and needs their original sizes: image_sizes=[(width, height), …]."
            )
        in_tile = tower.grid(tower.image_size, tower.image_size)
        columns, rows = get_anyres_image_grid_shape(image_size, self.config.image_grid_pinpoints, tower.image_size)
        if rows * columns != len(tiles):
            raise ImageError(
                f"an image of {image_size[0]} x {image_size[1]} pixels is cut into {columns} x {rows} tiles by this "
                f"model, but {len(tiles)} were given."
            )
        grid = tiles.view(rows, columns, *in_tile, -1).permute(4, 0, 2, 1, 3)
        return grid.flatten(1, 2).flatten(2, 3)

    def _shrink(self, grid: Tensor) -> Tensor:
        """Resamples a grid [hidden, rows, columns] to at most N tiles' worth of patches if `image_aspect_ratio` is
        `anyres_max_N`."""
        limit = tile_limit(self.config.image_aspect_ratio)
        if limit is None:
            return grid
        rows, columns = grid.shape[1:]
        ratio = math.sqrt(rows * columns / (limit * self.get_vision_tower().num_patches))
        if ratio <= _SHRINKS_ABOVE:
            return grid
        size = [int(rows // ratio), int(columns // ratio)]
        if grid.device.type == "meta":
            return grid.new_empty(grid.shape[0], *size)
        return nn.functional.interpolate(grid[None], size, mode="bilinear")[0]

    @property
    def patch_token_id(self) -> int | None:
        """Id of `<im_patch>` if the checkpoint's prompts use runs of it."""
        return self.config.im_patch_token

    def splice_images(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        images: Images | None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        *,
        padding_side: str | None = None,
    ) -> Spliced:
        """Encodes the images and splices them into the embeddings of `input_ids`; see `language_model.splice`."""
        features = self.encode_images(images, image_sizes) if images is not None and len(images) else []
        return splice(
            input_ids,
            attention_mask,
            labels,
            features,
            self.get_input_embeddings(),  # type: ignore[attr-defined]
            patch_id=self.patch_token_id,
            padding_side=padding_side or _padding_side(attention_mask),
        )

    def refuse_markers(self, input_ids: Tensor) -> None:
        """Refuses ids that stand for images when no images were given.

        Raises:
            ImageTokenMismatch: names the first such row.
        """
        if has_markers(input_ids, self.patch_token_id):
            row = next(i for i, ids in enumerate(input_ids) if has_markers(ids, self.patch_token_id))
            raise ImageTokenMismatch(f"row {row}: the prompt has a place for an image, but no images were given.")

    def initialize_vision_modules(
        self,
        vision_tower: str,
        *,
        mm_vision_select_layer: SelectLayer = -1,
        mm_vision_select_feature: str = "patch",
        mm_projector_type: str = "linear",
        mm_patch_merge_type: str = "flat",
        pretrain_mm_mlp_adapter: str | None = None,
        dtype: torch.dtype | None = None,
        projector_dtype: torch.dtype | None = None,
    ) -> None:
        """Turns a language model into a LLaVA for training: loads the tower, and builds the projector unless it exists.

        Args:
            vision_tower: folder or hub id.
            pretrain_mm_mlp_adapter: file with a trained projector (`mm_projector.bin` of any release).
            dtype: number format of the tower; None takes that of the language model.
            projector_dtype: number format of a new projector; None takes that of the language model.

        Raises:
            CheckpointError: the tower or the projector cannot be read or does not fit.
        """
        from llava.model.multimodal_encoder.builder import build_vision_tower
        from llava.model.weights.adapter import load_projector

        model, weight = self.get_model(), self.get_input_embeddings().weight  # type: ignore[attr-defined]
        tower = build_vision_tower(
            vision_tower,
            select_layer=mm_vision_select_layer,
            select_feature=mm_vision_select_feature,
            dtype=dtype or weight.dtype,
        )
        self.config.mm_vision_tower = vision_tower
        self.config.use_mm_proj = True
        self.config.mm_vision_select_layer = mm_vision_select_layer
        # v0 configs lack these keys, and only their absence shows that a checkpoint is v0.
        self.config.mm_vision_select_feature = _unless(mm_vision_select_feature, "patch")
        self.config.mm_projector_type = _unless(mm_projector_type, "linear")
        self.config.mm_patch_merge_type = _unless(mm_patch_merge_type, "flat")
        self.config.mm_hidden_size = tower.hidden_size
        if getattr(model, "mm_projector", None) is None:
            model.build_vision_modules()
            model.mm_projector.to(device=weight.device, dtype=projector_dtype or weight.dtype)
        self.attach_vision_tower(tower)
        if pretrain_mm_mlp_adapter is not None:
            load_projector(self, pretrain_mm_mlp_adapter)

    def initialize_vision_tokenizer(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        mm_use_im_start_end: bool = False,
        mm_use_im_patch_token: bool = True,
        pretrain_mm_mlp_adapter: str | None = None,
    ) -> int:
        """Adds the image tokens that a recipe needs to the tokenizer and the embeddings.

        New rows of `<im_start>` and `<im_end>` start as the mean of all rows before them, or are read from
        `pretrain_mm_mlp_adapter` if that file has them.

        Returns:
            The number of new rows for `<im_start>` and `<im_end>`.
        """
        from llava.model.loading.tokenizer import add_special_tokens
        from llava.model.weights.adapter import load_image_token_rows

        if mm_use_im_patch_token:
            add_special_tokens(tokenizer, [DEFAULT_IMAGE_PATCH_TOKEN])
            resize_embeddings(self, len(tokenizer))
            self.config.im_patch_token = tokenizer.convert_tokens_to_ids(DEFAULT_IMAGE_PATCH_TOKEN)
        num_new = 0
        if mm_use_im_start_end:
            num_new = add_special_tokens(tokenizer, [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN])
            resize_embeddings(self, len(tokenizer))
            fill_with_mean(self, num_new)
            if pretrain_mm_mlp_adapter is not None and num_new:
                load_image_token_rows(self, pretrain_mm_mlp_adapter, num_new)
        self.config.mm_use_im_start_end = mm_use_im_start_end
        return num_new


def tile_limit(image_aspect_ratio: str | None) -> int | None:
    """Returns N of `anyres_max_N`; None for any other mode."""
    match = re.fullmatch(r"anyres_max_(\d+)", image_aspect_ratio or "")
    return int(match[1]) if match else None


def _unless(value: str, default: str) -> str | None:
    return None if value == default else value


def resize_embeddings(model: Any, num_tokens: int) -> None:
    """Grows both embeddings to `num_tokens` rows, and never shrinks them, because released vocabularies are padded."""
    if num_tokens > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)


def fill_with_mean(model: Any, num_new: int) -> None:
    """Sets the last `num_new` rows of both embeddings to the mean of all rows before them."""
    if num_new == 0:
        return
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = embedding.weight.data
        weight[-num_new:] = weight[:-num_new].mean(dim=0, keepdim=True)


def unpad_image(grid: Tensor, original_size: tuple[int, int]) -> Tensor:
    """Drops the rows or columns that were added to fill the tile grid.

    Args:
        grid: [hidden, rows, columns] of an image that was resized with its aspect ratio kept, and centred.
        original_size: (width, height) of the image before that.
    """
    width, height = original_size
    rows, columns = grid.shape[1:]
    if width / height > columns / rows:
        padding = (rows - int(height * (columns / width))) // 2
        return grid[:, padding : rows - padding]
    padding = (columns - int(width * (rows / height))) // 2
    return grid[:, :, padding : columns - padding]


def _padding_side(attention_mask: Tensor | None) -> str:
    """Keeps padding on the left if there is any; everything else is padded on the right, as in training."""
    if attention_mask is not None and bool((attention_mask[:, 0] == 0).any()):
        return "left"
    return "right"

"""Training samples, made when they are asked for: text to ids and labels, images to pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Dataset

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import Conversation, SeparatorStyle
from llava.errors import DataError, ImageError
from llava.mm_utils import load_image, process_images
from llava.train.data.labels import Encoded, ImageTokens, encode, segments_of
from llava.train.data.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample before padding."""

    encoded: Encoded
    pixels: tuple[Tensor, ...]
    """One [3, height, width] or [tiles, 3, height, width] an image, in order of the markers in the ids."""
    image_sizes: tuple[tuple[int, int], ...]
    """Original (width, height) of each image."""


@dataclass(frozen=True, slots=True)
class ImageLoader:
    """Opens and processes the images of a record."""

    folder: Path
    """Image paths of the records are relative to it."""
    image_processor: Any
    model_config: Any
    """Says `image_aspect_ratio` and, for tiles, the grid."""
    num_positions: Callable[[Tensor, tuple[int, int]], int]
    """How many positions a processed image, given its original size, takes in the model."""

    def load(self, name: str, path: str) -> tuple[Tensor, tuple[int, int]]:
        """Returns the pixels and the original (width, height).

        Raises:
            DataError: the file is missing or no readable image; names record, file and reason.
        """
        file = self.folder / path
        try:
            image = load_image(str(file))
        except (ImageError, OSError) as error:
            raise DataError(f"{name}: image {file} cannot be used: {error}") from error
        return process_images([image], self.image_processor, self.model_config)[0], image.size


class ConversationDataset(Dataset[Sample]):
    """Records as samples; nothing is tokenised and no image is opened before it is asked for."""

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: PreTrainedTokenizerBase,
        template: Conversation,
        image_tokens: ImageTokens,
        images: ImageLoader | None,
        *,
        max_length: int,
        bos_token_id: int | None = None,
    ) -> None:
        """
        Args:
            records: from `load_records`.
            tokenizer: fast tokenizer with the `<im_*>` tokens that `image_tokens` needs.
            template: from `training_template`.
            image_tokens: how images stand in the ids.
            images: opens images; None when the model has no vision tower.
            max_length: longest sequence in the model, images counted in full.
            bos_token_id: first id of every sample; None for the tokenizer's own.

        Raises:
            DataError: a record has an image and there is no tower.
        """
        if images is None:
            for record in records:
                if record.images:
                    raise DataError(f"{record.name}: has an image, but no --vision_tower is given to see it.")
        self.records = records
        self.tokenizer = tokenizer
        self.template = template
        self.image_tokens = _for_template(image_tokens, template)
        self.images = images
        self.max_length = max_length
        self.bos_token_id = bos_token_id

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """
        Raises:
            DataError: an image cannot be read, or the text does not fit the template.
        """
        record = self.records[index]
        loaded = [self.images.load(record.name, image) for image in record.images] if self.images else []
        encoded = self.encode(index, [self.images.num_positions(*image) for image in loaded] if self.images else [])
        kept = loaded[: encoded.num_images]
        return Sample(encoded, tuple(pixels for pixels, _ in kept), tuple(size for _, size in kept))

    def encode(self, index: int, image_lengths: Sequence[int]) -> Encoded:
        """The text of one record, with images of the given lengths; opens no image."""
        record = self.records[index]
        segments = segments_of(record, self.template, images_first=not self.image_tokens.as_patches)
        return encode(
            segments,
            self.tokenizer,
            self.image_tokens,
            image_lengths=image_lengths,
            max_length=self.max_length,
            bos_token_id=self.bos_token_id,
            name=record.name,
        )

    @property
    def modality_lengths(self) -> list[int]:
        """A length in words for each record, negative for records without an image."""
        return [_num_words(record) * (1 if record.images else -1) for record in self.records]


def _num_words(record: Record) -> int:
    return max(1, sum(len(turn.text.replace(DEFAULT_IMAGE_TOKEN, " ").split()) for turn in record.turns))


def _for_template(image_tokens: ImageTokens, template: Conversation) -> ImageTokens:
    # The plain text is the bare image and its caption: it never had start and end tokens.
    if template.sep_style is SeparatorStyle.PLAIN:
        return ImageTokens(image_tokens.as_patches, start_end=False)
    return image_tokens

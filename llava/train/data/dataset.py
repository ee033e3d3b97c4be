"""Makes training samples on demand: ids and labels from text, pixels from images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Dataset

from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX
from llava.conversation import Conversation, SeparatorStyle
from llava.errors import DataError, ImageError
from llava.mm_utils import load_image, process_images
from llava.text_generation.literal_text import control_tokens
from llava.train.data.labels import Encoded, ImageTokens, encode
from llava.train.data.layouts import segments_of
from llava.train.data.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class BadSample:
    """A record that could not be made into a sample."""

    index: int
    """Position of the record in the file."""
    name: str
    """Name of the record."""
    images: tuple[str, ...]
    """Its image paths."""
    reason: str
    """What is wrong."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample before padding."""

    encoded: Encoded
    """Ids and labels."""
    pixels: tuple[Tensor, ...]
    """One tensor per image, [3, height, width] or [tiles, 3, height, width], in the order of the markers."""
    image_sizes: tuple[tuple[int, int], ...]
    """Original (width, height) of each image."""
    name: str = ""
    """Name of the record."""
    bad: BadSample | None = None
    """Why this is a placeholder that teaches nothing; None for a real sample."""


@dataclass(frozen=True, slots=True)
class ImageLoader:
    """Opens and preprocesses the images of a record."""

    folder: Path
    """Folder that the records' image paths are relative to."""
    image_processor: Any
    """The vision tower's image processor."""
    model_config: Any
    """Config with `image_aspect_ratio` and, for tiles, `image_grid_pinpoints`."""
    num_positions: Callable[[Tensor], int]
    """Returns how many positions a preprocessed image takes in the model."""

    def load(self, name: str, path: str, num_images: int = 1) -> tuple[Tensor, tuple[int, int]]:
        """Returns the pixels and the original (width, height) of an image.

        Args:
            name: name of the record in error messages.
            path: path of the image, relative to `folder`.
            num_images: number of images of the record.

        Raises:
            DataError: the file is missing, not a readable image, or too thin for the vision tower; the message names
                record, file and reason.
        """
        file = self.folder / path
        try:
            image = load_image(str(file))
            pixels = process_images([image], self.image_processor, self.model_config, num_images=num_images)[0]
            return pixels, image.size
        except (ImageError, OSError) as error:
            reason = str(error).removeprefix(f"{file}: ")
            raise DataError(f"{name}: cannot read image {file}: {reason}") from error


class PositionCounter:
    """Counts the positions of a preprocessed image in the model; keeps the tower's sizes, not its weights."""

    def __init__(self, tower: Any) -> None:
        self._grid = tower.grid
        self._extra = int(tower.keeps_class_token)

    def __call__(self, pixels: Tensor) -> int:
        """Returns the number of positions of pixels [3, height, width], or for tiles [n, 3, height, width] a bound."""
        rows, columns = self._grid(*pixels.shape[-2:])
        positions = rows * columns + self._extra
        if pixels.dim() == 3:
            return positions
        # An upper bound: unpadding removes positions, and line ends add one per row of patches.
        return pixels.shape[0] * (positions + rows)


class ConversationDataset(Dataset[Sample]):
    """Training samples by index; tokenises text and opens images only when a sample is requested."""

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
        collects_bad: bool = False,
    ) -> None:
        """
        Args:
            records: records from `load_records`.
            tokenizer: a fast tokenizer with the `<im_*>` tokens that `image_tokens` needs.
            template: a template from `training_template`.
            image_tokens: how images are represented in the ids.
            images: loader for the images; None if the model has no vision tower.
            max_length: longest sequence in the model, including all image positions.
            bos_token_id: id of the first token of each sample; None uses the tokenizer's own.
            collects_bad: whether a record that cannot be made into a sample gives a placeholder with the reason in
                place of an error. A placeholder is a first token without a label: it adds nothing to the loss, and the
                number of steps, the order and what other processes do stay as they are.

        Raises:
            DataError: a record has an image, but there is no vision tower.
        """
        if images is None:
            for record in records:
                if record.images:
                    raise DataError(f"{record.name}: the record has an image, but --vision_tower is not set.")
        self.records = records
        self.tokenizer = tokenizer
        self.template = template
        self.image_tokens = _for_template(image_tokens, template)
        self.images = images
        self.max_length = max_length
        self.bos_token_id = bos_token_id
        self.collects_bad = collects_bad
        self._control_tokens = control_tokens(tokenizer, without=[DEFAULT_IMAGE_TOKEN])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """
        Raises:
            DataError: an image cannot be read, or the record does not fit the template (unless `collects_bad`).
        """
        try:
            return self._make(index)
        except DataError as error:
            if not self.collects_bad:
                raise
            record = self.records[index]
            reason = str(error).removeprefix(f"{record.name}: ")
            return self.placeholder(record.name, BadSample(index, record.name, record.images, reason))

    def placeholder(self, name: str = "", bad: BadSample | None = None) -> Sample:
        """Returns a sample that teaches nothing: a first token without a label."""
        first = self.bos_token_id if self.bos_token_id is not None else self.tokenizer.bos_token_id
        encoded = Encoded([int(first or 0)], [IGNORE_INDEX], num_images=0, truncated=False, answer_tokens=0)
        return Sample(encoded, (), (), name, bad)

    def _make(self, index: int) -> Sample:
        record = self.records[index]
        loader, count = self.images, len(record.images)
        loaded = [loader.load(record.name, image, count) for image in record.images] if loader else []
        encoded = self.encode(index, [self.images.num_positions(pixels) for pixels, _ in loaded] if self.images else [])
        kept = loaded[: encoded.num_images]
        return Sample(encoded, tuple(pixels for pixels, _ in kept), tuple(size for _, size in kept), record.name)

    def encode(self, index: int, image_lengths: Sequence[int]) -> Encoded:
        """Encodes the text of a record, without opening images.

        Args:
            index: position of the record.
            image_lengths: number of positions of each image in the model.
        """
        record = self.records[index]
        segments = segments_of(
            record,
            self.template,
            images_first=not self.image_tokens.as_patches,
            control_tokens=self._control_tokens,
        )
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
        """The length of each record in words, negative for records without an image."""
        return [_num_words(record) if record.images else -_num_words(record) for record in self.records]


def _num_words(record: Record) -> int:
    return max(1, sum(len(turn.text.replace(DEFAULT_IMAGE_TOKEN, " ").split()) for turn in record.turns))


def _for_template(image_tokens: ImageTokens, template: Conversation) -> ImageTokens:
    # The plain template is an image and its caption; it never had start and end tokens.
    if template.sep_style is SeparatorStyle.PLAIN:
        return ImageTokens(image_tokens.as_patches, start_end=False)
    return image_tokens

"""Counts the tokens of all records by the code that training uses, and shows what of a record is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
)
from llava.errors import DataError, InvalidRequest
from llava.files.json_files import whole_file
from llava.train.data.record_checks import RecordFinding
from llava.train.data.records import Record
from llava.train.data_check.printing import printable
from llava.train.data_check.progress import ProgressReport

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llava.train.data.dataset import ConversationDataset
    from llava.train.data.image_lengths import ImageLengths
    from llava.train.data.labels import Encoded
    from llava.train.data_check.settings import CheckSettings

_NO_LIMIT = 1 << 30
_BARS = 12
_BAR_WIDTH = 40


@dataclass(slots=True)
class LengthResults:
    """What was counted."""

    findings: list[RecordFinding] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    """`longest`, `median`, `mean`, `limit`, `truncated`, `without_answer`, and `keeps_99_percent`: the limit that cuts
    no more than one record of a hundred."""

    def describe(self) -> str:
        """Describes the results, with a histogram in plain text."""
        facts = self.summary
        if not self.lengths:
            return "lengths: no record could be measured"
        line = (
            f"lengths in tokens: median {facts['median']:,}, mean {facts['mean']:,.0f}, longest {facts['longest']:,}; "
            f"at {facts['limit']:,}, {facts['truncated']:,} records are truncated and {facts['without_answer']:,} lose "
            f"every answer; {facts['keeps_99_percent']:,} keeps 99 % of the records whole"
        )
        return "\n".join([line, *_histogram(self.lengths)])


class LengthMeter:
    """Counts the tokens of records by the code that trains on them."""

    def __init__(self, settings: CheckSettings, records: Sequence[Record]) -> None:
        """
        Args:
            settings: model, template and limit.
            records: all records of the file that are well-formed.

        Raises:
            CheckpointError: the tokenizer or the vision tower cannot be read.
            InvalidRequest: the records have images, and no vision tower is named.
        """
        self._dataset, self._image_lengths = _dataset(settings, records)
        self._limit = settings.max_length

    def measure(self, *, bad_images: set[str], bad_records: set[str]) -> LengthResults:
        """Counts the tokens of each record, images included, and what the limit would cut.

        Args:
            bad_images: paths of images that are reported already, and not measured.
            bad_records: names of records that are reported already, and not measured.
        """
        results, truncated, useless = LengthResults(), 0, 0
        records = self._dataset.records
        progress = ProgressReport("measured", len(records), "records")
        for index, record in enumerate(records):
            progress.show(index)
            if record.name in bad_records or not bad_images.isdisjoint(record.images):
                continue
            try:
                whole, length = self._encode(index, _NO_LIMIT)
                cut = whole if length <= self._limit else self._encode(index, self._limit)[0]
            except DataError as error:
                text = str(error).removeprefix(f"{record.name}: ")
                kind = "records that cannot be measured"
                results.findings.append(RecordFinding(kind, record.name, text, is_error=True))
                continue
            results.lengths.append(length)
            if cut.truncated:
                truncated += 1
                lost = whole.answer_tokens - cut.answer_tokens
                loses_all = cut.answer_tokens == 0 < whole.answer_tokens
                useless += loses_all
                kind = "records that lose every answer" if loses_all else "truncated records"
                text = f"{length:,} tokens; {lost:,} of {whole.answer_tokens:,} answer tokens are cut"
                results.findings.append(RecordFinding(kind, record.name, text))
        ordered = sorted(results.lengths) or [0]
        results.summary = {
            "measured": len(results.lengths),
            "longest": ordered[-1],
            "median": ordered[len(ordered) // 2],
            "mean": sum(ordered) / len(ordered),
            "limit": self._limit,
            "truncated": truncated,
            "without_answer": useless,
            "keeps_99_percent": ordered[math.ceil(0.99 * len(ordered)) - 1],
        }
        return results

    def show(self, index: int) -> None:
        """Prints a record as the model sees it.

        Args:
            index: position in the records that the meter was made with.

        Raises:
            DataError: the record does not fit the template, or an image of it cannot be measured.
        """
        show_sample(self._dataset.records[index], self._encode(index, self._limit)[0], self._dataset.tokenizer)

    def _encode(self, index: int, limit: int) -> tuple[Encoded, int]:
        """Returns a record's ids and labels, and the number of its positions in the model."""
        record, count = self._dataset.records[index], self._image_lengths
        images = [count(record.name, image, len(record.images)) for image in record.images] if count else []
        self._dataset.max_length = limit
        encoded = self._dataset.encode(index, images)
        return encoded, _length(encoded, images)


def _length(encoded: Encoded, images: Sequence[int]) -> int:
    """Returns the positions of a sample in the model: a marker stands for all positions of its image."""
    markers = encoded.input_ids.count(IMAGE_TOKEN_INDEX)
    return len(encoded.input_ids) - markers + sum(images[:markers])


def _dataset(settings: CheckSettings, records: Sequence[Record]) -> tuple[ConversationDataset, ImageLengths | None]:
    from llava.model.loading.model_folder import read_model_folder
    from llava.model.loading.tokenizer import add_special_tokens, load_tokenizer
    from llava.model.multimodal_encoder import builder
    from llava.model.weights.reader import resolve_folder
    from llava.train.data.dataset import ConversationDataset, ImageLoader, PositionCounter
    from llava.train.data.image_lengths import ImageLengths
    from llava.train.data.labels import ImageTokens
    from llava.train.data.layouts import training_template

    folder = resolve_folder(str(settings.model))
    model = read_model_folder(folder).settings
    tokenizer = load_tokenizer(folder, tokenization="sentencepiece")
    template = training_template(settings.version, settings.model)
    as_patches = not template.image_first
    wanted = [DEFAULT_IMAGE_PATCH_TOKEN] if as_patches else []
    if settings.start_end:
        wanted += [DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN]
    add_special_tokens(tokenizer, [token for token in wanted if token not in tokenizer.get_vocab()])
    named = settings.vision_tower or model.get("mm_vision_tower")
    loader, image_lengths = None, None
    if any(record.images for record in records):
        if named is None:
            raise InvalidRequest("The records have images, and the model has no vision tower. Set --vision-tower.")
        place = builder.find_vision_tower(str(named), model_folder=folder)
        select: dict[str, Any] = {
            "select_layer": model.get("mm_vision_select_layer") or -2,
            "select_feature": model.get("mm_vision_select_feature") or "patch",
        }
        tower_config = builder.tower_config(place)
        processor = builder.load_image_processor(place, tower_config.model_type)
        tower = builder.empty_vision_tower(tower_config, processor, **select)
        aspect = settings.aspect_ratio or model.get("image_aspect_ratio") or "square"
        config = SimpleNamespace(image_aspect_ratio=aspect, image_grid_pinpoints=model.get("image_grid_pinpoints"))
        loader = ImageLoader(settings.image_folder, processor, config, PositionCounter(tower))
        image_lengths = ImageLengths(loader)
    images = ImageTokens(as_patches, start_end=settings.start_end)
    return ConversationDataset(records, tokenizer, template, images, loader, max_length=_NO_LIMIT), image_lengths


def _histogram(lengths: Sequence[int]) -> list[str]:
    if not lengths:
        return []
    width = max(1, -(-(max(lengths) + 1) // _BARS))
    counts = [0] * (max(lengths) // width + 1)
    for length in lengths:
        counts[length // width] += 1
    most = max(counts)
    return [
        f"{start * width:>8,} to {(start + 1) * width - 1:>8,}  {_bar(count, most):<{_BAR_WIDTH}} {count:,}"
        for start, count in enumerate(counts)
    ]


def _bar(count: int, most: int) -> str:
    return "#" * (max(1, round(_BAR_WIDTH * count / most)) if count else 0)


def draw_lengths(lengths: Sequence[int], limit: int, file: Path) -> None:
    """Draws the histogram of lengths to a PNG file.

    Raises:
        InvalidRequest: the file is a folder.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.hist(lengths, bins=50)
    axes.axvline(limit, color="black", linestyle="--", label=f"--model-max-length {limit}")
    axes.set_xlabel("tokens, images included")
    axes.set_ylabel("records")
    axes.legend()
    with whole_file(file) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def show_sample(record: Record, encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> None:
    """Prints a record as the model sees it: trained text in green, or in brackets where there are no colours."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    text, before = Text(), None
    for ids, trained in _runs(encoded):
        words = printable(_decoded(ids, before, tokenizer), keep="\n")
        before = ids[-1]
        if trained and not console.color_system:
            words = f"[[{words}]]"
        text.append(words, style="bold green" if trained else "dim")
    console.print(f"{record.name}: {len(encoded.input_ids):,} ids, trained text is marked", markup=False)
    console.print(text)


def _runs(encoded: Encoded) -> list[tuple[list[int], bool]]:
    runs: list[tuple[list[int], bool]] = []
    for identity, label in zip(encoded.input_ids, encoded.labels, strict=True):
        trained = label != IGNORE_INDEX
        if not runs or runs[-1][1] != trained:
            runs.append(([], trained))
        runs[-1][0].append(identity)
    return runs


def _decoded(ids: list[int], before: int | None, tokenizer: PreTrainedTokenizerBase) -> str:
    """Decodes a part of a text; `before` is the id that stands in front of it, on which its first space depends."""
    patch = tokenizer.get_added_vocab().get(DEFAULT_IMAGE_PATCH_TOKEN)
    pieces: list[str] = []
    for is_image, group in groupby(ids, lambda identity: identity in (IMAGE_TOKEN_INDEX, patch)):
        run = list(group)
        if is_image:
            pieces.append("<image>" if run[0] == IMAGE_TOKEN_INDEX else f"<image: {len(run)} positions>")
        elif before is None or before in (IMAGE_TOKEN_INDEX, patch):
            pieces.append(str(tokenizer.decode(run)))
        else:
            pieces.append(str(tokenizer.decode([before, *run]))[len(str(tokenizer.decode([before]))) :])
        before = run[-1]
    return "".join(pieces)

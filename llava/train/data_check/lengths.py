"""Counts the tokens of all records by the code that training uses, and shows what of a record is trained."""

from __future__ import annotations

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
from llava.train.data.layouts import turn_problem
from llava.train.data.record_checks import RecordFinding
from llava.train.data.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llava.conversation import Conversation
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
        line = (
            f"lengths in tokens: median {facts['median']:,}, mean {facts['mean']:,.0f}, longest {facts['longest']:,}; "
            f"at {facts['limit']:,}, {facts['truncated']:,} records are truncated and {facts['without_answer']:,} lose "
            f"every answer; {facts['keeps_99_percent']:,} keeps 99 % of the records whole"
        )
        return "\n".join([line, *_histogram(self.lengths)])


def measure_lengths(settings: CheckSettings, records: Sequence[Record]) -> LengthResults:
    """Counts the tokens of each record, images included, and what a limit would cut.

    Raises:
        CheckpointError: the tokenizer or the vision tower cannot be read.
        InvalidRequest: a record to show that does not exist.
    """
    if settings.sample is not None and not 0 <= settings.sample < len(records):
        raise InvalidRequest(f"--sample {settings.sample}: the file has records 0 to {len(records) - 1}.")
    dataset, image_lengths = _dataset(settings, records)
    results, truncated, useless = LengthResults(), 0, 0
    for index, record in enumerate(records):
        try:
            images = [image_lengths(record.name, image) for image in record.images] if image_lengths else []
            dataset.max_length = _NO_LIMIT
            whole = dataset.encode(index, images)
            dataset.max_length = settings.max_length
            cut = dataset.encode(index, images)
        except DataError as error:
            if not _is_reported(record, dataset.template, settings):
                text = str(error).removeprefix(f"{record.name}: ")
                kind = "records that cannot be measured"
                results.findings.append(RecordFinding(kind, record.name, text, is_error=True))
            continue
        length = _length(whole, images)
        results.lengths.append(length)
        if cut.truncated:
            truncated += 1
            lost = whole.answer_tokens - cut.answer_tokens
            useless += cut.answer_tokens == 0
            text = f"{length:,} tokens; {lost:,} of {whole.answer_tokens:,} answer tokens are cut"
            results.findings.append(RecordFinding("truncated records", record.name, text))
    ordered = sorted(results.lengths) or [0]
    results.summary = {
        "longest": ordered[-1],
        "median": ordered[len(ordered) // 2],
        "mean": sum(ordered) / len(ordered),
        "limit": settings.max_length,
        "truncated": truncated,
        "without_answer": useless,
        "keeps_99_percent": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }
    if settings.plot is not None:
        _draw(results.lengths, settings.max_length, settings.plot)
    if settings.sample is not None:
        record = records[settings.sample]
        dataset.max_length = settings.max_length
        images = [image_lengths(record.name, image) for image in record.images] if image_lengths else []
        encoded = dataset.encode(settings.sample, images)
        show_sample(record, encoded, dataset.tokenizer)
    return results


def _is_reported(record: Record, template: Conversation, settings: CheckSettings) -> bool:
    """Tells whether the report names a record already: for its turns, or for a missing image."""
    missing = not all((settings.image_folder / image).exists() for image in record.images)
    return missing or turn_problem(record, template) is not None


def _length(encoded: Encoded, images: Sequence[int]) -> int:
    """Returns the positions of a sample in the model: a marker stands for all positions of its image."""
    markers = encoded.input_ids.count(IMAGE_TOKEN_INDEX)
    return len(encoded.input_ids) - markers + (sum(images) if markers else 0)


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
    template = training_template(settings.version)
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
        processor = builder.load_image_processor(place)
        tower = builder.empty_vision_tower(builder.tower_config(place), processor, **select)
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


def _draw(lengths: Sequence[int], limit: int, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.hist(lengths, bins=50)
    axes.axvline(limit, color="black", linestyle="--", label=f"--model-max-length {limit}")
    axes.set_xlabel("tokens, images included")
    axes.set_ylabel("records")
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def show_sample(record: Record, encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> None:
    """Prints a record as the model sees it: trained text in green, or in brackets where there are no colours."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    text, before = Text(), None
    for ids, trained in _runs(encoded):
        words = _decoded(ids, before, tokenizer)
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

"""Dataset, collator and sampler: from records to padded batches."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import DataError
from llava.model.loading.tokenizer import load_tokenizer
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.train.data.collator import REPORT_KEY, BatchReport, Collator
from llava.train.data.dataset import ConversationDataset, ImageLoader, PositionCounter, Sample
from llava.train.data.labels import Encoded, ImageTokens
from llava.train.data.layouts import training_template
from llava.train.data.records import parse_record
from llava.train.data.sampler import ModalityLengthSampler

DATA = Path(__file__).parents[3] / "data"
PATCH = 2049


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(DATA / "llava-v0-tiny", tokenization="sentencepiece")


@pytest.fixture(scope="module")
def tower():
    return build_vision_tower(str(DATA / "clip-tiny"), select_layer=-2)


def record(question: str, images: list[str], index: int = 0):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "Yes."}]
    return parse_record({"id": f"r{index}", "image": images or None, "conversations": turns}, f"t.json: record {index}")


def dataset(tokenizer, tower, records, *, aspect="square", version="v0", folder=DATA / "images", **options):
    template = training_template(version)
    config = SimpleNamespace(image_aspect_ratio=aspect, image_grid_pinpoints=[[224, 448], [448, 224]])
    images = ImageLoader(folder, tower.image_processor, config, PositionCounter(tower))
    form = ImageTokens(not template.image_first, start_end=True)
    return ConversationDataset(records, tokenizer, template, form, images, **{"max_length": 2048, **options})


@pytest.mark.parametrize(("aspect", "patches"), [("square", 256), ("pad", 256), ("keep", 16 * 21)])
def test_an_image_takes_as_many_patch_tokens_as_the_tower_makes_features(tokenizer, tower, aspect, patches):
    sample = dataset(tokenizer, tower, [record("<image>\nWhat?", ["land.png"])], aspect=aspect)[0]
    assert sample.encoded.input_ids.count(PATCH) == patches
    assert tower(sample.pixels[0][None]).shape[1] == patches


def test_tiles_of_a_large_image_fit_the_length_they_were_counted_with(tokenizer, tower):
    samples = dataset(tokenizer, tower, [record("<image>\nWhat?", ["wide.png"])], aspect="anyres", version="v1")
    sample = samples[0]
    assert sample.pixels[0].dim() == 4
    counted = samples.images.num_positions(sample.pixels[0])
    assert counted >= sample.pixels[0].shape[0] * 256


def test_images_that_are_cut_off_are_not_handed_to_the_model(tokenizer, tower):
    records = [record("<image> or <image>?", ["land.png", "square.png"])]
    sample = dataset(tokenizer, tower, records, max_length=400)[0]
    assert sample.encoded.truncated
    assert len(sample.pixels) == len(sample.image_sizes) == 1
    assert sample.image_sizes[0] == (320, 240)


@pytest.mark.parametrize(("version", "marker", "count"), [("v0", PATCH, 256), ("v1", IMAGE_TOKEN_INDEX, 1)])
def test_image_tokens_that_a_user_spells_are_no_images(tokenizer, tower, version, marker, count):
    question = "<image>\nWhat do <im_start><im_patch><im_end> and </s> mean?"
    sample = dataset(tokenizer, tower, [record(question, ["land.png"])], version=version)[0]
    assert sample.encoded.input_ids.count(marker) == count
    assert len(sample.pixels) == sample.encoded.num_images == 1


def test_a_record_that_cannot_be_used_leaves_a_placeholder_that_teaches_nothing(tokenizer, tower, tmp_path):
    """Real ones and placeholders fit into one batch, also if no row of it is real."""
    records = [record("<image>?", ["none.png"], 0), record("Hi", [], 1)]
    samples = dataset(tokenizer, tower, records, folder=tmp_path, collects_bad=True)
    bad = samples[0].bad
    assert (bad.index, bad.name, bad.images) == (0, "t.json: record 0 (id 'r0')", ("none.png",))
    assert bad.reason.startswith(f"cannot read image {tmp_path / 'none.png'}: no such file")
    assert samples[0].encoded.input_ids == samples[1].encoded.input_ids[:1]
    mixed, alone = Collator(0)([samples[0], samples[1]]), Collator(0)([samples[0], samples[0]])
    assert (mixed["labels"][0] == IGNORE_INDEX).all()
    assert mixed["attention_mask"][0].sum() == 1
    assert alone["input_ids"].shape == (2, 1)
    assert "images" not in alone


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\0\0"])
def test_a_broken_image_names_record_and_file(tokenizer, tower, tmp_path, content):
    (tmp_path / "broken.png").write_bytes(content)
    samples = dataset(tokenizer, tower, [record("<image>?", ["broken.png"], 4)], folder=tmp_path)
    with pytest.raises(DataError, match=r"t\.json: record 4 \(id 'r4'\): cannot read image .*broken\.png"):
        samples[0]


def test_an_image_that_vanished_names_record_and_file(tokenizer, tower, tmp_path):
    samples = dataset(tokenizer, tower, [record("<image>?", ["none.png"])], folder=tmp_path)
    with pytest.raises(DataError, match=r"record 0 .*none\.png"):
        samples[0]


def test_images_without_a_tower_are_refused_at_once(tokenizer):
    with pytest.raises(DataError, match="--vision_tower"):
        ConversationDataset(
            [record("<image>?", ["land.png"])],
            tokenizer,
            training_template("v0"),
            ImageTokens(True),
            None,
            max_length=64,
        )


def test_a_cmyk_and_a_grey_image_become_rgb_pixels(tokenizer, tower, tmp_path):
    Image.new("CMYK", (40, 30), (10, 20, 30, 40)).save(tmp_path / "c.jpg")
    Image.new("L", (40, 30), 128).save(tmp_path / "g.png")
    samples = dataset(tokenizer, tower, [record("<image>?", ["c.jpg"]), record("<image>?", ["g.png"])], folder=tmp_path)
    assert [tuple(samples[i].pixels[0].shape) for i in (0, 1)] == [(3, 224, 224)] * 2


# ---- collator --------------------------------------------------------------------------------------------------------


def sample(ids: list[int], pixels: list[torch.Tensor] | None = None, *, answers: int = 1, truncated=False) -> Sample:
    pixels = pixels or []
    encoded = Encoded(ids, ids, len(pixels), truncated, answers)
    return Sample(encoded, tuple(pixels), tuple((8, 8) for _ in pixels))


def test_padding_follows_lengths_not_the_padding_id():
    """Pad is often a token of the text, too (`<unk>`, `</s>`): those positions must stay visible and supervised."""
    batch = Collator(pad_token_id=0)([sample([5, 0, 0]), sample([6, 7, 8, 9, 0])])
    assert batch["attention_mask"].tolist() == [[True, True, True, False, False], [True] * 5]
    assert batch["labels"].tolist() == [[5, 0, 0, IGNORE_INDEX, IGNORE_INDEX], [6, 7, 8, 9, 0]]
    assert batch["input_ids"].tolist() == [[5, 0, 0, 0, 0], [6, 7, 8, 9, 0]]


def test_images_of_all_rows_come_in_reading_order():
    images = [torch.full((3, 4, 4), float(number)) for number in range(3)]
    batch = Collator(0)([sample([1], images[:2]), sample([2]), sample([3], images[2:])])
    assert batch["images"].shape == (3, 3, 4, 4)
    assert batch["images"][:, 0, 0, 0].tolist() == [0, 1, 2]
    assert len(batch["image_sizes"]) == 3


def test_images_of_different_shapes_come_as_a_list():
    batch = Collator(0)([sample([1], [torch.zeros(3, 4, 4)]), sample([2], [torch.zeros(3, 4, 8)])])
    assert [tuple(image.shape) for image in batch["images"]] == [(3, 4, 4), (3, 4, 8)]


def test_a_batch_of_pure_text_has_no_images_at_all():
    assert "images" not in Collator(0)([sample([1]), sample([2, 3])])


def test_a_report_says_how_many_rows_are_truncated_or_useless():
    batch = Collator(0, with_report=True)([sample([1], truncated=True, answers=0), sample([2, 3])])
    assert batch[REPORT_KEY] == BatchReport(("", ""), truncated=("",), useless=1, tokens=3, bad=())


# ---- sampler ---------------------------------------------------------------------------------------------------------


def test_batches_hold_one_modality_and_like_lengths_and_miss_nobody():
    lengths = [*range(1, 401), *range(-1, -202, -1)]
    sampler = ModalityLengthSampler(lengths, batch_size=8, seed=3)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    full = [order[start : start + 8] for start in range(0, 600, 8)]
    spreads = []
    for batch in full:
        signs = {lengths[index] > 0 for index in batch}
        assert len(signs) == 1
        spreads.append(max(abs(lengths[index]) for index in batch) - min(abs(lengths[index]) for index in batch))
    assert sorted(spreads)[len(spreads) // 2] <= 10


def test_the_order_depends_on_seed_and_epoch_only():
    lengths = [*range(1, 100), *range(-50, 0)]
    sampler = ModalityLengthSampler(lengths, batch_size=4, seed=3)
    first = list(sampler)
    torch.manual_seed(99)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(ModalityLengthSampler(lengths, batch_size=4, seed=4)) != first

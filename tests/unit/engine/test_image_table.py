"""Virtual ids: unique to an image, mapped to its features, kept while somebody uses them."""

from __future__ import annotations

import random
import threading

import pytest
import torch
from PIL import Image

from llava.engine.image_table import IdsUsedUp, ImageEmbedding, ImageTable, TooManyFeatures, content_key
from llava.errors import ShuttingDown

VOCABULARY, WIDTH = 10, 4


def table(num_rows: int, **options) -> ImageTable:
    return ImageTable(ImageEmbedding(torch.nn.Embedding(VOCABULARY, WIDTH), VOCABULARY, num_rows), **options)


def features(length: int, value: float) -> torch.Tensor:
    return torch.full((length, WIDTH), value)


def read(images: ImageTable, ids: range) -> list[float]:
    return images.embedding(torch.tensor([list(ids)]))[0, :, 0].tolist()


def test_text_ids_keep_their_embedding_and_image_ids_read_the_features():
    images = table(8)
    run = images.store(b"cat", features(3, 5.0))
    ids = torch.tensor([[1, *run.ids, 9]], dtype=torch.int32)
    embedded = images.embedding(ids)
    assert torch.equal(embedded[0, [0, 4]], images.embedding.text.weight[[1, 9]])
    assert embedded[0, 1:4].eq(5.0).all()


def test_the_same_image_is_found_again_and_counted():
    images = table(8)
    run = images.store(b"cat", features(3, 5.0))
    assert images.find(b"cat") is run
    assert images.find(b"dog") is None
    assert (images.num_stored, images.num_hits, run.users) == (1, 1, 2)


def test_a_new_image_overwrites_the_oldest_that_nobody_uses():
    images = table(8)
    for name in (b"a", b"b"):
        images.release(images.store(name, features(4, 1.0)))
    images.store(b"c", features(4, 2.0))
    assert images.find(b"a") is None
    assert images.find(b"b") is not None


def test_an_image_in_use_is_skipped_and_keeps_its_features():
    images = table(10)
    images.release(images.store(b"a", features(3, 1.0)))
    held = images.store(b"b", features(3, 2.0))
    for i in range(20):
        images.release(images.store(b"new %d" % i, features(4, 10.0 + i)))
        assert read(images, held.ids) == [2.0] * 3


def test_random_use_never_mixes_images_up_and_never_gives_an_id_twice():
    rng = random.Random(0)
    images, held, given = table(64), [], set()
    for step in range(3000):
        if held and rng.random() < 0.5:
            run, value = held.pop(rng.randrange(len(held)))
            assert read(images, run.ids) == [value] * run.length
            images.release(run)
        try:
            run = images.store(b"%d" % step, features(rng.randint(1, 12), float(step)), own=[run for run, _ in held])
        except TooManyFeatures:
            run, value = held.pop()
            images.release(run)
            continue
        assert given.isdisjoint(run.ids)
        given.update(run.ids)
        held.append((run, float(step)))
    assert images.num_stored > 2000


def test_where_images_of_others_leave_no_room_one_waits_for_a_release():
    images = table(8)
    held = images.store(b"a", features(8, 1.0))
    threading.Timer(0.05, images.release, [held]).start()
    assert images.store(b"b", features(1, 2.0)).length == 1


def test_nobody_waits_at_a_table_that_is_closed():
    images = table(8)
    images.store(b"a", features(8, 1.0))
    threading.Timer(0.05, images.close).start()
    with pytest.raises(ShuttingDown):
        images.store(b"b", features(1, 2.0))


def test_images_of_one_request_that_do_not_fit_together_are_an_error_and_no_endless_wait():
    images = table(8)
    first = images.store(b"a", features(5, 1.0))
    with pytest.raises(TooManyFeatures, match="have 9 features or more, the engine's table holds 8"):
        images.store(b"b", features(4, 1.0), own=[first])
    with pytest.raises(TooManyFeatures):
        table(8).store(b"a", features(9, 1.0))


def test_when_ids_run_out_the_table_says_so_and_can_begin_anew():
    images = table(8, max_id=VOCABULARY + 10)
    images.release(images.store(b"a", features(6, 1.0)))
    with pytest.raises(IdsUsedUp):
        images.store(b"b", features(6, 2.0))
    images.forget_all()
    assert images.find(b"a") is None
    assert read(images, images.store(b"b", features(6, 2.0)).ids) == [2.0] * 6


def test_only_equal_images_under_equal_preprocessing_share_a_key():
    images = [
        Image.new("RGB", (30, 100), (9, 9, 9)),
        Image.new("RGB", (100, 30), (9, 9, 9)),
        Image.new("RGB", (30, 100), (9, 9, 8)),
        Image.new("L", (90, 100), 9),
    ]
    keys = {content_key(image, settings) for image in images for settings in (b"pad", b"square")}
    assert len(keys) == 8
    assert content_key(images[0].copy(), b"pad") in keys

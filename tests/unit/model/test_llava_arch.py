"""The model agrees with itself: batched and single, padded left and right, cached and not, partial and full loss."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import CLIPVisionModel

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import CheckpointError, ImageError, ImageTokenMismatch, InvalidRequest
from llava.model.builder import load_pretrained_model
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.weights.reader import open_checkpoint
from tests.support.checkpoints import (
    DATA,
    VOCABULARY,
    copy_tokenizer,
    randomise,
    small_llava,
    small_tower,
    vision_config,
    write_preprocessor,
)

PATCH, START, END = VOCABULARY + 1, VOCABULARY + 2, VOCABULARY + 3
MARK = IMAGE_TOKEN_INDEX
# float32; batching changes the order of sums, and logits reach about 15.
CLOSE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return small_tower(tmp_path_factory.mktemp("tower"))


@pytest.fixture(scope="module")
def model(tower) -> LlavaLlamaForCausalLM:
    return small_llava(tower)


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(0))


# One image with start and end tokens, text alone, two images, and a marker of the later kind.
ROWS = [[1, 20, START, *[PATCH] * 16, END, 30, 31], [1, 40, 41, 42], [1, MARK, 50, MARK, 60]]
IMAGES = [1, 0, 2]


def padded(rows, side: str):
    width = max(map(len, rows))
    fill = [[0] * (width - len(row)) for row in rows]
    ids = [f + row if side == "left" else row + f for row, f in zip(rows, fill, strict=True)]
    mask = [
        [0] * len(f) + [1] * len(row) if side == "left" else [1] * len(row) + [0] * len(f)
        for row, f in zip(rows, fill, strict=True)
    ]
    return torch.tensor(ids), torch.tensor(mask)


def alone(model, pixels, row: int):
    first = sum(IMAGES[:row])
    images = pixels[first : first + IMAGES[row]]
    return model(input_ids=torch.tensor([ROWS[row]]), images=images if len(images) else None).logits[0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_of_mixed_rows_gives_the_logits_of_each_row_alone(model, pixels, side):
    ids, mask = padded(ROWS, side)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, images=pixels).logits
        for row in range(len(ROWS)):
            single = alone(model, pixels, row)
            part = logits[row, -len(single) :] if side == "left" else logits[row, : len(single)]
            torch.testing.assert_close(part, single, **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_generation_of_a_batch_equals_each_row_alone(model, pixels, side):
    ids, mask = padded(ROWS, side)
    batch = model.generate(ids, attention_mask=mask, images=pixels, max_new_tokens=8, do_sample=False)
    for row, first in zip(range(3), (0, 1, 1), strict=True):
        images = pixels[first : first + IMAGES[row]]
        single = model.generate(torch.tensor([ROWS[row]]), images=images, max_new_tokens=8, do_sample=False)
        assert batch[row].tolist() == single[0].tolist()


def test_cached_generation_equals_recomputing_every_step(model, pixels):
    ids = torch.tensor([ROWS[0]])
    cached = model.generate(ids, images=pixels[:1], max_new_tokens=6, do_sample=False)[0].tolist()
    uncached, row = [], list(ROWS[0])
    with torch.no_grad():
        for _ in range(6):
            logits = model(input_ids=torch.tensor([row]), images=pixels[:1], use_cache=False).logits
            uncached.append(int(logits[0, -1].argmax()))
            row.append(uncached[-1])
    assert cached == uncached


def test_generate_gives_new_tokens_only_with_and_without_images(model, pixels):
    with_image = model.generate(torch.tensor([ROWS[0]]), images=pixels[:1], max_new_tokens=4, do_sample=False)
    without = model.generate(input_ids=torch.tensor([ROWS[1]]), max_new_tokens=4, do_sample=False)
    assert (with_image.shape[1], without.shape[1]) == (4, 4)


def test_generate_takes_embeddings_beams_and_a_streamer(model, pixels):
    from transformers.generation.streamers import BaseStreamer

    class Collector(BaseStreamer):
        def __init__(self):
            self.ids = []

        def put(self, value):
            self.ids += value.flatten().tolist()

        def end(self):
            self.ended = True

    ids, collector = torch.tensor([ROWS[0]]), Collector()
    plain = model.generate(ids, images=pixels[:1], max_new_tokens=5, do_sample=False, streamer=collector)
    assert (collector.ids, collector.ended) == (plain[0].tolist(), True)
    spliced = model.splice_images(ids, None, None, pixels[:1])
    embedded = model.generate(inputs_embeds=spliced.inputs_embeds, max_new_tokens=5, do_sample=False)
    assert embedded.tolist() == plain.tolist()
    beams = model.generate(ids, images=pixels[:1], max_new_tokens=5, num_beams=3, num_return_sequences=2)
    assert beams.shape == (2, 5)
    with pytest.raises(InvalidRequest, match="not both"):
        model.generate(ids, inputs_embeds=spliced.inputs_embeds)


def test_images_of_different_sizes_are_encoded_each_at_its_own(model, pixels):
    wide = torch.randn(3, 56, 84, generator=torch.Generator().manual_seed(4))
    together = model.encode_images([pixels[0], wide, pixels[1]])
    assert model.count_features([pixels[0], wide, pixels[1]]) == [len(features) for features in together]
    assert [len(feature) for feature in together] == [16, 24, 16]
    torch.testing.assert_close(together[2], model.encode_images(pixels[1:2])[0], **CLOSE)


def labelled(rows):
    ids, mask = padded(rows, "right")
    labels = ids.clone()
    labels[(mask == 0) | (ids == PATCH)] = IGNORE_INDEX
    labels[:, :2] = IGNORE_INDEX
    return ids, mask, labels


def test_supervised_only_loss_equals_the_full_loss_and_its_gradient(model, pixels):
    ids, mask, labels = labelled(ROWS)
    model.train().requires_grad_(True)
    spliced = model.splice_images(ids, mask, labels, pixels)
    results = []
    for full in (False, True):
        model.zero_grad()
        if full:
            model.eval()
            logits = model(input_ids=ids, attention_mask=mask, images=pixels).logits
            targets = torch.nn.functional.pad(spliced.labels, (0, 1), value=IGNORE_INDEX)[:, 1:]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX)
        else:
            output = model(input_ids=ids, attention_mask=mask, images=pixels, labels=labels)
            assert output.logits is None
            loss = output.loss
        loss.backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((loss.item(), grads))
    (loss, grads), (full_loss, full_grads) = results
    model.eval().zero_grad()
    assert loss == pytest.approx(full_loss, abs=1e-5)
    assert set(grads) == set(full_grads)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, full_grads[name], atol=1e-5, rtol=1e-4)


def test_loss_is_divided_by_the_tokens_of_the_whole_step(model, pixels):
    ids, mask, labels = labelled(ROWS)
    model.train()
    mean = model(input_ids=ids, attention_mask=mask, images=pixels, labels=labels).loss
    spliced = model.splice_images(ids, mask, labels, pixels)
    supervised = int((spliced.labels[:, 1:] != IGNORE_INDEX).sum())
    told = model(input_ids=ids, attention_mask=mask, images=pixels, labels=labels, num_items_in_batch=100).loss
    model.eval()
    assert told.item() == pytest.approx(mean.item() * supervised / 100, rel=1e-5)


def test_batch_without_supervised_tokens_has_zero_loss_and_no_nan(model):
    ids = torch.tensor([ROWS[1]])
    model.train()
    loss = model(input_ids=ids, labels=torch.full_like(ids, IGNORE_INDEX)).loss
    loss.backward()
    model.eval()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.isnan().any() for p in model.parameters())


def test_text_only_batch_gives_the_projector_a_zero_gradient(model):
    ids = torch.tensor([ROWS[1]])
    model.train().requires_grad_(True).zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    model.eval()
    assert model.get_model().mm_projector.weight.grad.abs().sum() == 0


def test_markers_without_images_are_an_error_that_names_the_row(model):
    ids, mask = padded([ROWS[1], ROWS[2]], "right")
    with pytest.raises(ImageTokenMismatch, match="row 1: the prompt has a place for an image, but no images"):
        model(input_ids=ids, attention_mask=mask)
    with pytest.raises(ImageTokenMismatch):
        model.generate(ids, attention_mask=mask, max_new_tokens=1)


def test_pixels_of_a_wrong_shape_are_an_error(model):
    with pytest.raises(ImageError, match=r"\[images, 3, height, width\]"):
        model.encode_images(torch.zeros(1, 4, 56, 56))
    with pytest.raises(ImageError, match="smaller than one patch"):
        model.encode_images(torch.zeros(1, 3, 10, 56))


def test_saved_and_loaded_model_is_equal_bit_for_bit(model, tmp_path):
    model.save_pretrained(tmp_path)
    copy_tokenizer(tmp_path, "llava-v0-tiny")
    shutil.copy(DATA / "llava-v0-tiny" / "added_tokens.json", tmp_path)
    _, again, _, _ = load_pretrained_model(tmp_path, device="cpu", dtype="float32")
    ours, theirs = model.state_dict(), again.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_frozen_tower_is_not_written(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert not [name for name in open_checkpoint(tmp_path) if "vision_tower" in name]


@pytest.mark.parametrize(("select_layer", "layers_run"), [(-1, 3), (-2, 2), (-4, 0), (1, 1), (3, 3)])
def test_tower_runs_only_up_to_the_selected_layer(tower, pixels, select_layer, layers_run):
    ours = build_vision_tower(str(tower), select_layer=select_layer)
    theirs = CLIPVisionModel.from_pretrained(tower).eval()
    with torch.no_grad():
        hidden = theirs(pixels, output_hidden_states=True).hidden_states[select_layer][:, 1:]
        torch.testing.assert_close(ours(pixels), hidden, atol=1e-5, rtol=1e-5)
    assert len(ours.vision_tower.encoder.layers) == layers_run


@pytest.mark.parametrize("select_layer", [-5, 4])
def test_layer_that_the_tower_does_not_have_is_an_error(tower, select_layer):
    with pytest.raises(CheckpointError, match=r"has 3 layers \(allowed: -4 to 3\)"):
        build_vision_tower(str(tower), select_layer=select_layer)


def write_other_tower(folder, kind: str):
    from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    if kind == "siglip":
        tower = SiglipVisionModel(SiglipVisionConfig(intermediate_size=64, **sizes))
        processor = '{"image_processor_type": "SiglipImageProcessor", "size": {"height": 56, "width": 56}}'
    else:
        tower = Dinov2Model(Dinov2Config(mlp_ratio=2, **sizes))
        processor = '{"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 56}, "crop_size": 56}'
    randomise(tower)
    tower.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(processor)
    return tower


@pytest.mark.parametrize("kind", ["siglip", "dinov2"])
def test_other_towers_are_chosen_by_their_own_config(tmp_path, pixels, kind):
    theirs = write_other_tower(tmp_path, kind)
    ours = build_vision_tower(str(tmp_path), select_layer=-2)
    with torch.no_grad():
        hidden = theirs(pixels, output_hidden_states=True).hidden_states[-2]
        patches = hidden if kind == "siglip" else hidden[:, 1:]
        torch.testing.assert_close(ours(pixels), patches, atol=1e-5, rtol=1e-5)
    assert ours.num_patches == 16
    assert type(ours.image_processor).__name__.endswith("Pil")


def test_projectors_by_name():
    assert build_vision_projector("linear", 8, 16).weight.shape == (16, 8)
    assert list(build_vision_projector("mlp2x_gelu", 8, 16).state_dict()) == [
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    ]
    assert list(build_vision_projector("identity", 8, 8).state_dict()) == []
    for name, sizes in (("mlp_gelu", (8, 16)), ("identity", (8, 16)), ("resampler", (8, 8))):
        with pytest.raises(CheckpointError):
            build_vision_projector(name, *sizes)


def test_tower_config_of_another_width_is_refused(model, tmp_path):
    config = vision_config()
    config.hidden_size, config.num_attention_heads = 16, 1
    CLIPVisionModel(config).save_pretrained(tmp_path)
    write_preprocessor(tmp_path)
    with pytest.raises(CheckpointError, match="features are 16 wide, the projector expects 32"):
        model.attach_vision_tower(build_vision_tower(str(tmp_path)))


@pytest.mark.parametrize("frozen", [(), ("vision_tower",), ("vision_tower", "mm_projector")])
def test_a_batch_of_pure_text_reaches_all_that_trains_for_images(tmp_path, frozen):
    """Processes of a group wait for one another's gradients, and the batch of another may have images."""
    model = small_llava(small_tower(tmp_path), mm_patch_merge_type="spatial_unpad", mm_use_im_patch_token=False)
    idle = model.get_vision_tower().unused_parameters()
    for name, parameter in model.get_model().named_parameters():
        is_frozen = name.startswith(frozen) or name.removeprefix("vision_tower.") in idle
        parameter.requires_grad_(not is_frozen)
    ids = torch.tensor([[1, 20, 30, 31]])
    loss = model.train()(input_ids=ids, labels=ids).loss
    loss.backward()
    trained = {name: value for name, value in model.get_model().named_parameters() if value.requires_grad}
    assert [name for name, value in trained.items() if value.grad is None] == []
    assert not any(value.grad.any() for name, value in trained.items() if "vision_tower" in name)


@pytest.mark.parametrize("markers", [[START, *[PATCH] * 16, END], [MARK]], ids=["patches", "marker"])
def test_gradients_become_ready_in_the_same_order_with_and_without_images(tower, pixels, markers):
    """DeepSpeed adds up gradients over processes in this order, and each process may have a batch of either kind."""
    model = small_llava(tower).train().requires_grad_(True)
    model.get_vision_tower().requires_grad_(False)
    ready: list[str] = []
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in trained.items():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: ready.append(name))
    orders = []
    for row, images in (([1, *markers, 30, 31], pixels[:1]), ([1, 30, 31], None)):
        ids = torch.tensor([row])
        model(input_ids=ids, labels=ids.clamp(min=0), images=images).loss.backward()
        orders.append(list(ready))
        ready.clear()
    assert orders[0] == orders[1]
    assert set(orders[0]) == set(trained)

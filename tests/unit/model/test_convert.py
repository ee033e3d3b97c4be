"""Exports load in transformers alone and give our logits; turned back, they give the original tensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava import pocket
from llava.command_line import run
from llava.errors import CheckpointError, InvalidRequest, UnknownTemplate
from llava.mm_utils import load_image
from llava.model import convert
from llava.model.builder import load_pretrained_model
from llava.model.loading.tokenizer import load_tokenizer
from llava.model.transformers_format.layout import linear_form, two_layers
from llava.model.weights.reader import open_checkpoint, read_model_json
from llava.model.weights.writer import CheckpointWriter
from llava.prompting import build_prompt, encode_prompt
from tests.support.checkpoints import DATA, GRID, TOWER, small_llava, small_tower, write_nested, write_small_llava
from tests.support.towers import clip_names_of_release_4_37

V0, V15 = DATA / "llava-v0-tiny", DATA / "llava-v1.5-tiny"
IMAGE = DATA / "images" / "land.png"
# float32; the projector of v0 is summed in another order.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def converted(source: Path, target: Path, *more: str) -> Path:
    argv = ["--model-path", str(source), "--output", str(target), "--quiet", *more]
    assert run(convert.add_arguments, convert.main, argv=argv) == 0
    return target


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.tensor(name).clone() for name in checkpoint if "inv_freq" not in name}


def ask_transformers(folder: Path, image: Image.Image, question: str, *, opened: bool):
    """Prompt ids and last logits, by transformers' own classes; the ids are the same in one step and in two."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    messages = [
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]},
    ]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=opened, tokenize=True, return_dict=True, return_tensors="pt"
    )
    text = processor.apply_chat_template(messages, add_generation_prompt=opened)
    in_two_steps = processor(text=text, images=image, return_tensors="pt")
    assert in_two_steps["input_ids"].tolist() == inputs["input_ids"].tolist()
    assert inputs["input_ids"][0].tolist().count(processor.tokenizer.bos_token_id) == 1
    with torch.no_grad():
        return inputs["input_ids"][0].tolist(), model(**inputs).logits[0]


def ask_us(folder: Path, image: Image.Image, question: str, **options):
    tokenizer, model, image_processor, _ = load_pretrained_model(folder, device="cpu", dtype="float32", **options)
    prompt = build_prompt(model.config, question, 1, name=folder.name)
    inputs = encode_prompt(prompt.text, [image], model, tokenizer, image_processor)
    with torch.no_grad():
        return model(input_ids=inputs.input_ids, images=inputs.images, image_sizes=inputs.image_sizes).logits[0]


@pytest.fixture(scope="module")
def linear_twice_as_wide(tmp_path_factory):
    """A v0 whose language model (64) is twice as wide as the tower's features (32), as 7B and 13B are more than."""
    folder = tmp_path_factory.mktemp("wide")
    return write_small_llava(folder / "model", small_tower(folder / "tower"))


@pytest.mark.parametrize(
    ("source", "options", "opened"),
    [
        (V0, ["--vision-tower", str(TOWER)], False),
        (V15, ["--vision-tower", str(TOWER)], True),
        (pocket.find("tiny"), [], True),
    ],
    ids=["v0", "v1.5", "tiny"],
)
def test_transformers_gives_our_logits_for_the_same_question(tmp_path, source, options, opened):
    export = converted(source, tmp_path / source.name, "--dtype", "float32", *options)
    image = load_image(str(IMAGE))
    _, theirs = ask_transformers(export, image, "What is in the picture?", opened=opened)
    tower = {"vision_tower": TOWER} if options else {}
    ours = ask_us(source, image, "What is in the picture?", **tower)
    torch.testing.assert_close(theirs, ours if ours.shape == theirs.shape else padded(ours, theirs), **CLOSE)


def padded(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """An export has one more row, for `<image>`; its logit is the mean of the others and never the largest."""
    extra = theirs[:, ours.shape[1] :]
    assert extra.shape[1] == 1
    torch.testing.assert_close(extra[:, 0], ours.mean(1), atol=1e-4, rtol=1e-4)
    return torch.cat([ours, extra], dim=1)


def test_a_linear_projector_becomes_two_layers_that_any_engine_runs(tmp_path, linear_twice_as_wide):
    export = converted(linear_twice_as_wide, tmp_path / "export")
    assert read_model_json(export / "config.json")["projector_hidden_act"] == "gelu"
    image = load_image(str(IMAGE))
    _, theirs = ask_transformers(export, image, "What?", opened=False)
    torch.testing.assert_close(theirs, ask_us(linear_twice_as_wide, image, "What?"), **CLOSE)


@pytest.mark.parametrize(("width", "form"), [(64, "pair"), (63, "identity")])
def test_two_layers_equal_the_one_they_stand_for(width, form):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(width, 32, generator=generator), torch.randn(width, generator=generator)
    assert linear_form(32, width) == form
    layers = two_layers(weight, bias, form)
    x = 3 * torch.randn(100, 32, generator=generator)
    hidden = torch.nn.functional.linear(x, layers["linear_1.weight"], layers["linear_1.bias"])
    if form == "pair":
        hidden = torch.nn.functional.gelu(hidden)
    y = torch.nn.functional.linear(hidden, layers["linear_2.weight"], layers["linear_2.bias"])
    torch.testing.assert_close(y, torch.nn.functional.linear(x, weight, bias), atol=1e-4, rtol=1e-5)


@pytest.fixture(scope="module")
def v15_saved_here(tmp_path_factory):
    """A v1.5 with a tokenizer.json, as training writes it."""
    folder = tmp_path_factory.mktemp("saved") / "llava-v1.5-saved"
    shutil.copytree(V15, folder, copy_function=shutil.copyfile)
    load_tokenizer(V15).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("source", ["v0", "wide", "v1.5", "v1.5 saved here", "tiny"])
def test_there_and_back_gives_the_original_tensors_and_config(tmp_path, source, linear_twice_as_wide, v15_saved_here):
    folder = {
        "v0": V0,
        "wide": linear_twice_as_wide,
        "v1.5": V15,
        "v1.5 saved here": v15_saved_here,
        "tiny": pocket.find("tiny"),
    }[source]
    tower = ["--vision-tower", str(TOWER)] if source.startswith("v") else []
    # The template of v1.5 is told from the name of its folder.
    back = converted(converted(folder, tmp_path / folder.name, *tower), tmp_path / "back" / folder.name)
    found, wanted = tensors(back), tensors(folder)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    settings, original = read_model_json(back / "config.json"), read_model_json(folder / "config.json")
    for name, value in original.items():
        if name.startswith(("mm_", "image_")) and name != "mm_vision_tower":
            assert settings[name] == value, name
    assert settings["vocab_size"] == original["vocab_size"]
    image = load_image(str(IMAGE))
    options = {"vision_tower": TOWER} if tower else {}
    theirs = ask_us(folder, image, "What?", **options)
    torch.testing.assert_close(ask_us(back, image, "What?"), theirs, **CLOSE)


def test_an_export_is_read_by_this_package_as_what_it_was(tmp_path, linear_twice_as_wide):
    image = load_image(str(IMAGE))
    for source in (linear_twice_as_wide, pocket.find("tiny")):
        export = converted(source, tmp_path / source.name)
        torch.testing.assert_close(ask_us(export, image, "What?"), ask_us(source, image, "What?"), **CLOSE)


@pytest.mark.parametrize("tiles", [False, True])
def test_a_folder_of_transformers_becomes_an_original_and_back(tmp_path, tiles):
    source = tmp_path / "hf"
    write_nested(source, tiles=tiles)
    original = converted(source, tmp_path / "original")
    names = set(tensors(original))
    assert "model.mm_projector.0.weight" in names
    if tiles:
        inside = "model.vision_tower.vision_tower."
        of_tower = {name.removeprefix(inside) for name in names if name.startswith(inside)}
    else:
        of_tower = set(tensors(original / "vision_tower"))
    assert of_tower == clip_names_of_release_4_37(num_layers=3)
    assert ("model.image_newline" in names) == tiles
    image = load_image(str(IMAGE))
    torch.testing.assert_close(ask_us(original, image, "What?"), ask_us(source, image, "What?"), **CLOSE)
    again = converted(original, tmp_path / "again")
    of_tower = {name.removeprefix("vision_tower.") for name in tensors(again) if name.startswith("vision_tower.")}
    assert of_tower == clip_names_of_release_4_37(num_layers=3)
    kind = {True: "LlavaNextForConditionalGeneration", False: "LlavaForConditionalGeneration"}[tiles]
    assert read_model_json(again / "config.json")["architectures"] == [kind]
    if tiles:
        assert read_model_json(again / "config.json")["image_grid_pinpoints"] == [[h, w] for w, h in GRID]
    wanted, found = (AutoModelForImageTextToText.from_pretrained(each).state_dict() for each in (source, again))
    assert set(wanted) == set(found)
    for name, value in wanted.items():
        assert torch.equal(found[name][: len(value)] if value.dim() else found[name], value), name


def test_what_the_format_has_no_place_for_is_refused(tmp_path):
    tower = small_tower(tmp_path / "tower")
    deep = write_small_llava(tmp_path / "deep", tower, mm_projector_type="mlp3x_gelu", mm_use_im_patch_token=False)
    args = convert_arguments(deep, tmp_path / "out")
    with pytest.raises(InvalidRequest, match="projector of type 'mlp3x_gelu'"):
        convert.main(args)
    shutil.copytree(V15, tmp_path / "text", ignore=shutil.ignore_patterns("*.bin"))
    with pytest.raises(InvalidRequest, match="a language model without images"):
        convert.main(convert_arguments(DATA / "llama-vicuna-tiny", tmp_path / "out"))
    with pytest.raises(InvalidRequest, match="is already in the original format"):
        convert.main(convert_arguments(V15, tmp_path / "out", "--to", "original"))
    assert not (tmp_path / "out").exists()


def test_an_unknown_template_is_found_before_a_byte_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(CheckpointWriter, "write", lambda *_: pytest.fail("something was written"))
    args = convert_arguments(pocket.find("tiny"), tmp_path / "out", "--conv-mode", "llava_v9")
    with pytest.raises(UnknownTemplate, match="llava_v9"):
        convert.main(args)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_transformers_with_another_tower_is_not_taken_for_clip(tmp_path):
    write_nested(tmp_path / "hf")
    settings = read_model_json(tmp_path / "hf" / "config.json")
    settings["vision_config"]["model_type"] = "siglip_vision_model"
    settings["vision_feature_select_strategy"] = "full"
    (tmp_path / "hf" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"siglip_vision_model\) are missing, such as"):
        convert.main(convert_arguments(tmp_path / "hf", tmp_path / "out"))


def convert_arguments(source: Path, target: Path, *more: str):
    import argparse

    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    return parser.parse_args(["--model-path", str(source), "--output", str(target), "--quiet", *more])


def test_memory_form_of_the_test_models_is_the_written_one(tmp_path):
    """The helper that writes small models loses nothing; the tests above rest on it."""
    tower = small_tower(tmp_path / "tower")
    model = small_llava(tower)
    folder = write_small_llava(tmp_path / "model", tower)
    found = tensors(folder)
    for name, value in model.state_dict().items():
        if "vision_tower" not in name:
            assert torch.equal(found[name], value), name

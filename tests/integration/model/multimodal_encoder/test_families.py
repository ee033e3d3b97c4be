"""A LLaVA with a tower of any family equals what transformers computes with the same weights."""

from __future__ import annotations

import gc
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, LlamaForCausalLM

from llava.command_line import run
from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.engine import Engine, Request, Sampling
from llava.errors import ImageError
from llava.model import convert
from llava.model.builder import load_pretrained_model
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.families import FAMILIES
from llava.model.weights.reader import open_checkpoint, read_model_json
from llava.prompting import encode_prompt
from llava.train import train
from llava.train.data.dataset import PositionCounter
from tests.support.checkpoints import VOCABULARY, copy_tokenizer, small_llava, text_config
from tests.support.towers import image_size, write_tower
from tests.support.training import flags, history, write_records

# float32, the same operations in the same order.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
EXPORTABLE = [kind for kind in FAMILIES if FAMILIES[kind].exportable]
ODD = 70, 103
"""Height and width of pixels that no tower has a whole number of patches or strides for."""


@pytest.fixture(scope="module", autouse=True)
def fast_collections():
    """Each engine collects garbage when it closes, which takes half a second with all that is imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request, tmp_path_factory):
    """transformers' own model of a tower, and a LLaVA on it in the original's format."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    theirs = write_tower(folder / "tower", kind)
    width = build_vision_tower(str(folder / "tower"), select_layer=-2).hidden_size
    ours = small_llava(
        folder / "tower", mm_hidden_size=width, mm_projector_type="mlp2x_gelu", mm_use_im_patch_token=False
    )
    side = image_size(kind)
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    ours.save_pretrained(folder / "llava")
    copy_tokenizer(folder / "llava")
    return SimpleNamespace(kind=kind, theirs=theirs, ours=ours, pixels=pixels, folder=folder)


def hidden_states(theirs: torch.nn.Module, kind: str, pixels: torch.Tensor) -> list[torch.Tensor]:
    """transformers' hidden states as features in reading order, [images, features, width]."""
    if kind == "siglip2_vision_model":
        rows, columns = (side // 14 for side in pixels.shape[2:])
        cut = torch.nn.functional.unfold(pixels[:, :, : rows * 14, : columns * 14], 14, stride=14)
        patches = cut.transpose(1, 2).unflatten(2, (3, 196)).transpose(2, 3).flatten(2)
        shapes = torch.tensor([[rows, columns]] * len(pixels))
        return list(theirs(patches, None, shapes, output_hidden_states=True).hidden_states)
    resizes = kind in ("clip_vision_model", "siglip_vision_model", "vit", "deit")
    options = {"interpolate_pos_encoding": True} if resizes and pixels.shape[-1] != 56 else {}
    outputs = theirs(pixels, output_hidden_states=True, **options)
    states = getattr(outputs, "reshaped_hidden_states", None) or outputs.hidden_states
    return [state.flatten(2).transpose(1, 2) if state.dim() == 4 else state for state in states]


@torch.no_grad()
@pytest.mark.parametrize("layer", [-1, 1])
def test_features_are_the_states_of_transformers(case, layer):
    tower = build_vision_tower(str(case.folder / "tower"), select_layer=layer)
    first = tower.num_prefix_tokens
    for pixels in (case.pixels, torch.randn(1, 3, *ODD, generator=torch.Generator().manual_seed(2))):
        features = tower(pixels)
        torch.testing.assert_close(features, hidden_states(case.theirs, case.kind, pixels)[layer][:, first:], **CLOSE)
        rows, columns = tower.grid(*pixels.shape[2:])
        assert list(features.shape[1:]) == [rows * columns, tower.hidden_size]
        assert tower.num_features(*pixels.shape[2:]) == rows * columns
    if FAMILIES[case.kind].features == "tokens" or "convnext" in case.kind:
        with pytest.raises(ImageError, match="an image of 40 x 1 pixels is"):
            tower(torch.zeros(1, 3, 1, 40))


@torch.no_grad()
def test_it_runs_in_half_precision_and_other_processes_count_its_features(case):
    """The processes that load training data get the sizes of a tower, never its weights."""
    tower = build_vision_tower(str(case.folder / "tower"), dtype=torch.bfloat16)
    features = tower(case.pixels)
    assert features.dtype == torch.bfloat16
    assert features.isfinite().all()
    pickled = pickle.dumps(PositionCounter(tower))
    assert len(pickled) < 3000
    assert pickle.loads(pickled)(case.pixels[0]) == features.shape[1]


@torch.no_grad()
def test_states_of_several_layers_are_joined_and_a_class_token_is_kept(case):
    layers = [-1, 2] if FAMILIES[case.kind].features == "tokens" else [-1, -1]
    named = {"select_feature": "cls_patch"} if FAMILIES[case.kind].num_class_tokens else {}
    tower = build_vision_tower(str(case.folder / "tower"), select_layer=layers, **named)
    states = [hidden_states(case.theirs, case.kind, case.pixels)[layer] for layer in layers]
    first = tower.num_prefix_tokens
    expected = torch.cat([torch.cat([state[:, : len(named)], state[:, first:]], 1) for state in states], -1)
    torch.testing.assert_close(tower(case.pixels), expected, **CLOSE)
    assert [tower.num_patches, tower.hidden_size] == list(expected.shape[1:])


def prompt(*after: int) -> torch.Tensor:
    """Some text, an image, and `after`."""
    return torch.tensor([[1, 30, 40, 50, IMAGE_TOKEN_INDEX, *after]])


def test_both_stages_train_and_what_was_trained_is_saved(case, tmp_path):
    inputs = {"input_ids": prompt(60, 70, 80), "images": case.pixels[:1]}
    labels = torch.tensor([[IGNORE_INDEX] * 6 + [70, 80]])
    _, model, *_ = load_pretrained_model(case.folder / "llava", device="cpu", dtype="float32")
    tower, before = model.get_vision_tower(), model.get_vision_tower().state_dict()
    before = {name: value.clone() for name, value in before.items()}
    model.requires_grad_(False).train().model.mm_projector.requires_grad_(True)
    model(**inputs, labels=labels).loss.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.model.mm_projector.parameters())

    idle = tower.unused_parameters()
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(name not in idle)
    model(**inputs, labels=labels).loss.backward()
    trained = {name: parameter for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    with torch.no_grad():
        for parameter in trained.values():
            parameter -= 0.01 * parameter.grad.sign()
    assert all(torch.equal(value, before[name]) for name, value in tower.named_buffers() if name in before)

    model.config.unfreeze_mm_vision_tower = True
    model.requires_grad_(False).eval().save_pretrained(tmp_path)
    copy_tokenizer(tmp_path)
    inside = "model.vision_tower.vision_tower."
    written = {name.removeprefix(inside) for name in open_checkpoint(tmp_path) if name.startswith(inside)}
    prefix = FAMILIES[case.kind].prefix_in_files
    assert written == {prefix + name for name in open_checkpoint(case.folder / "tower")}
    _, again, *_ = load_pretrained_model(tmp_path, device="cpu", dtype="float32")
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, **CLOSE)


@pytest.mark.parametrize(("case", "layer"), [("siglip2_vision_model", "[-1,-2]"), ("resnet", "-2")], indirect=["case"])
def test_stage_one_runs_by_its_command_and_its_projector_loads(case, layer, tmp_path):
    base, output = tmp_path / "base", tmp_path / "stage1"
    LlamaForCausalLM(text_config()).save_pretrained(base)
    copy_tokenizer(base)
    tower = ("--vision_tower", str(case.folder / "tower"), f"--mm_vision_select_layer={layer}")
    recipe = ("--version", "plain", "--tune_mm_mlp_adapter", "True", "--mm_use_im_patch_token", "False")
    train.train(*train.parse(flags(write_records(tmp_path / "records.json", 3), output, *tower, *recipe, model=base)))
    assert all(norm > 0 for norm in history(output, "grad_norm"))
    config = read_model_json(output / "config.json")
    assert config["mm_vision_select_layer"] == json.loads(layer)
    _, model, *_ = load_pretrained_model(output, base, device="cpu", dtype="float32")
    assert model.get_vision_tower().hidden_size == config["mm_hidden_size"] == {"resnet": 24}.get(case.kind, 64)


def test_the_engine_gives_in_batches_what_generate_gives_alone(case):
    loaded = load_pretrained_model(case.folder / "llava", device="cpu", dtype="float32")
    tokenizer, model, image_processor, context_length = loaded
    images = [Image.radial_gradient("L").convert("RGB"), Image.linear_gradient("L").resize((300, 90)).convert("RGB")]
    requests = [
        Request(f"{DEFAULT_IMAGE_TOKEN}\nWhat is this?", (image,), Sampling(0, max_new_tokens=3), stop=())
        for image in images
    ]
    with Engine(model, tokenizer, image_processor, context_length) as engine:
        answers = engine.generate(requests)
        assert engine.limit > 1, "requests are answered one by one"
    for request, answer in zip(requests, answers, strict=True):
        inputs = encode_prompt(request.prompt, request.images, model, tokenizer, image_processor)
        assert inputs.images[0].shape == (3, image_size(case.kind), image_size(case.kind))
        ids = model.generate(inputs.input_ids, images=inputs.images, do_sample=False, max_new_tokens=3)
        assert answer.text == tokenizer.decode(ids[0], skip_special_tokens=True).strip()


@torch.no_grad()
def test_an_export_is_the_same_model_to_transformers_or_is_refused(case, tmp_path, capsys, record_property):
    if case.kind not in EXPORTABLE:
        assert convert_command(case.folder / "llava", tmp_path / "export") == 1
        assert f"other features with a tower of type {case.kind}" in capsys.readouterr().err
        record_property("refused", "transformers' LLaVA would take other features")
        return
    converted(case.folder / "llava", tmp_path / "export")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "export", dtype=torch.float32).eval()
    wide = torch.tensor([[1, 30, 40, 50, *[theirs.config.image_token_id] * 16, 60, 70, 80]])
    found = theirs(input_ids=wide, pixel_values=case.pixels[:1]).logits[..., :VOCABULARY]
    ours = case.ours(input_ids=prompt(60, 70, 80), images=case.pixels[:1]).logits[..., :VOCABULARY]
    torch.testing.assert_close(found, ours, **CLOSE)
    converted(tmp_path / "export", tmp_path / "back")
    for folder in (tmp_path / "export", tmp_path / "back"):
        _, again, *_ = load_pretrained_model(folder, device="cpu", dtype="float32")
        logits = again(input_ids=prompt(60, 70, 80), images=case.pixels[:1]).logits[..., :VOCABULARY]
        torch.testing.assert_close(logits, ours, **CLOSE)


def converted(source: Path, target: Path) -> None:
    assert convert_command(source, target) == 0


def convert_command(source: Path, target: Path) -> int:
    argv = ["--model-path", str(source), "--output", str(target), "--quiet"]
    if not (source / "chat_template.jinja").is_file():
        argv += ["--conv-mode", "vicuna_v1"]
    return run(convert.add_arguments, convert.main, argv=argv)

"""A LLaVA on a tower of any family: its features, training, answers, saving and exports."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from llava.command_line import run
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.engine import Engine, Request, Sampling
from llava.errors import CheckpointError, ImageError
from llava.mm_utils import process_images
from llava.model import convert
from llava.model.builder import load_pretrained_model
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.prompting import encode_prompt
from llava.train import train
from tests.support.checkpoints import DATA, copy_tokenizer, text_config
from tests.support.towers import SETTINGS, SIDE, TRANSFORMERS, write_tower
from tests.support.training import flags, history, write_records

EXPORTED = ("clip_vision_model", "siglip_vision_model", "dinov2")
"""Families whose features transformers' LLaVA takes as they are taken here."""
PIXELS = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def given(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    theirs = write_tower(folder / "tower", request.param)
    return SimpleNamespace(kind=request.param, folder=folder, tower=folder / "tower", theirs=theirs)


@torch.no_grad()
def states_of_transformers(given) -> list[torch.Tensor]:
    """All states, [images, rows x columns, width] each."""
    output = given.theirs(PIXELS, output_hidden_states=True)
    states = getattr(output, "reshaped_hidden_states", None) or output.hidden_states
    num_patches = (SIDE // 16) ** 2
    return [s.flatten(2).transpose(1, 2) if s.dim() == 4 else s[:, s.shape[1] - num_patches :] for s in states]


@torch.no_grad()
@pytest.mark.parametrize("layer", [-2, -1, 1])
def test_features_are_the_states_of_transformers(given, layer):
    tower = build_vision_tower(str(given.tower), select_layer=layer)
    features, expected = tower(PIXELS), states_of_transformers(given)[layer]
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert tower.num_patches == features.shape[1] == tower.num_patches_per_side**2
    assert tower.hidden_size == features.shape[2]


@torch.no_grad()
def test_states_of_several_layers_are_joined(given):
    states = states_of_transformers(given)
    layers = [-2, 1] if given.kind in TRANSFORMERS else [-1, -1]
    tower = build_vision_tower(str(given.tower), select_layer=layers)
    expected = torch.cat([states[layer] for layer in layers], dim=-1)
    torch.testing.assert_close(tower(PIXELS), expected, atol=1e-5, rtol=1e-5)
    assert tower.hidden_size == expected.shape[2]


def test_what_makes_no_sense_is_refused(given):
    with pytest.raises(CheckpointError, match=r"layer is 40, but the vision tower has \d+ (layers|states)"):
        build_vision_tower(str(given.tower), select_layer=40)
    if given.kind not in TRANSFORMERS:
        with pytest.raises(CheckpointError, match=r"mm_vision_select_feature is 'cls_patch'.*Set it to patch"):
            build_vision_tower(str(given.tower), select_feature="cls_patch")
        with pytest.raises(ImageError, match=rf"takes images of {SIDE} x {SIDE} pixels, not 96 x 32"):
            build_vision_tower(str(given.tower))(torch.zeros(1, 3, 32, 96))


@pytest.fixture(scope="module")
def trained(given):
    """A LLaVA on the tower after one step of the second stage, and its folder."""
    from transformers import AutoModelForCausalLM

    base = given.folder / "base"
    AutoModelForCausalLM.from_config(text_config()).save_pretrained(base)
    copy_tokenizer(base)
    records = write_records(given.folder / "train.json", 4)
    later = ("--version", "v1", "--mm_use_im_patch_token", "False", "--vision_tower", str(given.tower))
    words = flags(records, given.folder / "llava", *later, "--mm_vision_select_layer", "-2", model=base)
    train.train(*train.parse(words))
    return given.folder / "llava"


def test_it_trains(given, trained):
    (norm,) = history(trained, "grad_norm")
    assert norm > 0


def test_it_answers_in_batches_as_alone(given, trained):
    tokenizer, model, image_processor, context = load_pretrained_model(trained, device="cpu", dtype="float32")
    images = [Image.effect_noise((90, 60), 80).convert("RGB"), Image.new("RGB", (40, 70), "red")]
    prompt = f"USER: {DEFAULT_IMAGE_TOKEN}\nWhat is it? ASSISTANT:"
    sampling = Sampling(temperature=0, max_new_tokens=6)
    alone = []
    for image in images:
        inputs = encode_prompt(prompt, [image], model, tokenizer, image_processor)
        ids = model.generate(
            inputs.input_ids, images=inputs.images, image_sizes=inputs.image_sizes, do_sample=False, max_new_tokens=6
        )
        alone.append(tokenizer.decode(ids[0], skip_special_tokens=True).strip())
    with Engine(model, tokenizer, image_processor, context) as engine:
        answers = engine.generate([Request(prompt, (image,), sampling) for image in images])
    assert [answer.text.strip() for answer in answers] == alone


def test_it_is_exported_or_refused_by_name(given, trained, tmp_path, capsys, record_property):
    target = tmp_path / "export"
    words = ["--model-path", str(trained), "--output", str(target), "--dtype", "float32", "--quiet"]
    code = run(convert.add_arguments, convert.main, argv=words)
    said = capsys.readouterr().err
    if given.kind not in EXPORTED:
        assert code == 1
        assert f"is a tower of type '{given.kind}'; only" in said
        record_property("refused", "transformers' LLaVA has no such tower")
        return
    assert code == 0, said
    theirs = AutoModelForImageTextToText.from_pretrained(target, dtype=torch.float32).eval()
    _, ours, image_processor, _ = load_pretrained_model(trained, device="cpu", dtype="float32")
    image = process_images([Image.effect_noise((64, 64), 80).convert("RGB")], image_processor, ours.config)
    count = ours.count_features([image[0]], [(64, 64)])[0]
    marker = json.loads((target / "config.json").read_text())["image_token_index"]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([[1, 20, *[marker] * count, 30, 31]]), pixel_values=image).logits
        found = ours(input_ids=torch.tensor([[1, 20, IMAGE_TOKEN_INDEX, 30, 31]]), images=image).logits
    torch.testing.assert_close(found, expected[..., : found.shape[-1]], atol=1e-5, rtol=1e-5)


def test_processors_of_llava_are_taken_for_the_tower_s_own(tmp_path):
    """Folders of transformers' LLaVA-NeXT name a processor that cuts tiles, which this package does itself."""
    write_tower(tmp_path, "siglip_vision_model")
    file = tmp_path / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    for name in ("LlavaNextImageProcessor", "LlavaOnevisionImageProcessorFast", "LlavaImageProcessor"):
        file.write_text(json.dumps(settings | {"image_processor_type": name}))
        tower = build_vision_tower(str(tmp_path))
        pixels = tower.image_processor.preprocess(Image.new("RGB", (30, 50)), return_tensors="pt")["pixel_values"]
        assert list(pixels.shape) == [1, 3, SIDE, SIDE]


@pytest.mark.parametrize(
    ("kind", "said"),
    [("siglip2_vision_model", "NaFlex"), ("timm_wrapper", "torchvision"), ("bert", "Known: clip, ")],
)
def test_models_that_cannot_be_towers_are_refused_with_a_reason(tmp_path, kind, said):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(CheckpointError, match=rf"a model of type '{kind}' cannot be the vision tower.*{said}"):
        build_vision_tower(str(tmp_path))


def test_the_embedded_tower_has_the_names_that_transformers_4_reads():
    """transformers 5 drops `vision_model.` when it saves, and 4 would take such a file for noise."""
    from llava.model.weights.reader import open_checkpoint
    from llava.pocket import find

    for folder in (find("tiny") / "vision_tower", DATA / "clip-tiny"):
        assert all(name.startswith("vision_model.") for name in open_checkpoint(folder))

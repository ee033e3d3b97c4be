"""Every form of checkpoint loads, and every broken one says which file is wrong and what to do."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava.errors import (
    BrokenShard,
    CheckpointError,
    InvalidRequest,
    MissingShard,
    ShapeMismatch,
    TokenizerNotFound,
    VisionTowerNotFound,
    WeightsNotFound,
)
from llava.model.builder import load_pretrained_model
from llava.model.weights.adapter import save_adapter
from llava.model.weights.reader import open_checkpoint
from tests.support.checkpoints import DATA, TOWER, copy_tokenizer, small_tower, write_nested

IMAGE = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
V0, V15, BASE = DATA / "llava-v0-tiny", DATA / "llava-v1.5-tiny", DATA / "llama-vicuna-tiny"


def load(folder, **options):
    options.setdefault("vision_tower", TOWER)
    return load_pretrained_model(folder, device="cpu", dtype="float32", **options)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.tensor(name).clone() for name in checkpoint}


def copy_without_weights(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("pytorch_model.bin"))
    return target


def logits(loaded, marker_ids: list[int]) -> torch.Tensor:
    model = loaded[1]
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 20, *marker_ids, 30]]), images=IMAGE).logits


PATCHES = [2050, *[2049] * 256, 2051]


@pytest.fixture(scope="module")
def v0_logits():
    return logits(load(V0), PATCHES)


def shard(folder: Path, weights: dict[str, torch.Tensor], kind: str) -> None:
    """Writes the tensors in two files with an index, or in one."""
    names = list(weights)
    halves = [names[::2], names[1::2]]
    if kind == "safetensors":
        save_file(weights, folder / "model.safetensors")
        return
    extension = "safetensors" if kind == "sharded safetensors" else "bin"
    stem = "model" if extension == "safetensors" else "pytorch_model"
    files = [f"{stem}-0000{i + 1}-of-00002.{extension}" for i in range(2)]
    for file, half in zip(files, halves, strict=True):
        part = {name: weights[name] for name in half}
        save_file(part, folder / file) if extension == "safetensors" else torch.save(part, folder / file)
    weight_map = {name: file for file, half in zip(files, halves, strict=True) for name in half}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{extension}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("kind", ["safetensors", "sharded safetensors", "sharded bin"])
def test_every_weight_format_gives_the_same_model(tmp_path, v0_logits, kind):
    folder = copy_without_weights(V0, tmp_path / "any name at all")
    shard(folder, tensors(V0), kind)
    assert torch.equal(logits(load(folder), PATCHES), v0_logits)


def test_leftovers_of_old_releases_are_ignored(tmp_path, v0_logits):
    weights = tensors(V0)
    assert any("inv_freq" in name for name in weights)
    folder = copy_without_weights(V0, tmp_path / "m")
    shard(folder, {k: v for k, v in weights.items() if "inv_freq" not in k}, "safetensors")
    assert torch.equal(logits(load(folder), PATCHES), v0_logits)


def test_model_type_llama_of_the_first_deltas_loads(tmp_path, v0_logits):
    shutil.copytree(V0, tmp_path / "m")
    settings = json.loads((V0 / "config.json").read_text()) | {"model_type": "llama"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(settings))
    assert torch.equal(logits(load(tmp_path / "m"), PATCHES), v0_logits)


@pytest.mark.parametrize("file", ["mm_projector.bin", "mm_projector.safetensors"])
def test_projector_beside_its_base_gives_the_whole_model(tmp_path, file, capfd):
    """Nothing is said of weights that are "newly initialized": the projector is not."""
    weights = tensors(V15)
    shutil.copy(V15 / "config.json", tmp_path)
    save_adapter({k: v for k, v in weights.items() if "mm_projector" in k}, tmp_path / file)
    base = copy_without_weights(V15, tmp_path / "base")
    settings = json.loads((BASE / "config.json").read_text()) | {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
    (base / "config.json").write_text(json.dumps(settings))
    shard(base, {k: v for k, v in weights.items() if "mm_projector" not in k}, "sharded bin")
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load(tmp_path, model_base=base)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(logits(loaded, [-200]), logits(load(V15), [-200]))


def test_projector_without_base_says_what_to_give(tmp_path):
    shutil.copy(V15 / "config.json", tmp_path)
    torch.save({}, tmp_path / "mm_projector.bin")
    with pytest.raises(InvalidRequest, match="only a projector; give the language model with --model-base"):
        load(tmp_path)


def test_lora_beside_its_base_is_merged(tmp_path):
    from peft import LoraConfig, get_peft_model

    _, model, _, _ = load(V15)
    before = logits((None, model), [-200])
    targets = r"model\.layers\.\d+\.self_attn\.(q|v)_proj"
    lora = get_peft_model(model, LoraConfig(r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False))
    expected = logits((None, lora), [-200])
    lora.save_pretrained(tmp_path)
    shutil.copy(V15 / "config.json", tmp_path)
    projector = {f"base_model.model.{k}": v for k, v in tensors(V15).items() if "mm_projector" in k}
    torch.save(projector, tmp_path / "non_lora_trainables.bin")
    merged = logits(load(tmp_path, model_base=V15), [-200])
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=0)  # merging rounds the weights
    assert not torch.allclose(merged, before, atol=1e-2)


def test_plain_llama_with_projector_and_tower_becomes_a_llava(tmp_path):
    weights = tensors(V15)
    torch.save({k: v for k, v in weights.items() if "mm_projector" in k}, tmp_path / "p.bin")
    base = copy_without_weights(BASE, tmp_path / "base")
    shard(base, {k: v for k, v in weights.items() if "mm_projector" not in k}, "safetensors")
    _tokenizer, model, image_processor, _ = load(base, mm_projector=tmp_path / "p.bin")
    assert torch.equal(model.get_model().mm_projector[0].weight, weights["model.mm_projector.0.weight"].float())
    assert image_processor is not None
    with pytest.raises(InvalidRequest, match="needs --vision-tower"):
        load(base, mm_projector=tmp_path / "p.bin", vision_tower=None)


def test_trained_tower_in_the_checkpoint_replaces_the_one_of_its_folder(tmp_path):
    from safetensors.torch import load_file

    write_nested(tmp_path / "nested")
    _, model, _, _ = load(tmp_path / "nested", vision_tower=None)
    model.save_pretrained(tmp_path / "flat")
    names = set(load_file(tmp_path / "flat" / "model.safetensors"))
    assert "model.vision_tower.vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight" in names
    copy_tokenizer(tmp_path / "flat")
    _, again, _, _ = load(tmp_path / "flat", vision_tower=None)
    pixels = IMAGE[:, :, :56, :56]
    assert torch.equal(again.encode_images(pixels)[0], model.encode_images(pixels)[0])


def test_a_trained_tower_without_a_description_is_not_replaced_in_silence(tmp_path, caplog):
    write_nested(tmp_path / "nested")
    _, model, _, _ = load(tmp_path / "nested", vision_tower=None)
    model.save_pretrained(tmp_path / "flat")
    copy_tokenizer(tmp_path / "flat")
    shutil.rmtree(tmp_path / "flat" / "vision_tower")
    with pytest.raises(CheckpointError, match=r"what describes them is not.*Put these two files into .*vision_tower"):
        load(tmp_path / "flat", vision_tower=None)
    settings = json.loads((tmp_path / "flat" / "config.json").read_text())
    (tmp_path / "flat" / "config.json").write_text(json.dumps(settings | {"mm_vision_tower": "vision_tower"}))
    load(tmp_path / "flat", vision_tower=small_tower(tmp_path / "other"))
    assert "replaces the trained tower of the model" in caplog.text


def test_text_only_llama_loads_without_an_image_processor():
    _tokenizer, model, image_processor, context = load(BASE, vision_tower=None)
    assert (image_processor, context, model.config.has_vision) == (None, 2048, False)


def broken(tmp_path: Path, source: Path = V0) -> Path:
    shutil.copytree(source, tmp_path / "m")
    return tmp_path / "m"


def edit_config(folder: Path, **changes: object) -> None:
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def test_folder_without_weights(tmp_path):
    folder = copy_without_weights(V0, tmp_path / "m")
    with pytest.raises(WeightsNotFound, match=r"no weights found \(looked for model.safetensors"):
        load(folder)


def test_missing_shard(tmp_path):
    folder = copy_without_weights(V0, tmp_path / "m")
    shard(folder, tensors(V0), "sharded bin")
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(MissingShard, match=r"1 of 2 weight files are missing: pytorch_model-00002-of-00002.bin"):
        load(folder)


@pytest.mark.parametrize("kind", ["sharded bin", "safetensors"])
def test_truncated_shard(tmp_path, kind):
    folder = copy_without_weights(V0, tmp_path / "m")
    shard(folder, tensors(V0), kind)
    file = sorted(folder.glob("*model*.bin" if "bin" in kind else "*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(BrokenShard, match=file.name):
        load(folder)


def test_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "owned", "x"))

    folder = broken(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Attack()}))
    with pytest.raises(BrokenShard, match=r"pytorch_model.bin"):
        load(folder)
    torch.save({"model.norm.weight": Attack()}, folder / "pytorch_model.bin")
    with pytest.raises(BrokenShard, match=r"pytorch_model.bin"):
        load(folder)
    assert not (tmp_path / "owned").exists()


def test_wrong_shape_names_tensor_and_both_shapes(tmp_path):
    folder = broken(tmp_path)
    edit_config(folder, vocab_size=2050)
    with pytest.raises(
        ShapeMismatch, match=r"embed_tokens.weight has shape \[2052, 64\], the model expects \[2050, 64\]"
    ):
        load(folder)


def test_missing_tensor(tmp_path):
    folder = copy_without_weights(V0, tmp_path / "m")
    shard(folder, {k: v for k, v in tensors(V0).items() if "layers.1.mlp" not in k}, "safetensors")
    with pytest.raises(
        CheckpointError, match=r"3 of \d+ tensors are missing, the first is model.layers.1.mlp.gate_proj"
    ):
        load(folder)


def test_missing_projector_says_so(tmp_path):
    folder = broken(tmp_path)
    edit_config(folder, mm_projector_type="mlp2x_gelu", mm_use_im_patch_token=True)
    with pytest.raises(CheckpointError, match=r"no projector of the kind that config.json describes"):
        load(folder)


def test_tower_that_is_nowhere_says_how_to_point_to_it(tmp_path):
    folder = broken(tmp_path)
    edit_config(folder, mm_vision_tower="./no/such/tower")
    with pytest.raises(VisionTowerNotFound, match="--vision-tower DIR"):
        load(folder, vision_tower=None)


def test_tower_is_found_inside_the_model_folder(tmp_path, v0_logits):
    folder = broken(tmp_path)
    shutil.copytree(TOWER, folder / "its-tower")
    edit_config(folder, mm_vision_tower="its-tower")
    assert torch.equal(logits(load(folder, vision_tower=None), PATCHES), v0_logits)


def test_v0_tokenizer_without_image_tokens(tmp_path):
    folder = broken(tmp_path)
    (folder / "added_tokens.json").unlink()
    with pytest.raises(CheckpointError, match="the tokenizer lacks <im_patch>, <im_start>, <im_end>"):
        load(folder)


def test_folder_without_tokenizer(tmp_path):
    folder = broken(tmp_path)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(TokenizerNotFound, match="Copy the tokenizer files of the base model"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON at line 1"),
        ("[]", "expected a JSON object"),
        ('{"model_type": "bert"}', "is a model of type 'bert'"),
        ('{"model_type": "llava", "mm_vision_tower": "x"}', "no mm_hidden_size"),
        ('{"model_type": "qwen2_vl", "vision_config": {}}', "llava, llava_next, llava_onevision, vipllava can be read"),
    ],
)
def test_bad_config(tmp_path, content, message):
    folder = broken(tmp_path)
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_paths_that_are_no_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such model folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="this is a file"):
        load(V0 / "config.json")
    with pytest.raises(CheckpointError, match="could not be fetched from the hub"):
        load("nobody/nothing")


def test_device_and_quantisation_that_are_not_here():
    if not torch.cuda.is_available():
        with pytest.raises(InvalidRequest, match="no CUDA GPU"):
            load_pretrained_model(V0, device="cuda")
    with pytest.raises(InvalidRequest, match="exclude each other"):
        load(V0, load_8bit=True, load_4bit=True)
    with pytest.raises(InvalidRequest, match="bitsandbytes"):
        load(V0, load_4bit=True)

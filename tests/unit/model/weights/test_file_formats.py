"""What lies in a folder in place of its weights, in one sentence each; and odd files that are read nonetheless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava.errors import CheckpointError
from llava.model.builder import load_pretrained_model
from llava.model.weights.reader import open_checkpoint
from tests.support.checkpoints import TOWER, copy_without_weights, golden_tensors

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 13476926928\n"
FILES = ("model.safetensors", "pytorch_model.bin")


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return golden_tensors()


@pytest.fixture
def folder(tmp_path) -> Path:
    """The golden v1.5 checkpoint without its weights."""
    return copy_without_weights(tmp_path)


def load(folder: Path):
    return load_pretrained_model(folder, device="cpu", dtype="float32", vision_tower=TOWER)[1]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "is a pointer of Git LFS, not the weights. Run `git lfs pull`"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "is a web page that was saved in place of the weights"),
        (b'{"error":"Access to model x/y is restricted"}', "is an error message of a server"),
        (b"", "is empty. Download it again."),
    ],
    ids=["pointer", "page", "error", "empty"],
)
def test_what_is_no_weights_is_called_what_it_is(folder, file, content, said):
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        load(folder)
    message = str(raised.value)
    assert message.startswith(str(folder / file))
    assert said in message
    assert "weights_only" not in message


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_ends_early_is_called_truncated(folder, tensors, file):
    whole = folder / file
    save_file(tensors, whole) if whole.suffix == ".safetensors" else torch.save(tensors, whole)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"may be truncated; download it again") as raised:
        load(folder)
    assert "weights_only" not in str(raised.value)


def test_a_pickle_of_objects_is_refused_without_advice_to_trust_it(folder):
    torch.save({"model.norm.weight": Path("/x")}, folder / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"holds objects of type pathlib\.\S*, and only tensors are read"
    ) as raised:
        load(folder)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_that_lost_their_index_are_read(folder, tensors, suffix):
    names = sorted(tensors)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = folder / f"{stem}-0000{number}-of-00002{suffix}"
        chosen = {name: tensors[name] for name in part}
        save_file(chosen, file) if suffix == ".safetensors" else torch.save(chosen, file)
    assert torch.equal(load(folder).lm_head.weight, tensors["lm_head.weight"].float())
    (folder / f"{stem}-00002-of-00002{suffix}").unlink()
    with pytest.raises(CheckpointError, match=rf"1 of 2 weight files are missing: {stem}-00002-of-00002"):
        load(folder)


def test_an_index_beside_the_whole_file_is_said_to_be_unused(folder, tensors, caplog):
    save_file(tensors, folder / "model.safetensors")
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load(folder)
    assert "model.safetensors is read; model.safetensors.index.json is not used" in caplog.text


def test_a_tensor_in_two_shards_is_named(folder, tensors):
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    save_file(tensors, folder / files[0])
    save_file({"lm_head.weight": tensors["lm_head.weight"]}, folder / files[1])
    with pytest.raises(CheckpointError, match=rf"{files[1]}: .*lm_head\.weight is also in {files[0]}"):
        load(folder)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "module"])
def test_a_table_inside_a_training_checkpoint_is_taken_out(folder, tensors, key, caplog):
    torch.save({key: tensors, "epoch": torch.tensor(3)}, folder / "pytorch_model.bin")
    assert torch.equal(load(folder).lm_head.weight, tensors["lm_head.weight"].float())
    assert f"taken from '{key}'; epoch is not used" in caplog.text


def test_an_absent_output_layer_may_be_the_embedding(folder, tensors):
    save_file({name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}, folder / FILES[0])
    with pytest.raises(CheckpointError, match=r"set tie_word_embeddings to true in config\.json"):
        load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    model = load(folder)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_files_in_other_formats_are_named(folder):
    (folder / "llama.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"no weights found .*The folder has llama\.gguf"):
        open_checkpoint(folder)


def test_an_empty_tensor_is_explained(folder, tensors):
    save_file(tensors | {"model.norm.weight": torch.zeros(0)}, folder / FILES[0])
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \[0\].*without gathering"):
        load(folder)


@pytest.mark.parametrize("layer", ["-2", -2])
def test_a_layer_may_be_written_as_text(folder, tensors, layer):
    save_file(tensors, folder / FILES[0])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mm_vision_select_layer": layer}))
    assert load(folder).config.mm_vision_select_layer == -2


def test_a_layer_that_is_no_number_is_named(folder, tensors):
    save_file(tensors, folder / FILES[0])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mm_vision_select_layer": "last"}))
    with pytest.raises(CheckpointError, match=r"config\.json: mm_vision_select_layer is 'last'"):
        load(folder)

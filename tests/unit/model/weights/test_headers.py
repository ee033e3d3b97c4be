"""Headers say the same as PyTorch, for both formats, and are read without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava import pocket
from llava.errors import BrokenShard
from llava.model.weights.headers import read_headers, read_vector
from llava.model.weights.reader import open_checkpoint, open_pickle
from tests.support.checkpoints import DATA

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
OTHER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def write(tensors: dict[str, torch.Tensor], file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)
    return file


@pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
def test_shapes_dtypes_and_values_are_those_of_the_tensors(tmp_path, name):
    tensors = {str(dtype): torch.tensor([1.5, -2.0, 0.25]).to(dtype) for dtype in DTYPES + OTHER_DTYPES}
    tensors |= {"matrix": torch.zeros(2, 3), "scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}
    file = write(tensors, tmp_path / name)
    headers = read_headers(file)
    assert headers is not None
    assert set(headers) == set(tensors)
    for key, tensor in tensors.items():
        assert headers[key].shape == tuple(tensor.shape)
        assert f"torch.{headers[key].dtype}" == str(tensor.dtype)
    for dtype in DTYPES:
        assert read_vector(file, headers[str(dtype)]) == [1.5, -2.0, 0.25]
    assert read_vector(file, headers["torch.int64"]) is None


def test_a_view_and_a_parameter_are_read_as_they_are(tmp_path):
    whole = torch.arange(6.0)
    file = write({"part": whole[2:4], "trained": torch.nn.Parameter(whole)}, tmp_path / "w.bin")
    headers = read_headers(file)
    assert headers is not None
    assert read_vector(file, headers["part"]) == [2.0, 3.0]
    assert headers["trained"].shape == (6,)


def test_other_objects_are_left_to_pytorch_which_refuses_them(tmp_path):
    for content in ([torch.zeros(1)], {"name": "text"}, {"nested": {"a": torch.zeros(1)}}, {"path": Path("x")}):
        torch.save(content, tmp_path / "w.bin")
        assert read_headers(tmp_path / "w.bin") is None
        with pytest.raises(BrokenShard):
            open_pickle(tmp_path / "w.bin")


def test_a_file_of_before_2020_is_read_by_pytorch(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert read_headers(tmp_path / "pytorch_model.bin") is None
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.shape("a"), checkpoint.dtype_name("a"), checkpoint.vector("a")) == ((2,), "float32", None)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: data + b"x", lambda data: data[:20], lambda _: b""]
)
def test_a_damaged_safetensors_file_is_named(tmp_path, damage):
    file = write({"a": torch.ones(9)}, tmp_path / "w.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BrokenShard, match=r"w\.safetensors"):
        read_headers(file)


@pytest.mark.parametrize("name", ["tiny", "llava-v0-tiny-delta", "llava-v1.5-tiny"])
def test_the_tensors_of_a_checkpoint_are_those_of_its_header(name):
    checkpoint = open_checkpoint(pocket.find() if name == "tiny" else DATA / name)
    for key in checkpoint:
        tensor = checkpoint.tensor(key)
        assert (checkpoint.shape(key), checkpoint.dtype(key)) == (tuple(tensor.shape), tensor.dtype)

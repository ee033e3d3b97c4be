"""A plan reads each config once, and says everything that loading needs."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import torch

from llava.model.builder import load_pretrained_model
from llava.model.loading import model_folder
from llava.model.loading.plan import make_plan
from llava.model.weights.adapter import save_adapter
from tests.support.chat_templates import LLAMA_3
from tests.support.checkpoints import DATA, TOWER

V15, BASE = DATA / "llava-v1.5-tiny", DATA / "llama-vicuna-tiny"


def test_config_json_is_read_once_in_each_folder(tmp_path, monkeypatch):
    shutil.copy(V15 / "config.json", tmp_path)
    source = torch.load(V15 / "pytorch_model.bin", weights_only=True)
    torch.save({name: value for name, value in source.items() if "mm_projector" in name}, tmp_path / "mm_projector.bin")
    reads: Counter[Path] = Counter()
    real = model_folder.read_model_json

    def counted(path: Path) -> dict[str, object]:
        reads[path] += 1
        return real(path)

    monkeypatch.setattr(model_folder, "read_model_json", counted)
    load_pretrained_model(tmp_path, V15, device="cpu", dtype="float32", vision_tower=TOWER)
    assert reads == {tmp_path / "config.json": 1, V15 / "config.json": 1}


def test_a_plan_names_weights_adapter_dtype_and_device(tmp_path):
    plan = make_plan(V15, device="cpu", vision_tower=TOWER)
    assert (plan.weights_folder, plan.adapter, plan.is_lora) == (V15, None, False)
    assert (plan.dtype, plan.device_map, plan.quantization) == (torch.float32, {"": "cpu"}, "none")
    assert plan.tensors["model.mm_projector.0.weight"] == "model.mm_projector.0.weight"
    assert plan.folder.template == "llava_v1"
    assert make_plan(BASE, device="cpu", load_8bit=True, dtype="float16").dtype == torch.float32


def test_a_projector_in_safetensors_is_found_beside_its_config(tmp_path):
    from safetensors.torch import save_file

    shutil.copy(V15 / "config.json", tmp_path)
    source = torch.load(V15 / "pytorch_model.bin", weights_only=True)
    projector = {name: value for name, value in source.items() if "mm_projector" in name}
    save_file(projector, tmp_path / "mm_projector.safetensors")
    _, model, _, _ = load_pretrained_model(tmp_path, V15, device="cpu", dtype="float32", vision_tower=TOWER)
    weight = projector["model.mm_projector.0.weight"].float()
    assert torch.equal(model.get_model().mm_projector[0].weight, weight)


def test_a_projector_without_a_record_is_asked_in_the_words_of_its_base(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(BASE, base, copy_function=shutil.copyfile)
    (base / "chat_template.jinja").write_text(LLAMA_3)
    (tmp_path / "run").mkdir()
    shutil.copy(V15 / "config.json", tmp_path / "run")
    save_adapter({"model.mm_projector.0.weight": torch.zeros(64, 32)}, tmp_path / "run" / "mm_projector.bin")
    plan = make_plan(tmp_path / "run", model_base=base, device="cpu", vision_tower=TOWER)
    assert plan.folder.template == "llama_3"

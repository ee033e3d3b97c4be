"""The weight tools as processes: killed in the middle, and their exports used by transformers without this package."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava import pocket
from llava.model.weights.reader import open_checkpoint
from llava.model.weights.writer import CheckpointWriter, TensorSpec

# Loads a folder, asks one question and prints the greedy answer; nothing of this package is imported.
ASK_TRANSFORMERS = """
import json, sys
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, image, question, opened, stop = json.loads(sys.argv[1])
processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
content = [{"type": "image", "image": Image.open(image).convert("RGB")}, {"type": "text", "text": question}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=opened,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
ids = model.generate(
    **inputs, do_sample=False, max_new_tokens=24, stop_strings=[stop] if stop else None, tokenizer=processor.tokenizer
)
text = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
print(json.dumps([text.split(stop)[0].strip() if stop else text.strip(), "llava" in sys.modules]))
"""


@pytest.mark.parametrize("name", ["tiny", "llava-v0-tiny", "llava-v1.5-tiny"])
def test_transformers_alone_gives_the_answer_of_our_command(run_python, run_warm, data, tmp_path, name):
    folder = pocket.find() if name == "tiny" else tmp_path / "given" / name
    if name != "tiny":
        shutil.copytree(data / name, folder, copy_function=shutil.copyfile)
        shutil.copytree(data / "clip-tiny", folder / "clip-tiny", copy_function=shutil.copyfile)
    image = Path("playground/images/scene.png") if name == "tiny" else data / "images" / "land.png"
    question = "What is in the picture?"
    asked = run_warm(
        *("-m", "llava.eval.run_llava", "--model-path", folder, "--image-file", image, "--query", question),
        *("--temperature", "0", "--max-new-tokens", "24", "--dtype", "float32"),
    )
    assert asked.returncode == 0, asked.stderr
    export = tmp_path / "export" / name
    done = run_warm("-m", "llava.model.convert", "--model-path", folder, "--output", export, "--quiet")
    assert done.returncode == 0, done.stderr
    # Evaluators of v0 left it to the model to open its turn; its answers end at a mark that is no token.
    options = [str(export), str(image), question, name != "llava-v0-tiny", None if "v1.5" in name else "###"]
    answered = run_python("-c", ASK_TRANSFORMERS, json.dumps(options))
    assert answered.returncode == 0, answered.stderr
    text, imported = json.loads(answered.stdout.splitlines()[-1])
    assert not imported
    assert text == asked.stdout.strip()
    assert text


@pytest.fixture(scope="module")
def base_and_delta(tmp_path_factory, data):
    """Of 400 MB each, so that there is a middle to be killed in."""
    folder = tmp_path_factory.mktemp("large")
    width, rows = 1024, 20_000
    for name, extra, settings in (("base", 0, {"model_type": "llama"}), ("delta", 2, {"model_type": "llava"})):
        shapes = {
            "model.embed_tokens.weight": (rows + extra, width),
            **{f"model.layers.{i}.mlp.up_proj.weight": (rows, width) for i in range(8)},
            "model.norm.weight": (width,),
            "lm_head.weight": (rows + extra, width),
        }
        specs = [TensorSpec(each, shape, torch.float16) for each, shape in shapes.items()]
        with CheckpointWriter(folder / name, specs) as writer:
            for spec in specs:
                value = (0.001 if name == "delta" else 1.0) * torch.ones(spec.shape, dtype=spec.dtype)
                writer.write(spec.name, [value])
            writer.write_json("config.json", settings)
            writer.copy(data / "llava-v0-tiny-delta" / "tokenizer.json")
            writer.finish()
    return folder / "base", folder / "delta"


def apply_command(base: Path, delta: Path, target: Path) -> list[str]:
    command = [sys.executable, "-m", "llava.model.apply_delta", "--base", str(base), "--delta", str(delta)]
    return [*command, "--target", str(target), "--max-shard-size", "100MB", "--quiet"]


# Applies a delta and waits in the middle of writing, so that what stops it does so there on any machine.
WAITS_IN_THE_MIDDLE = """
import runpy, sys, time
from llava.model.weights.writer import CheckpointWriter

write = CheckpointWriter.write

def write_and_wait(self, name, blocks):
    write(self, name, blocks)
    if name == "model.layers.3.mlp.up_proj.weight":
        print("in the middle", flush=True)
        time.sleep(600)

CheckpointWriter.write = write_and_wait
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_no_target_and_can_be_run_again(base_and_delta, tmp_path, sent, repository):
    target, partial = tmp_path / "made", tmp_path / ".made.incomplete"
    command = apply_command(*base_and_delta, target)
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS_IN_THE_MIDDLE, *command[2:]],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in the middle\n", process.communicate()
    assert (partial / "model-00002-of-00005.safetensors").exists()
    os.kill(process.pid, sent)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not target.exists()
    if sent != signal.SIGKILL:  # which nothing can be done about
        assert list(tmp_path.iterdir()) == []
    subprocess.run(command, cwd=repository, check=True, timeout=300)
    assert [entry.name for entry in tmp_path.iterdir()] == ["made"]
    made = open_checkpoint(target)
    assert made.rows("model.layers.7.mlp.up_proj.weight", 19_999, 20_000).unique().tolist() == [
        pytest.approx(1.001, abs=1e-3)
    ]
    assert made.shape("lm_head.weight") == (20_002, 1024)

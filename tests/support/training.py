"""Training runs of the tests: records, flags, and several runs in one group of processes.

As a program under torchrun it performs the runs of a file one after the other, because starting processes takes longer
than the runs: `python -m torch.distributed.run --nproc_per_node=2 tests/support/training.py RUNS.json`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.warm_python import warm_environment

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "tests" / "data"
IMAGES = ("land.png", "square.png", "port.png", "tiny.png")
STAGE_1 = ("--tune_mm_mlp_adapter", "True", "--mm_use_im_start_end")
LORA = ("--lora_enable", "True", "--lora_r", "4", "--use_dora", "True", "--mm_use_im_start_end", "True")
FSDP = ("--fsdp", "full_shard auto_wrap", "--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer")


def write_records(path: Path, number: int = 12) -> Path:
    """Writes records with images first and last in the question, pure text between, and answers of unequal length."""
    records = []
    for index in range(number):
        question = "What is this?\n<image>" if index % 2 else "<image>\nDescribe it."
        record = {"id": f"p{index}", "image": IMAGES[index % 4]}
        if index % 4 == 3:
            question = "Give a tip."
            del record["image"]
        answer = "A thing. " * (1 + index % 3) + f"Number {index}."
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        records.append({**record, "conversations": turns})
    path.write_text(json.dumps(records))
    return path


def flags(training_file: Path, output: Path, *more: str, batch: int = 4, model: str = "llama-vicuna-tiny") -> list[str]:
    """Returns the flags of a short run on the CPU; `more` follows and overrides them."""
    named = {
        "model_name_or_path": DATA / model,
        "data_path": training_file,
        "image_folder": DATA / "images",
        "vision_tower": DATA / "clip-tiny",
        "mm_vision_select_layer": -2,
        "output_dir": output,
        "per_device_train_batch_size": batch,
        "num_train_epochs": 1,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "save_strategy": "no",
        "model_max_length": 2048,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return [word for name, value in named.items() for word in (f"--{name}", str(value))] + list(more)


def history(output: Path, *fields: str) -> list[Any]:
    """Returns what a run logged of its steps: numbers for one field, tuples for several."""
    state = json.loads((output / "trainer_state.json").read_text())
    steps = [entry for entry in state["log_history"] if "loss" in entry]
    return [entry[fields[0]] if len(fields) == 1 else tuple(entry[name] for name in fields) for entry in steps]


def result(output: Path) -> dict[str, Any]:
    """Returns the tensors that a run has saved, by name."""
    import torch
    from safetensors.torch import load_file

    adapter, whole = output / "mm_projector.bin", output / "non_lora_trainables.bin"
    if whole.exists():
        return {**load_file(output / "adapter_model.safetensors"), **torch.load(whole, weights_only=True)}
    return torch.load(adapter, weights_only=True) if adapter.exists() else load_file(output / "model.safetensors")


def run_in_processes(
    work: Path, runs: Mapping[str, Sequence[str]], *, processes: int = 2, timeout: float = 400, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Performs runs with real torchrun, all in one group of processes.

    Args:
        runs: name of each run -> its flags.
        check: whether a run that fails fails the test.
    """
    file = work / "runs.json"
    file.write_text(json.dumps({name: list(words) for name, words in runs.items()}))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    result = subprocess.run(
        ["python", *launcher, str(Path(__file__)), str(file)],
        env={**warm_environment(), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result


def _perform(file: Path) -> None:
    from accelerate.state import AcceleratorState

    from llava.train import train

    for name, words in json.loads(file.read_text()).items():
        # A command has a state of its own; this resets accelerate's, and keeps the group of processes.
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        if os.environ["RANK"] == "0":
            print(f"== {name}", flush=True)
        train.train(*train.parse(words))


if __name__ == "__main__":
    _perform(Path(sys.argv[1]))

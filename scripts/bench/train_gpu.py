"""Trains a model of the size of LLaVA-7B on one GPU with FSDP2, saves it, resumes it, and measures it.

    python scripts/bench/train_gpu.py --work /path/with/50GB              # one GPU with 80 GB or more, about 8 minutes
    python scripts/bench/train_gpu.py --work /tmp --tiny                  # the same on a CPU, with a model of toy size

Weights are random, in bfloat16, in the shapes of LLaMA-7B and CLIP ViT-L/14; images are noise. Each stage runs ten
steps by the real command under torchrun with one process, is resumed from its checkpoint of step 5, and must repeat
steps 6 to 10. Printed for each: the number of sharded parameters, samples and tokens per second, peak memory, and the
share of the GPU's peak arithmetic in both conventions: 4 N floating-point operations a token where N weights are frozen
(2 N forward, 2 N for the gradient of the inputs) and 6 N where they train. Recomputation is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
TOKENIZER = REPOSITORY / "tests" / "data" / "llama-vicuna-tiny"
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 arithmetic of a GPU, operations per second."""
NUM_RECORDS = 160


@dataclass(frozen=True)
class Shape:
    """The size of the language model and of the vision tower."""

    llama: dict[str, int]
    clip: dict[str, int]
    device: tuple[str, ...]


SEVEN_B = Shape(
    llama={"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    clip={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    device=("--bf16", "True", "--tf32", "True"),
)
TINY = Shape(
    llama={"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4},
    clip={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    device=("--use_cpu", "True", "--per_device_train_batch_size", "2"),
)
STAGES: dict[str, tuple[str, ...]] = {
    "projector": ("--tune_mm_mlp_adapter", "True", "--per_device_train_batch_size", "16"),
    "LoRA": ("--lora_enable", "True", "--per_device_train_batch_size", "8", "--gradient_checkpointing", "True"),
    # Its checkpoints would take 80 GB, so it only saves its result.
    "whole": ("--per_device_train_batch_size", "8", "--gradient_checkpointing", "True", "--save_strategy", "no"),
}


def make_models(work: Path, shape: Shape, device: str) -> int:
    """Writes the language model, the tower and the records; returns the number of the language model's weights."""
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    settings: dict[str, Any] = {**shape.llama, "vocab_size": 32000, "max_position_embeddings": 2048}
    with torch.device(device):
        language_model = LlamaForCausalLM(LlamaConfig(**settings))
        tower_settings: dict[str, Any] = {**shape.clip, "image_size": 224, "patch_size": 14}
        tower = CLIPVisionModel(CLIPVisionConfig(**tower_settings))
    torch.set_default_dtype(torch.float32)
    language_model.save_pretrained(work / "llama", max_shard_size="4GB")
    tower.save_pretrained(work / "clip")
    CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224).save_pretrained(work / "clip")
    for file in TOKENIZER.iterdir():
        if "token" in file.name:
            shutil.copyfile(file, work / "llama" / file.name)
    return sum(parameter.numel() for parameter in language_model.parameters())


def make_records(work: Path) -> None:
    """Writes records whose rows are about as long as those of LLaVA-Instruct: one image and some sentences."""
    from PIL import Image

    image = Image.effect_noise((336, 224), 60).convert("RGB")
    image.save(work / "noise.jpg")
    answer = "The image shows a field of noise without any object that one could name. " * 12
    turns = [{"from": "human", "value": "<image>\nWhat does the image show?"}, {"from": "gpt", "value": answer}]
    records = [{"id": str(i), "image": "noise.jpg", "conversations": turns} for i in range(NUM_RECORDS)]
    (work / "records.json").write_text(json.dumps(records))


def train(work: Path, output: Path, shape: Shape, *flags: str) -> str:
    """Runs the training command; returns what it printed."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"),
        *(str(REPOSITORY / "llava" / "train" / "train_mem.py"), "--model_name_or_path", str(work / "llama")),
        *("--version", "v1", "--mm_use_im_patch_token", "False", "--mm_projector_type", "mlp2x_gelu"),
        *("--vision_tower", str(work / "clip"), "--mm_vision_select_layer", "-2"),
        *("--data_path", str(work / "records.json"), "--image_folder", str(work), "--output_dir", str(output)),
        *("--fsdp", "full_shard auto_wrap", "--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer"),
        *("--max_steps", "10", "--save_strategy", "steps", "--save_steps", "5", "--logging_steps", "1"),
        *("--learning_rate", "1e-5", "--lr_scheduler_type", "constant", "--model_max_length", "2048"),
        *("--dataloader_num_workers", "4", *flags, *shape.device),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return done.stdout


def steps_of(output: Path) -> list[dict[str, Any]]:
    """Returns what a run recorded of its steps."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def report(stage: str, printed: str, output: Path, num_weights: int, peak_flops: float | None) -> None:
    """Prints the figures of a stage; the first three steps, which warm up, are left out."""
    found = re.search(r"sharded (\d+ of \d+) parameters", printed)
    steps = steps_of(output)
    warm = steps[3:]
    tokens = sum(step["tokens_per_second"] for step in warm) / len(warm)
    samples = sum(step["samples_per_second"] for step in warm) / len(warm)
    losses = f"{steps[0]['loss']:.4f} to {steps[-1]['loss']:.4f}"
    print(f"{stage}: sharded {found[1] if found else '?'} parameters; loss {losses}")
    print(f"    {samples:.1f} samples/s, {tokens:,.0f} tokens/s, peak {warm[-1]['memory_gb']:.1f} GB")
    if peak_flops is not None:
        shares = [f"{factor * num_weights * tokens / peak_flops:.1%} ({factor} N)" for factor in (4, 6)]
        print(f"    share of the peak arithmetic: {', '.join(shares)}", flush=True)


def repeat_from_step_5(work: Path, output: Path, shape: Shape, flags: tuple[str, ...]) -> None:
    """Puts a run back to its checkpoint of step 5, resumes it, and compares the steps after that."""
    before = {step["step"]: step["loss"] for step in steps_of(output)}
    for child in output.iterdir():
        if child.name != "checkpoint-5":
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    printed = train(work, output, shape, *flags)
    assert "resuming from" in printed
    after = {step["step"]: step["loss"] for step in steps_of(output) if step["step"] > 5}
    worst = max(abs(after[step] - before[step]) for step in range(6, 11))
    print(f"    resumed at step 5: losses of steps 6 to 10 differ by at most {worst:.2g}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="Folder for the models and the runs.")
    parser.add_argument("--tiny", action="store_true", help="Use a small model on the CPU, to try the script.")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="Stages to run (all).")
    args = parser.parse_args()
    import torch

    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("there is no NVIDIA GPU. Try the script with --tiny.")
    shape = TINY if args.tiny else SEVEN_B
    work = args.work / "train_gpu"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    peak_flops = None
    if not args.tiny:
        name = torch.cuda.get_device_name()
        peak_flops = next((value for model, value in PEAK_FLOPS.items() if model in name), None)
        print(f"{name}, torch {torch.__version__}")
    num_weights = make_models(work, shape, "cpu" if args.tiny else "cuda")
    make_records(work)
    print(f"language model: {num_weights / 1e9:.2f} billion weights", flush=True)
    for stage in args.stages:
        output = work / stage
        printed = train(work, output, shape, *STAGES[stage])
        report(stage, printed, output, num_weights, peak_flops)
        if "no" not in STAGES[stage]:
            repeat_from_step_5(work, output, shape, STAGES[stage])
        shutil.rmtree(output)  # the next stage needs the disk
    shutil.rmtree(work)


if __name__ == "__main__":
    main()

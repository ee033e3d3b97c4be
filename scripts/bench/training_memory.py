"""Measures the host memory of each process of a training run that is sharded over 1, 2 and 4 processes.

    python scripts/bench/training_memory.py --work /path/with/10GB

Makes a LLaVA of random weights (2.1 GB in float32), trains it two steps with `--fsdp "full_shard auto_wrap"` on the
CPU, and samples the memory of every process (RssAnon, every 20 ms): the peak until the model is sharded, when the first
process holds all weights and the others receive theirs, and the peak of the steps after that. `--plain` adds a run of
two processes that are not sharded, for comparison. On a GPU the sharded state lies in GPU memory instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "tests" / "data"
SAMPLE_EVERY_S = 0.02
SHAPE: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 8, "vocab_size": 32000}


@dataclass(slots=True)
class Peaks:
    """The highest memory of one process, in bytes."""

    loading: int = 0
    training: int = 0


@dataclass(slots=True)
class Sampler:
    """Samples the processes of a launcher until it is told to stop."""

    launcher: int
    sharded: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    peaks: dict[int, Peaks] = field(default_factory=dict)
    """Rank -> its peaks."""

    def run(self) -> None:
        while not self.stopped.wait(SAMPLE_EVERY_S):
            for rank, num_bytes in _memory_of_ranks(self.launcher):
                peak = self.peaks.setdefault(rank, Peaks())
                if self.sharded.is_set():
                    peak.training = max(peak.training, num_bytes)
                else:
                    peak.loading = max(peak.loading, num_bytes)


def _memory_of_ranks(launcher: int) -> Iterator[tuple[int, int]]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            if int(fields["PPid"]) != launcher:
                continue
            environment = (process / "environ").read_bytes().split(b"\0")
            rank = next(int(entry[5:]) for entry in environment if entry.startswith(b"RANK="))
            yield rank, 1024 * sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))
        except (OSError, KeyError, StopIteration):
            continue  # it has ended, or it is not a rank


def make_model(folder: Path) -> None:
    """Writes a LLaMA of random weights, with the tokenizer of the tests."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = SHAPE["hidden_size"] // 128
    config = LlamaConfig(**SHAPE, num_attention_heads=heads, num_key_value_heads=heads)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="1GB")
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        source = DATA / "llama-vicuna-tiny" / name
        if source.is_file():
            shutil.copyfile(source, folder / name)


def make_records(file: Path) -> None:
    """Writes eight short records with an image."""
    turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A test image."}]
    records = [{"id": str(i), "image": "square.png", "conversations": turns} for i in range(8)]
    file.write_text(json.dumps(records))


def measure(model: Path, records: Path, output: Path, ranks: int, *flags: str) -> dict[int, Peaks]:
    """Trains once, and returns the peaks of each rank."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"),
        *(str(REPOSITORY / "llava" / "train" / "train_mem.py"), "--model_name_or_path", str(model)),
        *("--data_path", str(records), "--image_folder", str(DATA / "images"), "--output_dir", str(output)),
        *("--vision_tower", str(DATA / "clip-tiny"), "--mm_vision_select_layer", "-2", "--max_steps", "2"),
        *("--per_device_train_batch_size", "1", "--logging_steps", "1", "--save_strategy", "no"),
        *("--model_max_length", "512", "--gradient_checkpointing", "True", "--use_cpu", "True", *flags),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=output.parent) as process:
        sampler = Sampler(process.pid)
        thread = threading.Thread(target=sampler.run)
        thread.start()
        assert process.stdout is not None
        for line in process.stdout:
            print(f"    {line.rstrip()}", file=sys.stderr)
            # A run that is not sharded is loaded when it reports its data.
            if "sharded" in line or ("--fsdp" not in flags and "[llava.train] data:" in line):
                sampler.sharded.set()
        code = process.wait()
        sampler.stopped.set()
        thread.join()
    if code:
        raise SystemExit(f"the run with {ranks} processes failed with exit code {code}")
    return sampler.peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="Folder for the model and the runs (default: a temporary folder).")
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=[1, 2, 4], help="Numbers of processes (default: 1 2 4)."
    )
    parser.add_argument("--plain", action="store_true", help="Also run two processes without sharding.")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="Further flags of the training command.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        model, records = Path(work) / "model", Path(work) / "records.json"
        make_model(model)
        make_records(records)
        weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        print(f"weights: {weights / 1e9:.2f} GB in float32; training them with AdamW takes four times as much")
        print(f"{'processes':>22} {'rank':>5} {'peak until sharded':>19} {'peak of the steps':>18}")
        sharded = ("--fsdp", "full_shard auto_wrap")
        runs: list[tuple[str, int, tuple[str, ...]]] = [(f"{ranks}, sharded", ranks, sharded) for ranks in args.ranks]
        if args.plain:
            runs.append(("2, not sharded", 2, ()))
        for number, (name, ranks, flags) in enumerate(runs):
            started = time.monotonic()
            peaks = measure(model, records, Path(work) / f"run-{number}", ranks, *flags, *args.flags)
            for rank, peak in sorted(peaks.items()):
                print(
                    f"{name:>22} {rank:>5} {peak.loading / 1e9:>16.2f} GB {peak.training / 1e9:>15.2f} GB", flush=True
                )
            print(f"    {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()

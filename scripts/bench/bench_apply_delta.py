"""Measures memory and time of applying a delta block by block, against loading both models whole as the original did.

    python scripts/bench/bench_apply_delta.py --work /path/with/20GB

Makes synthetic checkpoints with the real tensor names (a base and a delta of equal size, in four shards each) at two
sizes, applies the delta both ways, each in a separate process, and compares the results value for value. Memory is the
process's own (RssAnon, sampled every 10 ms), because pages of mapped files can be dropped at any time. Time is the CPU
time of the process, user and system; waiting for the disk is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLE_EVERY_S = 0.01
WHOLE_MODEL = """
import sys, torch
from transformers import AutoModelForCausalLM
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM

base_path, delta_path, target_path = sys.argv[1:]
target = LlavaLlamaForCausalLM.from_pretrained(delta_path, dtype=torch.float16)
base = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float16).state_dict()
for name, value in target.state_dict().items():
    if name in base:
        value[: len(base[name])] += base[name]
target.save_pretrained(target_path, max_shard_size="1GB")
"""


@dataclass(frozen=True)
class BenchmarkSize:
    """A LLaMA of invented proportions."""

    layers: int
    hidden: int = 2048
    intermediate: int = 5504
    vocabulary: int = 32000

    @property
    def num_bytes(self) -> int:
        """Size of the weights in float16."""
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return 2 * (self.layers * layer + 2 * self.vocabulary * self.hidden + self.hidden)


SIZES = (BenchmarkSize(layers=17), BenchmarkSize(layers=37))


@dataclass(frozen=True)
class Measurement:
    """What one process used."""

    cpu_s: float
    peak_anonymous_bytes: int


def write_checkpoint(folder: Path, size: BenchmarkSize, *, delta: bool) -> None:
    """Writes random weights in four shards; those of a delta are small."""
    import torch

    from llava.model.weights.writer import CheckpointWriter, TensorSpec

    extra = 4 if delta else 0
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (size.vocabulary + extra, size.hidden)}
    for index in range(size.layers):
        prefix = f"model.layers.{index}."
        for name in "qkvo":
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (size.hidden, size.hidden)
        for name in ("gate", "up"):
            shapes[f"{prefix}mlp.{name}_proj.weight"] = (size.intermediate, size.hidden)
        shapes[f"{prefix}mlp.down_proj.weight"] = (size.hidden, size.intermediate)
        shapes[f"{prefix}input_layernorm.weight"] = shapes[f"{prefix}post_attention_layernorm.weight"] = (size.hidden,)
    shapes["model.norm.weight"] = (size.hidden,)
    shapes["lm_head.weight"] = (size.vocabulary + extra, size.hidden)
    if delta:
        shapes |= {"model.mm_projector.weight": (size.hidden, 1024), "model.mm_projector.bias": (size.hidden,)}
    specs = [TensorSpec(name, shape, torch.float16) for name, shape in shapes.items()]
    total = sum(spec.num_bytes for spec in specs)
    generator = torch.Generator().manual_seed(int(delta))
    noise = torch.randn(1 << 22, generator=generator).half()
    with CheckpointWriter(folder, specs, max_shard_bytes=total // 4 + (1 << 28)) as writer:
        for number, spec in enumerate(specs):
            writer.write(spec.name, _values(spec.shape, noise, number, delta=delta))
        writer.write_json("config.json", _config(size, delta=delta))
        writer.finish()


def _values(shape: tuple[int, ...], noise, number: int, *, delta: bool) -> Iterator:  # type: ignore[no-untyped-def]
    """Yields rows of one table of noise, which are random enough for this purpose and quick to make."""
    import torch

    if len(shape) == 1:
        yield torch.full(shape, 0.001 if delta else 1.0).half()
        return
    scale, step = (0.002 if delta else 0.02), max(1, (1 << 22) // shape[1])
    table = (noise.roll(number * 7919) * scale).half()
    for first in range(0, shape[0], step):
        rows = min(step, shape[0] - first)
        yield table[: rows * shape[1]].reshape(rows, shape[1])


def _config(size: BenchmarkSize, *, delta: bool) -> dict[str, object]:
    settings: dict[str, object] = {
        "model_type": "llava_llama" if delta else "llama",
        "architectures": ["LlavaLlamaForCausalLM" if delta else "LlamaForCausalLM"],
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.hidden // 128,
        "vocab_size": size.vocabulary + (4 if delta else 0),
        "torch_dtype": "float16",
        "tie_word_embeddings": False,
    }
    if delta:
        settings |= {"mm_vision_tower": "none", "use_mm_proj": True, "mm_hidden_size": 1024}
    return settings


def measured(command: list[str]) -> Measurement:
    """Runs a command and samples its memory.

    Raises:
        RuntimeError: the command failed.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        peak, status = 0, Path(f"/proc/{process.pid}/status")
        while True:
            finished, code, usage = os.wait4(process.pid, os.WNOHANG)
            if finished:
                break
            for line in status.read_text().splitlines():
                if line.startswith("RssAnon"):
                    peak = max(peak, 1024 * int(line.split()[1]))
            time.sleep(SAMPLE_EVERY_S)
        process.returncode = os.waitstatus_to_exitcode(code)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)}:\n{output.read().decode()[-2000:]}")
    return Measurement(usage.ru_utime + usage.ru_stime, peak)


def same_values(one: Path, other: Path) -> bool:
    """Whether two folders hold the same tensors, bit for bit."""
    import torch

    from llava.model.weights.reader import open_checkpoint

    left, right = open_checkpoint(one), open_checkpoint(other)
    return set(left) == set(right) and all(torch.equal(left.tensor(name), right.tensor(name)) for name in left)


def compare(size: BenchmarkSize, work: Path) -> tuple[Measurement, Measurement]:
    """Measures both ways at one size, and removes the folders afterwards."""
    base, delta = work / "base", work / "delta"
    write_checkpoint(base, size, delta=False)
    write_checkpoint(delta, size, delta=True)
    # The tool requires a tokenizer; loading whole models does not.
    (delta / "tokenizer.json").write_text("{}")
    tool = [sys.executable, "-m", "llava.model.apply_delta", "--quiet", "--max-shard-size", "1GB"]
    ours = measured([*tool, "--base", str(base), "--delta", str(delta), "--target", str(work / "ours")])
    (delta / "tokenizer.json").unlink()
    whole = measured([sys.executable, "-c", WHOLE_MODEL, str(base), str(delta), str(work / "whole")])
    equal = same_values(work / "ours", work / "whole")
    for folder in (base, delta, work / "ours", work / "whole"):
        shutil.rmtree(folder)
    if not equal:
        raise RuntimeError("the two ways gave different weights")
    return ours, whole


HEAD = "| checkpoint | way | peak memory | ratio | CPU time | ratio |\n|---|---|---:|---:|---:|---:|"


def rows(size: BenchmarkSize, ours: Measurement, whole: Measurement) -> str:
    """Returns two lines of the table."""
    name = f"{size.num_bytes / 1e9:.1f} GB"
    memory, cpu = ours.peak_anonymous_bytes / whole.peak_anonymous_bytes, ours.cpu_s / whole.cpu_s
    return (
        f"| {name} | whole models | {whole.peak_anonymous_bytes / 1e6:,.0f} MB | 1 | {whole.cpu_s:.1f} s | 1 |\n"
        f"| {name} | block by block | {ours.peak_anonymous_bytes / 1e6:,.0f} MB | {memory:.2f} | {ours.cpu_s:.1f} s | "
        f"{cpu:.2f} |"
    )


def extrapolation(results: list[tuple[BenchmarkSize, Measurement, Measurement]]) -> str:
    """Extrapolates the measurements to the released sizes."""
    (small, ours_small, whole_small), (large, ours_large, whole_large) = results

    def at(num_bytes: float, one: Measurement, other: Measurement) -> float:
        slope = (other.peak_anonymous_bytes - one.peak_anonymous_bytes) / (large.num_bytes - small.num_bytes)
        return one.peak_anonymous_bytes + slope * (num_bytes - small.num_bytes)

    lines = []
    for name, num_bytes in (("7B", 13.5e9), ("13B", 26e9)):
        ours, whole = at(num_bytes, ours_small, ours_large), at(num_bytes, whole_small, whole_large)
        lines.append(
            f"{name} in float16 ({num_bytes / 1e9:.1f} GB), by these slopes: {ours / 1e6:,.0f} MB block by block, "
            f"{whole / 1e9:.0f} GB with whole models."
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="Folder for up to 18 GB of temporary files (default: the system's).")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to also write the figures to.")
    args = parser.parse_args()
    results = []
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        for size in SIZES:
            results.append((size, *compare(size, Path(folder))))
            print(rows(*results[-1]), flush=True)
    print(f"\n{extrapolation(results)}")
    if args.out:
        figures = [{"bytes": size.num_bytes, "ours": vars(ours), "whole": vars(whole)} for size, ours, whole in results]
        args.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

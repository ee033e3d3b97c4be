"""Memory and time of applying a delta: block by block, against loading both models whole as the original did.

    python scripts/bench/bench_apply_delta.py --work /path/with/20GB

Makes synthetic checkpoints of the real tensor names (a base and a delta of equal size, in four shards each) at two
sizes, applies the delta in both ways, each in a process of its own, and compares the results value for value. Memory is
what the process holds itself (RssAnon, sampled every 10 ms): pages of mapped files can be dropped at any time. Time is
CPU time of the process, user and system; the disk's share is left out.
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
class Size:
    """A LLaMA of made-up proportions."""

    layers: int
    hidden: int = 2048
    intermediate: int = 5504
    vocabulary: int = 32000

    @property
    def num_bytes(self) -> int:
        """In float16."""
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return 2 * (self.layers * layer + 2 * self.vocabulary * self.hidden + self.hidden)


SIZES = (Size(layers=17), Size(layers=37))


@dataclass(frozen=True)
class Run:
    cpu_s: float
    peak_anonymous_bytes: int


def write_checkpoint(folder: Path, size: Size, *, delta: bool) -> None:
    """Random weights, small ones for a delta, written in four shards."""
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
    """Rows cut from one table of noise: as good as random for this purpose, and made in no time."""
    import torch

    if len(shape) == 1:
        yield torch.full(shape, 0.001 if delta else 1.0).half()
        return
    scale, step = (0.002 if delta else 0.02), max(1, (1 << 22) // shape[1])
    table = (noise.roll(number * 7919) * scale).half()
    for first in range(0, shape[0], step):
        rows = min(step, shape[0] - first)
        yield table[: rows * shape[1]].reshape(rows, shape[1])


def _config(size: Size, *, delta: bool) -> dict[str, object]:
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


def measured(command: list[str]) -> Run:
    """Runs a command and watches its memory.

    Raises:
        RuntimeError: it failed.
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
    return Run(usage.ru_utime + usage.ru_stime, peak)


def same_values(one: Path, other: Path) -> bool:
    """Whether two folders hold the same tensors, bit for bit."""
    import torch

    from llava.model.weights.reader import open_checkpoint

    left, right = open_checkpoint(one), open_checkpoint(other)
    return set(left) == set(right) and all(torch.equal(left.tensor(name), right.tensor(name)) for name in left)


def compare(size: Size, work: Path) -> tuple[Run, Run]:
    """Both ways on one size; the folders are removed afterwards."""
    base, delta = work / "base", work / "delta"
    write_checkpoint(base, size, delta=False)
    write_checkpoint(delta, size, delta=True)
    # The tool wants a tokenizer; the whole-model way does without.
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


def rows(size: Size, ours: Run, whole: Run) -> str:
    """Two lines of the table."""
    name = f"{size.num_bytes / 1e9:.1f} GB"
    memory, cpu = ours.peak_anonymous_bytes / whole.peak_anonymous_bytes, ours.cpu_s / whole.cpu_s
    return (
        f"| {name} | whole models | {whole.peak_anonymous_bytes / 1e6:,.0f} MB | 1 | {whole.cpu_s:.1f} s | 1 |\n"
        f"| {name} | block by block | {ours.peak_anonymous_bytes / 1e6:,.0f} MB | {memory:.2f} | {ours.cpu_s:.1f} s | "
        f"{cpu:.2f} |"
    )


def outlook(results: list[tuple[Size, Run, Run]]) -> str:
    """What the measured slopes say about the released sizes."""
    (small, ours_small, whole_small), (large, ours_large, whole_large) = results

    def at(num_bytes: float, one: Run, other: Run) -> float:
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
    parser.add_argument("--work", type=Path, help="folder for up to 18 GB of temporary files (the system's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON as well")
    args = parser.parse_args()
    results = []
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        for size in SIZES:
            results.append((size, *compare(size, Path(folder))))
            print(rows(*results[-1]), flush=True)
    print(f"\n{outlook(results)}")
    if args.out:
        figures = [{"bytes": size.num_bytes, "ours": vars(ours), "whole": vars(whole)} for size, ours, whole in results]
        args.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

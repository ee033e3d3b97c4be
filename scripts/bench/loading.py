"""Measures memory and CPU time of loading a sharded checkpoint, beside transformers' own `from_pretrained`.

    python scripts/bench/loading.py --work /path/with/10GB

Makes a LLaVA of random weights (4.0 GB in bfloat16, eight shards), in the original's format and in transformers', and
loads it several times, alternating: from the original's format, from transformers' format, and from the latter with
`LlavaForConditionalGeneration.from_pretrained`, each in a process of its own. Time is the CPU time of the loading call,
without imports; memory is the highest anonymous memory of the process (RssAnon, every 10 ms) above that before it.
`--forward` measures a forward pass in the same way, of a smaller model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

REPOSITORY = Path(__file__).resolve().parents[2]
TOWER = REPOSITORY / "tests" / "data" / "clip-tiny"
TOKENIZER = REPOSITORY / "tests" / "data" / "llava-v1.5-tiny"
SAMPLE_EVERY_S: Final = 0.01
SHAPE: Final[dict[str, Any]] = {
    "hidden_size": 2048,
    "intermediate_size": 5504,
    "num_hidden_layers": 37,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 32000,
}
WAYS: Final = ("ours", "ours, transformers' format", "transformers")
_LOAD: Final = """
import json, sys, time
import torch, transformers
from transformers import LlavaForConditionalGeneration
import llava.model.builder as builder
import llava.model.language_model.causal_lm

way, folder, dtype = sys.argv[1:]
transformers.logging.disable_progress_bar()
print("ready", flush=True)
sys.stdin.readline()
start = time.process_time()
if way == "transformers":
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype))
else:
    _, model, _, _ = builder.load_pretrained_model(folder, device="cpu", dtype=dtype)
spent = time.process_time() - start
weights = sum(each.numel() * each.element_size() for each in model.parameters())
print(json.dumps([spent, weights]), flush=True)
sys.stdin.readline()
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one call of loading took."""

    cpu_s: float
    peak_bytes: int
    """Above the memory of the process before the call."""
    weights_bytes: int


def make_folders(work: Path) -> dict[str, Path]:
    """Writes the checkpoint in both formats; returns the folder that each way loads."""
    import shutil

    import torch

    from llava.model.loading.tensor_check import expected_shapes
    from llava.model.weights.writer import CheckpointWriter, TensorSpec

    tower = json.loads((TOWER / "config.json").read_text())
    width = tower.get("vision_config", tower)["hidden_size"]
    settings = json.loads((TOKENIZER / "config.json").read_text()) | SHAPE
    settings |= {"mm_vision_tower": str(TOWER), "mm_hidden_size": width, "torch_dtype": "bfloat16"}
    specs = [TensorSpec(name, shape, torch.bfloat16) for name, shape in expected_shapes(settings).items()]
    total = sum(spec.num_bytes for spec in specs)
    noise = (torch.randn(SHAPE["vocab_size"] * SHAPE["hidden_size"]) * 0.02).bfloat16()
    own, nested = work / "own", work / "nested"
    with CheckpointWriter(own, specs, max_shard_bytes=total // 8 + (1 << 27)) as writer:
        for spec in specs:
            writer.write(spec.name, [noise[: torch.Size(spec.shape).numel()].reshape(spec.shape)])
        writer.write_json("config.json", settings)
        writer.finish()
    for file in TOKENIZER.glob("*token*"):
        shutil.copy(file, own)
    convert = [sys.executable, "-m", "llava.model.convert", "--model-path", str(own), "--output", str(nested)]
    subprocess.run([*convert, "--max-shard-size", "600MB", "--quiet"], check=True)
    return {"ours": own, "ours, transformers' format": nested, "transformers": nested}


def load(way: str, folder: Path, dtype: str) -> Loaded:
    """Loads a folder in a process of its own.

    Args:
        dtype: number format to load in; another one than that of the files makes loading a pass over all values.

    Raises:
        RuntimeError: the process failed.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _LOAD, way, str(folder), dtype],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    status = Path(f"/proc/{process.pid}/status")
    with process:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{way}: the process did not start")
        before, peak = _anonymous_bytes(status), 0
        process.stdin.write("\n")
        process.stdin.flush()
        with tempfile.TemporaryFile("w+") as said:
            reader = subprocess.Popen(["head", "-n", "1"], stdin=process.stdout, stdout=said)
            while reader.poll() is None:
                peak = max(peak, _anonymous_bytes(status))
                time.sleep(SAMPLE_EVERY_S)
            said.seek(0)
            line = said.read()
        process.stdin.write("\n")
        process.stdin.close()
    if not line:
        raise RuntimeError(f"{way}: loading failed")
    spent, weights = json.loads(line)
    return Loaded(spent, peak - before, weights)


def _anonymous_bytes(status: Path) -> int:
    line = next((each for each in status.read_text().splitlines() if each.startswith("RssAnon")), "RssAnon: 0")
    return 1024 * int(line.split()[1])


def table_of_loading(work: Path, repeats: int, dtype: str) -> str:
    """Loads each way in turn, `repeats` times, and returns the table of what it took."""
    folders = make_folders(work)
    results: dict[str, list[Loaded]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            results[way].append(load(way, folders[way], dtype))
            print(f"{way}: {results[way][-1]}", file=sys.stderr, flush=True)
    lines = ["| way | CPU time | ratio (spread) | peak above weights |", "|---|---:|---:|---:|"]
    for way in WAYS:
        paired = [one.cpu_s / other.cpu_s for one, other in zip(results[way], results["transformers"], strict=True)]
        above = max(each.peak_bytes - each.weights_bytes for each in results[way])
        middle = statistics.median(each.cpu_s for each in results[way])
        lines.append(f"| {way} | {middle:.2f} s | {_spread(paired)} | {above / 1e6:+,.0f} MB |")
    return "\n".join(lines)


def table_of_forward(repeats: int) -> str:
    """Runs LLaVA's and transformers' forward pass of the same decoders in turn; returns their CPU times."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from llava.model.language_model.decoders import llava_class

    torch.set_num_threads(1)
    sizes: dict[str, Any] = {"vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
    sizes |= {"num_attention_heads": 8, "num_key_value_heads": 4, "pad_token_id": 0, "bos_token_id": 1}
    lines = ["| decoder | transformers | ours | ratio (spread) |", "|---|---:|---:|---:|"]
    for kind in ("llama", "mistral", "qwen3", "gemma2"):
        theirs = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes)).eval()
        made = llava_class(kind)
        ours = made(made.config_class(**sizes)).eval()
        ours.load_state_dict(theirs.state_dict(), strict=False)
        ids = torch.arange(256)[None] + 10
        times: list[tuple[float, float]] = []
        for round_ in range(repeats + 2):
            order = (theirs, ours) if round_ % 2 else (ours, theirs)
            spent = {model: _cpu_of_forward(model, ids) for model in order}
            times.append((spent[theirs], spent[ours]))
        times = times[2:]  # the first passes allocate
        first, second = (statistics.median(each[i] for each in times) for i in (0, 1))
        ratios = [own / other for other, own in times]
        lines.append(f"| {kind} | {1000 * first:.1f} ms | {1000 * second:.1f} ms | {_spread(ratios)} |")
    return "\n".join(lines)


def _cpu_of_forward(model: Any, ids: Any) -> float:
    import torch

    with torch.no_grad():
        start = time.process_time()
        model(input_ids=ids)
        return time.process_time() - start


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="Folder for the checkpoints (default: a temporary one)."
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="Number of rounds (default: 3).")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="Number format to load in (default: bfloat16, that of the files).",
    )
    parser.add_argument("--forward", action="store_true", help="Measure forward passes instead of loading.")
    args = parser.parse_args()
    if args.forward:
        print(table_of_forward(10 * args.repeats))
        return 0
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        print(table_of_loading(Path(work), args.repeats, args.dtype))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Says what this installation has, what it lacks, and what to do about it.

Exit code 0 when everything required imports and is in the tested range, 1 otherwise, with one line a problem.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from pathlib import Path

from llava import __version__
from llava.command_line import DONE, FAILED, run

INSTALL = "pip install -c constraints.txt -e ."

IMPORT_NAMES = {
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "accelerate": "accelerate",
    "peft": "peft",
    "safetensors": "safetensors",
    "sentencepiece": "sentencepiece",
    "protobuf": "google.protobuf",
    "huggingface-hub": "huggingface_hub",
    "numpy": "numpy",
    "pillow": "PIL",
    "packaging": "packaging",
    "tqdm": "tqdm",
    "psutil": "psutil",
    "requests": "requests",
    "httpx": "httpx",
    "prometheus-client": "prometheus_client",
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "pydantic": "pydantic",
    "gradio": "gradio",
    "rich": "rich",
    "markdown-it-py": "markdown_it",
    "prompt_toolkit": "prompt_toolkit",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
    "openpyxl": "openpyxl",
    "wandb": "wandb",
}
"""What the commands need: distribution name to module name, the order in which they are shown."""

ENVIRONMENT = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "WANDB_MODE",
)
"""Shown when set, with everything that begins with LLAVA_."""

SECRET_WORDS = ("TOKEN", "KEY", "SECRET", "PASSWORD")


@dataclass(frozen=True)
class Finding:
    """One part of the installation."""

    name: str
    version: str | None = None
    """None when it is not installed."""

    note: str = ""
    """What is known about it, or why it is missing."""

    problem: str = ""
    """Not empty when a command may fail because of it; says what to do."""


@dataclass(frozen=True)
class Report:
    llava: str
    python: str
    platform: str
    packages: list[Finding]
    devices: list[Finding]
    optional: list[Finding]
    models: list[Finding]
    cache: Finding
    environment: dict[str, str]
    problems: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object (default: as text)")


def main(args: argparse.Namespace) -> int:
    report = examine()
    print(json.dumps(asdict(report), indent=2) if args.json else as_text(report))
    return FAILED if report.problems else DONE


def examine() -> Report:
    """Looks at everything; never raises because a part is missing or broken."""
    packages = [check_package(name, module, specifier) for name, module, specifier in _required()]
    packages.append(_python())
    devices = _guard(_devices, "devices")
    optional = _optional()
    models = _guard(_models, "embedded models")
    cache = _cache()
    everything = [*packages, *devices, *optional, *models, cache]
    return Report(
        llava=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        platform=platform.platform(),
        packages=packages,
        devices=devices,
        optional=optional,
        models=models,
        cache=cache,
        environment=_environment(),
        problems=[f"{finding.name}: {finding.problem}" for finding in everything if finding.problem],
    )


# Packages


def check_package(name: str, module: str, specifier: str) -> Finding:
    """Whether a required package is there, in the tested range, and imports.

    Args:
        name: of the distribution.
        module: to import from it.
        specifier: the tested range, such as ">=1.2,<2"; empty for any.
    """
    version = _version_of(name)
    if version is None:
        return Finding(name, note=f"needs {specifier}", problem=f"not installed. Run: {INSTALL}")
    if not _in_range(version, specifier):
        problem = f"{version} is outside the tested range {specifier}. Run: {INSTALL}"
        return Finding(name, version, problem=problem)
    reason = _import_failure(module)
    if reason:
        return Finding(name, version, problem=f"installed but broken: {reason}. Run: {INSTALL} --force-reinstall")
    return Finding(name, version)


def _required() -> Iterable[tuple[str, str, str]]:
    specifiers = _specifiers()
    for name, module in IMPORT_NAMES.items():
        yield name, module, specifiers.get(name, "")


def _specifiers() -> dict[str, str]:
    """The ranges that the installed package declares; empty when it is run from a checkout without installing it."""
    try:
        from packaging.requirements import Requirement

        declared = [Requirement(line) for line in metadata.requires("llava") or []]
    except (ImportError, metadata.PackageNotFoundError):
        return {}
    return {r.name.lower(): str(r.specifier) for r in declared if r.marker is None}


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _in_range(version: str, specifier: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # reported as a finding of its own
        return True
    return SpecifierSet(specifier).contains(version, prereleases=True)


def _import_failure(module: str) -> str:
    """Why a module cannot be imported, on one line; empty when it can."""
    try:
        import_module(module)
    except Exception as error:  # a package built for another CPU, CUDA or numpy may raise anything: that is the finding
        return _one_line(error)
    return ""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _python() -> Finding:
    found = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", found)
    return Finding(
        "python", found, problem="outside the tested range 3.10 to 3.13. Make the environment with one of these"
    )


# Devices


def _guard(look: Callable[[], list[Finding]], name: str) -> list[Finding]:
    """The findings of `look`, or one that says why there are none: a broken torch must not end the report."""
    try:
        return look()
    except Exception as error:
        return [Finding(name, note=f"not examined: {_one_line(error)}")]


def _devices() -> list[Finding]:
    import torch

    return [_cpu(), *(_cuda(index) for index in range(torch.cuda.device_count())), *_no_cuda(), *_mps()]


def _cpu() -> Finding:
    import torch

    from llava.model.loading.device import choose_dtype, cpu_has_bf16_units

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    units = "bf16 units" if cpu_has_bf16_units() else "no bf16 units"
    small, large = (_plain(choose_dtype("cpu", size)) for size in (10_000_000, 7_000_000_000))
    formats = small if small == large else f"{small}, models of a billion parameters and more in {large}"
    return Finding(
        "cpu",
        note=f"{usable} cores usable, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, {units}; runs {formats}",
    )


def _cuda(index: int) -> Finding:
    import torch

    from llava.model.loading.device import choose_dtype

    properties = torch.cuda.get_device_properties(index)
    dtype = _plain(choose_dtype(f"cuda:{index}", 7_000_000_000))
    return Finding(
        f"cuda:{index}",
        note=f"{properties.name}, {_gib(properties.total_memory)}, "
        f"compute capability {properties.major}.{properties.minor}; runs {dtype}",
    )


def _no_cuda() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        return []
    if torch.version.cuda is None and torch.version.hip is None:
        return [Finding("cuda", note=f"none: this torch ({torch.__version__}) is built without CUDA")]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = f"CUDA_VISIBLE_DEVICES is {hidden!r}" if hidden is not None else "no device or no driver that fits this torch"
    return [Finding("cuda", note=f"none: {why}")]


def _mps() -> list[Finding]:
    import torch

    from llava.model.loading.device import choose_dtype

    if not torch.backends.mps.is_available():
        return []
    return [Finding("mps", note=f"Apple GPU; runs {_plain(choose_dtype('mps', 7_000_000_000))}")]


def _plain(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


# Optional parts


def _optional() -> list[Finding]:
    return [
        _extra("flash-attn", "flash_attn", "attention runs on PyTorch's own kernels", "flash-attn"),
        _extra("bitsandbytes", "bitsandbytes", "no --load-8bit and --load-4bit", "quant"),
        _extra("deepspeed", "deepspeed", "no command of this release needs it", "deepspeed"),
        _nvcc(),
        *_torchvision(),
    ]


def _extra(name: str, module: str, without: str, extra: str) -> Finding:
    version = _version_of(name)
    if version is None:
        return Finding(name, note=f"not installed: {without}. To have it: pip install -e '.[{extra}]'")
    reason = _import_failure(module)
    return Finding(name, version, note=f"installed but broken: {reason}" if reason else "")


def _nvcc() -> Finding:
    path = shutil.which("nvcc")
    if path is None:
        return Finding("nvcc", note="not found: flash-attn and deepspeed cannot be built here")
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("nvcc", note=f"{path} does not run: {_one_line(error)}")
    release = next((line.split("release", 1)[1] for line in output.splitlines() if "release" in line), "?")
    return Finding("nvcc", release.split(",")[0].strip(), note=path)


def _torchvision() -> list[Finding]:
    """Nothing here uses torchvision, but transformers imports it where it is, and one made for another torch fails."""
    version = _version_of("torchvision")
    if version is None:
        return []
    reason = _import_failure("torchvision")
    problem = f"does not fit this torch ({reason}) and breaks transformers. Run: pip uninstall torchvision"
    return [Finding("torchvision", version, note="not needed", problem=problem if reason else "")]


# Models, cache, environment


def _models() -> list[Finding]:
    from llava import pocket

    found = [_model(name, pocket.find(name)) for name in pocket.names()]
    if pocket.DEFAULT in pocket.names():
        return found
    return [
        *found,
        Finding(pocket.DEFAULT, problem="the default model is not in this installation. Install llava again"),
    ]


def _model(name: str, folder: Path) -> Finding:
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Finding(name, note=f"{_mib(total)} in {folder}")


def _cache() -> Finding:
    folder = _hub_cache()
    free = shutil.disk_usage(_nearest_existing(folder)).free
    note = f"{folder}, {_gib(free)} free"
    if not folder.exists():
        note += ", not made yet"
    return Finding("hub cache", note=note)


def _hub_cache() -> Path:
    """Where the hub's client keeps what it downloads; by its own rules, so that a broken client changes nothing."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def _nearest_existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _environment() -> dict[str, str]:
    names = [name for name in (*ENVIRONMENT, "HF_TOKEN") if name in os.environ]
    names += sorted(name for name in os.environ if name.startswith("LLAVA_"))
    return {name: "(set, not shown)" if _is_secret(name) else os.environ[name] for name in names}


def _is_secret(name: str) -> bool:
    return any(word in name.split("_") for word in SECRET_WORDS)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.0f} GiB"


# Text


def as_text(report: Report) -> str:
    """The report as lines for a person."""
    sections = [
        f"llava {report.llava}, Python {report.python}, {report.platform}",
        _section("Packages", report.packages),
        _section("Devices", report.devices),
        _section("Optional parts", report.optional),
        _section("Embedded models", report.models),
        _section("Downloads", [report.cache]),
        _section("Environment", [Finding(name, note=value) for name, value in report.environment.items()]),
        _verdict(report.problems),
    ]
    return "\n\n".join(section for section in sections if section)


def _section(title: str, findings: list[Finding]) -> str:
    if not findings:
        return ""
    return "\n".join([title, *(_line(finding) for finding in findings)])


def _line(finding: Finding) -> str:
    mark = "!" if finding.problem else " "
    said = "  ".join(part for part in (finding.version, finding.problem or finding.note) if part)
    return f" {mark} {finding.name:<16} {said}".rstrip()


def _verdict(problems: list[str]) -> str:
    if not problems:
        return "Everything required is here and in the tested range."
    return "\n".join([f"{len(problems)} to put right:", *(f" ! {problem}" for problem in problems)])


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

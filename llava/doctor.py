"""Checks the installation: versions, devices, optional parts, embedded models, caches and settings.

The check imports no large library and takes about a second; --full also imports every package and asks PyTorch about
the devices. Exit code 0 if everything required is installed and not older than tested, else 1, with a line for each
problem. A version newer than the tested ones is reported, but is not a problem.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from llava import __version__
from llava.command_line import DONE, FAILED, run

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
    "pillow-heif": "pillow_heif",
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
    "openai": "openai",
    "openpyxl": "openpyxl",
    "shtab": "shtab",
    "wandb": "wandb",
}
"""The required packages in the order of the report: the name of the distribution and the module to import."""

ENVIRONMENT = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "WANDB_MODE",
)
"""Variables that are shown if they are set; those that begin with LLAVA_ are shown as well."""

SECRET_WORDS = ("TOKEN", "KEY", "SECRET", "PASSWORD")

PROGRAM_TIMEOUT_S = 20


@dataclass(frozen=True)
class Finding:
    """One part of the installation."""

    name: str
    version: str | None = None
    """None if the part is not installed or has no version."""

    note: str = ""
    """What is known about the part, or why it is missing."""

    problem: str = ""
    """Why a command may fail because of the part, and what to do; empty if nothing is wrong."""


@dataclass(frozen=True)
class Report:
    """All findings; `problems` repeats those that have a problem, a line each."""

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
    parser.add_argument("--json", action="store_true", help="Print the report as one JSON object (default: as text).")
    parser.add_argument(
        "--full",
        action="store_true",
        help="Also import every package and ask PyTorch about the devices, which takes about 15 seconds.",
    )


def main(args: argparse.Namespace) -> int:
    report = examine(full=args.full)
    print(json.dumps(asdict(report), indent=2) if args.json else as_text(report))
    return FAILED if report.problems else DONE


def examine(*, full: bool = False) -> Report:
    """Examines every part; never raises because one of them is missing or broken.

    Args:
        full: import the packages instead of only looking for them.
    """
    packages = [check_package(name, module, specifier, full=full) for name, module, specifier in _required()]
    packages.append(_python())
    devices = _guard(_devices_by_torch if full else _devices, "devices")
    optional = _optional(full=full)
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


def check_package(name: str, module: str, specifier: str, *, full: bool = False) -> Finding:
    """Checks whether a required package is installed, recent enough, and can be imported.

    Args:
        name: name of the distribution.
        module: the module of it to look for.
        specifier: the tested range, such as ">=1.2,<2"; empty for any.
        full: import the module instead of only looking for it.
    """
    version = _version_of(name)
    requirement = f"'{name}{specifier}'"
    if version is None:
        return Finding(name, note=f"needs {specifier}", problem=f"not installed. Run: pip install {requirement}")
    if _is_too_old(version, specifier):
        problem = f"{version} is older than the tested range {specifier}. Run: pip install {requirement}"
        return Finding(name, version, problem=problem)
    reason = _import_failure(module) if full else _why_not_found(module)
    if reason:
        remedy = f"Run: pip install --force-reinstall {requirement}"
        return Finding(name, version, problem=f"installed but broken: {reason}. {remedy}")
    return Finding(name, version, note="" if _is_tested(version, specifier) else f"newer than tested ({specifier})")


def _required() -> Iterable[tuple[str, str, str]]:
    specifiers = _specifiers()
    for name, module in IMPORT_NAMES.items():
        yield name, module, specifiers.get(name, "")


def _specifiers(extra: str | None = None) -> dict[str, str]:
    """The ranges that the installed package declares, or those of one of its extras; empty if it is not installed."""
    try:
        from packaging.requirements import Requirement

        declared = [Requirement(line) for line in metadata.requires("llava") or []]
    except (ImportError, metadata.PackageNotFoundError):
        return {}
    chosen = [r for r in declared if (r.marker is None if extra is None else f'"{extra}"' in str(r.marker))]
    return {r.name.lower(): str(r.specifier) for r in chosen}


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _is_tested(version: str, specifier: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # reported as a finding of its own
        return True
    return SpecifierSet(specifier).contains(version, prereleases=True)


def _is_too_old(version: str, specifier: str) -> bool:
    lower = ",".join(clause for clause in specifier.split(",") if clause.startswith((">", "=", "~")))
    return not _is_tested(version, lower)


def _why_not_found(module: str) -> str:
    """Why a module would not be found, on one line; empty if it would be. Nothing is imported but its parents."""
    try:
        return "" if find_spec(module) is not None else f"it has no module {module!r}"
    except (ImportError, ValueError) as error:
        return _one_line(error)


def _import_failure(module: str) -> str:
    """Why a module cannot be imported, on one line; empty if it can be."""
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
        "python", found, problem="outside the tested range 3.10 to 3.13. Make an environment with one of these"
    )


# Devices


def _guard(look: Callable[[], list[Finding]], name: str) -> list[Finding]:
    """The findings of `look`, or one that says why there are none: a broken torch must not end the report."""
    try:
        return look()
    except Exception as error:
        return [Finding(name, note=f"not examined: {_one_line(error)}")]


def _devices() -> list[Finding]:
    """CPU and NVIDIA GPUs as the system reports them, and whether the installed torch can use the GPUs."""
    cpu = Finding("cpu", note=f"{_usable_cores()} cores usable{_bf16_units()}")
    gpus = [
        Finding(f"gpu:{index}", note=f"{name}, {memory}, compute capability {capability}")
        for index, (name, memory, capability) in enumerate(_nvidia_gpus())
    ]
    cuda = _cuda_of_torch()
    if cuda is not None:
        note = f"torch is built for CUDA {cuda}" + ("" if gpus else "; no NVIDIA GPU found")
    elif gpus:
        note = "torch is built without CUDA and cannot use the GPU; docs/install.md has the command for a CUDA build"
    else:
        note = "none: torch is built without CUDA"
    return [cpu, *gpus, Finding("cuda", note=note + _hidden_devices())]


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _bf16_units() -> str:
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return ""
    return ", bf16 units" if flags & {"avx512_bf16", "amx_tile"} else ", no bf16 units"


def _nvidia_gpus() -> list[list[str]]:
    """Name, memory and compute capability of each GPU; empty without NVIDIA's driver."""
    output = _output_of("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader")
    rows = [[part.strip() for part in line.split(",")] for line in (output or "").splitlines()]
    return [row for row in rows if len(row) == 3]


def _cuda_of_torch() -> str | None:
    """The CUDA release that torch is built for, read from its version file; None if it is built without."""
    spec = find_spec("torch")
    for folder in (spec and spec.submodule_search_locations) or ():
        text = (Path(folder) / "version.py").read_text(encoding="utf-8")
        if match := re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)", text, flags=re.MULTILINE):
            return match[1]
    return None


def _hidden_devices() -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if hidden is None else f"; CUDA_VISIBLE_DEVICES is {hidden!r}"


def _output_of(program: str, *arguments: str) -> str | None:
    """What a program prints; None if it is not installed or fails."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _devices_by_torch() -> list[Finding]:
    import torch

    return [_cpu(), *(_cuda(index) for index in range(torch.cuda.device_count())), *_no_cuda(), *_mps()]


def _cpu() -> Finding:
    import torch

    from llava.model.loading.device import choose_dtype, cpu_has_bf16_units

    units = "bf16 units" if cpu_has_bf16_units() else "no bf16 units"
    small, large = (_plain(choose_dtype("cpu", size)) for size in (10_000_000, 7_000_000_000))
    formats = small if small == large else f"{small}, models of a billion parameters and more in {large}"
    return Finding(
        "cpu",
        note=f"{_usable_cores()} cores usable, {torch.get_num_threads()} threads, "
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
        return [Finding("cuda", note=f"none: torch {torch.__version__} is built without CUDA")]
    return [Finding("cuda", note=f"none: no device, or no driver that fits this torch{_hidden_devices()}")]


def _mps() -> list[Finding]:
    import torch

    from llava.model.loading.device import choose_dtype

    if not torch.backends.mps.is_available():
        return []
    return [Finding("mps", note=f"Apple GPU; runs {_plain(choose_dtype('mps', 7_000_000_000))}")]


def _plain(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


# Optional parts


def _optional(*, full: bool) -> list[Finding]:
    return [
        _extra("flash-attn", "flash_attn", "attention uses PyTorch's own kernels", "flash-attn", full=full),
        _extra("bitsandbytes", "bitsandbytes", "no --load-8bit and --load-4bit on CUDA", "quant", full=full),
        _extra("deepspeed", "deepspeed", "no --deepspeed in training; --fsdp needs no package", "deepspeed", full=full),
        _nvcc(),
        *_torchvision(full=full),
    ]


def _extra(name: str, module: str, without: str, extra: str, *, full: bool) -> Finding:
    version = _version_of(name)
    if version is None:
        requirement = f"'{name}{_specifiers(extra).get(name, '')}'"
        options = " --no-build-isolation" if extra == "flash-attn" else ""
        return Finding(name, note=f"not installed: {without}. To install it: pip install {requirement}{options}")
    reason = _import_failure(module) if full else _why_not_found(module)
    return Finding(name, version, note=f"installed but broken: {reason}" if reason else "")


def _nvcc() -> Finding:
    path = shutil.which("nvcc")
    if path is None:
        return Finding("nvcc", note="not found: flash-attn cannot be built here")
    release = re.search(r"release ([\d.]+)", _output_of("nvcc", "--version") or "")
    return Finding("nvcc", release[1], note=path) if release else Finding("nvcc", note=f"{path} does not run")


def _torchvision(*, full: bool) -> list[Finding]:
    """LLaVA does not use torchvision, but transformers imports it if installed, and one for another torch fails."""
    version = _version_of("torchvision")
    if version is None:
        return []
    reason = _import_failure("torchvision") if full else _misfit_of_torchvision()
    problem = f"does not fit this torch ({reason}) and breaks transformers. Run: pip uninstall torchvision"
    return [Finding("torchvision", version, note="not needed", problem=problem if reason else "")]


def _misfit_of_torchvision() -> str:
    torch, needed = _version_of("torch"), _torch_of_torchvision()
    return f"needs torch{needed}, found {torch}" if torch and not _is_tested(torch.partition("+")[0], needed) else ""


def _torch_of_torchvision() -> str:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ""
    declared = [Requirement(line) for line in metadata.requires("torchvision") or []]
    return next((str(requirement.specifier) for requirement in declared if requirement.name == "torch"), "")


# Models, cache, environment


def _models() -> list[Finding]:
    from llava import pocket

    found = [_model(name, pocket.find(name)) for name in pocket.names()]
    if pocket.DEFAULT in pocket.names():
        return found
    return [
        *found,
        Finding(pocket.DEFAULT, problem="the default model is missing from this installation. Install llava again"),
    ]


def _model(name: str, folder: Path) -> Finding:
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Finding(name, note=f"{_mib(total)} in {folder}")


def _cache() -> Finding:
    folder = _hub_cache()
    free = shutil.disk_usage(_nearest_existing(folder)).free
    note = f"{folder}, {_gib(free)} free"
    if not folder.exists():
        note += ", not created yet"
    return Finding("hub cache", note=note)


def _hub_cache() -> Path:
    """The download folder by the rules of the hub's client, which is not asked because it may be broken."""
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
    """The report as text for a terminal."""
    sections = [
        f"llava {report.llava}, Python {report.python}, {report.platform}",
        _section("Packages", report.packages),
        _section("Devices", report.devices),
        _section("Optional parts", report.optional),
        _section("Embedded models", report.models),
        _section("Downloads", [report.cache]),
        _section("Environment", [Finding(name, note=value) for name, value in report.environment.items()]),
        _verdict(report),
    ]
    return "\n\n".join(section for section in sections if section)


def _section(title: str, findings: list[Finding]) -> str:
    if not findings:
        return ""
    return "\n".join([title, *(_line(finding) for finding in findings)])


def _line(finding: Finding) -> str:
    mark = "!" if finding.problem else " "
    text = "  ".join(part for part in (finding.version, finding.problem or finding.note) if part)
    return f" {mark} {finding.name:<16} {text}".rstrip()


def _verdict(report: Report) -> str:
    if report.problems:
        count = len(report.problems)
        heading = "1 problem:" if count == 1 else f"{count} problems:"
        return "\n".join([heading, *(f" ! {problem}" for problem in report.problems)])
    newer = [f"{finding.name} {finding.version}" for finding in report.packages if finding.note.startswith("newer")]
    if newer:
        return f"Everything required is installed. Newer than tested: {', '.join(newer)}."
    return "Everything required is installed and in the tested range."


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

"""`llava doctor` tells the truth about an installation, also about a broken one, and never falls over it."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from llava import doctor
from tests.support.serving import REPOSITORY


@pytest.fixture
def broken_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a distribution into the import path whose module raises when it is imported."""

    def make(name: str, version: str, body: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(body)
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return make


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> doctor.Report:
    """The report without --full, without asking programs about GPUs and compilers."""
    monkeypatch.setattr(doctor, "_output_of", lambda program, *arguments: None)
    return doctor.examine()


def test_the_text_has_a_line_for_each_part_and_the_verdict_last(brief):
    text = doctor.as_text(brief)
    for word in ("torch", "transformers", "cpu", "flash-attn", "bitsandbytes", "hub cache"):
        assert f"\n   {word} " in text
    assert text.endswith("Everything required is installed and in the tested range.")


def test_the_embedded_models_are_listed_with_their_size(brief):
    assert "tiny" in [finding.name for finding in brief.models]
    assert all("MiB in " in finding.note for finding in brief.models)


def test_an_nvidia_gpu_is_found_without_torch_and_a_torch_without_cuda_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "_output_of", lambda program, *arguments: "NVIDIA H200, 143771 MiB, 9.0\n")
    monkeypatch.setattr(doctor, "_cuda_of_torch", lambda: None)
    cpu, gpu, cuda = doctor._devices()
    assert "cores usable" in cpu.note
    assert gpu == doctor.Finding("gpu:0", note="NVIDIA H200, 143771 MiB, compute capability 9.0")
    assert "torch is built without CUDA" in cuda.note
    assert "docs/install.md" in cuda.note


@pytest.mark.parametrize(
    ("line", "cuda"),
    [("cuda: Optional[str] = '12.6'", "12.6"), ('cuda = "13.0"', "13.0"), ("cuda: Optional[str] = None", None)],
)
def test_the_cuda_release_of_a_torch_is_read_without_importing_it(line, cuda, tmp_path, monkeypatch):
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\nhip = None\n")
    spec = ModuleSpec("torch", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(doctor, "find_spec", lambda name: spec)
    assert doctor._cuda_of_torch() == cuda


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
        ("raise OSError('undefined symbol: _ZN3c10')", "undefined symbol"),
        ("raise AttributeError('_ARRAY_API not found')", "_ARRAY_API"),
    ],
)
def test_a_package_that_cannot_be_imported_is_named_with_the_reason(body, reason, broken_package):
    broken_package("brokenpart", "1.5", body)
    assert doctor.check_package("brokenpart", "brokenpart", ">=1,<2").problem == "", "it is installed"
    finding = doctor.check_package("brokenpart", "brokenpart", ">=1,<2", full=True)
    assert finding.version == "1.5"
    assert reason in finding.problem
    assert "pip install" in finding.problem


def test_a_version_older_than_the_tested_range_is_a_problem_that_names_the_range(broken_package):
    broken_package("oldpart", "0.9", "")
    finding = doctor.check_package("oldpart", "oldpart", ">=1,<2")
    assert finding.problem == "0.9 is older than the tested range >=1,<2. Run: pip install 'oldpart>=1,<2'"


def test_a_version_newer_than_the_tested_range_is_reported_and_no_problem(broken_package, brief):
    broken_package("newpart", "2.1", "")
    finding = doctor.check_package("newpart", "newpart", ">=1,<2")
    assert (finding.problem, finding.note) == ("", "newer than tested (>=1,<2)")
    report = replace(brief, packages=[*brief.packages, finding])
    assert doctor.as_text(report).endswith("Everything required is installed. Newer than tested: newpart 2.1.")


def test_a_package_whose_files_are_gone_is_broken(broken_package, tmp_path):
    broken_package("gonepart", "1.5", "")
    (tmp_path / "gonepart" / "__init__.py").unlink()
    (tmp_path / "gonepart").rmdir()
    assert "it has no module 'gonepart'" in doctor.check_package("gonepart", "gonepart", ">=1,<2").problem


def test_a_missing_package_is_named_with_what_to_install():
    finding = doctor.check_package("llava-part-that-nobody-has", "llava_part", ">=1")
    assert finding.version is None
    assert "pip install" in finding.problem


def test_every_requirement_of_the_package_is_looked_at():
    project = (REPOSITORY / "pyproject.toml").read_text()
    [listed] = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    requirements = map(Requirement, re.findall(r'^ *"(.+?)"', listed, re.MULTILINE))
    declared = {requirement.name: requirement.specifier for requirement in requirements}
    assert set(declared) == set(doctor.IMPORT_NAMES)
    assert all(declared.values()), "each has a tested range"


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    monkeypatch.setenv("LLAVA_API_KEY", "k-123")
    monkeypatch.setenv("LLAVA_MAX_IMAGE_PIXELS", "1000")
    shown = doctor._environment()
    assert shown["HF_TOKEN"] == shown["LLAVA_API_KEY"] == "(set, not shown)"
    assert shown["LLAVA_MAX_IMAGE_PIXELS"] == "1000"


def test_the_cache_is_where_the_hub_client_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    finding = doctor._cache()
    assert str(tmp_path / "hub") in finding.note
    assert "not created yet" in finding.note

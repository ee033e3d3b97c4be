"""`llava doctor` tells the truth about an installation, also about a broken one, and never falls over it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava import doctor


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


@pytest.fixture(scope="module")
def report(run_python) -> doctor.Report:
    done = run_python("-m", "llava", "doctor", "--json", LLAVA_NOTE="x", HF_TOKEN="hf_abc")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    for key in ("packages", "devices", "optional", "models"):
        said[key] = [doctor.Finding(**finding) for finding in said[key]]
    return doctor.Report(**{**said, "cache": doctor.Finding(**said["cache"])})


def test_this_environment_has_nothing_to_put_right(report):
    assert report.problems == []
    assert {finding.name for finding in report.packages} >= {"torch", "transformers", "pillow", "python"}
    assert any(finding.name == "cpu" and "cores" in finding.note for finding in report.devices)
    assert report.environment["LLAVA_NOTE"] == "x"
    assert "hf_abc" not in str(report), "secrets are not shown"


def test_the_embedded_models_are_listed_with_their_size(report):
    assert "tiny" in [finding.name for finding in report.models]
    assert all("MiB in " in finding.note for finding in report.models)


def test_the_text_has_a_line_for_each_part_and_the_verdict_last(report):
    text = doctor.as_text(report)
    for word in ("torch", "transformers", "cpu", "flash-attn", "bitsandbytes", "hub cache"):
        assert f"\n   {word} " in text
    assert text.endswith("Everything required is here and in the tested range.")


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
    finding = doctor.check_package("brokenpart", "brokenpart", ">=1,<2")
    assert finding.version == "1.5"
    assert reason in finding.problem
    assert "pip install" in finding.problem


def test_a_version_outside_the_tested_range_is_named_with_the_range(broken_package):
    broken_package("oldpart", "0.9", "")
    finding = doctor.check_package("oldpart", "oldpart", ">=1,<2")
    assert "0.9 is outside the tested range" in finding.problem


def test_a_missing_package_is_named_with_what_to_install():
    finding = doctor.check_package("llava-part-that-nobody-has", "llava_part", ">=1")
    assert finding.version is None
    assert "pip install" in finding.problem


def test_every_requirement_of_the_package_is_looked_at(repository: Path):
    declared = doctor._specifiers()
    assert set(declared) == set(doctor.IMPORT_NAMES)
    assert all(declared.values()), "each has a tested range"


def test_a_broken_transformers_ends_with_1_and_leaves_the_rest_of_the_report(run_python, tmp_path: Path):
    (tmp_path / "transformers.py").write_text(
        "raise OSError('libgomp.so.1: cannot allocate memory in static TLS block')"
    )
    done = run_python("-m", "llava.doctor", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout
    assert "transformers: installed but broken: OSError: libgomp.so.1" in done.stdout
    assert "hub cache" in done.stdout
    assert "Traceback" not in done.stderr


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
    assert "not made yet" in finding.note

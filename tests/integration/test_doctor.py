"""`llava doctor` as a user runs it: in this environment, and with a broken library."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llava import doctor


@pytest.fixture(scope="module", params=[(), ("--full",)], ids=["brief", "full"])
def report(request, run_python) -> doctor.Report:
    done = run_python("-m", "llava", "doctor", "--json", *request.param, LLAVA_NOTE="x", HF_TOKEN="hf_abc")
    assert done.returncode == 0, done.stdout + done.stderr
    given = json.loads(done.stdout)
    for key in ("packages", "devices", "optional", "models"):
        given[key] = [doctor.Finding(**finding) for finding in given[key]]
    return doctor.Report(**{**given, "cache": doctor.Finding(**given["cache"])})


def test_this_environment_has_no_problem(report):
    assert report.problems == []
    assert {finding.name for finding in report.packages} >= {"torch", "transformers", "pillow", "python"}
    assert any(finding.name == "cpu" and "cores" in finding.note for finding in report.devices)
    assert report.environment["LLAVA_NOTE"] == "x"
    assert "hf_abc" not in str(report), "secrets are not shown"


EXAMINE_TRANSFORMERS = """
import sys
from llava import doctor
from llava.command_line import run

doctor.IMPORT_NAMES = {"transformers": "transformers"}  # importing all the others takes long and shows nothing more
sys.exit(run(doctor.add_arguments, doctor.main, argv=["--full"]))
"""


def test_a_broken_transformers_ends_with_1_and_leaves_the_rest_of_the_report(run_python, tmp_path: Path):
    (tmp_path / "transformers.py").write_text(
        "raise OSError('libgomp.so.1: cannot allocate memory in static TLS block')"
    )
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = run_python("-c", EXAMINE_TRANSFORMERS, PYTHONPATH=path)
    assert done.returncode == 1, done.stdout
    assert "transformers: installed but broken: OSError: libgomp.so.1" in done.stdout
    assert "hub cache" in done.stdout
    assert "Traceback" not in done.stderr

"""docs/new-model.md as printed: from two folders to a trained, served and exported model."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import urllib.request

import pytest

from llava.serve.service.server import free_port
from tests.support.serving import REPOSITORY, Service
from tests.support.warm_python import warm_environment

pytestmark = pytest.mark.slow

PAGE = REPOSITORY / "docs" / "new-model.md"
IMAGE = REPOSITORY / "playground" / "images" / "sneaker.png"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> dict[str, list[str]]:
    """The page's commands and its Python, which write to a folder of the test's own."""
    folder = tmp_path_factory.mktemp("new-model") / "page"
    page = PAGE.read_text(encoding="utf-8").replace("/tmp/new-model", str(folder))
    return {kind: re.findall(rf"```{kind}\n(.*?)```", page, flags=re.DOTALL) for kind in ("bash", "python")}


def shell(command: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=REPOSITORY,
        env={**warm_environment(), "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_page_runs_from_its_parts_to_the_export(blocks, run_python):
    parts, stage_1, stage_2, ask, serve, export = blocks["bash"]
    shell(parts)
    assert "training 24,832 of" in shell(stage_1)
    assert "template: chatml" in shell(stage_2)
    assert shell(ask).strip() == "It is a drawing."
    assert answered_by_worker(serve) == "It is a photograph."
    assert "ready" in shell(export)
    # Without this package, in an interpreter of its own.
    [example] = blocks["python"]
    done = run_python("-c", f"{example}\nimport sys; print('llava' in sys.modules)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["It is a drawing.", "False"]


def answered_by_worker(command: str) -> str:
    port = free_port()
    words = shlex.split(command.replace("40000", str(port)))[1:]
    content = [
        {"type": "image_url", "image_url": {"url": f"data:;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"}},
        {"type": "text", "text": "What kind of image is this?"},
    ]
    body = {"model": "llava", "temperature": 0, "messages": [{"role": "user", "content": content}]}
    with Service(*words) as worker:
        worker.wait_for("Uvicorn running on", timeout_s=240)
        request = urllib.request.Request(
            f"http://localhost:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["choices"][0]["message"]["content"].strip()

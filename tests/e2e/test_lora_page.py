"""The commands of docs/lora.md run one after the other as printed: train, resume, ask, serve, merge, export."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import urllib.request
from pathlib import Path

import pytest

from llava.serve.service.server import free_port
from tests.support.serving import REPOSITORY, Service
from tests.support.warm_python import warm_environment

pytestmark = pytest.mark.slow

PAGE = REPOSITORY / "docs" / "lora.md"
QUESTION = "What kind of picture is this?"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> list[str]:
    """The page's commands, which write to a folder of the test's own."""
    folder = tmp_path_factory.mktemp("lora") / "page"
    found = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [block.replace("/tmp/lora", str(folder)) for block in found]


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


def test_the_page_runs_from_training_to_the_export(blocks):
    train, ask, serve, export = blocks
    assert "40 samples, 0 of them truncated" in shell(train)
    assert "already finished (step 20 of 20)" in shell(train)
    answer = shell(ask).strip()
    assert answer == "It is a drawing."
    assert answered_by_worker(serve) == answer
    shell(export)
    merged, exported = re.findall(r"--(?:save-model-path|output) (\S+)", export)
    merged_ask = ask.replace(" --model-base tiny", "").replace(f"{Path(merged).parent}/run", merged)
    assert shell(merged_ask).strip() == answer
    assert json.loads((Path(exported) / "config.json").read_text())["architectures"] == [
        "LlavaForConditionalGeneration"
    ]


def answered_by_worker(command: str) -> str:
    port = free_port()
    words = shlex.split(command.replace("40000", str(port)))[1:]
    body = {"model": "run", "temperature": 0, "messages": [{"role": "user", "content": [text(), picture()]}]}
    with Service(*words) as worker:
        worker.wait_for("Uvicorn running on", timeout_s=240)
        request = urllib.request.Request(
            f"http://localhost:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["choices"][0]["message"]["content"].strip()


def text() -> dict[str, str]:
    return {"type": "text", "text": QUESTION}


def picture() -> dict[str, object]:
    import base64

    data = base64.b64encode((REPOSITORY / "playground" / "images" / "scene.png").read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

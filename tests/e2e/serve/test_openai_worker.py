"""An engine that is not ours: `transformers serve` on an exported embedded model, behind `openai_worker`."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest

from llava.serve.service.server import free_port
from tests.support.serving import REPOSITORY, Service

IMAGE = REPOSITORY / "playground" / "images" / "sneaker.png"
pytestmark = pytest.mark.embedded
TRANSFORMERS = Path(sys.executable).with_name("transformers")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("engine")
    exported = folder / "tiny-hf"
    convert = ("-m", "llava.model.convert", "--model-path", "llava/pocket/tiny", "--output", str(exported), "--quiet")
    subprocess.run([sys.executable, *convert], cwd=REPOSITORY, check=True)
    (folder / "hub").mkdir()  # without it `transformers serve` answers its list of models with an error
    engine, worker = free_port(), free_port()
    with ExitStack() as services:
        offline = {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
        serve = (TRANSFORMERS, "serve", "--host", "127.0.0.1", "--port", str(engine), "--device", "cpu")
        services.enter_context(Service(*serve, **offline)).wait_for("Uvicorn running on", timeout_s=180)
        places = ("--backend-url", f"http://127.0.0.1:{engine}/v1", "--backend-model", str(exported))
        own = ("--port", str(worker), "--no-register", "--model-name", "tiny-hf", "--stop", "###", "--stop-here")
        started = services.enter_context(Service("-m", "llava.serve.openai_worker", *places, *own, LLAVA_API_KEY=""))
        started.wait_for("Uvicorn running on", timeout_s=60)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{worker}/v1", api_key="none", max_retries=0)


def asking() -> list[dict]:
    url = f"data:image/png;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    return [{"role": "user", "content": parts}]


def test_it_answers_about_an_image_and_stops_where_it_should(client: openai.OpenAI):
    answer = client.chat.completions.create(model="tiny-hf", messages=asking(), temperature=0, max_tokens=60)
    text = answer.choices[0].message.content
    assert "sneaker" in text
    assert "#" not in text
    assert answer.choices[0].finish_reason == "stop"


def test_it_streams(client: openai.OpenAI):
    chunks = client.chat.completions.create(
        model="tiny-hf", messages=asking(), temperature=0, max_tokens=60, stream=True
    )
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "sneaker" in "".join(piece or "" for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 2

"""A controller and two workers, as commands: load is shared, and a worker that is killed takes only its own answers."""

from __future__ import annotations

import base64
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
import pytest

from tests.support.serving import Service, free_port

REPOSITORY = Path(__file__).parents[2]
PICTURE = REPOSITORY / "playground" / "pictures" / "sneaker.png"
GOLDEN = ("--model-path", "tests/data/llava-v1.5-tiny", "--vision-tower", "tests/data/clip-tiny")
"""Random weights: its answers mean nothing, and go on for as long as they may."""
NO_SECRETS = {"LLAVA_CLUSTER_TOKEN": "", "LLAVA_API_KEY": ""}


class Worker(Service):
    def __init__(self, controller: str, *model: str):
        port = str(free_port())
        self.url = f"http://localhost:{port}"
        places = ("--controller", controller, "--worker", self.url, "--port", port)
        super().__init__("-m", "llava.serve.model_worker", *places, *model, **NO_SECRETS)
        self.wait_for("Uvicorn running on", timeout_s=180)

    def answered(self) -> float:
        """Requests that it has answered."""
        counts = re.findall(r"^llava:requests_total\{.*\} (\S+)$", httpx.get(f"{self.url}/metrics").text, re.MULTILINE)
        return sum(map(float, counts))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as services:
        yield services


@pytest.fixture
def controller(stack: ExitStack) -> str:
    service = stack.enter_context(Service("-m", "llava.serve.controller", "--port", "0", **NO_SECRETS))
    return service.wait_for(r"Uvicorn running on (http://\S+)")[1]


def question(text: str) -> list[dict]:
    url = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


class Listener(threading.Thread):
    """One client with one stream."""

    def __init__(self, controller: str, model: str, max_tokens: int):
        super().__init__()
        self.client = openai.OpenAI(base_url=f"{controller}/v1", api_key="none", max_retries=0)
        self.request = {"model": model, "max_tokens": max_tokens, "temperature": 0}
        self.begun = threading.Event()
        self.text = ""
        self.end: str | None = None
        """The finish reason, or the code of the error."""

    def run(self) -> None:
        try:
            stream = self.client.chat.completions.create(
                messages=question("What is in the picture?"), stream=True, **self.request
            )
            for chunk in stream:
                self.text += chunk.choices[0].delta.content or ""
                self.end = chunk.choices[0].finish_reason
                if self.text:
                    self.begun.set()
        except openai.APIError as error:
            self.end = error.code
        finally:
            self.begun.set()


def test_two_workers_of_the_embedded_model_share_the_requests(stack: ExitStack, controller: str):
    workers = [stack.enter_context(Worker(controller)) for _ in range(2)]
    listeners = [Listener(controller, "tiny", 60) for _ in range(24)]
    for listener in listeners:
        listener.start()
    for listener in listeners:
        listener.join()
    assert {listener.end for listener in listeners} == {"stop"}
    assert all("sneaker" in listener.text for listener in listeners)
    assert all(worker.answered() for worker in workers)


def test_a_worker_that_is_killed_takes_only_its_own_answers(stack: ExitStack, controller: str):
    workers = [stack.enter_context(Worker(controller, *GOLDEN)) for _ in range(2)]
    listeners = [Listener(controller, "llava-v1.5-tiny", 700) for _ in range(12)]
    for listener in listeners:
        listener.start()
    for listener in listeners:
        listener.begun.wait(120)
    workers[0].process.send_signal(signal.SIGKILL)
    for listener in listeners:
        listener.join()
    ends = [listener.end for listener in listeners]
    assert set(ends) == {"length", "worker_lost"}, ends
    assert all(listener.text for listener in listeners), "what came before the error is kept"

    after = Listener(controller, "llava-v1.5-tiny", 20)
    after.start()
    after.join()
    assert after.end == "length"

"""A controller and two workers of the embedded model, as commands: load is shared, a killed one takes only its own."""

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

from tests.support.serving import Service, free_port, wait_until

PICTURE = Path(__file__).parents[2] / "playground" / "pictures" / "sneaker.png"
NO_SECRETS = {"LLAVA_CLUSTER_TOKEN": "", "LLAVA_API_KEY": ""}


class Worker(Service):
    def __init__(self, controller: str):
        self.url = f"http://localhost:{free_port()}"
        port = self.url.rpartition(":")[2]
        places = ("--controller", controller, "--worker", self.url, "--port", port)
        super().__init__("-m", "llava.serve.model_worker", *places, **NO_SECRETS)
        self.wait_for("Uvicorn running on", timeout_s=180)

    def answered(self) -> float:
        """Requests that it has answered."""
        counts = re.findall(r"^llava:requests_total\{.*\} (\S+)$", httpx.get(f"{self.url}/metrics").text, re.MULTILINE)
        return sum(map(float, counts))


@pytest.fixture
def controller() -> Iterator[str]:
    with Service("-m", "llava.serve.controller", "--port", "0", **NO_SECRETS) as service:
        yield service.wait_for(r"Uvicorn running on (http://\S+)")[1]


@pytest.fixture
def workers(controller: str) -> Iterator[tuple[Worker, Worker]]:
    with ExitStack() as stack:
        yield stack.enter_context(Worker(controller)), stack.enter_context(Worker(controller))


def question(text: str) -> list[dict]:
    url = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def test_two_workers_share_the_requests_and_one_that_is_killed_takes_only_its_own(controller: str, workers):
    client = openai.OpenAI(base_url=f"{controller}/v1", api_key="none", max_retries=0)
    results: list[str] = []
    begun = threading.Semaphore(0)

    def ask(text: str) -> None:
        pieces = []
        try:
            stream = client.chat.completions.create(
                model="tiny", messages=question(text), stream=True, temperature=0, n=8, max_tokens=200
            )
            for chunk in stream:
                pieces += [choice.delta.content or "" for choice in chunk.choices if choice.index == 0]
                begun.release()
            results.append("".join(pieces))
        except openai.APIError as error:
            results.append(f"error {error.code}")

    def storm(count: int) -> list[threading.Thread]:
        threads = [threading.Thread(target=ask, args=["What is in the picture?"]) for _ in range(count)]
        for thread in threads:
            thread.start()
        return threads

    for thread in storm(12):
        thread.join()
    assert len(results) == 12
    assert all("sneaker" in result for result in results)
    assert all(worker.answered() for worker in workers)

    results.clear()
    threads = storm(24)
    begun.acquire()
    workers[0].process.send_signal(signal.SIGKILL)
    for thread in threads:
        thread.join()
    whole = [result for result in results if "sneaker" in result]
    lost = [result for result in results if result == "error worker_lost"]
    assert (len(whole) + len(lost), len(results)) == (24, 24), results
    assert whole
    assert lost, "the worker was killed while it answered"

    wait_until(lambda: workers[1].answered() >= 1)
    results.clear()
    ask("What is in the picture?")
    assert "sneaker" in results[0]

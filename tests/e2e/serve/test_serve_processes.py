"""A controller and two workers, as commands: load is shared, and a worker that is killed takes only its own answers."""

from __future__ import annotations

import asyncio
import base64
import random
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from llava.serve.service.server import free_port
from tests.support.images import encoded, noise
from tests.support.serving import Service, wait_until

REPOSITORY = Path(__file__).parents[3]
IMAGE = REPOSITORY / "playground" / "images" / "sneaker.png"
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
        return self.metric(r"llava:requests_total\{.*\}")

    def metric(self, name: str) -> float:
        """The sum of all values whose names match."""
        return sum(map(float, re.findall(rf"^{name} (\S+)$", httpx.get(f"{self.url}/metrics").text, re.MULTILINE)))

    def held(self) -> dict[str, float]:
        """What requests occupy."""
        status = httpx.post(f"{self.url}/worker_get_status").json()
        names = ("running", "queue_depth", "permits_in_use")
        return {"queue_length": status["queue_length"]} | {name: self.metric(f"llava:{name}") for name in names}

    @property
    def memory(self) -> float:
        """MiB."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as services:
        yield services


@pytest.fixture
def controller(stack: ExitStack) -> str:
    service = stack.enter_context(Service("-m", "llava.serve.controller", "--port", "0", **NO_SECRETS))
    return service.wait_for(r"Uvicorn running on (http://\S+)")[1]


def question(text: str) -> list[dict]:
    url = f"data:image/png;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"
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


@pytest.mark.embedded
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


@pytest.mark.parametrize("ended", ["controller", "worker"])
def test_an_answer_that_a_shutdown_does_not_wait_for_ends_with_a_word_about_it(stack: ExitStack, ended: str):
    brief = ("--drain-timeout", "0.2")
    controller = stack.enter_context(Service("-m", "llava.serve.controller", "--port", "0", *brief, **NO_SECRETS))
    url = controller.wait_for(r"Uvicorn running on (http://\S+)")[1]
    worker = stack.enter_context(Worker(url, *GOLDEN, *brief))
    listener = Listener(url, "llava-v1.5-tiny", 900)
    listener.start()
    listener.begun.wait(120)
    service = controller if ended == "controller" else worker
    service.process.send_signal(signal.SIGTERM)
    listener.join()
    assert listener.end == "shutting_down"
    assert listener.text
    assert service.wait() == 1
    assert "still running after 0.2 s were cut off" in service.output


def leave(url: str, count: int, rng: random.Random) -> None:
    """Clients of both protocols, twenty at a time, each with an image of its own; they hang up at any moment."""

    async def ask_and_leave(client: httpx.AsyncClient) -> None:
        data = base64.b64encode(encoded(noise(rng.randint(8, 200), rng.randint(8, 200)))).decode()
        chat = {"model": "tiny", "messages": question("Describe the picture."), "stream": rng.random() < 0.7}
        chat["messages"][0]["content"][0]["image_url"]["url"] = f"data:image/png;base64,{data}"
        prompt = "### Human: Describe the picture.\n<image>\n### Assistant:"
        original = {"model": "tiny", "prompt": prompt, "images": [data], "stop": "###", "max_new_tokens": 200}
        path, body = rng.choice([("/v1/chat/completions", chat), ("/worker_generate_stream", original)])
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(client.post(path, json=body), rng.uniform(0.01, 1.0))

    async def all_of_them() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            for _ in range(0, count, 20):
                await asyncio.gather(*(ask_and_leave(client) for _ in range(20)))

    asyncio.run(all_of_them())


@pytest.mark.embedded
def test_five_hundred_clients_that_hang_up_leave_nothing_behind(stack: ExitStack, controller: str):
    worker = stack.enter_context(Worker(controller))
    nothing = dict.fromkeys(worker.held(), 0)
    rng = random.Random(5)
    leave(controller, 100, rng)
    wait_until(lambda: worker.held() == nothing)
    before, files = worker.memory, psutil.Process(worker.process.pid).num_fds()
    leave(controller, 500, rng)
    wait_until(lambda: worker.held() == nothing)
    assert worker.metric(r"llava:aborted_total\{reason=\"disconnect\"\}") > 100
    assert worker.memory - before < 60
    # The server closes the sockets of clients that have left when it gets to them, which a busy machine delays.
    wait_until(lambda: psutil.Process(worker.process.pid).num_fds() <= files + 5)

    after = Listener(controller, "tiny", 60)
    after.start()
    after.join()
    assert (after.end, "sneaker" in after.text) == ("stop", True)

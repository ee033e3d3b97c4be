"""The controller as users and operators meet it: in its own process, workers in theirs, and all that goes wrong."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import httpx
import pytest

from llava.serve.protocol.original import FrameSplitter, read_frames_sync
from llava.serve.service.server import free_port
from tests.support.serving import Service, wait_until

NO_SECRETS = {"LLAVA_CLUSTER_TOKEN": "", "LLAVA_API_KEY": ""}
TOKEN = "a-token-of-the-tests"


class Controller(Service):
    """`python -m llava.serve.controller`, with a heartbeat expiration short enough to wait for."""

    def __init__(self, *arguments: str, port: int = 0, **environment: str):
        super().__init__(
            *("-m", "llava.serve.controller", "--host", "127.0.0.1", "--port", str(port)),
            *("--heart-beat-expiration", "2", *arguments),
            **{**NO_SECRETS, **environment},
        )
        self.url = self.wait_for(r"Uvicorn running on (http://\S+)")[1]

    def post(self, path: str, body: Any = None, **arguments: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=30, **arguments)

    def models(self) -> list[str]:
        return self.post("/list_models").json()["models"]

    def ask(self, prompt: str, model: str = "fake") -> list[dict[str, Any]]:
        """All frames of an answer."""
        with httpx.stream("POST", f"{self.url}/worker_generate_stream", json=body(prompt, model), timeout=30) as answer:
            return list(read_frames_sync(answer.iter_raw()))


class FakeWorker(Service):
    def __init__(self, *arguments: str, name: str = "127.0.0.1"):
        super().__init__("-m", "tests.support.fake_worker", *arguments)
        self.port = int(self.wait_for(r"listening on (\d+)")[1])
        self.url = f"http://{name}:{self.port}"

    def log(self) -> dict[str, Any]:
        return httpx.get(f"{self.url}/log", timeout=10).json()


def body(prompt: str, model: str = "fake") -> dict[str, Any]:
    return {"model": model, "prompt": prompt, "stop": "###"}


def registration(worker: str, models: list[str] | None = None, **status: Any) -> dict[str, Any]:
    said = {"model_names": models or ["fake"], "speed": 1, "queue_length": 0, **status}
    return {"worker_name": worker, "check_heart_beat": True, "worker_status": said}


Start = Callable[..., Any]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts services that end with the test."""
    with ExitStack() as stack:

        def started(kind: type[Service], *arguments: str, **keywords: Any) -> Service:
            return stack.enter_context(kind(*arguments, **keywords))

        yield started


@pytest.fixture
def controller(start: Start) -> Controller:
    return start(Controller, "--idle-timeout", "1")


@pytest.fixture
def worker(start: Start, controller: Controller) -> FakeWorker:
    worker = start(FakeWorker, "--controller", controller.url)
    wait_until(controller.models)
    return worker


# The original's contract


def test_a_worker_of_the_original_registers_beats_and_serves(controller: Controller, worker: FakeWorker):
    assert controller.models() == ["fake"]
    assert controller.post("/get_worker_address", {"model": "fake"}).json() == {"address": worker.url}
    assert controller.post("/get_worker_address", {"model": "other"}).json() == {"address": ""}
    frames = controller.ask("say:3")
    assert [frame["text"] for frame in frames] == ["say:3 0", "say:3 0 1", "say:3 0 1 2"]
    assert {frame["error_code"] for frame in frames} == {0}
    beat = {"worker_name": worker.url, "queue_length": 3}
    assert controller.post("/receive_heart_beat", beat).json() == {"exist": True}
    assert controller.post("/receive_heart_beat", {**beat, "worker_name": "http://127.0.0.1:9"}).json() == {
        "exist": False
    }


def test_without_a_status_the_worker_itself_is_asked(controller: Controller, start: Start):
    worker = start(FakeWorker, "--model", "quiet")
    answer = controller.post("/register_worker", {**registration(worker.url), "worker_status": None})
    assert (answer.status_code, answer.json()) == (200, None)
    assert controller.models() == ["quiet"]


def test_a_controller_is_a_worker_of_another_controller(controller: Controller, worker: FakeWorker, start: Start):
    above = start(Controller)
    assert above.post("/register_worker", {**registration(controller.url), "worker_status": None}).status_code == 200
    assert above.ask("say:2")[-1]["text"] == "say:2 0 1"
    assert controller.post("/worker_get_status").json() == {"model_names": ["fake"], "speed": 1.0, "queue_length": 0}


def test_a_worker_that_says_goodbye_gets_nothing_more(controller: Controller, start: Start):
    worker = start(FakeWorker)
    controller.post("/register_worker", registration(worker.url))
    assert controller.post("/deregister_worker", {"worker_name": worker.url}).json() is None
    assert controller.models() == []


def test_an_unknown_model_is_one_frame_and_404(controller: Controller, worker: FakeWorker):
    answer = controller.post("/worker_generate_stream", body("hello", "unknown"))
    (frame,) = FrameSplitter().feed(answer.content)
    assert answer.status_code == 404
    assert frame["error_code"] == 2
    assert frame["error"]["code"] == "model_not_found"
    assert frame["error"]["request_id"] == answer.headers["x-request-id"]
    assert "Available: fake." in frame["text"]


# Workers that fail (F1, F2)


def test_a_worker_killed_in_mid_stream_ends_the_answer_with_a_typed_error(controller: Controller, start: Start):
    workers = {w.port: w for w in (start(FakeWorker, "--controller", controller.url) for _ in range(2))}
    wait_until(lambda: all(worker.log()["registrations"] for worker in workers.values()))
    with httpx.stream("POST", f"{controller.url}/worker_generate_stream", json=body("say:900:0.05")) as answer:
        frames = read_frames_sync(answer.iter_raw())
        first = next(frames)
        busy = next(worker for worker in workers.values() if worker.log()["started"])
        busy.process.kill()
        *_, last = frames
    assert first["error_code"] == 0
    assert (last["error_code"], last["error"]["code"]) == (3, "worker_lost")
    assert str(busy.port) not in last["text"]  # clients do not learn addresses
    # Nobody else notices: the dead one still counts as registered, but gets no request.
    assert all(controller.ask("say:1")[-1]["error_code"] == 0 for _ in range(6))


@pytest.mark.parametrize("behaviour", ["die:0", "full"])
def test_a_request_that_nobody_has_begun_goes_to_another_worker(behaviour: str, controller: Controller, start: Start):
    bad = start(FakeWorker, "--behave", behaviour)
    controller.post("/register_worker", registration(bad.url))
    good = start(FakeWorker)
    controller.post("/register_worker", registration(good.url, queue_length=50))  # the bad one is asked first
    assert controller.ask("say:2")[-1] == {"text": "say:2 0 1", "error_code": 0}
    assert good.log()["started"] == 1


def test_a_full_worker_without_a_second_one_answers_for_itself(controller: Controller, start: Start):
    worker = start(FakeWorker, "--behave", "full")
    controller.post("/register_worker", registration(worker.url))
    answer = controller.post("/worker_generate_stream", body("hello"))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "queue_full"
    assert worker.log()["started"] == 1


def test_a_begun_answer_is_never_begun_twice(controller: Controller, start: Start):
    workers = [start(FakeWorker, "--behave", "cut:2") for _ in range(2)]
    for worker in workers:
        controller.post("/register_worker", registration(worker.url))
    *_, last = controller.ask("hello")
    assert last["error"]["code"] == "worker_lost"
    assert sum(worker.log()["started"] for worker in workers) == 1


def test_a_frame_cut_in_half_never_reaches_the_client(controller: Controller, start: Start):
    worker = start(FakeWorker)
    controller.post("/register_worker", registration(worker.url))
    frames = controller.ask("cut:2")  # each is read as JSON on the way
    assert [frame["error_code"] for frame in frames] == [0, 0, 3]


def test_a_hanging_worker_times_out_leaves_and_comes_back_once(controller: Controller, worker: FakeWorker):
    with httpx.stream("POST", f"{controller.url}/worker_generate_stream", json=body("say:900:0.05")) as answer:
        frames = read_frames_sync(answer.iter_raw())
        next(frames)
        worker.process.send_signal(signal.SIGSTOP)
        try:
            *_, last = frames
            assert (last["error_code"], last["error"]["code"]) == (3, "worker_timeout")
            answer_now = controller.post("/worker_generate_stream", body("say:1"))
            assert answer_now.status_code == 503  # known, but not asked
            wait_until(lambda: controller.models() == [])  # no heartbeat: forgotten
        finally:
            worker.process.send_signal(signal.SIGCONT)
    wait_until(lambda: controller.models() == ["fake"])
    assert controller.post("/worker_get_status").json()["speed"] == 1  # one entry, not two
    assert controller.ask("say:1")[-1]["error_code"] == 0


def test_a_request_at_a_worker_that_falls_silent_moves_on_before_its_timeout(controller: Controller, start: Start):
    hanging = start(FakeWorker, "--behave", "hang:0", "--controller", controller.url)
    wait_until(controller.models)
    answers: list[list[dict[str, Any]]] = []
    asking = threading.Thread(target=lambda: answers.append(controller.ask("say:1")))
    asking.start()
    wait_until(lambda: hanging.log()["started"])
    good = start(FakeWorker, "--controller", controller.url)
    wait_until(lambda: good.log()["registrations"])
    hanging.process.send_signal(signal.SIGSTOP)
    asking.join(30)
    assert answers[0][-1] == {"text": "say:1 0", "error_code": 0}


def test_a_first_byte_that_does_not_come_is_504(start: Start):
    controller = start(Controller, "--first-token-timeout", "0.5")
    worker = start(FakeWorker, "--behave", "hang:0")
    controller.post("/register_worker", registration(worker.url))
    answer = controller.post("/worker_generate_stream", body("hello"))
    assert answer.status_code == 504
    assert b"worker_timeout" in answer.content


def test_hung_workers_hold_up_nobody_else(start: Start):
    controller = start(Controller, "--heart-beat-expiration", "60")
    for number in range(3):
        hung = start(FakeWorker, "--model", f"hung{number}")
        controller.post("/register_worker", registration(hung.url, [f"hung{number}"]))
        hung.process.send_signal(signal.SIGSTOP)
    slowest_s = 0.0
    for _ in range(10):
        began_s = time.monotonic()
        assert controller.post("/refresh_all_workers").json() is None
        assert controller.models() == ["hung0", "hung1", "hung2"]
        assert controller.post("/get_worker_address", {"model": "hung1"}).json()["address"]
        slowest_s = max(slowest_s, time.monotonic() - began_s)
    assert slowest_s < 4  # of three requests; one status probe alone waits for 5 s


def test_a_refresh_forgets_workers_that_are_gone_and_asks_each_once(start: Start):
    controller = start(Controller, "--heart-beat-expiration", "60")  # so that it asks by itself only much later
    kept, lost = start(FakeWorker, "--model", "kept"), start(FakeWorker, "--model", "lost")
    for worker, model in ((kept, "kept"), (lost, "lost")):
        controller.post("/register_worker", {**registration(worker.url, [model]), "check_heart_beat": False})
    lost.process.kill()
    lost.wait()
    for _ in range(10):
        assert controller.post("/refresh_all_workers").status_code == 200
    wait_until(lambda: controller.models() == ["kept"])
    assert kept.log()["paths"].count("/worker_get_status") == 1


def test_a_restarted_controller_finds_its_workers_again(start: Start):
    port = free_port()
    controller = start(Controller, port=port)
    workers = [start(FakeWorker, "--controller", controller.url, "--model", f"m{n}") for n in range(4)]
    wait_until(lambda: len(controller.models()) == 4)
    direct: list[dict[str, Any]] = []

    def ask_directly() -> None:
        url = f"{workers[0].url}/worker_generate_stream"
        with httpx.stream("POST", url, json=body("say:40:0.05"), timeout=30) as answer:
            direct.extend(read_frames_sync(answer.iter_raw()))

    streaming = threading.Thread(target=ask_directly)
    streaming.start()
    controller.process.kill()
    controller.wait()
    again = start(Controller, port=port)
    wait_until(lambda: again.models() == ["m0", "m1", "m2", "m3"])
    streaming.join(30)
    assert len(direct) == 40


# Clients that leave


@pytest.mark.parametrize("prompt", ["say:900:0.02", "hang:0"], ids=["in mid-stream", "before the first byte"])
def test_a_client_that_leaves_ends_the_request_at_the_worker(prompt: str, controller: Controller, worker: FakeWorker):
    with closing(socket.create_connection(("127.0.0.1", int(controller.url.rpartition(":")[2])))) as client:
        content = json.dumps(body(prompt)).encode()
        head = f"POST /worker_generate_stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
        client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
        wait_until(lambda: worker.log()["started"])
        assert 'llava:worker_in_flight{worker="' + worker.url + '"} 1.0' in httpx.get(f"{controller.url}/metrics").text
    nobody = 'llava:worker_in_flight{worker="' + worker.url + '"} 0.0'
    wait_until(lambda: nobody in httpx.get(f"{controller.url}/metrics").text)
    if prompt.startswith("say"):
        wait_until(lambda: worker.log()["aborted"])
    assert 'llava:aborted_total{reason="disconnect"} 1.0' in httpx.get(f"{controller.url}/metrics").text


# OpenAI's API


def test_the_openai_client_reaches_the_model_that_it_names(controller: Controller, worker: FakeWorker):
    from openai import APIError, NotFoundError, OpenAI

    client = OpenAI(base_url=f"{controller.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "llava"
    whole = client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])
    assert whole.choices[0].message.content == "hello"

    def stream(prompt: str) -> list[str]:
        messages: Any = [{"role": "user", "content": prompt}]
        pieces = client.chat.completions.create(model="fake", messages=messages, stream=True)
        return [piece.choices[0].delta.content for piece in pieces]

    assert stream("say:3") == [" 0", " 1", " 2"]
    with pytest.raises(APIError) as lost:
        stream("cut:2")
    assert lost.value.code == "worker_lost"
    with pytest.raises(NotFoundError) as unknown:
        client.chat.completions.create(model="unknown", messages=[{"role": "user", "content": "hi"}])
    assert unknown.value.code == "model_not_found"


def test_ids_of_a_request_reach_the_worker_and_its_key_does_not(start: Start):
    controller = start(Controller, LLAVA_API_KEY="a-key-of-a-client", LLAVA_CLUSTER_TOKEN=TOKEN)
    worker = start(FakeWorker, "--controller", controller.url, "--token", TOKEN)
    headers = {"authorization": "Bearer a-key-of-a-client", "x-request-id": "mine-1"}
    headers["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    wait_until(lambda: httpx.get(f"{controller.url}/v1/models", headers=headers).json()["data"])
    answer = controller.post("/worker_generate_stream", body("say:1 secret words"), headers=headers)
    assert answer.headers["x-request-id"] == "mine-1"
    seen = worker.log()["headers"][-1]
    assert seen["x-request-id"] == "mine-1"
    assert seen["traceparent"].split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    assert seen["x-llava-cluster-token"] == TOKEN  # it has proven that it knows it
    assert "authorization" not in seen
    assert "request_id=mine-1" in controller.output
    for secret in ("a-key-of-a-client", TOKEN, "secret words"):
        assert secret not in controller.output


# Starting and ending


def test_sigterm_finishes_what_runs_and_refuses_what_comes(controller: Controller, worker: FakeWorker):
    url = f"{controller.url}/worker_generate_stream"
    with httpx.stream("POST", url, json=body("say:20:0.1"), timeout=30) as answer:
        frames = read_frames_sync(answer.iter_raw())
        next(frames)
        controller.process.terminate()
        wait_until(lambda: httpx.get(f"{controller.url}/health/ready").status_code == 503)
        refused = controller.post("/worker_generate_stream", body("say:1"))
        assert refused.status_code == 503
        assert b"shutting_down" in refused.content
        assert "retry-after" in refused.headers
        *_, last = frames
    assert last["text"].endswith(" 19")
    assert controller.wait() == 0


def test_a_second_sigterm_ends_at_once(controller: Controller, worker: FakeWorker):
    with httpx.stream("POST", f"{controller.url}/worker_generate_stream", json=body("say:900:0.1")) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        controller.process.terminate()
        controller.wait_for("SIGTERM")
        controller.process.terminate()
        assert controller.wait(10) == 1  # an answer was cut off


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cluster-token-file", "/no/such/file"), "/no/such/file: cannot be read"),
        (("--allow-worker", "http://10.0.0.1"), "--allow-worker"),
    ],
)
def test_what_is_wrong_at_the_start_is_one_line(arguments: tuple[str, ...], message: str, run_python):
    done = run_python("-m", "llava.serve.controller", *arguments, **NO_SECRETS)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_port_in_use_is_one_line(controller: Controller, run_python):
    port = controller.url.rpartition(":")[2]
    done = run_python("-m", "llava.serve.controller", "--host", "127.0.0.1", "--port", port, **NO_SECRETS)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: port {port} on 127.0.0.1 is in use. "
        "Stop the process that uses it, or choose another port with --port.\n"
    )


def test_the_command_of_the_readme_runs_as_it_is_and_opens_nothing_to_other_machines(start: Start):
    port = free_port()
    service = start(Service, "-m", "llava.serve.controller", "--host", "0.0.0.0", "--port", str(port))
    service.wait_for(r"Uvicorn running on http://0\.0\.0\.0:\d+")
    url = f"http://127.0.0.1:{port}/list_models"
    assert httpx.post(url).json() == {"models": []}
    # What a proxy on this machine passes on, and what a web page asks under a name of its own, come from elsewhere.
    for headers in ({"x-forwarded-for": "203.0.113.5"}, {"host": "evil.example"}):
        refused = httpx.post(url, headers=headers)
        assert refused.status_code == 403
        assert "--api-key-file" in refused.json()["error"]["message"]

"""A worker's life as a process: its flags, its start, its controller, its end. The engine is a fake one."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import threading
import time
from typing import Any

import httpx
import pytest

from llava.serve import model_worker
from llava.serve.protocol.original import WorkerStatus, read_frames_sync
from llava.serve.service.security import ClusterToken
from llava.serve.service.server import free_port
from llava.serve.worker.heartbeat import LOG_INTERVAL_S, Heartbeat
from tests.support.fake_controller import FakeController
from tests.support.serving import Service, running, wait_until

FAKE = ("-m", "tests.support.fake_backend", "--host", "127.0.0.1")
TOKEN = "correct-horse-battery-staple"


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "llava-fake", "messages": [{"role": "user", "content": "Hello?"}], **fields}


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    model_worker.add_arguments(parser)
    return parser.parse_args(words)


# Flags


def test_the_readmes_command_is_understood_with_its_abbreviations():
    words = "--host 0.0.0.0 --controller http://localhost:10000 --port 40000 --worker http://localhost:40000"
    args = parse(*words.split(), "--model-path", "./LLaVA-13B-v0", "--multi-modal", "--num-gpus", "2")
    assert (args.controller_address, args.worker_address) == ("http://localhost:10000", "http://localhost:40000")
    assert (args.model_path, args.num_gpus, args.port) == ("./LLaVA-13B-v0", 2, 40000)


@pytest.mark.parametrize(
    "words",
    [
        "--keep-aspect-ratio --limit-model-concurrency 5 --stream-interval 2 --no-register",
        "--model-base b --model-name n --device cpu --load-8bit --use-flash-attn",
        "--load-4bit --worker-address http://a:1 --controller-address http://b:2",
        "--limit 3 --stream 1 --keep --multi --num 1",
    ],
)
def test_every_flag_of_the_original_and_its_successor_is_there(words):
    assert parse(*words.split())


@pytest.mark.parametrize("words", ["--port 70000", "--port x", "--limit-model-concurrency 0", "--drain-timeout -1"])
def test_a_senseless_value_is_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as ending:
        parse(*words.split())
    assert ending.value.code == 2


# Start


def test_a_worker_is_live_at_once_and_ready_only_after_its_first_answer():
    controller, port = FakeController(), free_port()
    with running(controller.app()) as control:
        words = (*FAKE, "--port", str(port), "--controller", control.url, "--load-seconds", "1.5")
        with Service(*words, "--worker", f"http://127.0.0.1:{port}") as service:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(url, "/health/live") == 200)
            assert answers(url, "/health/ready") == 503
            assert controller.registered == []
            assert "Uvicorn running" not in service.output
            service.wait_for(f"Uvicorn running on {url}")
            assert answers(url, "/health/ready") == 200
            assert controller.registered[0]["worker_name"] == url


def answers(url: str, path: str) -> int:
    try:
        return httpx.get(url + path).status_code
    except httpx.HTTPError:
        return 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--load-error", "weights.bin: not there."], "weights.bin: not there."),
        (["--api-key-file", "/no/such/file"], "/no/such/file"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
    ],
)
def test_what_makes_a_start_impossible_is_said_in_one_line(words, reason):
    controller = FakeController()
    with running(controller.app()) as control:
        place = ("--port", str(free_port()), "--controller", control.url)
        with Service(*FAKE, *place, *words) as service:
            assert service.wait() == 1
            assert reason in service.lines[-1]
            assert service.lines[-1].startswith("error: ")
            assert "Traceback" not in service.output
            assert controller.registered == []


def test_a_port_in_use_is_said_before_anything_slow_is_done():
    with running(FakeController().app()) as other:
        words = ("--port", str(other.port), "--no-register", "--load-seconds", "60")
        with Service(*FAKE, *words) as service:
            assert service.wait(30) == 1
            assert f"port {other.port} on 127.0.0.1 is in use" in service.lines[-1]


def test_a_model_folder_that_is_not_there_ends_the_command_before_torch_is_imported(run_python):
    done = run_python(
        "-X", "importtime", "-m", "llava.serve.model_worker", "--model-path", "./no/folder", "--no-register", timeout=60
    )
    assert done.returncode == 1
    assert "error: ./no/folder: no such model folder" in done.stderr
    assert "| torch\n" not in done.stderr


def test_help_imports_nothing_heavy(run_python):
    for module in ("model_worker", "openai_worker"):
        done = run_python("-X", "importtime", "-m", f"llava.serve.{module}", "--help", timeout=60)
        assert done.returncode == 0
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert not imported & {"torch", "transformers", "gradio"}


def test_the_readmes_host_answers_this_machine_and_beyond_it_only_the_controller(tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    port = free_port()
    words = ("--port", str(port), "--no-register", "--cluster-token-file", str(tmp_path / "token"))
    with Service("-m", "tests.support.fake_backend", "--host", "0.0.0.0", *words) as service:
        service.wait_for("Uvicorn running on")
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        assert httpx.post(url, json=body()).status_code == 200
        elsewhere = {"x-forwarded-for": "192.0.2.1"}  # what a proxy on this machine says of a caller
        assert httpx.post(url, json=body(), headers=elsewhere).status_code == 403
        assert httpx.post(url, json=body(), headers=elsewhere | ClusterToken(TOKEN).headers()).status_code == 200


# End


def test_a_worker_told_to_end_leaves_the_controller_and_finishes_what_it_has():
    controller, port = FakeController(), free_port()
    url = f"http://127.0.0.1:{port}"
    with running(controller.app()) as control:
        words = ("--port", str(port), "--controller", control.url, "--worker", url, "--pace", "0.05", "--words", "40")
        with Service(*FAKE, *words) as service:
            service.wait_for("Uvicorn running on")
            answers_: list[str] = []
            askers = [threading.Thread(target=ask, args=(url, answers_)) for _ in range(4)]
            for asker in askers:
                asker.start()
            wait_until(lambda: running_now(url) == 4)
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: controller.left == [url], 10)
            assert answers(url, "/health/ready") == 503
            refused = httpx.post(f"{url}/v1/chat/completions", json=body())
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            for asker in askers:
                asker.join(30)
            assert answers_ == ["".join(f" w{index}" for index in range(40))] * 4
            assert service.wait(30) == 0


def running_now(url: str) -> int:
    line = next(line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith("llava:running "))
    return round(float(line.split()[1]))


def ask(url: str, answers_: list[str]) -> None:
    request = {"model": "llava-fake", "prompt": "p", "max_new_tokens": 100}
    with httpx.stream("POST", f"{url}/worker_generate_stream", json=request, timeout=60) as response:
        answers_.append(list(read_frames_sync(response.iter_bytes()))[-1]["text"].removeprefix("p"))


def test_a_second_signal_ends_a_worker_at_once():
    port = free_port()
    words = ("--port", str(port), "--no-register", "--pace", "1", "--words", "100")
    with Service(*FAKE, *words) as service:
        service.wait_for("Uvicorn running on")
        asker = threading.Thread(target=ask_and_lose, args=(f"http://127.0.0.1:{port}",), daemon=True)
        asker.start()
        wait_until(lambda: running_now(f"http://127.0.0.1:{port}") == 1)
        service.process.send_signal(signal.SIGTERM)
        service.wait_for("shutting down")
        service.process.send_signal(signal.SIGTERM)
        assert service.wait(10) == 1
        asker.join(10)


def ask_and_lose(url: str) -> None:
    with pytest.raises(httpx.HTTPError):
        ask(url, [])


def test_a_worker_whose_engine_died_says_so_and_ends():
    port = free_port()
    with Service(*FAKE, "--port", str(port), "--no-register", "--dies-after", "0.5") as service:
        service.wait_for("Uvicorn running on")
        wait_until(lambda: answers(f"http://127.0.0.1:{port}", "/health/live") == 500, 10)
        assert service.wait(10) == 1
        assert "cannot recover" in service.output


# Logs


def test_what_users_say_show_and_use_as_keys_is_in_no_log(tmp_path):
    (tmp_path / "keys").write_text("alice sk-very-secret\n")
    port = free_port()
    words = ("--port", str(port), "--no-register", "--api-key-file", str(tmp_path / "keys"))
    with Service(*FAKE, *words) as service:
        service.wait_for("Uvicorn running on")
        url = f"http://127.0.0.1:{port}"
        headers = {"authorization": "Bearer sk-very-secret", "x-request-id": "known-id"}
        message = {"role": "user", "content": "my private question"}
        assert (
            httpx.post(f"{url}/v1/chat/completions", json=body(messages=[message]), headers=headers).status_code == 200
        )
        prompt = {"model": "llava-fake", "prompt": "private <image>", "images": ["c2VjcmV0"]}
        assert httpx.post(f"{url}/worker_generate_stream", json=prompt, headers=headers).status_code == 415
        wait_until(lambda: service.output.count("known-id") == 2, 10)
        assert "caller=alice" in service.output
        for secret in ("private", "sk-very-secret", "c2VjcmV0"):
            assert secret not in service.output


# The controller


def test_a_worker_serves_while_its_controller_cannot_be_reached():
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = ("--port", str(port), "--controller", f"http://127.0.0.1:{free_port()}", "--worker", url)
    with Service(*FAKE, *words) as service:
        service.wait_for("Uvicorn running on")
        for _ in range(20):
            assert httpx.post(f"{url}/worker_get_status", timeout=2).status_code == 200
        said: list[str] = []
        ask(url, said)
        assert said
        threads = num_threads(service.process.pid)
        time.sleep(3)
        assert num_threads(service.process.pid) <= threads
        assert service.output.count("cannot be reached") == 1
        service.process.terminate()
        assert service.wait(10) == 0


def num_threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208


class Beating:
    """A heartbeat on a loop of its own, with short intervals."""

    def __init__(self, controller: str, **settings: Any):
        import asyncio

        self.queue_length = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.heartbeat = Heartbeat(controller, "http://127.0.0.1:9", self.status, **{"interval_s": 0.1, **settings})
        self.run(self.heartbeat.start(wait_s=2))

    def status(self) -> WorkerStatus:
        return WorkerStatus(model_names=["m"], queue_length=self.queue_length)

    def run(self, coroutine: Any) -> Any:
        import asyncio

        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def __enter__(self) -> Beating:
        return self

    def __exit__(self, *exception: object) -> None:
        self.run(self.heartbeat.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


def test_a_worker_registers_beats_and_takes_its_leave():
    controller = FakeController()
    with running(controller.app()) as control:
        with Beating(control.url, token=ClusterToken(TOKEN)) as beating:
            assert controller.registered == [
                {
                    "worker_name": "http://127.0.0.1:9",
                    "check_heart_beat": True,
                    "worker_status": {"model_names": ["m"], "speed": 1.0, "queue_length": 0},
                }
            ]
            assert controller.headers[0]["x-llava-cluster-token"] == TOKEN
            beating.queue_length = 5
            wait_until(lambda: any(beat["queue_length"] == 5 for beat in controller.beats))
        assert controller.left == ["http://127.0.0.1:9"]
        assert len(controller.registered) == 1


def test_a_worker_that_the_controller_forgot_registers_again():
    controller = FakeController()
    with running(controller.app()) as control, Beating(control.url):
        controller.known.clear()
        wait_until(lambda: len(controller.registered) == 2)


def test_a_worker_outlives_a_controller_and_finds_its_successor(caplog):
    port = free_port()
    caplog.set_level("INFO", "llava.serve.worker.heartbeat")
    with Beating(f"http://127.0.0.1:{port}") as beating:
        assert not beating.heartbeat.registered
        time.sleep(0.5)
        trouble = [record for record in caplog.records if record.levelname == "WARNING"]
        assert len(trouble) == 1, f"one line in {LOG_INTERVAL_S:g} s"
        controller = FakeController()
        with running(controller.app(), port=port):
            wait_until(lambda: controller.registered)


def test_a_refusal_is_logged_with_the_controllers_own_words(caplog):
    controller = FakeController(refuses=True)
    with running(controller.app()) as control, Beating(control.url) as beating:
        wait_until(lambda: "a cluster token is needed" in caplog.text)
        assert not beating.heartbeat.registered


def test_more_load_is_told_before_the_next_beat_is_due():
    controller = FakeController()
    with running(controller.app()) as control, Beating(control.url, interval_s=60) as beating:
        beating.queue_length = 3
        beating.loop.call_soon_threadsafe(beating.heartbeat.soon)
        wait_until(lambda: any(beat["queue_length"] == 3 for beat in controller.beats), 10)


def test_with_a_token_a_worker_and_the_real_controller_trust_each_other(tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    token = ("--cluster-token-file", str(tmp_path / "token"))
    (tmp_path / "keys").write_text("sk-of-this-worker")
    control, port = f"http://127.0.0.1:{free_port()}", free_port()
    place = ("--host", "127.0.0.1", "--port", control.rpartition(":")[2])
    with Service("-m", "llava.serve.controller", *place, *token) as controller:
        controller.wait_for("Uvicorn running on")
        where = ("--port", str(port), "--worker", f"http://127.0.0.1:{port}", "--controller", control)
        with Service(*FAKE, *where, *token, "--api-key-file", str(tmp_path / "keys")) as worker:
            worker.wait_for("Uvicorn running on")
            answer = httpx.post(f"{control}/v1/chat/completions", json=body()).json()
            assert answer["choices"][0]["message"]["content"] == "".join(f" w{index}" for index in range(6))
            said: list[str] = []
            ask(control, said)
            assert said == ["".join(f" w{index}" for index in range(6))]
            worker.process.terminate()
            assert worker.wait() == 0
            refused = httpx.post(f"{control}/v1/chat/completions", json=body())
            assert refused.json()["error"]["code"] in ("model_not_found", "no_worker")


@pytest.mark.slow
@pytest.mark.embedded
def test_the_embedded_model_answers_about_an_image_by_the_readmes_command(repository):
    port = free_port()
    words = ("--host", "127.0.0.1", "--port", str(port), "--no-register", "--model-path", "tiny", "--multi-modal")
    with Service("-m", "llava.serve.model_worker", *words) as service:
        service.wait_for("Uvicorn running on", 300)
        done = subprocess.run(
            ["curl", "-s", f"http://127.0.0.1:{port}/v1/models"], capture_output=True, text=True, check=True
        )
        assert '"id":"tiny"' in done.stdout
        import base64

        image = base64.b64encode((repository / "playground/images/sneaker.png").read_bytes()).decode()
        parts = [
            {"type": "text", "text": "What is in the picture?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        ]
        request = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "temperature": 0}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=request, timeout=120).json()
        text = answer["choices"][0]["message"]["content"].lower()
        assert "shoe" in text or "sneaker" in text
        assert answer["usage"]["prompt_tokens"] > 0

"""`register_worker` and `test_message`, run as users run them, against a controller and a worker without a model."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llava.serve.cluster.app import create_controller_app
from llava.serve.cluster.settings import ControllerSettings
from llava.serve.service.security import ClusterToken
from llava.serve.service.settings import ServiceSettings
from tests.support.serving import Service, running

NO_SECRETS = {"LLAVA_CLUSTER_TOKEN": "", "LLAVA_API_KEY": ""}
TOKEN = "a-token-of-the-tests"


@pytest.fixture
def worker():
    with Service(
        "-m", "tests.support.fake_worker", "--model", "llava-v0", "--token", TOKEN, "--behave", "say:3"
    ) as service:
        yield f"http://127.0.0.1:{service.wait_for(r'listening on (.*)')[1]}"


@pytest.fixture
def registered(worker: str, run_python):
    with running(create_controller_app()) as controller:
        arguments = ("--controller", controller.url, "--worker-name", worker)
        done = run_python("-m", "llava.serve.register_worker", *arguments, **NO_SECRETS)
        assert (done.returncode, done.stdout) == (0, f"registered {worker}\n")
        yield controller.url


def test_a_question_shows_models_worker_and_answer(registered: str, worker: str, run_python):
    arguments = ("--controller", registered, "--model-name", "llava-v0", "--message", "Hello?")
    done = run_python("-m", "llava.serve.test_message", *arguments, **NO_SECRETS)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["Models: ['llava-v0']", f"worker_addr: {worker}", "Human: Hello?"]
    assert lines[3] == "Assistant:  0 1 2"


def test_a_worker_can_be_asked_directly(worker: str, run_python):
    done = run_python("-m", "llava.serve.test_message", "--worker", worker, "--message", "Hello?", **NO_SECRETS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" 0 1 2\n")


def test_images_go_along_as_base64_with_a_marker_each(repository: Path, run_python):
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["content-length"])) or "null")
            status = {"model_names": ["llava-v1"]}
            if self.path == "/worker_get_status":
                answer = json.dumps(status).encode()
            else:
                seen.append(content)
                answer = json.dumps({"text": content["prompt"] + "a shoe", "error_code": 0}).encode() + b"\0"
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        image = repository / "playground" / "images" / "sneaker.png"
        arguments = ("--worker", f"http://127.0.0.1:{server.server_address[1]}", "--message", "What is it?")
        done = run_python(
            *("-m", "llava.serve.test_message", *arguments, "--image-file", image, "--image-file", image),
            **NO_SECRETS,
        )
    finally:
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("a shoe\n")
    (request,) = seen
    assert request["prompt"].count("<image>") == len(request["images"]) == 2
    assert base64.b64decode(request["images"][0]).startswith(b"\x89PNG")


def test_where_addresses_are_kept_secret_the_controller_passes_the_answer_on(worker: str, run_python):
    settings = ControllerSettings(ServiceSettings(cluster_token=ClusterToken(TOKEN)))
    with running(create_controller_app(settings)) as controller:
        common = {**NO_SECRETS, "LLAVA_CLUSTER_TOKEN": TOKEN}
        arguments = ("--controller", controller.url, "--worker-name", worker)
        assert run_python("-m", "llava.serve.register_worker", *arguments, **common).returncode == 0
        arguments = ("--controller", controller.url, "--message", "Hello?")
        with_token = run_python("-m", "llava.serve.test_message", *arguments, **common)
        without = run_python("-m", "llava.serve.test_message", *arguments, **NO_SECRETS)
    assert f"worker_addr: {worker}" in with_token.stdout
    assert f"worker_addr: {controller.url}" in without.stdout
    assert with_token.stdout.splitlines()[-1] == without.stdout.splitlines()[-1] == "Assistant:  0 1 2"


@pytest.mark.parametrize(
    ("message", "model", "expected"),
    [
        ("Hello?", "other", "error: no model named 'other' is served here. Available: llava-v0."),
        ("Hello?", None, None),
    ],
)
def test_what_goes_wrong_is_one_line(message: str, model: str | None, expected: str | None, registered, run_python):
    arguments = ["--controller", registered, "--message", message]
    if model is None:
        arguments[1] = "http://127.0.0.1:9"
        expected = "error: http://127.0.0.1:9 cannot be reached. Check the address, and that the service is running."
    else:
        arguments += ["--model-name", model]
    done = run_python("-m", "llava.serve.test_message", *arguments, **NO_SECRETS)
    assert (done.returncode, done.stderr) == (1, f"{expected}\n")


@pytest.mark.parametrize("module", ["controller", "register_worker", "test_message"])
def test_the_flags_of_the_original_and_their_short_forms_are_accepted(module: str):
    import argparse
    from importlib import import_module

    lines = {
        "controller": ["--host localhost --port 21001 --dispatch-method lottery", "--host 0.0.0.0 --port 10000", ""],
        "register_worker": ["--controller-address c --worker-name w --check-heart-beat", "--controller c --worker w"],
        "test_message": [
            "--controller-address c --worker-address w --model-name m --max-new-tokens 3 --message x",
            "--controller c --worker w --model m --max 3 --mess x",
        ],
    }
    for line in lines[module]:
        parser = argparse.ArgumentParser()
        import_module(f"llava.serve.{module}").add_arguments(parser)
        assert parser.parse_args(line.split())

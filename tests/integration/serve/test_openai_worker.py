"""A worker whose model is another engine: a fake that speaks the real protocol over real HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from llava.conversation import template
from llava.errors import InvalidRequest
from llava.serve.protocol.original import read_frames_sync
from llava.serve.service.server import free_port
from llava.serve.worker.app import create_worker_app
from llava.serve.worker.openai_backend import OpenAiBackend
from llava.serve.worker.upstream import Upstream, waiting_requests
from llava.serve.worker.worker import Worker
from tests.support.fake_controller import FakeController
from tests.support.fake_openai_server import FakeOpenAiServer
from tests.support.images import encoded, noise
from tests.support.serving import InThread, Service, running, wait_until

PNG = base64.b64encode(encoded(noise())).decode()
ANSWER = "An engine answers."


@dataclass
class Served:
    server: InThread
    engine: FakeOpenAiServer
    worker: Worker

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.server.url}/v1", api_key="none", max_retries=0)

    def frames(self, prompt: str, **fields: Any) -> list[dict[str, Any]]:
        request = {"model": "served", "prompt": prompt, **fields}
        with httpx.stream("POST", f"{self.server.url}/worker_generate_stream", json=request) as response:
            return list(read_frames_sync(response.iter_bytes()))


@contextlib.contextmanager
def serving(engine: FakeOpenAiServer | None = None, *, key: str | None = None, **settings: Any):
    engine = engine or FakeOpenAiServer()
    with running(engine.app()) as upstream:
        backend = OpenAiBackend(
            name="served",
            upstream=Upstream.connect(f"{upstream.url}/v1", "engine-model", key),
            wait_s=2,
            poll_interval_s=0.05,
            **settings,
        )
        app = create_worker_app(backend)
        with running(app, ready=app.state.worker.start) as server:
            yield Served(server, engine, app.state.worker)


@pytest.fixture(scope="module")
def shared():
    with serving() as served:
        yield served


@pytest.fixture
def served(shared):
    fresh = FakeOpenAiServer()
    yield shared
    vars(shared.engine).update(vars(fresh))


def asking(text: str = "Hello?") -> list[Any]:
    return [{"role": "user", "content": text}]


def flattened(name: str, *texts: str | None) -> str:
    conversation = template(name)
    conversation.messages = conversation.messages[conversation.offset :]
    for index, text in enumerate(texts):
        conversation.append_message(conversation.roles[index % 2], text)
    return conversation.get_prompt()


def test_the_engines_answer_comes_through_both_protocols(served):
    answer = served.client.chat.completions.create(
        model="served", messages=asking(), temperature=0, max_tokens=9, seed=4
    )
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 3)
    sent = served.engine.bodies[0]
    assert (sent["model"], sent["temperature"], sent["max_tokens"], sent["seed"]) == ("engine-model", 0, 9, 4)
    assert served.frames("Hello?")[-1] == {"text": f"Hello?{ANSWER}", "error_code": 0}


def test_an_engine_without_token_counts_is_counted_by_its_pieces(served):
    served.engine.with_usage = False
    answer = served.client.chat.completions.create(model="served", messages=asking())
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_separators_of_unicode_are_part_of_an_answer(served):
    served.engine.words = ("one\u2028two\x85", "three")
    assert served.client.chat.completions.create(model="served", messages=asking()).choices[0].message.content == (
        "one\u2028two\x85three"
    )
    streamed = served.client.chat.completions.create(model="served", messages=asking(), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == "one\u2028two\x85three"


def test_messages_go_out_as_messages_with_every_image_as_data(served):
    uri = f"data:image/png;base64,{PNG}"
    image = {"type": "image_url", "image_url": {"url": uri}}
    served.client.chat.completions.create(
        model="served",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [image, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "Sure?"},
        ],
    )
    assert served.engine.bodies[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [image, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
    ]


def test_a_flattened_prompt_goes_out_as_the_messages_it_was_made_of(served):
    prompt = flattened("llava_v1", "<image>\nWhat is it?", "A cat.", "Sure?", None)
    said = served.frames(prompt, images=[PNG], stop="</s>", temperature=0.2)
    assert said[-1]["text"] == prompt + ANSWER
    sent = served.engine.bodies[0]
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert sent["messages"][1]["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "text", "text": "What is it?"},
    ]
    assert "stop" not in sent, "the engine's own template has an end of its own"


def test_a_prompt_of_no_template_goes_out_as_one_message(served):
    served.frames("Look: <image> and tell", images=[PNG], stop="END")
    sent = served.engine.bodies[0]
    assert [part["type"] for part in sent["messages"][0]["content"]] == ["text", "image_url", "text"]
    assert sent["stop"] == ["END"]


def test_an_engine_that_takes_no_stop_texts_is_left_where_the_answer_ends():
    engine = FakeOpenAiServer(words=("A cat", ". #", "##", " Human: And") + (" more",) * 2000, pace_s=0.01)
    with serving(engine, stop=("###",), stops_here=True) as served:
        answer = served.client.chat.completions.create(model="served", messages=asking(), stop=["dog"])
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("A cat. ", "stop")
        assert "stop" not in engine.bodies[0]
        wait_until(lambda: engine.running == 0)
        assert (engine.cancelled, engine.written < 2000) == (1, True)
        cut = served.client.chat.completions.create(model="served", messages=asking(), stop=["cat"])
        assert cut.choices[0].message.content == "A "


def test_texts_that_end_every_answer_go_out_with_those_of_the_request():
    with serving(stop=("###",)) as served:
        served.client.chat.completions.create(model="served", messages=asking(), stop=["dog"])
        served.client.chat.completions.create(model="served", messages=asking())
        assert [body["stop"] for body in served.engine.bodies] == [["###", "dog"], ["###"]]


def test_who_leaves_cancels_the_engine_too(served):
    served.engine.words, served.engine.pace_s = ("word ",) * 2000, 0.01
    stream = served.client.chat.completions.create(model="served", messages=asking(), stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: served.engine.running == 0, 5)
    assert served.engine.cancelled == 1
    assert served.engine.written < 500
    wait_until(lambda: served.worker.permits.queue_length == 0, 5)


@pytest.mark.parametrize(
    ("status", "error", "found", "code"),
    [
        (400, {"message": "too long: 9000 > 4096", "code": "context_length_exceeded"}, 400, "context_length_exceeded"),
        (422, {"message": "bad"}, 422, "invalid_request"),
        (429, {}, 503, "queue_full"),
        (503, {}, 503, "unavailable"),
        (401, {"message": "your key sk-secret is wrong"}, 502, "worker_lost"),
        (404, {}, 502, "worker_lost"),
        (500, {"message": "Traceback: secret"}, 500, "engine_failed"),
        (504, {}, 504, "worker_timeout"),
    ],
)
def test_the_engines_errors_come_through_under_our_names(served, status, error, found, code):
    served.engine.status, served.engine.error, served.engine.retry_after = status, error, "7"
    request = {"model": "served", "messages": asking(), "stream": True}
    response = httpx.post(f"{served.server.url}/v1/chat/completions", json=request)
    assert (response.status_code, response.json()["error"]["code"]) == (found, code)
    assert "secret" not in response.text
    if found == 503:
        assert response.headers["retry-after"] == "7"
    if status == 400:
        assert "9000 > 4096" in response.text


def test_addresses_in_an_engines_message_do_not_reach_the_client(served):
    served.engine.status = 400
    served.engine.error = {"message": "cannot identify <_io.BytesIO object at 0x7f2199d73d50>\nat line 3"}
    text = httpx.post(
        f"{served.server.url}/v1/chat/completions", json={"model": "served", "messages": asking()}
    ).json()["error"]["message"]
    assert "7f2199d73d50" not in text
    assert "\n" not in text


def test_a_stream_that_breaks_off_or_fails_says_so(served):
    served.engine.breaks_off_after = 2
    assert served.frames("x")[-1]["error"]["code"] == "worker_lost"
    with pytest.raises(openai.APIError, match="broke off"):
        list(served.client.chat.completions.create(model="served", messages=asking(), stream=True))
    served.engine.breaks_off_after, served.engine.error_after = None, 1
    assert served.frames("x")[-1]["error"]["code"] == "engine_failed"
    assert served.worker.permits.queue_length == 0


def test_an_image_is_looked_at_before_the_engine_sees_it(served):
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/cat.png"}}
    request = {"model": "served", "messages": [{"role": "user", "content": [part]}]}
    response = httpx.post(f"{served.server.url}/v1/chat/completions", json=request)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "image_url_refused")
    assert served.engine.bodies == []


@pytest.mark.parametrize(
    ("metrics", "waiting"),
    [
        ('vllm:num_requests_waiting{engine="0",model_name="m"} 3.0\nvllm:num_requests_running 9\n', 3),
        ("sglang:num_queue_reqs 2\n", 2),
        ('lmdeploy:num_requests_waiting{a="1"} 4\nlmdeploy:num_requests_waiting{a="2"} 1\n', 5),
        ("# HELP vllm:num_requests_waiting x\nllamacpp:requests_deferred 7\n", 0),
        ("vllm:num_requests_waiting NaN\n", 0),
    ],
)
def test_the_depth_of_an_engines_queue_is_read_from_its_metrics(metrics, waiting):
    assert waiting_requests(metrics) == waiting


def test_the_controller_is_told_of_the_engines_queue(served):
    served.engine.metrics = "vllm:num_requests_waiting 17\n"
    wait_until(lambda: served.worker.status().queue_length == 17, 5)


def test_an_engine_that_goes_away_makes_the_worker_unready_and_its_return_ready():
    port = free_port()
    upstream = Upstream.connect(f"http://127.0.0.1:{port}/v1", "engine-model", None)
    app = create_worker_app(OpenAiBackend("served", upstream, poll_interval_s=0.05))
    request = {"model": "served", "messages": asking()}
    with contextlib.ExitStack() as stack:
        with InThread(FakeOpenAiServer().app(), port=port):
            server = stack.enter_context(InThread(app, ready=app.state.worker.start))
            assert httpx.get(f"{server.url}/health/ready").status_code == 200
        wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503, 10)
        response = httpx.post(f"{server.url}/v1/chat/completions", json=request)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "worker_lost")
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        with InThread(FakeOpenAiServer().app(), port=port):
            wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 200, 10)
            assert httpx.post(f"{server.url}/v1/chat/completions", json=request).status_code == 200


@pytest.mark.parametrize(
    "url", ["ftp://host/v1", "http://", "http://user:password@host/v1", "host:8000/v1", "http://a b/v1"]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(InvalidRequest, match="--backend-url") as refusal:
        Upstream.connect(url, "m", None)
    assert "password@" not in str(refusal.value)


# The command


def command(port: int, upstream: str, *more: str) -> list[str]:
    words = ["-m", "llava.serve.openai_worker", "--port", str(port), "--worker", f"http://127.0.0.1:{port}"]
    return [*words, "--host", "127.0.0.1", "--backend-url", f"{upstream}/v1", "--backend-model", "engine-model", *more]


def test_the_command_registers_an_engine_and_shows_its_key_to_nobody_else():
    engine, controller = FakeOpenAiServer(key="sk-engine"), FakeController()
    with running(engine.app()) as upstream, running(controller.app()) as control:
        port = free_port()
        words = command(port, upstream.url, "--controller", control.url, "--backend-key-env", "ENGINE_KEY")
        with Service(*words, "--model-name", "big", ENGINE_KEY="sk-engine") as service:
            service.wait_for("Uvicorn running on")
            assert controller.registered[0]["worker_status"]["model_names"] == ["big"]
            with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="mine") as client:
                assert (
                    client.chat.completions.create(model="big", messages=asking()).choices[0].message.content == ANSWER
                )
            assert engine.headers[0]["authorization"] == "Bearer sk-engine"
            assert engine.headers[0]["x-request-id"]
            service.process.terminate()
            assert service.wait() == 0
            assert controller.left == [f"http://127.0.0.1:{port}"]
            assert "sk-engine" not in service.output
            assert "sk-engine" not in json.dumps(controller.headers)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--backend-model", "other"], "serves engine-model"),
        (["--backend-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
    ],
)
def test_a_wrong_setting_ends_the_command_with_one_line(more, reason):
    with (
        running(FakeOpenAiServer().app()) as upstream,
        Service(*command(free_port(), upstream.url, "--no-register", *more)) as service,
    ):
        assert service.wait() == 1
        assert reason in service.lines[-1]
        assert "Uvicorn running" not in service.output


def test_an_engine_that_never_answers_ends_the_command_with_one_line():
    words = command(free_port(), f"http://127.0.0.1:{free_port()}", "--no-register", "--backend-wait", "0.5")
    with Service(*words) as service:
        assert service.wait() == 1
        assert "no engine answered" in service.lines[-1]

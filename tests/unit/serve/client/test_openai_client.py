"""The client of OpenAI-compatible services against real servers on loopback: retries, errors, streams, keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from llava.errors import InvalidRequest, RemoteError, WorkerLost
from llava.serve.client import openai_client, sse
from llava.serve.client.openai_client import ChatChunk, OpenAIClient, ProtocolError, TokenUsage, openai_service
from llava.serve.page.moderation import MessageFlagged, Moderator
from tests.support.serving import InThread

T = TypeVar("T")
WHOLE = b'data: {"choices": [{"delta": {"content": "Yes"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


class Scripted:
    """Answers each request with the next of the given responses, and the last one again and again."""

    def __init__(self) -> None:
        self.responses: list[Response] = []
        self.requests: list[httpx.Headers] = []

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.api_route("/v1/{path:path}", methods=["GET", "POST"])
        async def answer(path: str, request: Request) -> Response:
            self.requests.append(httpx.Headers(request.headers.raw))
            return self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]

        return app


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Scripted, str]]:
    scripted = Scripted()
    with InThread(scripted.app()) as server:
        yield scripted, f"{server.url}/v1"


@pytest.fixture
def service(running, monkeypatch: pytest.MonkeyPatch) -> tuple[Scripted, str]:
    monkeypatch.setattr(openai_client, "_FIRST_DELAY_S", 0.001)
    running[0].responses, running[0].requests = [], []
    return running


def as_json(body: Any, status: int = 200, **headers: str) -> Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(json.dumps(body), status, names, media_type="application/json")


def using(url: str, call: Callable[[OpenAIClient], Awaitable[T]], **options: Any) -> T:
    async def use() -> T:
        async with OpenAIClient(url, timeout_s=30, **options) as client:
            return await call(client)

    return asyncio.run(use())


def post(url: str, **options: Any) -> Any:
    return using(url, lambda client: client.post("/chat/completions", json={}), **options)


async def read(client: OpenAIClient) -> list[ChatChunk]:
    return [chunk async for chunk in client.stream_chat({"model": "m"})]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_failure_that_may_pass_is_retried_as_often_as_asked(service, status):
    scripted, url = service
    scripted.responses = [as_json({}, status)] * 2 + [as_json({"id": 1})]
    assert post(url, max_retries=2) == {"id": 1}
    scripted.responses = [as_json({}, status)]
    with pytest.raises(RemoteError) as caught:
        post(url, max_retries=2)
    assert caught.value.status == status
    assert len(scripted.requests) == 6


@pytest.mark.parametrize(
    "response",
    [
        as_json({}, 400),
        as_json({}, 404),
        as_json({}, 429, retry_after="121"),
        as_json({}, 503, x_should_retry="false"),
    ],
)
def test_a_failure_that_will_not_pass_is_not_retried(service, response):
    scripted, url = service
    scripted.responses = [response]
    with pytest.raises(RemoteError):
        post(url, max_retries=3)
    assert len(scripted.requests) == 1


def test_nothing_is_retried_unless_asked(service):
    scripted, url = service
    scripted.responses = [as_json({}, 503), as_json({"id": 1})]
    with pytest.raises(RemoteError):
        post(url)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_a_service_asks_for_is_read(headers, wait_s):
    assert openai_client._retry_after_s(httpx.Headers(headers)) == wait_s


@pytest.mark.parametrize(
    ("body", "message", "code", "param"),
    [
        (
            {"error": {"message": "too long", "code": "context_length_exceeded", "param": "messages"}},
            *("too long", "context_length_exceeded", "messages"),
        ),
        ({"object": "error", "message": "bad", "code": 400}, "bad", "invalid_request", None),
        ({"error": "just words"}, "just words", "invalid_request", None),
        ({"detail": "Not Found"}, "HTTP 400 without a reason", "invalid_request", None),
        (["?"], "HTTP 400 without a reason", "invalid_request", None),
    ],
)
def test_error_bodies_of_every_form_become_one_typed_error(service, body, message, code, param):
    scripted, url = service
    scripted.responses = [as_json(body, 400)]
    with pytest.raises(RemoteError) as caught:
        post(url)
    assert (str(caught.value), caught.value.code, caught.value.param) == (message, code, param)
    with pytest.raises(RemoteError) as streamed:
        using(url, read)
    assert (str(streamed.value), streamed.value.code) == (message, code)


def test_an_error_within_a_stream_has_the_status_that_it_names(service):
    scripted, url = service
    scripted.responses = [Response(b'data: {"error": {"message": "slow down", "code": 429}}\n\n')]
    with pytest.raises(RemoteError) as caught:
        using(url, read)
    assert caught.value.status == 429


@pytest.mark.parametrize(
    "content",
    [
        b'data: {"choices": null}\n\n',
        b'data: {"choices": [7, {"delta": null}, {"delta": {"content": 5}}]}\n\n',
        b": comment\n\nevent: ping\n\n",
        b'data: {"usage": {"prompt_tokens": "many"}}\r\n\r\n',
    ],
)
def test_odd_chunks_are_tolerated(service, content):
    scripted, url = service
    scripted.responses = [Response(content + WHOLE)]
    assert using(url, read)[-1] == ChatChunk("Yes", "stop")


def test_token_counts_come_with_the_chunk_that_has_them(service):
    scripted, url = service
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\n'
    scripted.responses = [Response(WHOLE.replace(b"data: [DONE]", usage + b"data: [DONE]"))]
    assert using(url, read)[-1].usage == TokenUsage(5, 2)


def test_a_line_without_end_is_refused(service, monkeypatch):
    monkeypatch.setattr(sse, "MAX_LINE_BYTES", 1000)
    scripted, url = service
    scripted.responses = [Response(b"data: " + b"x" * 5000)]
    with pytest.raises(WorkerLost, match="not an event stream"):
        using(url, read)


def test_an_answer_that_is_not_json_is_quoted(service):
    scripted, url = service
    scripted.responses = [Response("<html>Log in</html>")]
    with pytest.raises(ProtocolError) as caught:
        post(url)
    assert caught.value.excerpt == "<html>Log in</html>"


def test_a_password_in_the_address_is_in_no_message():
    with pytest.raises(WorkerLost) as caught:
        post("http://ann:secret@127.0.0.1:9/v1")
    assert "secret" not in str(caught.value)


def test_a_key_is_sent_only_if_there_is_one(service):
    scripted, url = service
    scripted.responses = [as_json({})]
    post(url, key="sk-1")
    post(url)
    assert [headers.get("authorization") for headers in scripted.requests] == ["Bearer sk-1", None]


# The hosted service


def test_the_environment_names_the_hosted_service_and_its_key(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InvalidRequest, match="no key"):
        openai_service(timeout_s=1, max_retries=0, missing_key="no key")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert openai_service(timeout_s=1, max_retries=0, missing_key="").base_url == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://host:8000/v1/")
    assert openai_service(timeout_s=1, max_retries=0, missing_key="").base_url == "http://host:8000/v1"


@pytest.mark.parametrize(
    ("response", "refusal"),
    [
        (as_json({"results": [{"flagged": False}]}), None),
        (as_json({"results": [{"flagged": True}]}), "breaks the rules"),
        (as_json({"error": {"message": "no"}}, 401), "could not be checked"),
        (as_json({"results": None}), "could not be checked"),
    ],
)
def test_moderation_lets_nothing_pass_unchecked(service, monkeypatch, response, refusal):
    scripted, url = service
    scripted.responses = [response]
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    moderator = Moderator()
    if refusal is None:
        asyncio.run(moderator.check("hello"))
    else:
        with pytest.raises(MessageFlagged, match=refusal):
            asyncio.run(moderator.check("hello"))

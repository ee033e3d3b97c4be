"""What every service does with a request before its routes see it, and with errors after."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.types import Message, Receive, Scope, Send

from llava.errors import ModelNotFound, QueueFull, RateLimited
from llava.serve.service import logs
from llava.serve.service.app import create_app
from llava.serve.service.health import add_health
from llava.serve.service.lifecycle import Phase
from llava.serve.service.metrics import Metrics
from llava.serve.service.middleware import Limits
from llava.serve.service.rates import RateLimiter
from llava.serve.service.security import ApiKeys, ClusterToken
from llava.serve.service.stream import Stream
from llava.serve.service.tracing import outgoing_headers
from tests.support.serving import running

JSON = {"content-type": "application/json"}


class Said(BaseModel):
    words: list[str]


def service(**settings: Any) -> FastAPI:
    app = create_app(title="test", **settings)
    add_health(app)

    @app.post("/say")
    async def say(body: Said) -> dict[str, Any]:
        return {"said": body.words, **outgoing_headers()}

    @app.post("/empty")
    async def empty() -> None:
        return None

    @app.post("/worker_generate_stream")
    @app.post("/missing")
    async def missing() -> None:
        raise ModelNotFound("cat", ["dog"])

    @app.post("/full")
    async def full() -> None:
        raise QueueFull("32 requests wait.", retry_after_s=7)

    @app.post("/mistake")
    async def mistake() -> None:
        raise KeyError("a secret of a user")

    return app


class Disconnecting:
    """An app whose client disconnects once it has the answer, as a real one does and starlette's test client does not.

    A refusal of a large body waits for the rest of the body or for that.
    """

    def __init__(self, app: FastAPI):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = answered = False

        async def receive_or_disconnect() -> Message:
            nonlocal sent
            if sent and answered:
                return {"type": "http.disconnect"}
            message = await receive()
            sent = not message.get("more_body", False)
            return message

        async def watched_send(message: Message) -> None:
            nonlocal answered
            answered = answered or message["type"] == "http.response.body"
            await send(message)

        await self.app(scope, receive_or_disconnect, watched_send)


@pytest.fixture
def client() -> TestClient:
    return TestClient(Disconnecting(service()), raise_server_exceptions=False)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    return answer.json()["error"]


# Who is answered


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("203.0.113.5", {}, 403),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.5"}, 403),
        ("127.0.0.1", {"host": "evil.example"}, 403),
    ],
)
def test_a_service_for_its_own_machine_answers_nobody_else(peer: str, headers: dict[str, str], status: int):
    client = TestClient(service(local_only=True), base_url="http://localhost", client=(peer, 50_000))
    assert client.post("/say", json={"words": []}, headers=headers).status_code == status
    assert client.get("/health/live", headers=headers).status_code == 200


# Errors


def test_a_typed_error_is_json_in_openai_s_shape_with_the_request_id(client: TestClient):
    answer = client.post("/missing")
    assert answer.status_code == 404
    assert error_of(answer) == {
        "message": "no model named 'cat' is served here. Available: dog.",
        "type": "not_found_error",
        "param": "model",
        "code": "model_not_found",
        "request_id": answer.headers["x-request-id"],
    }


def test_on_a_route_of_frames_the_same_error_is_a_frame(client: TestClient):
    answer = client.post("/worker_generate_stream")
    assert answer.status_code == 404
    assert answer.content.endswith(b"\0")
    assert json.loads(answer.content[:-1])["error_code"] == 2


def test_what_passes_by_itself_says_when(client: TestClient):
    answer = client.post("/full")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


def test_a_mistake_of_ours_tells_the_client_nothing_but_an_id(client: TestClient, caplog):
    answer = client.post("/mistake")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in error_of(answer)["message"]
    assert "KeyError" in caplog.text


@pytest.mark.parametrize(
    ("content", "param", "message"),
    [
        (b"{}", "words", "words: Field required."),
        (b'{"words": ["a", 1, 2]}', "words.1", "words.1: Input should be a valid string (and 1 more)."),
        (b"{", None, "the body is not valid JSON."),
        (b"", None, "body: Field required."),
        (b"null", None, "body: "),
        (b'"secret"', None, "body:"),
    ],
)
def test_a_wrong_body_names_the_field(content: bytes, param: str | None, message: str, client: TestClient):
    answer = client.post("/say", content=content, headers=JSON)
    assert answer.status_code == 422
    assert error_of(answer)["message"].startswith(message)
    assert error_of(answer)["param"] == param
    assert "secret" not in answer.text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/say", 405)])
def test_wrong_paths_and_methods_are_errors_of_the_same_shape(method: str, path: str, status: int, client: TestClient):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert error_of(answer)["code"] in ("not_found", "method_not_allowed")


# Limits


def test_a_body_that_is_too_large_is_refused_by_its_announcement_or_its_length():
    client = TestClient(Disconnecting(service(limits=Limits(max_body_bytes=1000))))
    answer = client.post("/say", content=b" " * 1001, headers=JSON)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")

    def without_length():
        for _ in range(11):
            yield b" " * 100

    assert client.post("/say", content=without_length(), headers=JSON).status_code == 413


def test_a_client_that_is_still_sending_reads_the_refusal():
    with running(service(limits=Limits(max_body_bytes=100_000))) as server:
        answer = httpx.post(f"{server.url}/say", content=b" " * 30_000_000, headers=JSON, timeout=30)
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"


def test_a_body_that_does_not_arrive_is_given_up():
    with running(service(limits=Limits(body_timeout_s=0.2))) as server:

        async def ask() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /say HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            answer = await asyncio.wait_for(reader.readuntil(b"}}"), 30)
            writer.close()
            return answer

        assert b" 408 " in asyncio.run(ask())


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=" + "x" * 60_000]
)
def test_only_json_is_read(kind: str | None, client: TestClient):
    answer = client.post("/say", content=b'{"words": []}', headers={"content-type": kind} if kind else {})
    assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_media_type")


def test_a_post_without_a_body_needs_no_content_type(client: TestClient):
    assert client.post("/empty").status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"words": ["' + b'[{,\\"\\\\' * 50_000 + b'"]}', 200),  # within a string everything is allowed
        (b'{"words": [' + b'"a",' * 9_000 + b'"a"]}', 200),
        (b'{"words": [' + b'"a",' * 10_001 + b'"a"]}', 413),
        (b"[" * 33 + b"]" * 33, 413),
        (b"[" * 1_000_000, 413),
        (b"]" * 1_000_000, 413),
        (b'"' * 1_000_000, 413),
        (b'"' + b'\\"' * 1_000_000, 422),
    ],
    ids=["strings", "many", "too many", "deep", "openings", "closings", "quotes", "escapes"],
)
def test_json_is_measured_before_it_is_parsed(content: bytes, status: int, client: TestClient):
    assert client.post("/say", content=content, headers=JSON).status_code == status


def test_a_caller_that_asks_too_often_is_told_to_wait():
    now = [0.0]
    rates = RateLimiter(60, clock=lambda: now[0])
    for _ in range(10):
        rates.take("ann")
    with pytest.raises(RateLimited) as refused:
        rates.take("ann")
    assert refused.value.retry_after_s == pytest.approx(1)
    rates.take("bob")
    now[0] += 1
    rates.take("ann")
    client = TestClient(service(limits=Limits(requests_per_minute=6)))
    assert [client.post("/empty").status_code for _ in range(2)] == [200, 429]
    assert client.get("/health/live").status_code == 200


# Keys


def test_everything_that_is_not_public_asks_for_a_key():
    app = service(keys=ApiKeys("key"), cluster_token=ClusterToken("a-cluster-token-"))
    client = TestClient(app)
    for path in ("/say", "/nothing", "/openapi.json", "/metrics", "/health/live/"):
        refused = client.post(path)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), path
    assert client.post("/empty", headers={"authorization": "Bearer key"}).status_code == 200
    assert client.post("/empty", headers={"x-llava-cluster-token": "a-cluster-token-"}).status_code == 200
    assert client.get("/health/live").status_code == 200


def test_nothing_of_a_stranger_s_body_is_read():
    client = TestClient(service(keys=ApiKeys("key"), limits=Limits(max_body_bytes=10)))
    assert client.post("/say", content=b" " * 1000).status_code == 401


def test_other_origins_are_not_let_in(client: TestClient):
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    preflight = client.options("/say", headers=headers)
    assert preflight.status_code == 405
    assert not [name for name in client.post("/empty", headers=headers).headers if name.startswith("access-control")]


# Ids and logs


@pytest.mark.parametrize("given", ["mine-1._A", "a" * 64])
def test_a_request_keeps_its_id(given: str, client: TestClient):
    answer = client.post("/say", json={"words": []}, headers={"x-request-id": given})
    assert answer.headers["x-request-id"] == answer.json()["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 65, "x\u00e9"])
def test_an_id_that_could_spoil_a_log_is_replaced(given: str, client: TestClient):
    answer = client.post("/empty", headers={"x-request-id": given.encode()})
    assert re.fullmatch(r"req-[0-9a-f]{24}", answer.headers["x-request-id"])


def test_a_trace_is_continued_and_a_broken_one_begun_anew(client: TestClient):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    def passed_on(given: str) -> list[str]:
        headers = {"traceparent": given}
        return client.post("/say", json={"words": []}, headers=headers).json()["traceparent"].split("-")

    version, trace, span, flags = passed_on(parent)
    assert (version, trace, flags) == ("00", "0af7651916cd43dd8448eb211c80319c", "01")
    assert span != "b7ad6b7169203331"
    for broken in ("", "00-0-0-0", parent.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32)):
        assert re.fullmatch(r"[0-9a-f]{32}", passed_on(broken)[1])
        assert passed_on(broken)[1] not in (trace, "0" * 32)


def test_a_request_is_one_line_without_anything_that_was_said(client: TestClient, caplog):
    with caplog.at_level(logging.INFO, "llava.access"):
        client.post("/say?key=secret", json={"words": ["secret"]}, headers={"authorization": "secret"})
        client.get("/nothing/secret")
        client.get("/health/live")
    first, second = (record.getMessage() for record in caplog.records if record.name == "llava.access")
    assert re.fullmatch(r"method=POST route=/say status=200 ms=[\d.]+ bytes=\d+ request_id=req-\w+", first)
    assert "route=unmatched status=404" in second
    assert "secret" not in first + second


def test_no_logged_text_can_forge_a_line_or_drive_a_terminal():
    record = logging.LogRecord("llava", logging.INFO, "", 0, "%s", ("a\nb\x1b[2J\u202e",), None)
    assert logs.SingleLineFormatter().format(record).endswith(r"| INFO | llava | a\nb\x1b[2J\u202e")


# Health, metrics, draining


def test_health_tells_starting_draining_and_broken_apart():
    trouble: dict[str, str | None] = {"live": None, "ready": None}
    app = create_app(title="test")
    add_health(app, live=lambda: trouble["live"], ready=lambda: trouble["ready"])
    client = TestClient(app)

    def health() -> tuple[int, int]:
        return client.get("/health/live").status_code, client.get("/health/ready").status_code

    assert health() == (200, 200)
    trouble["ready"] = "the queue is full"
    assert health() == (200, 503)
    trouble["live"] = "the engine is dead"
    assert health() == (500, 503)
    trouble.update(live=None, ready=None)
    app.state.lifecycle.phase = Phase.STARTING
    assert health() == (200, 503)


def test_while_draining_only_health_is_answered():
    app = service()
    client = TestClient(app)
    app.state.lifecycle.phase = Phase.DRAINING
    refused = client.post("/empty")
    assert (refused.status_code, error_of(refused)["code"]) == (503, "shutting_down")
    assert client.get("/health/live").status_code == 200
    assert client.get("/metrics").status_code == 200


def test_metrics_have_the_documented_names_and_a_registry_of_their_own():
    first, second = Metrics(), Metrics()
    first.requests.labels("m", "ok").inc()
    first.ttft_seconds.observe(0.2)
    text = first.text()[0].decode()
    assert 'llava:requests_total{model="m",outcome="ok"} 1.0' in text
    assert "llava:ttft_seconds_count 1.0" in text
    assert "llava:requests" not in second.text()[0].decode()


# Streams


@pytest.mark.parametrize("read", [True, False], ids=["after the first piece", "while the pipe is full"])
def test_a_stream_is_closed_when_its_client_leaves(read: bool):
    app = create_app(title="test")
    closed: list[str] = []

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x" * (10 if read else 1_000_000)
                await asyncio.sleep(0.001 if read else 0)
        finally:
            await asyncio.sleep(0)  # a clean-up may wait
            closed.append("generator")

    async def on_close() -> None:
        closed.append("request")

    @app.get("/endless")
    async def endless_route() -> Stream:
        return Stream(endless(), on_close=on_close)

    with running(app) as server:

        async def ask_and_leave() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readline()
            await asyncio.sleep(0.2)
            writer.transport.abort()
            for _ in range(500):
                if len(closed) == 2:
                    return
                await asyncio.sleep(0.02)

        asyncio.run(ask_and_leave())
    assert closed == ["generator", "request"]


def test_a_stream_whose_client_left_before_it_began_returns_what_it_held():
    closed: list[str] = []

    async def never() -> AsyncGenerator[bytes, None]:
        yield b""

    async def on_close() -> None:
        closed.append("request")

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.sleep(10)

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    asyncio.run(Stream(never(), on_close=on_close)(scope, gone, send))
    assert closed == ["request"]

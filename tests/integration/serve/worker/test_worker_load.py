"""A worker under load and under attack, with a fake engine: errors, leavers, slow readers, bursts, keys and limits."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from llava.errors import EngineFailed, OutOfMemory
from llava.serve.service.middleware import Limits
from llava.serve.service.security import ApiKeys, ClusterToken
from tests.support.fake_backend import FakeEngine, Plan
from tests.support.serving import wait_until
from tests.support.worker import ANSWER, about, asked, asking, body, data_uri, frames, legacy, serving


@pytest.fixture
def no_records():
    """pytest keeps what is logged, with all that tracebacks hold; a test that measures memory goes without."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# Errors and leavers leave nothing behind


def test_a_thousand_failures_of_every_kind_cost_no_permit_and_no_memory(served, no_records):
    failures = [
        OutOfMemory("too big"),
        AssertionError("count"),
        RuntimeError("device mismatch"),
        EngineFailed("failed"),
    ]
    numbers = iter(range(10_000))
    served.engine.plan = lambda request: Plan(error=failures[next(numbers) % 4], error_after=random.randrange(3))
    requests = [
        lambda client: client.post("/worker_generate_stream", json=legacy(stop=None)),
        lambda client: client.post("/v1/chat/completions", json=body(stream=True)),
        lambda client: client.post("/v1/chat/completions", json=body(messages=about("data:;base64,AAAA"))),
        lambda client: client.post("/v1/chat/completions", json=body(n=2)),
    ]

    def fail(count: int) -> None:
        with httpx.Client(base_url=served.url, timeout=30) as client:
            for index in range(count):
                requests[index % 4](client)

    fail(200)
    before = resident_bytes()
    fail(800)
    assert served.held == (0, 0, 0)
    assert resident_bytes() < 1.05 * before
    served.engine.plan = lambda request: Plan()
    assert frames(served.url, legacy())[1][-1]["text"].endswith(ANSWER)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_five_hundred_clients_that_leave_anywhere_leave_nothing_behind():
    engine = FakeEngine(plan=lambda request: Plan(pace_s=0.003, repeat=20), limit=8)
    with serving(engine, max_queue=1000) as served:
        picker = random.Random(1)

        async def read(client: httpx.AsyncClient, path: str, request: dict[str, Any]) -> None:
            async with client.stream("POST", path, json=request) as response:
                async for _ in response.aiter_bytes():
                    pass

        async def ask_and_leave(client: httpx.AsyncClient) -> None:
            path, request = picker.choice(
                [
                    ("/worker_generate_stream", legacy()),
                    ("/v1/chat/completions", body(stream=True)),
                    ("/v1/chat/completions", body()),
                    ("/v1/chat/completions", body(stream=True, n=2, messages=about(data_uri()))),
                ]
            )
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(read(client, path, request), picker.uniform(0.01, 0.25))

        async def all_of_them() -> None:
            async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
                for _ in range(25):
                    await asyncio.gather(*(ask_and_leave(client) for _ in range(20)))

        asyncio.run(all_of_them())
        wait_until(lambda: served.held == (0, 0, 0), 5)
        time.sleep(0.1)  # steps that were under way
        steps = engine.steps
        time.sleep(0.1)
        assert engine.steps == steps
        assert engine.steps_after_close <= engine.cancelled
        counted = served.metric('llava:aborted_total{reason="disconnect"}')
        finished = served.metric('llava:requests_total{model="llava-fake",outcome="ok"}')
        assert counted == served.metric('llava:requests_total{model="llava-fake",outcome="aborted"}')
        assert counted + finished <= 500  # some left before their request was read: more on a busy machine
        assert counted > 100
        assert served.client.chat.completions.create(model="llava-fake", messages=asking(), max_tokens=3).choices


def test_who_leaves_stops_the_engine_within_a_step():
    engine = FakeEngine(plan=lambda request: Plan(pace_s=0.02, repeat=1000))
    with serving(engine) as served:
        for stream in (True, False):
            with asked(served, body(stream=stream)):
                wait_until(lambda: engine.running and engine.steps > 5)  # the warm-up question took 4
            steps = engine.steps
            wait_until(lambda: served.held == (0, 0, 0), 5)
            assert engine.steps_after_close <= engine.cancelled
            assert engine.steps < steps + 100
        assert engine.cancelled == 2


def test_who_leaves_the_queue_never_reaches_the_engine():
    engine = FakeEngine(plan=lambda request: Plan(pace_s=0.01, repeat=1000), limit=1)
    with serving(engine) as served:
        with asked(served, body(stream=True)):
            wait_until(lambda: served.held == (1, 0, 1))
            for stream in (True, False):
                with asked(served, body(stream=stream, messages=asking("queued"))):
                    wait_until(lambda: served.held == (1, 1, 1))
                wait_until(lambda: served.held == (1, 0, 1))
        wait_until(lambda: served.held == (0, 0, 0), 5)
        assert not any("queued" in asked.prompt for asked in engine.seen)


def test_a_slow_reader_delays_nobody_and_holds_no_permit():
    engine = FakeEngine(plan=lambda request: Plan(words=("x" * 2000,) * 500) if "slow" in request.prompt else Plan())
    with serving(engine, backend={"asked_limit": 1}) as served:
        with asked(served, body(stream=True, messages=asking("slow"), max_tokens=1000)) as reader:
            assert reader.recv(1)
            wait_until(lambda: served.held == (0, 0, 0), 10)
            for _ in range(5):
                assert served.client.chat.completions.create(model="llava-fake", messages=asking()).choices
        assert engine.finished >= 6


def test_a_burst_beyond_capacity_is_refused_at_once_and_the_rest_is_answered():
    engine = FakeEngine(plan=lambda request: Plan(pace_s=0.03), limit=4)
    with serving(engine, max_queue=4) as served:

        def ask(_: int) -> tuple[int, str | None]:
            response = httpx.post(f"{served.url}/v1/chat/completions", json=body(), timeout=60)
            return response.status_code, response.headers.get("retry-after")

        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(ask, range(40)))
        refused = [wait for status, wait in answers if status == 503]
        assert {status for status, _ in answers} == {200, 503}
        assert 8 <= len(answers) - len(refused) < 40
        assert all(int(wait or 0) >= 1 for wait in refused)
        assert engine.most_running == 4
        assert served.held == (0, 0, 0)
        assert served.metric('llava:rejected_total{reason="queue_full"}') == len(refused)


def test_three_times_out_of_memory_in_a_row_is_not_ready():
    engine = FakeEngine()
    with serving(engine) as served:
        assert httpx.get(f"{served.url}/health/ready").status_code == 200
        engine.plan = lambda request: Plan(error=OutOfMemory("too big"))
        for _ in range(3):
            httpx.post(f"{served.url}/v1/chat/completions", json=body())
        assert httpx.get(f"{served.url}/health/ready").status_code == 503
        assert httpx.get(f"{served.url}/health/live").status_code == 200


# Keys, tokens, limits


def test_with_keys_every_path_but_health_and_status_asks_for_one():
    with serving(keys=ApiKeys("sk-right")) as served:
        paths = served.server.app.openapi()["paths"]
        public = {"/health/live", "/health/ready", "/worker_get_status"}
        for path, methods in paths.items():
            for method in methods:
                address = served.url + path.replace("{model}", "x")
                status = httpx.request(method, address).status_code
                assert (status == 401) == (path not in public), path
        for key, status in (("sk-wrong", 401), ("sk-right", 200)):
            headers = {"authorization": f"Bearer {key}"}
            response = httpx.post(f"{served.url}/v1/chat/completions", json=body(), headers=headers)
            assert response.status_code == status


def test_the_controllers_token_opens_what_a_key_opens_and_challenges_are_answered():
    token = ClusterToken("correct-horse-battery")
    with serving(keys=ApiKeys("sk-right"), cluster_token=token) as served:
        status, said = frames(served.url, legacy())
        assert (status, said[0]["error"]["code"]) == (401, "invalid_api_key")
        response = httpx.post(f"{served.url}/worker_generate_stream", json=legacy(), headers=token.headers())
        assert response.status_code == 200
        proof = httpx.post(f"{served.url}/worker_get_status", headers={"x-llava-challenge": "nonce"}).json()["proof"]
        assert token.verify("nonce", proof, "default") == token.headers()


def test_who_asks_too_often_is_told_when_to_come_back():
    with serving(limits=Limits(requests_per_minute=6)) as served:
        answers = [httpx.post(f"{served.url}/v1/chat/completions", json=body()) for _ in range(15)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


def test_no_page_of_another_origin_may_read_or_ask(served):
    response = httpx.options(
        f"{served.url}/v1/chat/completions",
        headers={"origin": "http://evil.example", "access-control-request-method": "POST"},
    )
    assert "access-control-allow-origin" not in response.headers

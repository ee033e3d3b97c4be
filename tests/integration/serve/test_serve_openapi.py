"""Requests made from the services' own OpenAPI documents, right and wrong ones: each gets an answer of known shape."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from llava.serve.cluster.app import create_controller_app
from tests.support.serving import running
from tests.support.worker import serving

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis needs Python 3.11")

import hypothesis  # noqa: E402
from hypothesis import HealthCheck  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402

SOME = hypothesis.settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def check(case: Any) -> None:
    """No status of 500, and every error says what it is under an id."""
    response = case.call()
    if response.status_code < 400 or case.operation.path.startswith("/health"):
        case.validate_response(response, checks=[not_a_server_error])
        return
    assert response.status_code != 500, response.text
    if case.method != "HEAD":
        error = json.loads(response.content.rstrip(b"\0"))["error"]
        assert error["code"]
        assert error["message"]
        assert error["request_id"] == response.headers["x-request-id"][0]


def ask_everything(url: str) -> set[str]:
    """Asks each operation of the document with made-up requests; returns the paths."""
    paths = set()
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = found.ok()
        paths.add(operation.path)
        SOME(hypothesis.given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))(check))()
        with contextlib.suppress(Unsatisfiable):  # an operation without input has no wrong input
            SOME(hypothesis.given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))(check))()
    return paths


def test_the_controller_has_an_answer_to_everything():
    with running(create_controller_app()) as server:
        assert {"/register_worker", "/worker_generate_stream", "/v1/chat/completions"} <= ask_everything(server.url)


def test_a_worker_has_an_answer_to_everything():
    with serving() as served:
        assert {"/worker_get_status", "/worker_generate_stream", "/v1/chat/completions"} <= ask_everything(served.url)
        assert served.held == (0, 0, 0)

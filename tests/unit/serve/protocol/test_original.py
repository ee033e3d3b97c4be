"""Frames survive any network, and requests out of bounds are refused with the name of the field."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import ValidationError

from llava.errors import InvalidField, ModelNotFound, QueueFull, RemoteError, WorkerTimeout
from llava.serve.protocol import original
from llava.serve.protocol.original import (
    ErrorCode,
    GenerateRequest,
    HeartBeat,
    RegisterWorker,
    WorkerStatus,
    error_frame,
    frame,
    openai_error,
    raise_for_frame,
    read_frames,
    read_frames_sync,
    retry_after_header,
)

FRAMES = [{"text": "a cat – \u732b", "error_code": 0}, {"text": "a \0 within", "error_code": 0}]
STREAM = b"".join(frame(content["text"]) for content in FRAMES)


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_frames_are_read_wherever_the_network_cuts_them(size: int):
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert list(read_frames_sync(pieces)) == FRAMES

    async def later() -> list[dict[str, Any]]:
        async def arriving():
            for piece in pieces:
                yield piece

        return [content async for content in read_frames(arriving())]

    assert asyncio.run(later()) == FRAMES


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([b'{"text": "half'], "ended in the middle"),
        ([b"[1]\0"], "not a JSON frame"),
        ([b"<html>\0"], "not a JSON frame"),
        ([b"[" * 100_000 + b"\0"], "not a JSON frame"),
        ([b"x" * (1 << 20)] * 9, "longer than 8 MiB"),
    ],
    ids=["cut", "no object", "html", "deep", "endless"],
)
def test_a_stream_of_something_else_is_an_error(pieces: list[bytes], message: str):
    with pytest.raises(InvalidField, match=message):
        list(read_frames_sync(pieces))


def test_a_client_of_the_original_reads_our_error_frame():
    content = json.loads(error_frame(WorkerTimeout("nothing came for 60 s"), "req-1").rstrip(b"\0"))
    assert (content["text"], content["error_code"]) == ("nothing came for 60 s", ErrorCode.WORKER_UNREACHABLE)
    assert content["error"] == {"code": "worker_timeout", "message": "nothing came for 60 s", "request_id": "req-1"}
    with pytest.raises(RemoteError, match="nothing came") as raised:
        raise_for_frame(content)
    assert raised.value.code == "worker_timeout"


def test_an_error_frame_of_the_original_is_raised_with_a_code_of_ours():
    with pytest.raises(RemoteError, match="NETWORK ERROR") as raised:
        raise_for_frame({"text": original.UNKNOWN_FAILURE, "error_code": 2})
    assert raised.value.code == "no_worker"


def test_errors_have_the_shape_that_openai_clients_read():
    assert openai_error(ModelNotFound("cat", ["dog"]), "req-1") == {
        "error": {
            "message": "no model named 'cat' is served here. Available: dog.",
            "type": "not_found_error",
            "param": "model",
            "code": "model_not_found",
            "request_id": "req-1",
        }
    }
    assert retry_after_header(QueueFull("full", retry_after_s=2.4)) == {"retry-after": "2"}
    assert retry_after_header(QueueFull("full", retry_after_s=0.1)) == {"retry-after": "1"}
    assert retry_after_header(ModelNotFound("cat")) == {}


REQUEST = {"model": "llava/v1.5-7b", "prompt": "hi"}


def test_a_request_of_the_original_gets_the_original_s_defaults():
    request = GenerateRequest.model_validate({**REQUEST, "stop": None, "echo": True, "unknown": [1]})
    assert (request.temperature, request.top_p, request.max_new_tokens, request.stop) == (1.0, 1.0, 256, None)
    assert GenerateRequest.model_validate({**REQUEST, "stop": ["a", "b"], "temperature": 0.0}).stop == ["a", "b"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", float("nan")),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("top_p", float("inf")),
        ("max_new_tokens", -1),
        ("max_new_tokens", 10**12),
        ("stop", ["x"] * 9),
        ("stop", "x" * 257),
        ("images", ["x"] * 17),
        ("model", "a b"),
        ("model", "a\n"),
        ("model", "x" * 129),
        ("model", ""),
        ("prompt", None),
        ("prompt", "\ud800"),
    ],
)
def test_a_request_out_of_bounds_names_its_field(field: str, value: Any):
    with pytest.raises(ValidationError) as error:
        GenerateRequest.model_validate({**REQUEST, field: value})
    assert error.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    "status",
    [
        {"model_names": ["m"], "speed": 0},
        {"model_names": ["m"], "speed": -1},
        {"model_names": ["m"], "speed": 1e9},
        {"model_names": ["m"], "speed": float("nan")},
        {"model_names": ["m"], "queue_length": -1},
        {"model_names": ["m"], "queue_length": 10**9},
        {"model_names": []},
        {"model_names": ["m\x1b[31m"]},
        {"model_names": ["m"] * 65},
    ],
)
def test_a_status_that_would_upset_dispatch_is_refused(status: dict[str, Any]):
    with pytest.raises(ValidationError):
        WorkerStatus.model_validate(status)


def test_registrations_of_the_original_are_understood_with_and_without_status():
    body = {"worker_name": "http://localhost:21002", "check_heart_beat": True, "worker_status": None}
    assert RegisterWorker.model_validate(body).worker_status is None
    body["worker_status"] = {"model_names": ["LLaVA-13B-v0"], "speed": 1, "queue_length": 0}
    assert RegisterWorker.model_validate(body).worker_status == WorkerStatus(model_names=["LLaVA-13B-v0"])
    assert HeartBeat.model_validate({"worker_name": "w", "queue_length": 0, "more": 1}).queue_length == 0

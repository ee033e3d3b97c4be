"""A worker with a fake engine in this process, and what tests send to it."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from PIL import Image

from llava.serve.protocol.original import read_frames_sync
from llava.serve.worker.app import create_worker_app
from llava.serve.worker.worker import Worker
from tests.support.fake_backend import FakeEngine, fake_backend
from tests.support.images import encoded, noise
from tests.support.serving import InThread, running

ANSWER = "A cat sits on a mat."


@dataclass
class Served:
    server: InThread
    engine: FakeEngine
    worker: Worker

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    @property
    def held(self) -> tuple[int, int, int]:
        """Permits in use, places taken in the queue, requests in the engine."""
        permits = self.worker.permits
        assert permits is not None
        return permits.in_use, permits.waiting, self.engine.running

    def metric(self, line: str) -> float:
        found = re.search(rf"^{re.escape(line)} (\S+)$", httpx.get(f"{self.url}/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@contextmanager
def serving(
    engine: FakeEngine | None = None, *, backend: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Served]:
    engine = engine or FakeEngine()
    app = create_worker_app(fake_backend(engine, **(backend or {})), **settings)
    worker = app.state.worker
    with running(app, ready=worker.start) as server:
        engine.seen.clear()  # the warm-up question
        yield Served(server, engine, worker)


def data_uri(image: Image.Image | None = None, kind: str = "PNG", media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(encoded(image or noise(), kind)).decode()}"


def about(image: str, question: str = "What is it?") -> list[dict[str, Any]]:
    return [
        {
            "role": "user",
            "content": [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": image}}],
        }
    ]


def asking(text: str = "Hello?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "llava-fake", "messages": asking(), **fields}


def legacy(prompt: str = "USER: Hello? ASSISTANT:", **fields: Any) -> dict[str, Any]:
    return {"model": "llava-fake", "prompt": prompt, "temperature": 0.2, "max_new_tokens": 64, **fields}


@contextmanager
def asked(served: Served, request: dict[str, Any]) -> Iterator[socket.socket]:
    """A connection that has sent a chat request and reads nothing; it is gone after the block."""
    content = json.dumps(request).encode()
    with socket.create_connection(("127.0.0.1", served.server.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        yield connection


def frames(url: str, request: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    with httpx.stream("POST", f"{url}/worker_generate_stream", json=request) as response:
        return response.status_code, list(read_frames_sync(response.iter_bytes()))

"""A judge without a model: OpenAI's chat completions, files and batches over real HTTP, and failures on demand."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response, UploadFile
from fastapi.responses import JSONResponse

from tests.support.serving import InThread

MODEL = "judge-2026"
SNAPSHOT = "judge-2026-01-01"


def scores_of(body: dict[str, Any]) -> tuple[float, float]:
    """What this judge thinks: the longer an answer, the better; the one that it sees first gets half a point more."""
    prompt = body["messages"][-1]["content"]
    first, second = (len(re.search(rf"\[\w+ {n}\]\n(.*?)\n\n\[End of", prompt, re.DOTALL)[1]) for n in (1, 2))
    return min(9.5, 1 + first % 8) + 0.5, min(10.0, 1.0 + second % 8)


def in_schema(body: dict[str, Any]) -> str:
    first, second = scores_of(body)
    return json.dumps({"score_1": first, "score_2": second, "explanation": "Assistant 1 is longer."})


def in_lines(body: dict[str, Any]) -> str:
    first, second = scores_of(body)
    return f"{first:g} {second:g}\nAssistant 1 is longer."


def as_asked(body: dict[str, Any]) -> str:
    return in_schema(body) if "response_format" in body else in_lines(body)


def error(status: int, message: str = "no.", *, headers: dict[str, str] | None = None, **fields: Any) -> Response:
    body = {"error": {"message": message, "type": "error", "param": None, "code": None} | fields}
    return JSONResponse(body, status, headers)


def at_once(status: int, message: str = "later.") -> Response:
    """A failure after which the client may repeat the call almost at once."""
    return error(status, message, headers={"retry-after-ms": "1"})


Answer = str | Response


@dataclass
class FakeJudge:
    """Counts calls; `answer` gets the body and the number of the call, from 1, and says what comes back."""

    answer: Callable[[dict[str, Any], int], Answer] = lambda body, number: as_asked(body)
    key: str | None = None
    finish_reason: str = "stop"
    with_usage: bool = True
    pace_s: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Of all calls, in their order."""
    most_at_once: int = 0
    hold_at: int | None = None
    """From this call on, calls wait for `release`."""
    reached: threading.Event = field(default_factory=threading.Event)
    """Call `hold_at` has come."""
    release: threading.Event = field(default_factory=threading.Event)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch_status: str = "completed"
    """What a batch is when it is asked for."""
    left_out: int = 0
    """Calls at the end of a batch that an expired one did not come to."""
    _running: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def checked(request: Request, call_next: Any) -> Any:
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                return error(401, "Incorrect API key provided.", code="invalid_api_key")
            return await call_next(request)

        @app.post("/v1/chat/completions")
        async def chat_completions(request: Request) -> Any:
            body = await request.json()
            self.bodies.append(body)
            number = len(self.bodies)
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
            try:
                if self.hold_at is not None and number >= self.hold_at:
                    self.reached.set()
                    await asyncio.to_thread(self.release.wait)
                await asyncio.sleep(self.pace_s)
                return self.completion(body, number)
            finally:
                self._running -= 1

        @app.post("/v1/files")
        async def create_file(file: UploadFile) -> Any:
            name = f"file-{len(self.files) + 1}"
            self.files[name] = await file.read()
            return {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"} | {
                "status": "processed"
            }

        @app.get("/v1/files/{name}/content")
        async def content(name: str) -> Any:
            return Response(self.files[name], media_type="application/octet-stream")

        @app.post("/v1/batches")
        async def create_batch(request: Request) -> Any:
            body = await request.json()
            name = f"batch_{len(self.batches) + 1}"
            self.batches[name] = {"id": name, "object": "batch", "created_at": 1, "status": "validating"} | body
            return self.batches[name]

        @app.get("/v1/batches")
        async def list_batches() -> Any:
            return {"object": "list", "data": list(self.batches.values()), "has_more": False}

        @app.get("/v1/batches/{name}")
        async def batch(name: str) -> Any:
            return self._advance(self.batches[name]) if name in self.batches else error(404, "No such batch.")

        return app

    def completion(self, body: dict[str, Any], number: int) -> Any:
        answer = self.answer(body, number)
        if isinstance(answer, Response):
            return answer
        message = {"role": "assistant", "content": answer, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason, "logprobs": None}
        completion = {"id": f"c{number}", "object": "chat.completion", "created": 1, "model": SNAPSHOT}
        completion |= {"choices": [choice], "system_fingerprint": "fp_1"}
        if self.with_usage:
            size = sum(len(message["content"]) for message in body["messages"])
            completion["usage"] = {"prompt_tokens": size // 4, "completion_tokens": 20, "total_tokens": size // 4 + 20}
        return completion

    def times_asked(self) -> Counter[str]:
        """How often each prompt came."""
        return Counter(body["messages"][-1]["content"] for body in self.bodies)

    def _advance(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["status"] = self.batch_status
        calls = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        batch["request_counts"] = {"total": len(calls), "completed": 0, "failed": 0}
        if self.batch_status in ("completed", "expired") and "output_file_id" not in batch:
            self._write_results(batch, calls[: len(calls) - self.left_out])
        return batch

    def _write_results(self, batch: dict[str, Any], calls: list[dict[str, Any]]) -> None:
        good, bad = [], []
        for number, call in enumerate(reversed(calls), start=1):  # the order is not that of the calls
            answer = self.completion(call["body"], number)
            is_error = isinstance(answer, Response)
            response = {
                "status_code": answer.status_code if is_error else 200,
                "request_id": f"r{number}",
                "body": json.loads(answer.body) if is_error else answer,
            }
            result = {"id": f"b{number}", "custom_id": call["custom_id"], "response": response, "error": None}
            (bad if is_error else good).append(json.dumps(result) + "\n")
        for name, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[name] = f"{batch['id']}-{name}"
                self.files[batch[name]] = "".join(lines).encode()


def answering(judge: FakeJudge, *answers) -> None:
    """The first calls get these, one each; the rest what is asked for."""
    waiting = list(answers)

    def answer(body, number):
        if waiting:
            first = waiting.pop(0)
            return first if isinstance(first, str | Response) else first(body)
        return as_asked(body)

    judge.answer = answer


@contextmanager
def judging(judge: FakeJudge) -> Iterator[str]:
    """Serves it; gives the base URL."""
    with InThread(judge.app()) as server:
        yield f"{server.url}/v1"
        judge.release.set()

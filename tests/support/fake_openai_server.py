"""An OpenAI-compatible engine without a model: the real protocol, its metrics, and failures on demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

WORDS = ("An", " engine", " answers.")


@dataclass
class FakeOpenAiServer:
    model: str = "engine-model"
    key: str | None = None
    words: tuple[str, ...] = WORDS
    pace_s: float = 0.0
    status: int = 200
    """Of chat completions; another one answers `error`."""
    error: dict[str, Any] = field(default_factory=lambda: {"message": "no."})
    retry_after: str | None = None
    breaks_off_after: int | None = None
    """Words, after which the stream just ends."""
    error_after: int | None = None
    """Words, after which an error event comes."""
    with_usage: bool = True
    metrics: str = 'vllm:num_requests_waiting{model_name="engine-model"} 0.0\n'
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    cancelled: int = 0
    written: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/metrics")
        async def metrics() -> PlainTextResponse:
            return PlainTextResponse(self.metrics)

        @app.get("/v1/models")
        async def models(request: Request) -> Any:
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": {"message": "wrong key"}}, 401)
            return {"object": "list", "data": [{"id": self.model, "object": "model"}]}

        @app.post("/v1/chat/completions")
        async def chat_completions(request: Request) -> Any:
            self.bodies.append(await request.json())
            self.headers.append(dict(request.headers))
            if self.status != 200:
                headers = {"retry-after": self.retry_after} if self.retry_after else {}
                return JSONResponse({"error": self.error}, self.status, headers)
            return StreamingResponse(self._stream(), media_type="text/event-stream")

        return app

    async def _stream(self) -> AsyncIterator[str]:
        self.running += 1
        ended = False
        try:
            yield ": an engine may comment\n\n"
            yield self._chunk({"role": "assistant", "content": ""})
            for index, word in enumerate(self.words):
                if index == self.breaks_off_after:
                    ended = True
                    return
                if index == self.error_after:
                    ended = True
                    yield f"data: {json.dumps({'error': self.error})}\n\n"
                    return
                self.written += 1
                yield self._chunk({"content": word})
                await asyncio.sleep(self.pace_s)
            ended = True
            yield self._chunk({}, "stop")
            if self.with_usage:
                usage = {
                    "prompt_tokens": 11,
                    "completion_tokens": len(self.words),
                    "total_tokens": 11 + len(self.words),
                }
                yield f"data: {json.dumps({'choices': [], 'usage': usage})}\r\n\r\n"
            yield "data: [DONE]\n\n"
        finally:
            self.running -= 1
            self.cancelled += not ended

    @staticmethod
    def _chunk(delta: dict[str, str], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        # Characters as they are: the separators of Unicode may stand in an event.
        return f"data: {json.dumps({'id': 'x', 'choices': [choice]}, ensure_ascii=False)}\n\n"

"""A controller that writes down who speaks to it; a test may have it forget a worker, refuse, or demand a proof."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse


@dataclass
class FakeController:
    registered: list[dict[str, Any]] = field(default_factory=list)
    beats: list[dict[str, Any]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    refuses: bool = False

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/register_worker")
        async def register_worker(request: Request) -> Any:
            self.headers.append(dict(request.headers))
            if self.refuses:
                return JSONResponse({"error": {"message": "a cluster token is needed."}}, 401)
            body = await request.json()
            self.registered.append(body)
            self.known.add(body["worker_name"])
            return None

        @app.post("/receive_heart_beat")
        async def receive_heart_beat(request: Request) -> Any:
            body = await request.json()
            self.beats.append(body)
            return {"exist": body["worker_name"] in self.known}

        @app.post("/deregister_worker")
        async def deregister_worker(request: Request) -> None:
            name = (await request.json())["worker_name"]
            self.known.discard(name)
            self.left.append(name)

        return app

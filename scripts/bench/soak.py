"""Serves the embedded model under mixed load for minutes and watches memory, open files and errors.

    python -m scripts.bench.soak --minutes 10

Eight clients ask a real controller and worker about images old and new, streaming and not, in both protocols. One
request in twenty is left in the middle, one in a hundred carries an image that must be refused. Prints a line twice a
minute, and at the end how memory grew over the second half; fails if an answer was anything but whole or refused.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
CLIENTS = 8
SAY_EVERY_S = 30.0
BOMB = (
    b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00" + bytes(64)
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "LLAVA_API_KEY": "", "LLAVA_CLUSTER_TOKEN": ""}
    command = [sys.executable, "-m", module, *arguments]
    service = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)
    assert service.stderr is not None
    while "Uvicorn running" not in (line := service.stderr.readline()):
        if not line:
            raise SystemExit(f"{module} ended with {service.wait()}")
    # Read on, or the service would stop at a full pipe.
    subprocess.Popen(["cat"], stdin=service.stderr, stdout=subprocess.DEVNULL)
    return service


def image(rng: random.Random) -> str:
    """Base64 of the sneaker, or of an image that nobody has sent before."""
    from PIL import Image

    if rng.random() < 0.5:
        data = (REPOSITORY / "playground" / "images" / "sneaker.png").read_bytes()
    else:
        file = io.BytesIO()
        size = rng.randint(20, 600), rng.randint(20, 600)
        Image.frombytes("RGB", (6, 6), rng.randbytes(108)).resize(size).save(file, "PNG")
        data = file.getvalue()
    return base64.b64encode(data).decode()


class Client:
    def __init__(self, url: str, number: int, outcomes: Counter[str]):
        self.rng = random.Random(number)
        self.url = url
        self.outcomes = outcomes

    async def run(self, until: float) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as http:
            while time.monotonic() < until:
                self.outcomes[await self.ask(http)] += 1

    async def ask(self, http: httpx.AsyncClient) -> str:
        choice = self.rng.random()
        if choice < 0.01:
            answer = await http.post("/v1/chat/completions", json=self.chat(base64.b64encode(BOMB).decode(), False))
            return "refused" if answer.status_code in (400, 413, 415) else f"bomb answered with {answer.status_code}"
        if choice < 0.06:
            return await self.leave(http)
        if choice < 0.3:
            return await self.original(http)
        stream = choice < 0.7
        answer = await http.post("/v1/chat/completions", json=self.chat(image(self.rng), stream))
        if answer.status_code != 200:
            return f"status {answer.status_code}"
        return "ok" if not stream or answer.text.endswith("data: [DONE]\n\n") else "stream without end"

    async def leave(self, http: httpx.AsyncClient) -> str:
        async with http.stream("POST", "/v1/chat/completions", json=self.chat(image(self.rng), True)) as answer:
            async for _ in answer.aiter_bytes():
                break
        return "left"

    async def original(self, http: httpx.AsyncClient) -> str:
        body = {
            "model": "tiny",
            "prompt": "### Human: What is in the picture?\n<image>\n### Assistant:",
            "images": [image(self.rng)],
            "stop": "###",
            "temperature": 0.2,
            "max_new_tokens": 60,
        }
        answer = await http.post("/worker_generate_stream", json=body)
        return "ok" if answer.status_code == 200 and b'"error_code": 0' in answer.content else "frames without answer"

    def chat(self, image: str, stream: bool) -> dict[str, Any]:
        parts = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
            {"type": "text", "text": self.rng.choice(["What is in the picture?", "Describe the picture.", "Why?"])},
        ]
        return {
            "model": "tiny",
            "messages": [{"role": "user", "content": parts}],
            "stream": stream,
            "max_tokens": self.rng.randint(1, 80),
            "temperature": self.rng.choice([0.0, 0.7, 1.2]),
        }


async def watch(services: dict[str, psutil.Process], until: float, outcomes: Counter[str]) -> list[tuple[float, float]]:
    """Prints a line now and then; returns (seconds, MiB of the worker)."""
    began, memory = time.monotonic(), []
    while time.monotonic() < until:
        await asyncio.sleep(min(SAY_EVERY_S, max(0.1, until - time.monotonic())))
        figures = []
        for name, process in services.items():
            rss = process.memory_info().rss / 2**20
            figures.append(f"{name} {rss:.0f} MiB, {process.num_fds()} files, {process.num_threads()} threads")
            if name == "worker":
                memory.append((time.monotonic() - began, rss))
        print(f"{time.monotonic() - began:5.0f} s  {'; '.join(figures)}; {dict(outcomes)}", flush=True)
    return memory


async def soak(url: str, services: dict[str, psutil.Process], minutes: float) -> int:
    outcomes: Counter[str] = Counter()
    until = time.monotonic() + 60 * minutes
    clients = [Client(url, number, outcomes).run(until) for number in range(CLIENTS)]
    watching = asyncio.ensure_future(watch(services, until, outcomes))
    await asyncio.gather(*clients)
    memory = await watching
    half = memory[len(memory) // 2 :]
    growth = (half[-1][1] - half[0][1]) / max(1e-9, (half[-1][0] - half[0][0]) / 60)
    print(f"the worker grew by {growth:+.2f} MiB a minute over the second half")
    wrong = {name: count for name, count in outcomes.items() if name not in ("ok", "left", "refused")}
    if wrong:
        print(f"wrong: {wrong}")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    args = parser.parse_args()
    controller, worker = free_port(), free_port()
    url = f"http://localhost:{controller}"
    services: list[subprocess.Popen[str]] = []
    try:
        services.append(start("llava.serve.controller", "--port", str(controller)))
        services.append(start("llava.serve.model_worker", "--port", str(worker), "--controller", url))
        watched = dict(
            zip(("controller", "worker"), (psutil.Process(service.pid) for service in services), strict=True)
        )
        return asyncio.run(soak(url, watched, args.minutes))
    finally:
        for service in services:
            service.kill()
            service.wait()


if __name__ == "__main__":
    sys.exit(main())

"""A worker without a model: a process that speaks the worker's protocol and misbehaves when asked to.

What it does is said by the prompt, or for all prompts by `--behave`:

    say:N:S     N pieces, S seconds apart, and an end
    hang:N      N pieces, then nothing any more
    die:N       N pieces, then the process is gone
    cut:N       N pieces and half of another, then the connection is closed
    full        503, queue_full

It prints the port on which it listens. GET /log tells what it was asked and what it noticed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOG: dict[str, Any] = {"paths": [], "headers": [], "started": 0, "finished": 0, "aborted": 0, "registrations": 0}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="fake")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--behave")
    parser.add_argument("--controller")
    parser.add_argument("--interval", type=float, default=0.2)
    parser.add_argument("--token", help="sent along, and proven when challenged")
    args = parser.parse_args()

    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.daemon_threads = True
    server.settings = args  # type: ignore[attr-defined]
    port = server.server_address[1]
    print(f"listening on {port}", flush=True)
    if args.controller:
        threading.Thread(target=beat, args=(args, f"http://127.0.0.1:{port}"), daemon=True).start()
    server.serve_forever()


def beat(args: argparse.Namespace, name: str) -> None:
    """Registers and beats as the original's worker does."""
    status = {"model_names": [args.model], "speed": 1, "queue_length": 0}
    known = False
    while True:
        with contextlib.suppress(OSError):
            if not known:
                body = {"worker_name": name, "check_heart_beat": True, "worker_status": status}
                post(args, "/register_worker", body)
                LOG["registrations"] += 1
            known = post(args, "/receive_heart_beat", {"worker_name": name, "queue_length": 0})["exist"]
        time.sleep(args.interval)


def post(args: argparse.Namespace, path: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    if args.token:
        headers["X-LLaVA-Cluster-Token"] = args.token
    request = urllib.request.Request(args.controller + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.loads(answer.read())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._json(LOG)

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length) or "null")
        LOG["paths"].append(self.path)
        LOG["headers"].append({name.lower(): value for name, value in self.headers.items()})
        if self.path == "/worker_get_status":
            self._status()
        elif self.path == "/worker_generate_stream":
            self._answer(body["prompt"], self._frame, b"")
        elif self.path == "/v1/chat/completions" and body.get("stream"):
            self._answer(body["messages"][-1]["content"], self._event, b"data: [DONE]\n\n")
        elif self.path == "/v1/chat/completions":
            message = {"role": "assistant", "content": "hello"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._json({"id": "1", "object": "chat.completion", "created": 1, "model": "fake", "choices": [choice]})
        else:
            self._json({"detail": "Not Found"}, 404)

    def _status(self) -> None:
        status: dict[str, Any] = {"model_names": [self.server.settings.model], "speed": 1, "queue_length": 0}
        nonce = self.headers.get("x-llava-challenge")
        if nonce and self.server.settings.token:
            from llava.serve.service.security import ClusterToken

            status["proof"] = ClusterToken(self.server.settings.token).prove(nonce)
        self._json(status)

    def _answer(self, prompt: str, piece: Any, end: bytes) -> None:
        LOG["started"] += 1
        kind, _, rest = (self.server.settings.behave or prompt).partition(":")
        count, _, pause = rest.partition(":")
        if kind == "full":
            error = {"message": "too many wait", "code": "queue_full"}
            self._json({"error": error}, 503)
            return
        text = prompt
        if kind != "hang" or int(count):
            self._head()
        try:
            for number in range(int(count or 3)):
                text += f" {number}"
                self._chunk(piece(text, number))
                time.sleep(float(pause or 0))
            if kind == "hang":
                time.sleep(1000)
            if kind == "die":
                os._exit(9)
            if kind == "cut":
                self._chunk(piece(text, 0)[:-5])
                self.close_connection = True
                return
            self._chunk(end)
            self.wfile.write(b"0\r\n\r\n")
            LOG["finished"] += 1
        except OSError:
            LOG["aborted"] += 1
            self.close_connection = True

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    @staticmethod
    def _frame(text: str, number: int) -> bytes:
        return json.dumps({"text": text, "error_code": 0}).encode() + b"\0"

    @staticmethod
    def _event(text: str, number: int) -> bytes:
        choice = {"index": 0, "delta": {"content": f" {number}"}, "finish_reason": None}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": [choice]}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    def _json(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    main()

"""Simulated users of a web page that runs: each in a session of its own, asking, going on, stopping, starting again.

    llava web
    python -m scripts.bench.page_users --url http://localhost:7860 --users 20 --minutes 5

Prints what came of the questions, and the memory of the page's process before and after, where that runs on this
machine. Exit code 1 if one of the questions failed.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llava.command_line import run
from llava.serve.service import flags

IMAGES = Path(__file__).parents[2] / "playground" / "images"
QUESTIONS = (
    "What is in the picture?",
    "Describe the picture.",
    "Is this a drawing or a photograph?",
    "What is the background?",
)
_CLOSED_S = 20
"""After so long a page has noticed that a tab is closed."""
STOPPED = 0.15
"""Share of the answers that a user stops."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://localhost:7860", help="of the page (default: http://localhost:7860)")
    parser.add_argument("--users", type=flags.positive, default=20, metavar="N", help="at once (default: 20)")
    parser.add_argument("--minutes", type=float, default=5.0, metavar="M", help="how long (default: 5)")
    parser.add_argument("--model", default="tiny", metavar="NAME", help="which is asked (default: tiny)")


def main(args: argparse.Namespace) -> int:
    outcomes: Counter[str] = Counter()
    before = _memory_mb(args.url)
    waits: list[float] = []
    until = time.monotonic() + 60 * args.minutes
    users = [threading.Thread(target=_use, args=(args, seed, until, outcomes, waits)) for seed in range(args.users)]
    for user in users:
        user.start()
    while any(user.is_alive() for user in users):
        time.sleep(10)
        print(dict(outcomes), file=sys.stderr, flush=True)
    waits.sort()
    shown = f", half of them within {waits[len(waits) // 2]:.1f} s" if waits else ""
    print(f"{args.users} users, {args.minutes:g} minutes: {dict(outcomes)}{shown}")
    if before is not None:
        time.sleep(_CLOSED_S)
        print(f"{outcomes['sessions']} sessions; page process {before} MB before, {_memory_mb(args.url)} MB after")
    return 0 if outcomes["answered"] and not any(name.startswith("failed") for name in outcomes) else 1


def _use(args: argparse.Namespace, seed: int, until: float, outcomes: Counter[str], waits: list[float]) -> None:
    """One user, until it is time to go."""
    from gradio_client import Client  # type: ignore[import-untyped]

    rng = random.Random(seed)
    while time.monotonic() < until:
        client = None
        try:
            client = Client(args.url, verbose=False, analytics_enabled=False)
            outcomes["sessions"] += 1
            for _ in range(rng.randint(1, 4)):
                if time.monotonic() < until:
                    began = time.monotonic()
                    outcomes[_ask(client, args.model, rng)] += 1
                    waits.append(time.monotonic() - began)
                    time.sleep(rng.uniform(0, 2))
        except Exception as error:  # whatever a user can meet is counted, and fails the run
            outcomes[f"failed: {type(error).__name__}: {str(error)[:120]}"] += 1
            time.sleep(1)
        finally:
            if client is not None:
                client.close()


def _memory_mb(url: str) -> int | None:
    """Resident memory of whoever listens there, None where that is no process of this machine."""
    import psutil

    port = urlsplit(url).port
    for connection in psutil.net_connections("tcp"):
        is_it = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if is_it and connection.pid:
            return int(psutil.Process(connection.pid).memory_info().rss / 2**20)
    return None


def _ask(client: Any, model: str, rng: random.Random) -> str:
    from gradio_client import handle_file

    image = IMAGES / rng.choice(("sneaker.png", "scene.png"))
    files = [handle_file(str(image))] if rng.random() < 0.7 else []
    message = {"text": rng.choice(QUESTIONS), "files": files}
    job = client.submit(message, model, _run_id(client), "Crop", "", 0.2, 1.0, 256, api_name="/chat")
    if rng.random() < STOPPED:
        time.sleep(rng.uniform(0, 1))
        job.cancel()
        return "stopped"
    result = str(job.result(timeout=300))
    if "llava-error" in result:
        return "failed: " + result.split("llava-error", 1)[1][:160]
    return "answered" if "llava-figures" in result else "failed: no answer"


def _component(client: Any, **props: str) -> dict[str, Any]:
    components = client.config["components"]
    return next(
        one["props"] for one in components if all(one["props"].get(key) == value for key, value in props.items())
    )


def _run_id(client: Any) -> str:
    """What the page sends along, so that its server knows whose conversation it is."""
    return str(_component(client, label="run")["value"])


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

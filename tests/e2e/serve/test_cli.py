"""The terminal chat as a user has it: on a real terminal, with the embedded model and with a real worker."""

from __future__ import annotations

import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llava.serve.client.conversation_file import read_chat
from tests.support.serving import Service, wait_until
from tests.support.terminal import Terminal

GOLDEN = ("--model-path", "tests/data/llava-v1.5-tiny", "--vision-tower", "tests/data/clip-tiny")
"""Random weights: its answers mean nothing, and go on for as long as they may."""
NO_SECRETS = {"LLAVA_CLUSTER_TOKEN": "", "LLAVA_API_KEY": ""}


def said(sentence: str) -> str:
    """A pattern for it, wherever the terminal breaks its lines."""
    return r"\s+".join(map(re.escape, sentence.split()))


def pasted(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


@pytest.mark.embedded
def test_a_conversation_about_images_with_the_embedded_model(tmp_path: Path):
    history, talk = tmp_path / "state" / "history", tmp_path / "talk.json"
    with Terminal("-m", "llava", "chat", "--temperature", "0", "--history", history) as terminal:
        terminal.wait_for_prompt(timeout_s=300)
        assert "· tiny\n" in terminal.screen

        # Tab completes commands and paths; the image is shown and waits.
        terminal.type("/hel\t\r")
        terminal.wait_for("list the images")
        terminal.wait_for_prompt()
        terminal.type("/image playground/images/sne\t")
        terminal.wait_for_prompt(r"sneaker\.png$")
        terminal.type("\r")
        terminal.wait_for(r"▀{8,}")
        terminal.enter("What is in the picture?", prompt=r"^\[1 image\] > $")
        terminal.wait_for(r"(?s)> What is in the picture\?\n\n.*sneaker.*\n\d+ \+ \d+ tokens · .* tokens/s")
        terminal.enter("Is this a drawing or a photograph?")
        terminal.wait_for(r"photograph.*\n\d+ \+")

        # More than the context holds: said with numbers, and not part of the conversation.
        terminal.wait_for_prompt()
        terminal.type(pasted("word " * 4000))
        terminal.type("\r")
        terminal.wait_for(r"Prompt and images have \d+ tokens, but the model's context is 1024\.")
        terminal.wait_for("The question was not added to the conversation")

        # Ctrl-C at the prompt leaves nothing but a hint.
        terminal.wait_for_prompt()
        terminal.type("half a quest")
        terminal.interrupt()
        terminal.wait_for("Press Ctrl-D or type /quit")

        terminal.enter(f"/save {talk}")
        terminal.wait_for(r"Saved to\s")  # a long path goes into the next line
        terminal.wait_for_prompt()
        terminal.end_of_input()
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.everything
    turns = read_chat(talk.read_bytes()).turns
    assert [turn.role for turn in turns] == ["user", "assistant"] * 2
    assert "What is in the picture?" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


@pytest.fixture(scope="module")
def worker() -> Iterator[Service]:
    with Service("-m", "llava.serve.model_worker", "--no-register", "--port", "0", *GOLDEN, **NO_SECRETS) as service:
        yield service


def test_with_a_worker_ctrl_c_stops_it_and_its_death_is_a_sentence(worker: Service, tmp_path: Path):
    url = worker.wait_for(r"Uvicorn running on (http://\S+)", timeout_s=300)[1]

    def metric(name: str) -> float:
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    words = ("--server", url, "--no-history", "-i", "tests/data/images/land.png")
    with Terminal("-m", "llava.serve.cli", *words, "--max-new-tokens", "2000", "--seed", "1") as terminal:
        terminal.wait_for_prompt(timeout_s=120)
        assert f"llava-v1.5-tiny at {url}" in terminal.screen
        terminal.enter("Go on and on.", prompt=r"^\[1 image\] > $")
        wait_until(lambda: metric("llava:running") == 1, 120)
        terminal.wait_for(r"Go on and on\.\n\n(?!.*Thinking).*\S")
        terminal.interrupt()
        terminal.wait_for("Stopped.")
        wait_until(lambda: metric("llava:running") == 0 and metric("llava:aborted_total") == 1)
        assert metric("llava:permits_in_use") == 0

        # What is typed while an answer is written does not disturb it, and is there at the next prompt.
        terminal.enter("/retry")
        wait_until(lambda: metric("llava:running") == 1, 120)
        terminal.type("/images\r")
        terminal.interrupt()
        terminal.wait_for(r"land\.png \(\d+ × \d+\)  in question 1")

        terminal.enter("/retry")
        wait_until(lambda: metric("llava:running") == 1, 120)
        terminal.wait_for(r"(?s)> /retry.*> /retry\n\n(?!.*Thinking).*\S")
        worker.process.send_signal(signal.SIGKILL)
        terminal.wait_for(said(f"{url} broke off in the middle of its answer"))
        terminal.wait_for("/retry asks again")
        terminal.enter("/retry")
        terminal.wait_for(said(f"{url} cannot be reached. Check the address, and that the service is running"))
        terminal.enter(f"/save {tmp_path}/talk.md")
        terminal.wait_for(r"Saved to\s")  # a long path goes into the next line
        terminal.enter("/quit")
        assert terminal.wait() == 0
    assert len(read_chat((tmp_path / "talk.md").read_bytes()).images) == 1

"""`llava chat` with one question: what goes to which stream, exit codes, and what it never loads."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava.command_line import run
from llava.serve import cli
from tests.support.fake_openai_server import FakeOpenAiServer
from tests.support.serving import REPOSITORY, InThread, wait_until

IMAGE = REPOSITORY / "tests" / "data" / "images" / "land.png"


@pytest.fixture
def served() -> Iterator[tuple[FakeOpenAiServer, str]]:
    fake = FakeOpenAiServer()
    with InThread(fake.app()) as server:
        yield fake, server.url


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process; returns its exit code and what it wrote to both streams."""

    def chat(*words: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            code = run(cli.add_arguments, cli.main, argv=[str(word) for word in words], prog="llava chat")
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return chat


def test_the_answer_alone_goes_to_standard_output(served, command):
    fake, url = served
    code, out, err = command("--server", url, "-i", IMAGE, "-i", IMAGE, "--temperature", "0", "What is it?")
    assert (code, out, err) == (0, "An engine answers.\n", "")
    (body,) = fake.bodies
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "image_url", "text"]
    assert (body["temperature"], body["max_tokens"]) == (0.0, 512)


def test_a_question_may_come_from_standard_input_and_so_may_an_image(served, command):
    fake, url = served
    assert command("--server", url, stdin="Was ist größer?\n".encode())[:2] == (0, "An engine answers.\n")
    assert command("--server", url, "-i", "-", "What?", stdin=IMAGE.read_bytes())[:2] == (0, "An engine answers.\n")
    assert fake.bodies[0]["messages"][0]["content"] == [{"type": "text", "text": "Was ist größer?"}]
    assert fake.bodies[1]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_json_is_one_object_with_figures(served, command):
    code, out, err = command("--server", served[1], "--json", "What?")
    answer = json.loads(out)
    assert (code, err) == (0, "")
    assert (answer["model"], answer["answer"], answer["finish_reason"]) == (
        "engine-model",
        "An engine answers.",
        "stop",
    )
    assert (answer["figures"]["prompt_tokens"], answer["figures"]["new_tokens"]) == (11, 3)


def test_json_of_an_answer_that_broke_off_has_what_was_written_and_the_error(served, command):
    fake, url = served
    fake.error_after, fake.error = 2, {"message": "the worker went away.", "code": "worker_lost"}
    code, out, err = command("--server", url, "--json", "What?")
    answer = json.loads(out)
    assert code == 1
    assert answer["answer"] == "An engine"
    assert answer["error"] == {"code": "worker_lost", "message": "the worker went away."}
    assert err == "error: the worker went away.\n"


def test_an_answer_that_breaks_off_leaves_its_beginning_and_one_line(served, command):
    fake, url = served
    fake.breaks_off_after = 1
    code, out, err = command("--server", url, "What?")
    assert (code, out) == (1, "An\n")
    assert err == f"error: {url} broke off in the middle of its answer.\n"


def test_a_conversation_that_was_saved_goes_on(served, command, tmp_path):
    talk = {"messages": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]}
    (tmp_path / "talk.json").write_text(json.dumps(talk))
    assert command("--server", served[1], "--load", tmp_path / "talk.json", "--system", "Be brief.", "Three?")[0] == 0
    roles = [message["role"] for message in served[0].bodies[0]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


def test_a_key_comes_from_a_file_or_a_variable(served, command, tmp_path, monkeypatch):
    fake, url = served
    fake.key = "secret"
    monkeypatch.delenv("LLAVA_API_KEY", raising=False)
    (tmp_path / "key").write_text("secret\n")
    monkeypatch.setenv("ENGINE_KEY", "secret")
    assert command("--server", url, "--api-key-file", tmp_path / "key", "What?")[0] == 0
    assert command("--server", url, "--api-key-env", "ENGINE_KEY", "What?")[0] == 0
    code, out, err = command("--server", url, "What?")
    assert (code, out, err) == (1, "", "error: wrong key\n")
    monkeypatch.setenv("LLAVA_API_KEY", "secret")
    assert command("--server", url, "What?")[0] == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("-i", "none.png", "What?"), 1, "error: none.png: no such file"),
        (("-i", "README.md", "What?"), 1, "error: README.md: not an image that can be read; it looks like text."),
        (("-i", "-", "What?"), 1, "standard input is empty; expected an image"),
        (("-i", "-"), 1, "give the question as an argument"),
        (("",), 1, "the message is empty"),
        ((), 1, "the message is empty"),
        (("--temperature", "9", "What?"), 1, "between 0 and 2"),
        (("--temperature", "warm", "What?"), 2, "invalid float value: 'warm'"),
        (("--max-new-tokens", "0", "What?"), 1, "at least 1"),
        (("--load", "README.md", "What?"), 1, "README.md"),
        (("--load", "none.json", "What?"), 1, "error: none.json: No such file or directory"),
        (("--model", "other", "What?"), 1, "no model named 'other' is served here. Available: engine-model."),
        (("--load-8bit", "--conv-template", "v1", "What?"), 1, "--load-8bit, --conv-mode cannot be used with --server"),
        (("--api-key-env", "NO_SUCH_VARIABLE", "What?"), 1, "the variable NO_SUCH_VARIABLE: no API key found"),
        (("--api-key-file", "README.md", "What?"), 1, "README.md: no API key found"),
        (("--nonsense",), 2, "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_nothing_is_asked(served, command, monkeypatch, words, code, says):
    monkeypatch.chdir(REPOSITORY)
    found, out, err = command("--server", served[1], *words)
    assert (found, out) == (code, "")
    assert says in err.splitlines()[-1]
    assert served[0].bodies == []


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9 cannot be reached. Check the address"),
        ("localhost:10000", "is not an http(s) URL. Write http://HOST:PORT"),
    ],
)
def test_a_server_that_is_away_or_no_address_at_all_is_one_line(command, server, says):
    code, out, err = command("--server", server, "What?")
    assert (code, out) == (1, "")
    assert says in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model-path", "./nowhere"), "./nowhere: no such model folder"),
        (("--conv-template", "multimodel"), "Did you mean 'multimodal'"),
        (("--num-gpus", "many"), "whole number"),
    ],
)
def test_a_model_or_template_that_is_not_there_is_named_at_once(command, words, says):
    code, out, err = command(*words, "What?")
    assert (code > 0, out) == (True, "")
    assert says in err.splitlines()[-1]


def test_with_a_server_nothing_heavy_is_loaded(served, run_python):
    words = ["llava chat", "--server", served[1], "-i", str(IMAGE), "What?"]
    heavy = ("torch", "transformers", "gradio", "numpy", "pandas")
    script = (
        f"import sys; sys.argv = {words!r}\n"
        "from llava.command_line import run\nfrom llava.serve.cli import add_arguments, main\n"
        f"code = run(add_arguments, main)\nprint(code, [name for name in {heavy!r} if name in sys.modules])"
    )
    done = run_python("-c", script)
    assert done.stdout.splitlines() == ["An engine answers.", "0 []"]


def test_ctrl_c_in_a_pipe_ends_the_answer_and_the_command(served):
    fake, url = served
    fake.words, fake.pace_s = (" word",) * 2000, 0.02
    words = [sys.executable, "-m", "llava.serve.cli", "--server", url, "What?"]
    with subprocess.Popen(
        words, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: fake.written > 3, 120)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    wait_until(lambda: fake.cancelled == 1)
    assert process.returncode == 130
    assert out.startswith(" word")
    assert err == "interrupted\n"

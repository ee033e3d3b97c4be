"""The line where one types: keys, completion, history, and Ctrl-C while something is under way."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from llava.serve.terminal import history
from llava.serve.terminal.completion import ChatCompleter
from llava.serve.terminal.history import KEPT_LINES, PrivateHistory, open_history
from llava.serve.terminal.interrupts import Interrupted, interruptible
from llava.serve.terminal.prompt import InputPrompt
from llava.serve.terminal.settings import default_history


@pytest.fixture
def keyboard() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe:
        yield pipe


def typed(keyboard: PipeInput, keys: str, *, prefill: str = "", earlier: tuple[str, ...] = ()) -> str:
    """What the prompt returns for these keys."""
    prompt = InputPrompt(
        completer=ChatCompleter(lambda: ["llava-7b", "llava-13b"]),
        history=InMemoryHistory(list(earlier)),
        toolbar=lambda: "",
        keyboard=keyboard,
        screen=DummyOutput(),
    )
    keyboard.send_text(keys)
    return asyncio.run(prompt.read(prefill=prefill))


ALT_ENTER, UP, TAB = "\x1b\r", "\x1b[A", "\t"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("What?\r", "What?"),
        ("\r", ""),
        (f"one{ALT_ENTER}two\r", "one\ntwo"),
        ("one\\\rtwo\r", "one\ntwo"),
        ("one\\ \r", "one\\ "),
        ("\x1b[200~pasted\nlines\n\x1b[201~\r", "pasted\nlines\n"),
        (f"{UP}\r", "earlier"),
        (f"{UP}{UP}\r", "first\nof two lines"),
        ("/image\r", "/image"),
    ],
)
def test_keys_do_what_a_chat_user_expects(keyboard, keys, text):
    assert typed(keyboard, keys, earlier=("first\nof two lines", "earlier")) == text


def test_a_question_to_edit_is_there_and_goes_on_at_its_end(keyboard):
    assert typed(keyboard, " now?\r", prefill="What is it") == "What is it now?"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (f"/hel{TAB}\r", "/help"),
        (f"/im{TAB}s\r", "/images"),
        (f"/image im{TAB}ca{TAB}p{TAB}\r", "/image images/cat.png"),
        (f"/set te{TAB}1\r", "/set temperature=1"),
        (f"/model ll{TAB}1{TAB}\r", "/model llava-13b"),
        (f"What{TAB}?\r", "What?"),
    ],
)
def test_tab_inserts_what_is_certain_at_once(keyboard, folder, keys, text):
    (folder / "images" / "cat.png").touch()
    (folder / "images" / "cat.jpg").touch()
    assert typed(keyboard, keys) == text


@pytest.mark.parametrize(("key", "error"), [("\x03", KeyboardInterrupt), ("\x04", EOFError)])
def test_ctrl_c_and_ctrl_d_are_told_apart(keyboard, key, error):
    with pytest.raises(error):
        typed(keyboard, key)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("cat.png", "cats.txt", "camel.JPG", "talk.json"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("/im", ["image ", "images"]),
        ("/q", ["quit"]),
        ("/x", []),
        ("/image ca", ["mel.JPG", "t.png"]),
        ("/image cat.png ca", ["mel.JPG", "t.png"]),
        ("/image ima", ["ges/"]),
        ("/load ca", ["mel.JPG", "t.png", "ts.txt"]),
        ("/load ta", ["lk.json"]),
        ("/set t", ["temperature=", "top_p="]),
        ("/set temperature=1 m", ["max_tokens="]),
        ("/model llava-1", ["llava-13b"]),
        ("/undo x", []),
        ("/nonsense x", []),
        ("ca", []),
        ("what is /im", []),
        ("/im\n/im", []),
    ],
)
def test_tab_offers_what_fits_and_leaves_questions_alone(folder, line, offered):
    completer = ChatCompleter(lambda: ["llava-7b", "llava-13b"])
    completions = completer.get_completions(Document(line), CompleteEvent(completion_requested=True))
    assert sorted(completion.text for completion in completions) == offered


# History


def test_what_was_typed_is_there_the_next_time_and_only_for_its_owner(tmp_path):
    file = tmp_path / "state" / "llava" / "chat_history"
    before = os.umask(0o000)
    try:
        PrivateHistory(file).append_string("two\nlines")
    finally:
        os.umask(before)
    assert list(PrivateHistory(file).load_history_strings()) == ["two\nlines"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path):
    file = tmp_path / "chat_history"
    file.touch(mode=0o644)
    PrivateHistory(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_history_that_cannot_be_kept_is_said_and_the_chat_goes_on(tmp_path):
    (tmp_path / "file").touch()
    kept, problem = open_history(tmp_path / "file" / "chat_history")
    assert isinstance(kept, InMemoryHistory)
    assert str(tmp_path / "file") in problem
    kept, problem = open_history(tmp_path)
    assert isinstance(kept, InMemoryHistory)
    assert "not saved" in problem
    assert open_history(None)[1] == ""


def test_a_history_that_goes_away_meanwhile_stops_nothing(tmp_path):
    file = tmp_path / "state" / "chat_history"
    kept = PrivateHistory(file)
    file.unlink()
    file.mkdir()
    kept.append_string("typed")
    assert kept.get_strings() == ["typed"]
    assert list(kept.load_history_strings()) == []


def test_a_file_that_is_no_history_is_read_as_far_as_it_goes(tmp_path):
    file = tmp_path / "chat_history"
    file.write_bytes(b"\xff\xfe\x00\n+one\n# two\n+three\n")
    assert list(PrivateHistory(file).load_history_strings()) == ["three", "one"]


def test_a_long_history_is_cut_to_the_newest_lines(tmp_path, monkeypatch):
    file = tmp_path / "chat_history"
    kept = PrivateHistory(file)
    for number in range(KEPT_LINES + 50):
        kept.store_string(f"line {number}")
    monkeypatch.setattr(history, "_MAX_BYTES", 1000)
    again = list(PrivateHistory(file).load_history_strings())
    assert (again[0], again[-1], len(again)) == (f"line {KEPT_LINES + 49}", "line 50", KEPT_LINES)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_history_lies_where_the_system_keeps_such_files(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_history() == tmp_path / "llava" / "chat_history"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_history() == tmp_path / ".local" / "state" / "llava" / "chat_history"


# Ctrl-C


def test_ctrl_c_ends_the_work_once_it_has_cleaned_up_and_a_second_one_does_not_interrupt_that():
    steps: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            steps.append("cleaned up")

    async def chat() -> str:
        with pytest.raises(Interrupted):
            await interruptible(work())
        return await interruptible(asyncio.sleep(0, "goes on"))

    before = signal.getsignal(signal.SIGINT)
    assert asyncio.run(chat()) == "goes on"
    assert steps == ["cleaned up"]
    assert signal.getsignal(signal.SIGINT) is before

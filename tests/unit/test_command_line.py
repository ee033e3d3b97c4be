"""How commands end: exit codes, one-line errors, and what `--debug` adds."""

from __future__ import annotations

import argparse
import re

import pytest

from llava import __main__ as llava_command
from llava import __version__
from llava.command_line import run
from llava.commands.catalogue import COMMANDS, entries
from llava.errors import ImageError


def no_arguments(parser: argparse.ArgumentParser) -> None:
    pass


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def raising(error: BaseException):
    def main(args: argparse.Namespace) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ImageError("cat.png: no image in it"), 1, "error: cat.png: no image in it\n"),
        (
            FileNotFoundError(2, "No such file or directory", "cat.png"),
            1,
            "error: cat.png: No such file or directory\n",
        ),
        (OSError("the hub does not answer"), 1, "error: the hub does not answer\n"),
        (MemoryError(), 1, "error: out of memory.\n"),
        (OutOfMemoryError("CUDA out of memory."), 1, "error: CUDA out of memory.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_a_user_can_cause_is_one_line_on_stderr(error, code, message, capsys):
    assert run(no_arguments, raising(error), argv=[]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", message)


def test_a_broken_installation_points_to_the_doctor(capsys):
    assert run(no_arguments, raising(ModuleNotFoundError("No module named 'torch'")), argv=[]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: No module named 'torch'")
    assert "llava doctor" in err
    assert "Traceback" not in err


def test_debug_shows_where_the_error_was_raised(capsys):
    assert run(no_arguments, raising(ImageError("cat.png: no image in it")), argv=["--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: cat.png: no image in it\n")


def test_a_mistake_of_ours_shows_its_traceback_and_asks_for_a_report(capsys):
    assert run(no_arguments, raising(KeyError("weight")), argv=[]) == 1
    err = capsys.readouterr().err
    assert "KeyError: 'weight'" in err
    assert "report" in err.splitlines()[-1]


def test_a_command_that_succeeds_returns_its_own_code():
    assert run(no_arguments, lambda args: 0, argv=[]) == 0


def test_wrong_usage_exits_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        run(no_arguments, lambda args: 0, argv=["--no-such-flag"], prog="llava x")
    assert stop.value.code == 2
    assert "--no-such-flag" in capsys.readouterr().err


def test_help_keeps_paragraphs_and_example_lines_apart(capsys):
    description = "Asks once.\n\nExample, to be copied:\n\n    llava ask --image-file cat.png\n"
    with pytest.raises(SystemExit):
        run(no_arguments, lambda args: 0, argv=["--help"], description=description)
    assert "Asks once.\n\nExample, to be copied:\n\n    llava ask --image-file cat.png\n" in capsys.readouterr().out


# Groups


def test_llava_without_a_command_lists_the_commands_and_exits_with_2(capsys):
    assert llava_command.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(f"\n  {name} " in err for group in COMMANDS.values() for name in group)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_llava_help_groups_its_commands(flag, capsys):
    assert llava_command.main([flag]) == 0
    out = capsys.readouterr().out
    headings = re.findall(r"^(\w.*):$", out, flags=re.MULTILINE)
    assert headings == list(COMMANDS) == ["Ask and chat", "Serve", "Train", "Evaluate", "Weights", "Tools"]
    assert all(f"\n  {name} " in out for group in COMMANDS.values() for name in group)


@pytest.mark.parametrize("words", [["eval", "--help"], ["weights", "-h"], ["eval"], ["weights"]])
def test_help_of_a_group_lists_its_tools(words, capsys):
    assert llava_command.main(words) == (0 if len(words) == 2 else 2)
    shown = "".join(capsys.readouterr())
    assert shown.startswith(f"usage: llava {words[0]} COMMAND")
    tools = [entry.words[1] for entry in entries() if entry.words[:1] == (words[0],) and len(entry.words) == 2]
    assert all(f"\n  {tool} " in shown for tool in tools)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_llava_version_is_the_package_version(flag, capsys):
    assert llava_command.main([flag]) == 0
    assert capsys.readouterr().out == f"llava {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["docter"], "llava has no command 'docter'. Did you mean `llava doctor`?"),
        (["nope"], "llava has no command 'nope'. Did you mean `llava eval pope`?"),
        (["frobnicate"], "llava has no command 'frobnicate'. Run `llava --help` for the list of commands."),
        (["eval", "nope"], "llava eval has no command 'nope'. Did you mean `llava eval pope`?"),
        (["weights", "inof"], "llava weights has no command 'inof'. Did you mean `llava weights info`?"),
        (
            ["weights", "nope"],
            "llava weights has no command 'nope'. Run `llava weights --help` for the list of commands.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_unknown_command_exits_with_2_and_a_suggestion_on_one_line(words, message, capsys):
    assert llava_command.main(words) == 2
    assert capsys.readouterr().err == f"error: {message}\n"

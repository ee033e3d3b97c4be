"""`llava completion` prints a script for each shell."""

from __future__ import annotations

import pytest

from llava import __main__ as llava_command
from llava.commands.completion import SHELLS


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell_knows_commands_and_flags(shell: str, capsys):
    assert llava_command.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    words = ["apply-delta", "arena-report", "pope"]
    if shell != "tcsh":  # whose completion goes no deeper than the tools
        words += ["--image-file", "--tune_mm_mlp_adapter"]
    assert [word for word in words if word not in script] == []


def test_an_unknown_shell_is_refused_with_the_names_of_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        llava_command.main(["completion", "nosuchshell"])
    assert stop.value.code == 2
    assert "bash" in capsys.readouterr().err

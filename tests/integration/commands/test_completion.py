"""The completion script at work in bash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from llava.commands.completion import script

BASH = shutil.which("bash")

ASK = """
source "$1"
function=$(complete -p llava | sed "s/.*-F \\([^ ]*\\).*/\\1/")
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
$function llava "${!#}" >/dev/null
printf "%s\\n" "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def offered(tmp_path_factory):
    """What bash offers after the words of a command line."""
    file: Path = tmp_path_factory.mktemp("completion") / "llava"
    file.write_text(script("bash"))

    def ask(*words: str) -> list[str]:
        done = subprocess.run([str(BASH), "-c", ASK, "bash", file, *words], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.stdout.split()

    return ask


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("llava", "che"), []),
        (("llava", "d"), ["data", "doctor"]),
        (("llava", "data", "ch"), ["check"]),
        (("llava", "eval", "po"), ["pope"]),
        (("llava", "weights", "make"), ["make-delta"]),
        (("llava", "doctor", "--js"), ["--json"]),
        (("llava", "train", "--tune_mm"), ["--tune_mm_mlp_adapter"]),
    ],
)
def test_bash_completes_commands_tools_and_flags(words, expected, offered):
    assert offered(*words) == expected

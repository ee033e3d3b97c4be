"""How commands end, seen from outside: broken pipes and the installed console script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_reader_that_goes_away_ends_a_command_quietly(tmp_path: Path):
    script = tmp_path / "talker.py"
    script.write_text(
        "import sys\n"
        "from llava.command_line import run\n"
        "def main(args):\n"
        "    for number in range(1_000_000): print(number)\n"
        "    return 0\n"
        "sys.exit(run(lambda parser: None, main, argv=[]))\n"
    )
    talker = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert talker.stdout is not None
    assert talker.stderr is not None
    assert talker.stdout.readline() == "0\n"
    talker.stdout.close()
    assert talker.stderr.read() == ""
    talker.stderr.close()
    assert talker.wait(timeout=60) == 141


def test_the_console_script_and_python_dash_m_are_the_same_program(run_python):
    script = Path(sys.executable).with_name("llava")
    installed = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=60)
    assert installed.returncode == 0
    assert installed.stdout == run_python("-m", "llava", "--help").stdout

from __future__ import annotations

import sys

from llava.command_line import run
from llava.eval.report import command

sys.exit(run(command.add_arguments, command.main, description=command.__doc__))

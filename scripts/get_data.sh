#!/usr/bin/env bash
# Downloads the files that the original LLaVA published for its evaluation; `llava eval get-data` is the same command.
# --help shows the options and the terms of the files. PYTHON names the interpreter (default: python).
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" -m llava.eval.get_data "$@"

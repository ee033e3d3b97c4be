#!/bin/sh
# Creates a virtual environment if there is none, and installs the pinned versions into it.
# Usage: setup_venv.sh DIR TARGET     (pip installs TARGET in editable form: "." or ".[dev]")
# PYTHON selects the interpreter (default: the first one that is recent enough and can create environments).
set -eu

venv=$1
what=$2
started=$(date +%s)

say() { printf '[set-up] %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

in_range() { "$1" -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
makes_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

choose_python() {
    seen=
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.10}; do
        in_range "$candidate" || continue
        seen=$candidate
        makes_venvs "$candidate" || continue
        command -v "$candidate"
        return
    done
    [ -z "$seen" ] || fail "$seen cannot create virtual environments because its venv module is missing." \
        "On Debian and Ubuntu: apt-get install python3-venv"
    if [ -n "${PYTHON:-}" ]; then
        fail "$PYTHON is not a Python from 3.10 to 3.13, or does not run."
    fi
    fail "no Python from 3.10 to 3.13 was found. Install one, or pass its path: make PYTHON=/path/to/python ..."
}

pip_install() {
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check -c constraints.txt "$@" ||
        fail "pip could not install: $*. See its message above. Run \`make\` again to continue."
}

if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    in_range "$venv/bin/python" || fail "$venv does not have a Python from 3.10 to 3.13. Remove it with \`make clean\`."
    say "using $venv ($("$venv/bin/python" --version))"
else
    python=$(choose_python)
    say "creating $venv with $("$python" --version) ($python)"
    # The remains of an interrupted set-up are removed; any other folder of that name is not touched.
    if [ -e "$venv/pyvenv.cfg" ]; then "$python" -m venv --clear "$venv"; else "$python" -m venv "$venv"; fi
fi

torch=$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)
say "installing $torch (the largest part)"
pip_install "$torch"
say "installing llava from this folder (-e '$what') with the versions in constraints.txt"
pip_install -e "$what"
say "done in $(($(date +%s) - started)) s: $("$venv/bin/python" -m pip list --format=freeze --disable-pip-version-check | wc -l) packages," \
    "$(du -sh "$venv" | cut -f1) in $venv"

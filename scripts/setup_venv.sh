#!/bin/sh
# Makes a virtual environment if there is none and installs the pinned set into it, saying what it does.
# Usage: setup_venv.sh FOLDER WHAT     (WHAT is what pip installs in editable form: "." or ".[dev]")
# PYTHON names the interpreter; without it the first one found that is new enough and can make environments is taken.
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
    [ -z "$seen" ] || fail "$seen cannot make virtual environments: its venv module is missing." \
        "On Debian and Ubuntu: apt-get install python3-venv"
    if [ -n "${PYTHON:-}" ]; then
        fail "$PYTHON is no Python from 3.10 to 3.13 (or does not run)."
    fi
    fail "no Python from 3.10 to 3.13 was found. Install one, or name it: make PYTHON=/path/to/python ..."
}

pip_install() {
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check -c constraints.txt "$@" ||
        fail "pip could not install: $*. Its message stands above; \`make\` again goes on from here."
}

if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    in_range "$venv/bin/python" || fail "$venv holds no Python from 3.10 to 3.13. Remove it with \`make clean\`."
    say "using $venv ($("$venv/bin/python" --version))"
else
    python=$(choose_python)
    say "making $venv with $("$python" --version) ($python)"
    # What an interrupted set-up left behind is cleared, any other folder of that name is not.
    if [ -e "$venv/pyvenv.cfg" ]; then "$python" -m venv --clear "$venv"; else "$python" -m venv "$venv"; fi
fi

torch=$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)
say "installing $torch (the largest part)"
pip_install "$torch"
say "installing llava from this folder (-e '$what') with the versions of constraints.txt"
pip_install -e "$what"
say "done in $(($(date +%s) - started)) s: $("$venv/bin/python" -m pip list --format=freeze --disable-pip-version-check | wc -l) packages," \
    "$(du -sh "$venv" | cut -f1) in $venv"

"""JSON files on a full disk."""

from __future__ import annotations

from llava.files.json_files import write_json


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, run_python):
    path = tmp_path / "value.json"
    write_json(path, "old")
    # A limit on the size of files fails a write just as a full disk does: in the middle, and without naming a file.
    script = (
        "import sys; from resource import RLIM_INFINITY, RLIMIT_FSIZE, setrlimit\n"
        "from llava.command_line import guarded; from llava.files.json_files import write_json\n"
        "setrlimit(RLIMIT_FSIZE, (1000, RLIM_INFINITY))\n"
        "code = guarded(lambda: write_json(sys.argv[1], 'x' * 5000))\n"
        "setrlimit(RLIMIT_FSIZE, (RLIM_INFINITY, RLIM_INFINITY))\n"
        "sys.exit(code)"
    )
    done = run_python("-c", script, path)
    assert done.returncode == 1
    assert done.stderr == f"error: {path}: cannot be written: File too large\n"
    assert [file.read_text() for file in tmp_path.iterdir()] == ['"old"\n']

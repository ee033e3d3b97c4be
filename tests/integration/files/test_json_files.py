"""JSON files on a full disk."""

from __future__ import annotations

from llava.files.json_files import write_json


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, run_python):
    path = tmp_path / "value.json"
    write_json(path, "old")
    # A limit on the size of files fails a write just as a full disk does: in the middle, and without naming a file.
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from llava.command_line import guarded; from llava.files.json_files import write_json\n"
        "sys.exit(guarded(lambda: write_json(sys.argv[1], 'x' * 5000)))"
    )
    done = run_python("-c", script, path)
    assert done.returncode == 1
    assert done.stderr == f"error: {path}: cannot be written: File too large\n"
    assert [file.read_text() for file in tmp_path.iterdir()] == ['"old"\n']

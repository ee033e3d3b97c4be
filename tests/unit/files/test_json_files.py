"""JSON and JSON Lines: what is read, what a user is told about a wrong file, and that files are written whole."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from llava.errors import CheckpointError, DataError, InvalidRequest
from llava.files.json_files import read_json, read_json_object, read_jsonl, whole_file, write_json, write_jsonl

BOM = b"\xef\xbb\xbf"


def write(folder: Path, content: bytes) -> Path:
    path = folder / "answers.jsonl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}\n{"a": 2}\n',
        b'{"a": 1}\r\n{"a": 2}\r\n',
        b'{"a": 1}\n{"a": 2}',
        BOM + b'{"a": 1}\n{"a": 2}\n',
        b'{"a": 1}\n\n  \n{"a": 2}\n\n',
    ],
    ids=["unix", "windows", "no last line end", "byte order mark", "empty lines"],
)
def test_json_lines_of_any_system_are_read(tmp_path, content):
    assert [line.record for line in read_jsonl(write(tmp_path, content))] == [{"a": 1}, {"a": 2}]


def test_empty_lines_count_as_lines(tmp_path):
    assert [line.number for line in read_jsonl(write(tmp_path, b"{}\n\n{}\n"))] == [1, 3]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_characters_that_only_look_like_line_ends_stay_in_their_line(tmp_path, character):
    path = write(tmp_path, json.dumps({"text": f"a{character}b"}, ensure_ascii=False).encode() + b"\n")
    assert [line.record["text"] for line in read_jsonl(path)] == [f"a{character}b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n{"a": "half of it', "line 2: not JSON at column 7: .*The file ends there.*interrupted"),
        (b'{"a": 1}\n{"a": 2, ', "line 2: .*The file ends there"),
        (b'{"a": 1\n{"a": 2}\n', "line 1: not JSON at column 8: .*one complete object on each line"),
        (b'{"a": 1}{"a": 2}\n', "line 1: not JSON at column 9: Extra data.*one complete object on each line"),
        (b'{"a": 1}\n[1, 2]\n', "line 2: expected a JSON object, found a list"),
        (b'{"a": 1}\n3\n', "line 2: expected a JSON object, found a number"),
        (b'\n{"a": "\xe9"}\n', "not UTF-8 text at byte 8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 text at byte 0"),
    ],
)
def test_a_line_that_is_wrong_is_named_with_what_to_do(tmp_path, content, said):
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=said) as caught:
        read_jsonl(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"a": 1}, {"a"', "line 1, column 16: .*The file ends there: it was cut off"),
        (b'{"a": "half of it', "line 1, column 7: .*The file ends there: it was cut off"),
        (b"", "The file is empty"),
        (b' \n{"a" 1}', "line 2, column 6: .*Correct the error"),
        (b'{"a": 1}\n{"a": 2}\n', "line 2, column 1: Extra data. .*not JSON Lines"),
    ],
)
def test_a_json_file_that_is_wrong_is_named_with_the_place_and_what_to_do(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        read_json(write(tmp_path, content))


def test_a_json_file_may_begin_with_a_byte_order_mark(tmp_path):
    assert read_json(write(tmp_path, BOM + b'{"a": 1}\r\n')) == {"a": 1}


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_a_missing_file_and_a_folder_end_with_the_callers_remedy(tmp_path, read):
    with pytest.raises(DataError, match=r"none\.json: no such file\. Make it first\."):
        read(tmp_path / "none.json", remedy="Make it first.")
    with pytest.raises(DataError, match=r"is a folder, not a file\. Make it first\."):
        read(tmp_path, remedy="Make it first.")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xe9", None])
def test_a_caller_chooses_the_type_of_the_error(tmp_path, content):
    path = tmp_path / "none.json" if content is None else write(tmp_path, content)
    with pytest.raises(CheckpointError, match=str(path)):
        read_json_object(path, error=CheckpointError)


def test_what_is_written_is_read_back_whatever_characters_a_model_wrote(tmp_path):
    records = [{"text": "naïve \u2028 \U0001f600 \ud83d alone"}, {"text": "a\r\nb"}]
    write_jsonl(tmp_path / "a" / "b" / "lines.jsonl", records)
    assert [line.record for line in read_jsonl(tmp_path / "a" / "b" / "lines.jsonl")] == records
    write_json(tmp_path / "c" / "value.json", records)
    assert read_json(tmp_path / "c" / "value.json") == records


def test_a_file_without_folder_part_is_written_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json("value.json", 1)
    assert (tmp_path / "value.json").read_text() == "1\n"


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "lines.jsonl"
    write_jsonl(path, [{"a": 1}])

    def broken():
        yield {"a": 2}
        raise ValueError("the model failed")

    with pytest.raises(ValueError, match="the model failed"):
        write_jsonl(path, broken())
    assert path.read_text() == '{"a": 1}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["lines.jsonl"]


def test_an_output_that_is_a_folder_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="is a folder"):
        write_json(tmp_path, 1)


def test_an_error_about_another_file_is_not_laid_at_the_door_of_the_one_that_is_written(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "value.json"):
        (tmp_path / "input.json").read_text()
    assert caught.value.filename == str(tmp_path / "input.json")


def test_files_are_written_with_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain.json").touch()
    write_json(tmp_path / "value.json", 1)
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain.json", "value.json")]
    assert rights[0] == rights[1]

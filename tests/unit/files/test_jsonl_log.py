"""A JSON Lines file that grows: whatever happens to the process, it holds whole records."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.errors import DataError, InvalidRequest
from llava.files.json_files import read_jsonl, write_jsonl
from llava.files.jsonl_log import JsonlLog

WHOLE = b'{"id": 1}\n{"id": 2}\n'


def ids(path) -> list[int]:
    return [line.record["id"] for line in read_jsonl(path)]


def test_records_are_there_at_once_and_after_those_of_an_earlier_run(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    for first in (1, 3):
        with JsonlLog(path) as log:
            log.append({"id": first})
            assert ids(path)[-1] == first
            log.append({"id": first + 1})
    assert ids(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("rest", [b'{"id": 3, "te', '{"id": 3, "text": "ü'.encode()[:-1], b"{", b'{"id": 3}garbage'])
def test_a_record_that_was_cut_off_is_removed_and_it_is_said(rest, tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    path.write_bytes(WHOLE + rest)
    with JsonlLog(path) as log:
        log.append({"id": 4})
    assert ids(path) == [1, 2, 4]
    assert "the last record was cut off; it is removed" in capsys.readouterr().err


def test_a_whole_record_without_its_line_end_is_kept(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    path.write_bytes(WHOLE.rstrip())
    with JsonlLog(path) as log:
        log.append({"id": 3})
    assert ids(path) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_one_process_at_a_time_and_a_folder_is_no_file(tmp_path):
    with JsonlLog(tmp_path / "log.jsonl"), pytest.raises(DataError, match="another run is writing this file"):
        JsonlLog(tmp_path / "log.jsonl")
    with pytest.raises(InvalidRequest, match="is a folder"):
        JsonlLog(tmp_path)


def test_processes_of_one_run_share_a_file_and_the_last_one_is_told_so(tmp_path):
    path = tmp_path / "log.jsonl"
    with JsonlLog(path, shared=True) as one, JsonlLog(path, shared=True) as other:
        one.append({"id": 1})
        other.append({"id": 2})
        with pytest.raises(DataError, match="another run is writing this file"):
            JsonlLog(path)
        assert not one.take_over()
        other.append({"id": 3})
        assert other.take_over()
    assert ids(path) == [1, 2, 3]


def test_a_file_that_was_replaced_while_it_was_opened_is_opened_anew(tmp_path, monkeypatch):
    """As by a run that puts its records in order and ends just then: what is added goes into the new file."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"id": 2}\n{"id": 1}\n')
    real = Path.open

    def open_and_lose(self, *args, **kwargs):
        file = real(self, *args, **kwargs)
        monkeypatch.undo()
        write_jsonl(path, [{"id": 1}, {"id": 2}])
        return file

    monkeypatch.setattr(Path, "open", open_and_lose)
    with JsonlLog(path) as log:
        log.append({"id": 3})
    assert ids(path) == [1, 2, 3]

"""Training files: what is read, and what a user is told about a file that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.errors import DataError
from llava.train.data.records import RecordTurn, check_first_images, load_records

HUMAN = {"from": "human", "value": "What is it?"}
WITH_IMAGE = {"from": "human", "value": "<image>\nWhat is it?"}
GPT = {"from": "gpt", "value": "A cat."}


def write(folder: Path, content: object) -> Path:
    path = folder / "train.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_records_with_and_without_images_are_read_in_order(tmp_path):
    path = write(
        tmp_path,
        [
            {"id": "a", "image": "a.png", "conversations": [WITH_IMAGE, GPT]},
            {"id": 2, "conversations": [HUMAN, GPT]},
            {"image": ["b.png", "c.png"], "conversations": [{"from": "human", "value": "<image> or <image>?"}, GPT]},
        ],
    )
    first, second, third = load_records(path)
    assert first.images == ("a.png",)
    assert second.images == ()
    assert second.turns == (RecordTurn("human", "What is it?"), RecordTurn("gpt", "A cat."))
    assert third.images == ("b.png", "c.png")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("text", "expected an object with 'conversations', found a JSON string"),
        ({"id": 1}, "'conversations' is missing or empty"),
        ({"id": 1, "conversations": []}, "'conversations' is missing or empty"),
        ({"id": 1, "conversations": [{"from": "human"}]}, "turn 0 must be an object"),
        ({"id": 1, "conversations": [HUMAN, {"from": "gpt", "value": 3}]}, "turn 1 must be an object"),
        ({"id": 1, "conversations": [{"from": "user", "value": "hi"}]}, "'from': 'user', expected 'human' or 'gpt'"),
        ({"id": 1, "conversations": [HUMAN]}, "no answer to learn"),
        ({"id": 1, "conversations": [WITH_IMAGE, GPT]}, "1 <image> but the record has no 'image'"),
        ({"id": 1, "image": "a.png", "conversations": [HUMAN, GPT]}, "1 images but 0 <image>"),
        ({"id": 1, "image": ["a", "b"], "conversations": [WITH_IMAGE, GPT]}, "2 images but 1 <image>"),
        ({"id": 1, "image": 5, "conversations": [WITH_IMAGE, GPT]}, "'image' must be a path"),
        (
            {"id": 1, "image": "a", "conversations": [HUMAN, {"from": "gpt", "value": "see <image>"}]},
            "turn 1 from 'gpt' contains <image>",
        ),
    ],
)
def test_a_malformed_record_is_named_with_file_index_id_and_reason(tmp_path, record, said):
    path = write(tmp_path, [{"conversations": [HUMAN, GPT]}, record])
    with pytest.raises(DataError) as caught:
        load_records(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: record 1")
    assert said in message
    if isinstance(record, dict):
        assert "id 1" in message


def test_the_number_of_other_malformed_records_is_told(tmp_path):
    path = write(tmp_path, [{"conversations": []}] * 3 + [{"conversations": [HUMAN, GPT]}])
    with pytest.raises(DataError, match="2 more of 4 records are malformed"):
        load_records(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}', "expected a list of records, found a JSON object"),
        ("[]", "the list of records is empty"),
        ('{"id": 1}\n{"id": 2}\n', "not JSON at line 2"),
        ("[{]", "not JSON at line 1, column 3"),
    ],
)
def test_a_file_of_another_form_says_what_it_holds(tmp_path, content, said):
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=r"train\.json") as caught:
        load_records(path)
    assert said in str(caught.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_records(tmp_path / "none.json")
    with pytest.raises(DataError, match="is a folder"):
        load_records(tmp_path)


def test_a_file_in_another_encoding_says_so(tmp_path):
    path = tmp_path / "train.json"
    path.write_bytes('[{"id": "é"}]'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_records(path)


def test_a_missing_image_is_found_before_training_starts(tmp_path):
    path = write(tmp_path, [{"id": "a", "image": "none.png", "conversations": [WITH_IMAGE, GPT]}])
    with pytest.raises(DataError, match=r"record 0 \(id 'a'\): image .*none\.png does not exist"):
        check_first_images(load_records(path), tmp_path)

"""Training files: what is read, and what a user is told about a file that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.errors import DataError
from llava.train.data.records import RecordTurn, load_records, scan_records

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
        ({"id": 1, "conversations": [{"from": "human"}]}, "turn 0 (counting from 0) must be an object"),
        (
            {"id": 1, "conversations": [HUMAN, {"from": "gpt", "value": 3}]},
            "turn 1 (counting from 0) must be an object",
        ),
        ({"id": 1, "conversations": [{"from": "user", "value": "hi"}]}, "no answer to learn"),
        ({"id": 1, "conversations": [{"from": "bot", "value": "hi"}]}, "'from': 'bot', expected 'human' or 'gpt'"),
        ({"id": 1, "conversations": [{"from": None, "value": "hi"}]}, "'from': None"),
        (
            {"id": 1, "conversations": [HUMAN, {"from": "system", "value": "hi"}, GPT]},
            "turn 1 (counting from 0) is from",
        ),
        ({"id": 1, "messages": [HUMAN, GPT]}, "The record has 'messages'"),
        ({"id": 1, "images": ["a.png"], "conversations": [HUMAN, GPT]}, "'images' is not read. Rename it to 'image'"),
        ({"id": 1, "image_path": "a.png", "conversations": [HUMAN, GPT]}, "'image_path' is not read"),
        ({"id": 1, "img": "a.png", "conversations": [HUMAN, GPT]}, "'img' is not read"),
        ({"id": 1, "Image": "a.png", "conversations": [HUMAN, GPT]}, "'Image' is not read"),
        ({"id": 1, "video": "a.mp4", "conversations": [HUMAN, GPT]}, "Videos and sounds are not supported"),
        (
            {"id": 1, "image": "a.png", "videos": ["a.mp4"], "conversations": [WITH_IMAGE, GPT]},
            "'videos' is not read",
        ),
        ({"id": 1, "image": "/a.png", "conversations": [WITH_IMAGE, GPT]}, "lies outside the image folder"),
        ({"id": 1, "image": "../a.png", "conversations": [WITH_IMAGE, GPT]}, "lies outside the image folder"),
        ({"id": 1, "image": "b/../../a.png", "conversations": [WITH_IMAGE, GPT]}, "lies outside the image folder"),
        ({"id": 1, "image": "..\\a.png", "conversations": [WITH_IMAGE, GPT]}, "lies outside the image folder"),
        ({"id": 1, "image": "C:\\a.png", "conversations": [WITH_IMAGE, GPT]}, "lies outside the image folder"),
        ({"id": 1, "image": "https://x.org/a.png", "conversations": [WITH_IMAGE, GPT]}, "is a URL"),
        ({"id": 1, "image": "a\0.png", "conversations": [WITH_IMAGE, GPT]}, "NUL"),
        ({"id": 1, "image": "a\ud83d.png", "conversations": [WITH_IMAGE, GPT]}, "'image': character 1"),
        (
            {"id": 1, "conversations": [HUMAN, {"from": "gpt", "value": "a\ud83d"}]},
            "turn 1 (counting from 0): character 1",
        ),
        (
            {"id": 1, "image": "a", "conversations": [{"from": "system", "value": "<image>"}, WITH_IMAGE, GPT]},
            "the system turn contains <image>",
        ),
        (
            {
                "id": 1,
                "image": "a",
                "conversations": [{"from": "system", "value": "s"}, WITH_IMAGE, {"from": "gpt", "value": "<image>"}],
            },
            "turn 2 (counting from 0) from 'gpt'",
        ),
        ({"id": 1, "conversations": [HUMAN]}, "no answer to learn"),
        ({"id": 1, "conversations": [WITH_IMAGE, GPT]}, "1 <image> but the record has no 'image'"),
        ({"id": 1, "image": "a.png", "conversations": [HUMAN, GPT]}, "1 images but 0 <image>"),
        ({"id": 1, "image": ["a", "b"], "conversations": [WITH_IMAGE, GPT]}, "2 images but 1 <image>"),
        ({"id": 1, "image": 5, "conversations": [WITH_IMAGE, GPT]}, "'image' must be a path"),
        (
            {"id": 1, "image": "a", "conversations": [HUMAN, {"from": "gpt", "value": "see <image>"}]},
            "turn 1 (counting from 0) from 'gpt' contains <image>",
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
        ('{"id": 1}\n{"id": 2}\n', "line 1 (id 1): 'conversations' is missing"),
        ('[{"id": 1}]\n[{"id": 2}]\n', "not JSON at line 2"),
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


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_json_lines_are_read_under_any_name_and_errors_name_the_line(tmp_path, name):
    path = tmp_path / name
    good = json.dumps({"id": "a", "conversations": [HUMAN, GPT]}, ensure_ascii=False)
    path.write_text(f"{good}\n\n{good}\n")
    assert [record.name for record in load_records(path)] == [f"{path}: line 1 (id 'a')", f"{path}: line 3 (id 'a')"]
    path.write_text(f"{good}\n{{\n[1]\n")
    found = [str(item) for item in scan_records(path) if isinstance(item, DataError)]
    assert found[0].startswith(f"{path}: line 2: not JSON at column 1")
    assert found[1].startswith(f"{path}: line 3: expected an object")


def test_roles_of_chat_apis_and_a_system_turn_are_read(tmp_path):
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "user", "value": "Hi"},
        {"from": "assistant", "value": "Ho"},
    ]
    (record,) = load_records(write(tmp_path, [{"conversations": turns}]))
    assert record.system == "Be brief."
    assert record.turns == (RecordTurn("human", "Hi"), RecordTurn("gpt", "Ho"))


def test_metadata_beside_an_image_and_null_keys_do_no_harm(tmp_path):
    item = {
        "image": "a.png",
        "image_id": 3,
        "image_url": "x",
        "width": 5,
        "video": None,
        "conversations": [WITH_IMAGE, GPT],
    }
    assert load_records(write(tmp_path, [item]))[0].images == ("a.png",)


def test_paths_outside_the_image_folder_may_be_allowed(tmp_path):
    path = write(tmp_path, [{"image": "../a.png", "conversations": [WITH_IMAGE, GPT]}])
    assert load_records(path, allow_outside=True)[0].images == ("../a.png",)
    inside = write(tmp_path, [{"image": "b/../a.png", "conversations": [WITH_IMAGE, GPT]}])
    assert load_records(inside)[0].images == ("b/../a.png",)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"imagePath": "a", "conversations": [HUMAN, GPT]}, "'imagePath' is not read"),
        ({"input_image": "a", "conversations": [HUMAN, GPT]}, "'input_image' is not read"),
        ({"file": "a/b.JPG", "conversations": [HUMAN, GPT]}, "'file' is not read"),
        ({"source": ["x", "b.png"], "conversations": [HUMAN, GPT]}, "'source' is not read"),
        ({"photo": "data:image/png;base64,AA", "conversations": [HUMAN, GPT]}, "'photo' is not read"),
        ({"audio": "a.wav", "conversations": [HUMAN, GPT]}, "Videos and sounds are not supported"),
        ({"image": "a", "image2": "b", "conversations": [WITH_IMAGE, GPT]}, "'image2' is not read"),
        ({"image": "", "conversations": [HUMAN, GPT]}, "'image' is empty"),
        ({"system": "Be brief.", "conversations": [HUMAN, GPT]}, "'system' is not read"),
        ({"conversations": [HUMAN, {**GPT, "weight": 0}]}, "would be trained like any other"),
        ({"conversations": [{**HUMAN, "image": "a.png"}, GPT]}, "Move the path to the record's 'image'"),
        ({"conversations": [{"role": "user", "content": "a"}]}, "rename them to 'from' and 'value'"),
        ({"instruction": "a", "output": "b"}, "The record has 'instruction', 'output'; make each a turn"),
        ({"image": "data:image/png;base64,AA", "conversations": [WITH_IMAGE, GPT]}, "Save the image as a file"),
    ],
)
def test_what_would_be_lost_is_named(tmp_path, item, said):
    with pytest.raises(DataError) as caught:
        load_records(write(tmp_path, [item]))
    assert said in str(caught.value)


def test_a_message_shows_little_of_a_long_value_and_no_control_characters(tmp_path):
    long = {"id": "\x1b[31m" + "x" * 5000, "conversations": []}
    with pytest.raises(DataError) as caught:
        load_records(write(tmp_path, [long]))
    assert len(str(caught.value)) < 500
    assert "\x1b" not in str(caught.value)

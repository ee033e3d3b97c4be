"""A list or JSON Lines read item by item: the same values as of the whole file, and the same errors."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from llava.errors import DataError
from llava.files import json_items
from llava.files.json_items import read_items


@pytest.fixture(params=[1, 7, 1 << 20], ids=["one byte at a time", "few bytes at a time", "at once"])
def _window(request, monkeypatch):
    monkeypatch.setattr(json_items, "_BLOCK_BYTES", request.param)


pytestmark = pytest.mark.usefixtures("_window")


def random_value(rng: random.Random, depth: int = 0):
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([rng.randrange(-(10**12), 10**12), rng.random() * 1e10, -0.0, 1e-7])
    if kind < 5:
        return "".join(rng.choice('aé😀\n\t"\\[]{},:\u2028 0') for _ in range(rng.randrange(12)))
    if kind == 5:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(rng.random()): random_value(rng, depth + 1) for _ in range(rng.randrange(4))}


@pytest.mark.parametrize("seed", range(20))
def test_items_of_a_list_are_those_that_json_reads(tmp_path, seed):
    rng = random.Random(seed)
    items = [random_value(rng) for _ in range(rng.randrange(6))]
    text = json.dumps(items, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2]))
    file = tmp_path / "list.json"
    file.write_bytes(rng.choice([b"", b"\xef\xbb\xbf", b" \r\n"]) + text.encode() + rng.choice([b"", b"\n \n"]))
    read = list(read_items(file))
    assert [item.value for item in read] == items
    assert [item.place for item in read] == [f"record {number}" for number in range(len(items))]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[1, 2", "line 1, column 6"),
        ("[1,\n 2,\n]", "line 3, column 1"),
        ("[1 2]", "line 1, column 4"),
        ("[1]\n[2]\n", "line 2, column 1"),
        ("[tru]", "line 1, column 2"),
        ('[1,\n "abc\n"]', "line 2, column 6"),
        ('["\\x"]', "line 1, column 3"),
    ],
)
def test_an_error_has_the_place_that_json_names(tmp_path, text, place):
    file = tmp_path / "list.json"
    file.write_text(text)
    with pytest.raises(json.JSONDecodeError) as theirs:
        json.loads(text)
    with pytest.raises(DataError) as ours:
        list(read_items(file))
    assert f"not JSON at {place}" in str(ours.value)
    assert place == f"line {theirs.value.lineno}, column {theirs.value.colno}"


def test_lines_have_their_values_or_their_problems(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_bytes('{"a": "\u2028"}\n\n{\n'.encode() + b'"\xff"\n' + b'{"b": 1}')
    read = list(read_items(file))
    assert [item.place for item in read] == ["line 1", "line 3", "line 4", "line 5"]
    assert [item.value for item in read] == [{"a": "\u2028"}, None, None, {"b": 1}]
    assert "not JSON at column" in str(read[1].problem)
    assert "not UTF-8" in str(read[2].problem)


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", b'{"a": 1}\n{"a": 2}'), ("a.ndjson", b"[1]\n[2]"), ("a.jsonl", b"")]
)
def test_content_decides_what_a_file_is_and_its_name_in_doubt(tmp_path: Path, name, content):
    (tmp_path / name).write_bytes(content)
    if content.startswith(b"["):
        with pytest.raises(DataError, match="not JSON at line 2"):
            list(read_items(tmp_path / name))
    else:
        assert all(item.problem is None for item in read_items(tmp_path / name))


@pytest.mark.parametrize("content", [b'[1, "\xff"]', b'["\xc3'])
def test_a_file_that_is_not_utf8_says_where(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match="not UTF-8 text at byte"):
        list(read_items(tmp_path / "a.json"))


@pytest.mark.parametrize("content", [b"[" + b"[" * 100_000, b"[1, " + b"9" * 5000 + b"]"])
def test_json_that_python_cannot_hold_is_said(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read: (it is nested too deeply|a number has too many digits)"):
        list(read_items(tmp_path / "a.json"))

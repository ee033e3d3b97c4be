"""What a user is told about records before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.errors import DataError
from llava.train.data.layouts import training_template
from llava.train.data.record_checks import check_records, findings_of, judge_missing, missing_images
from llava.train.data.records import Record, RecordTurn

FILE = {"file": "t.json", "version": "v1"}


def record(*turns: tuple[str, str], images: tuple[str, ...] = (), system: str | None = None, name: str = "r") -> Record:
    return Record(name, tuple(RecordTurn(role, text) for role, text in turns), images, system)


PLAIN = [("human", "What is it?"), ("gpt", "A cat.")]
TWICE = [("human", "a"), ("human", "b"), ("gpt", "c")]


@pytest.mark.parametrize(
    ("turns", "version", "kinds"),
    [
        (PLAIN, "v0", []),
        (PLAIN, "v1", []),
        ([("human", "a"), ("gpt", " \n")], "v1", ["no answer to learn"]),
        ([("human", "a"), ("gpt", "\u200b\u2060 ")], "v1", ["no answer to learn"]),
        ([("human", "a"), ("gpt", "😀")], "v1", []),
        ([*PLAIN, ("human", "b"), ("gpt", "")], "v1", ["blank answers"]),
        (TWICE, "v0", ["two turns in a row from the same role"]),
        (TWICE, "v1", ["turns that the template cannot hold"]),
        ([("gpt", "Hello."), *PLAIN], "v1", ["an answer comes first"]),
        ([*PLAIN, ("human", "And?")], "v1", ["a question comes last"]),
        ([("human", "a"), ("gpt", "b\x07")], "v1", ["control characters"]),
        ([("human", "a"), ("gpt", "b\x00")], "v0", ["control characters"]),
        ([("human", "a"), ("gpt", "The end</s>")], "v1", ["control tokens in the text"]),
        ([("human", "<im_patch>"), ("gpt", "b")], "v0", ["control tokens in the text"]),
        ([("human", "a"), ("gpt", "b\n### Human: c")], "v0", ["signals of the template in an answer"]),
        ([("human", "a"), ("gpt", "b\n### Human: c")], "v1", []),
        ([("human", "a"), ("gpt", "b USER: c")], "v1", ["signals of the template in an answer"]),
        ([("human", "a"), ("gpt", "[INST] b")], "llava_llama_2", ["signals of the template in an answer"]),
    ],
)
def test_what_is_worth_knowing_is_found(turns, version, kinds):
    assert [finding.kind for finding in findings_of(record(*turns), training_template(version))] == kinds


def test_turns_are_numbered_as_in_the_file():
    found = list(findings_of(record(*TWICE, system="s"), training_template("v1")))
    assert "turn 2 (counting from 0) is from 'human', expected 'gpt'" in found[0].text
    greeted = record(("gpt", "Hello."), *TWICE)
    assert "turn 2 (counting from 0)" in next(iter(findings_of(greeted, training_template("v1")))).text


def test_records_that_do_not_fit_stop_a_run_and_the_rest_is_counted():
    template = training_template("v1")
    with pytest.raises(DataError, match=r"^x: turn 1 .* 1 more records do not fit either"):
        check_records([record(*PLAIN), record(*TWICE, name="x"), record(*TWICE)], template, **FILE)
    lines = check_records([record(("human", "a"), ("gpt", "</s>"), name=str(i)) for i in range(3)], template, **FILE)
    assert lines == ["data: 3 records with control tokens in the text; the first is 0"]


def test_every_image_is_looked_for_also_after_the_first_hundred(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "there.png").touch()
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    records = [record(*PLAIN, images=("deep/there.png", "link/there.png"), name=str(i)) for i in range(150)]
    assert missing_images(records, tmp_path) == []
    records.append(record(*PLAIN, images=("deep/none.png", "nowhere/x.png", "deep"), name="last"))
    missing = missing_images(records, tmp_path)
    assert [finding.name for finding in missing] == ["last"] * 3
    with pytest.raises(DataError, match=r"^last: image .*deep/none\.png does not exist\. Check --image_folder"):
        judge_missing(missing, file="t.json", folder=tmp_path, policy="stop")


def test_missing_images_are_judged_by_the_policy(tmp_path: Path):
    records = [record(*PLAIN, images=(f"{i}.png",), name=f"r{i}") for i in range(3)]
    missing = missing_images(records, tmp_path)
    judged = {"file": "t.json", "folder": tmp_path}
    with pytest.raises(DataError, match=r"^r0: .* 2 more records lack an image; list them: llava data check t\.json"):
        judge_missing(missing, policy="stop", **judged)
    assert judge_missing([], policy="stop", **judged) == []
    (line,) = judge_missing(missing, policy="skip", **judged)
    assert line.startswith("data: 3 records lack an image and will be skipped; the first is r0")
    with pytest.raises(DataError, match="more than --max_bad_samples 2"):
        judge_missing(missing, policy="skip", maximum=2, **judged)


def test_links_to_nothing_folders_and_endless_links_are_not_images(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names = ("folder", "gone.png", "loop.png", "x" * 300, "a\\b.png")
    missing = missing_images([record(*PLAIN, images=names)], tmp_path)
    assert [item.image for item in missing] == list(names)
    assert "is not a file" in missing[0].reason
    assert "write / between folders" in missing[-1].reason

"""`llava data check` on files that are wrong in every way that users' files are."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava.command_line import run
from llava.train import check_data
from tests.support.training import DATA, write_records

LAND = (DATA / "images" / "land.png").read_bytes()
ASKED = {"from": "human", "value": "<image>\nWhat is it?"}
TEXT = {"from": "human", "value": "Hello?"}
GPT = {"from": "gpt", "value": "A cat."}


def says(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


def asks(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def pictured(image: Any, *turns: dict[str, str]) -> dict[str, Any]:
    return {"image": image, "conversations": list(turns or (ASKED, GPT))}


def talk(*turns: Any) -> dict[str, Any]:
    return {"conversations": list(turns)}


FINE: tuple[str | None, str | None] = (None, None)
MALFORMED = ("malformed records", "malformed records")
MISSING = ("missing images", "missing images")
BROKEN = ("images that cannot be read", "images that cannot be read")
SHAPE = ("images of an extreme shape", "images of an extreme shape")
SPELT = ("control tokens in the text", "control tokens in the text")
CONTROL = ("control characters", "control characters")
NO_ANSWER = ("no answer to learn", "no answer to learn")
IN_A_ROW = ("two turns in a row from the same role", "turns that the template cannot hold")

RECORDS: dict[str, tuple[Any, tuple[str | None, str | None]]] = {
    # what is fine
    "good": (pictured("good.png"), FINE),
    "text only": (talk(TEXT, GPT), FINE),
    "system turn": (talk({"from": "system", "value": "Be brief."}, TEXT, GPT), FINE),
    "roles of chat APIs": (talk({"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}), FINE),
    "palette and transparency": (pictured("alpha.png"), FINE),
    "animation": (pictured("moving.gif"), FINE),
    # what is malformed
    "not an object": ("text", MALFORMED),
    "no conversations": ({"id": 1}, MALFORMED),
    "empty conversations": (talk(), MALFORMED),
    "messages of a chat API": ({"messages": [{"role": "user", "content": "a"}]}, MALFORMED),
    "unknown role": (talk({"from": "bot", "value": "a"}, GPT), MALFORMED),
    "number for text": (talk(TEXT, {"from": "gpt", "value": 3}), MALFORMED),
    "no answer at all": (talk(TEXT), MALFORMED),
    "late system turn": (talk(TEXT, {"from": "system", "value": "a"}, GPT), MALFORMED),
    "marker without image": (talk(ASKED, GPT), MALFORMED),
    "image without marker": (pictured("good.png", TEXT, GPT), MALFORMED),
    "two markers, one image": (pictured("good.png", asks("<image><image>"), GPT), MALFORMED),
    "marker in an answer": (pictured("good.png", TEXT, says("<image>")), MALFORMED),
    "images for image": ({"images": ["good.png"], "conversations": [TEXT, GPT]}, MALFORMED),
    "video": ({"video": "a.mp4", "conversations": [TEXT, GPT]}, MALFORMED),
    "image_path": ({"image_path": "good.png", "conversations": [TEXT, GPT]}, MALFORMED),
    "half of an emoji": (talk(TEXT, says("a\ud83d")), MALFORMED),
    "half of an emoji in a question": (talk(asks("\ude00"), GPT), MALFORMED),
    "outside": (pictured("../good.png"), MALFORMED),
    "absolute": (pictured("/etc/good.png"), MALFORMED),
    "URL": (pictured("http://example.org/good.png"), MALFORMED),
    # what is missing or broken
    "missing": (pictured("none.png"), MISSING),
    "a folder for an image": (pictured("folder"), MISSING),
    "truncated": (pictured("cut.png"), BROKEN),
    "empty file": (pictured("empty.png"), BROKEN),
    "HTML": (pictured("page.jpg"), BROKEN),
    # what teaches something else than was meant
    "one pixel": (pictured("dot.png"), SHAPE),
    "a line": (pictured("line.png"), SHAPE),
    "end of text in an answer": (talk(TEXT, says("Write </s> last.")), SPELT),
    "image token in a question": (talk(asks("What does <im_patch> mean?"), GPT), SPELT),
    "signal of v0 in an answer": (
        talk(TEXT, says("Yes.\n### Human: And?")),
        ("signals of the template in an answer", None),
    ),
    "signal of v1 in an answer": (talk(TEXT, says("Yes. USER: And?")), (None, "signals of the template in an answer")),
    "empty answer": (talk(TEXT, says("")), NO_ANSWER),
    "blank answer": (talk(TEXT, says(" \n\t")), NO_ANSWER),
    "NUL": (talk(TEXT, says("a\0b")), CONTROL),
    "escape": (talk(TEXT, says("a\x1bb")), CONTROL),
    "two questions in a row": (talk(TEXT, TEXT, GPT), IN_A_ROW),
    "answer first": (talk(GPT, TEXT, GPT), ("an answer comes first", "an answer comes first")),
    "question last": (talk(TEXT, GPT, TEXT), ("a question comes last", "a question comes last")),
}
"""Name -> record, and what is found with --version v0 and v1; None for nothing."""

ERRORS = {MALFORMED[0], MISSING[0], BROKEN[0], IN_A_ROW[1]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    images = folder / "images"
    (images / "folder").mkdir(parents=True)
    (images / "good.png").write_bytes(LAND)
    (images / "cut.png").write_bytes(LAND[:2000])
    (images / "empty.png").touch()
    (images / "page.jpg").write_text("<!DOCTYPE html><html></html>")
    Image.new("RGB", (1, 1)).save(images / "dot.png")
    Image.new("RGB", (900, 3)).save(images / "line.png")
    Image.new("LA", (30, 20), (90, 40)).save(images / "alpha.png")
    frames = [Image.new("P", (20, 20), colour) for colour in (1, 2)]
    frames[0].save(images / "moving.gif", save_all=True, append_images=frames[1:])
    return folder


def named(record: Any, name: str) -> Any:
    return {"id": name, **record} if isinstance(record, dict) else record


@pytest.fixture(scope="module", params=["json", "jsonl"])
def file(folder: Path, request) -> Path:
    records = [named(record, name) for name, (record, _) in RECORDS.items()]
    file = folder / f"train.{request.param}"
    if request.param == "json":
        file.write_text(json.dumps(records))
    else:
        file.write_text("\n".join(map(json.dumps, records)))
    return file


def check(*words: object) -> int:
    return run(check_data.add_arguments, check_data.main, description="", argv=[str(word) for word in words])


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_each_record_is_found_for_what_it_is(file, folder, version, tmp_path, capsys):
    report = tmp_path / "report.json"
    words = ("--image-folder", folder / "images", "--images", "--version", version, "--output", report, "--all")
    assert check(file, *words) == 1
    found: dict[int, set[str]] = {}
    for finding in json.loads(report.read_text())["findings"]:
        place = finding["record"].removeprefix(f"{file}: ").split(" (id ")[0]
        word, number = place.split()
        found.setdefault(int(number) - (word == "line"), set()).add(finding["kind"])
        assert finding["error"] == (finding["kind"] in ERRORS)
        assert finding["text"]
    for number, (name, (_, expected)) in enumerate(RECORDS.items()):
        kind = expected[version == "v1"]
        assert found.get(number, set()) == ({kind} if kind else set()), name
    printed = capsys.readouterr().out
    assert f"{len(RECORDS)} records" in printed
    assert "page.jpg" in printed


def test_a_good_file_has_no_findings_and_warnings_alone_are_no_failure(tmp_path, capsys):
    good = write_records(tmp_path / "good.json")
    assert check(good, "--image-folder", DATA / "images", "--images", "--version", "v1") == 0
    assert "no findings" in capsys.readouterr().out
    warned = tmp_path / "warned.json"
    warned.write_text(json.dumps([talk(TEXT, says("</s>"))]))
    assert check(warned) == 0
    assert "0 errors, 1 warning" in capsys.readouterr().out


def lengths(file: Path, *more: object) -> tuple[object, ...]:
    model = ("--model", DATA / "llama-vicuna-tiny", "--vision-tower", DATA / "clip-tiny")
    return (file, "--image-folder", DATA / "images", *model, *more)


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_lengths_are_those_of_training_and_name_what_would_be_cut(tmp_path, capsys, version):
    """Oracle: the dataset of a training run."""
    from llava.train import train
    from tests.support.training import flags

    file = write_records(tmp_path / "train.json")
    report, plot = tmp_path / "report.json", tmp_path / "plots" / "lengths.png"
    limit = ("--model-max-length", 320, "--version", version)
    assert check(*lengths(file, *limit, "--output", report, "--plot", plot, "--mm-use-im-start-end")) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    more = ("--model_max_length", "320", "--version", version, "--mm_use_im_start_end", "True")
    dataset = train.make_trainer(*train.parse(flags(file, tmp_path / "out", *more))).train_dataset
    cut = {dataset[index].name for index in range(len(dataset)) if dataset[index].encoded.truncated}
    found = json.loads(report.read_text())
    assert {item["record"] for item in found["findings"] if item["kind"] == "truncated records"} == cut
    assert found["lengths"]["truncated"] == len(cut) > 0
    dataset.max_length = 4096
    sizes = [
        len(dataset.encode(index, [256] * len(record.images)).input_ids) for index, record in enumerate(dataset.records)
    ]
    if version == "v1":  # one marker stands for the 256 positions
        sizes = [size + 255 * len(record.images) for size, record in zip(sizes, dataset.records, strict=True)]
    assert found["lengths"]["longest"] == max(sizes)
    assert "#####" in capsys.readouterr().out


def test_a_sample_is_shown_with_what_is_trained(tmp_path, capsys):
    file = write_records(tmp_path / "train.json")
    assert check(*lengths(file, "--sample", 3, "--version", "v1")) == 0
    printed = capsys.readouterr().out
    assert "USER: Give a tip. ASSISTANT:[[ A thing. Number 3.</s>]]" in printed
    assert check(*lengths(file, "--sample", 12)) == 1
    assert "records 0 to 11" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["none.json"], 1, "no such file"),
        (["--image-folder", "nowhere"], 1, "--image-folder nowhere: there is no such folder"),
        (["--model", "nowhere"], 1, "nowhere"),
        (["--plot", "x.png"], 2, "--plot and --sample need --model"),
        (["--version", "v9"], 2, "there is no such template"),
        (["--model-max-length", "0"], 2, "must be a whole number of at least 1"),
        (["--sample", "-1"], 2, "must be a whole number of at least 0"),
    ],
)
def test_what_cannot_be_checked_is_said_in_one_line(tmp_path, capsys, words, code, said):
    file = [] if words == ["none.json"] else [write_records(tmp_path / "train.json")]
    with pytest.raises(SystemExit) as ended:
        sys.exit(check(*file, *words))
    assert ended.value.code == code
    assert said in capsys.readouterr().err


def test_a_record_that_cannot_be_measured_is_an_error_and_named_once(tmp_path, capsys):
    """An image too thin for the tower, and one that is a web page; two human turns are reported as that alone."""
    file = write_records(tmp_path / "train.json", 4)
    records = json.loads(file.read_text())
    images = tmp_path / "images"
    shutil.copytree(DATA / "images", images)
    Image.new("RGB", (4000, 3)).save(images / "thin.png")
    (images / "page.png").write_text("<html>404</html>")
    records[0]["image"], records[1]["image"] = "thin.png", "page.png"
    records[3]["conversations"].insert(0, {"from": "human", "value": "Hi"})
    file.write_text(json.dumps(records))
    more = ("--version", "v1", "--image-aspect-ratio", "keep", "--image-folder", str(images))
    assert check(*lengths(file, *more)) == 1
    printed = capsys.readouterr().out
    assert "error: records that cannot be measured: 2" in printed
    for name in ("thin.png", "page.png"):
        assert printed.count(f"cannot read image {images / name}: ") == 1
    assert "3 errors" in printed

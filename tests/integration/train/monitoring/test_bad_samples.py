"""Real broken images in real runs: what is skipped and listed, and that the rest trains as without them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from llava.errors import DataError
from llava.train import train
from tests.support.training import DATA, FSDP, STAGE_1, flags, history, result, run_in_processes

BROKEN = {
    "empty.png": b"",
    "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
    "cut.png": (DATA / "images" / "land.png").read_bytes()[:2000],
}


@pytest.fixture
def training_file(tmp_path: Path) -> Path:
    """Twelve records with an image; three are broken in different ways."""
    images = tmp_path / "images"
    shutil.copytree(DATA / "images", images)
    for name, content in BROKEN.items():
        (images / name).write_bytes(content)
    names = ["land.png", "empty.png", "square.png", "page.jpg", "port.png", "cut.png", *["land.png", "square.png"] * 3]
    records = [
        {
            "id": f"p{number}",
            "image": name,
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is this?"},
                {"from": "gpt", "value": f"Image number {number}."},
            ],
        }
        for number, name in enumerate(names)
    ]
    file = tmp_path / "train.json"
    file.write_text(json.dumps(records))
    return file


def command(file: Path, output: Path, *more: str, batch: int = 4) -> list[str]:
    words = flags(file, output, *STAGE_1, "--train_sampling_strategy", "sequential", *more, batch=batch)
    words[words.index("--image_folder") + 1] = str(file.parent / "images")
    return words


def run(*arguments: str) -> None:
    train.train(*train.parse(arguments))


def test_a_broken_image_stops_the_run_with_its_record(training_file, tmp_path):
    with pytest.raises(DataError, match=r"record 1 \(id 'p1'\): cannot read image .*empty\.png.*--on_bad_sample skip"):
        run(*command(training_file, tmp_path / "out", "--dataloader_num_workers", "1"))


def test_skipped_records_are_listed_and_the_rest_is_trained_as_without_them(training_file, tmp_path, capsys):
    """Oracle: the same steps with the bad records' answers taken out by hand."""
    twice = ("--num_train_epochs", "2", "--dataloader_num_workers", "2")
    run(*command(training_file, tmp_path / "skipped", "--on_bad_sample", "skip", *twice))
    assert "18 samples" in capsys.readouterr().out.splitlines()[-1]
    listed = [json.loads(line) for line in (tmp_path / "skipped" / "bad_samples.jsonl").read_text().splitlines()]
    assert [(line["index"], line["images"][0]) for line in listed] == [
        (1, "empty.png"),
        (3, "page.jpg"),
        (5, "cut.png"),
    ]
    records = json.loads(training_file.read_text())
    for number in (1, 3, 5):
        del records[number]["image"]
        records[number]["conversations"] = [{"from": "human", "value": "-"}, {"from": "gpt", "value": "-"}]
    by_hand = tmp_path / "by_hand.json"
    by_hand.write_text(json.dumps(records))
    trainer = train.make_trainer(
        *train.parse(command(by_hand, tmp_path / "other", "--max_useless_fraction", "1", *twice[:2]))
    )
    dataset = trainer.train_dataset
    trainer.train_dataset = _Without(dataset, {1, 3, 5})
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert history(tmp_path / "skipped", "loss") == pytest.approx(theirs, abs=1e-5)


class _Without:
    """A dataset with placeholders at chosen positions."""

    def __init__(self, dataset, positions: set[int]) -> None:
        self._dataset, self._positions = dataset, positions

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int):
        return self._dataset.placeholder() if index in self._positions else self._dataset[index]


def test_a_step_of_bad_records_alone_changes_nothing(training_file, tmp_path):
    for name in ("land.png", "square.png"):
        (training_file.parent / "images" / name).write_bytes(b"")
    run(*command(training_file, tmp_path / "out", "--on_bad_sample", "skip"))
    losses = history(tmp_path / "out", "loss")
    assert losses[0] == losses[2] == 0.0 < losses[1]  # the only good record, port.png, is in the second step
    assert all(tensor.isfinite().all() for tensor in result(tmp_path / "out").values())


def test_a_run_whose_records_are_all_bad_stops_and_doubts_the_folder(training_file, tmp_path):
    shutil.rmtree(training_file.parent / "images")
    with pytest.raises(DataError, match=r"none of the first 12 records could be used.*--image_folder"):
        run(*command(training_file, tmp_path / "out", "--on_bad_sample", "skip"))


def test_a_run_that_a_bad_record_stopped_goes_on_with_skip_and_ends_as_if_it_had_skipped_all_along(
    training_file, tmp_path, capsys
):
    order = {"image": ["land.png", "square.png", "port.png", "land.png", "cut.png", "page.jpg", "port.png", "land.png"]}
    records = json.loads(training_file.read_text())[: len(order["image"])]
    training_file.write_text(json.dumps([{**r, "image": i} for r, i in zip(records, order["image"], strict=True)]))
    saving = ("--save_strategy", "steps", "--save_steps", "1", "--num_train_epochs", "2")
    run(*command(training_file, tmp_path / "all_along", *saving, "--on_bad_sample", "skip"))
    with pytest.raises(DataError, match=r"record 4 .*cut\.png"):
        run(*command(training_file, tmp_path / "resumed", *saving))
    capsys.readouterr()
    run(*command(training_file, tmp_path / "resumed", *saving, "--on_bad_sample", "skip", "--max_bad_samples", "2"))
    said = capsys.readouterr().out
    assert "resuming from" in said
    assert f"2 bad records were skipped; see {tmp_path / 'resumed' / 'bad_samples.jsonl'}" in said
    assert history(tmp_path / "resumed", "loss") == history(tmp_path / "all_along", "loss")
    for output in (tmp_path / "all_along", tmp_path / "resumed"):
        lines = [json.loads(line) for line in (output / "bad_samples.jsonl").read_text().splitlines()]
        assert [(line["index"], line["step"]) for line in lines] == [(4, 2), (5, 2)]


def test_the_list_of_bad_records_goes_back_with_the_checkpoint(training_file, tmp_path):
    """A record that was repaired before the run went on does not stay on the list, nor count for the limit."""
    records = json.loads(training_file.read_text())
    records[1]["image"] = records[3]["image"] = "land.png"
    training_file.write_text(json.dumps(records))
    skipping = ("--save_strategy", "steps", "--save_steps", "1", "--on_bad_sample", "skip")
    run(*command(training_file, tmp_path / "out", *skipping))
    assert (tmp_path / "out" / "bad_samples.jsonl").exists()
    shutil.copy(DATA / "images" / "land.png", training_file.parent / "images" / "cut.png")
    again = ("--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-1"), "--max_bad_samples", "0")
    run(*command(training_file, tmp_path / "out", *skipping, *again))
    assert not (tmp_path / "out" / "bad_samples.jsonl").exists()


def test_an_image_too_thin_for_the_tower_is_a_bad_record(training_file, tmp_path):
    Image.new("RGB", (4000, 3)).save(training_file.parent / "images" / "empty.png")
    (training_file.parent / "images" / "page.jpg").unlink()
    thin = ("--image_aspect_ratio", "keep", "--version", "v1", "--on_bad_sample", "skip")
    run(*command(training_file, tmp_path / "out", *thin))
    lines = [json.loads(line) for line in (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()]
    assert ["0 pixels thin" in lines[0]["reason"], "no such file" in lines[1]["reason"]] == [True, True]


@pytest.mark.slow
def test_every_process_stops_at_the_same_step(training_file, tmp_path):
    """The only bad record of the second step lies in one process's batch; both processes pass the limit.

    Before that, all records are skipped in a sharded run, in which one process alone has a bad record in most steps,
    and the other one never cuts a record.
    """
    skipping = ("--on_bad_sample", "skip")
    records = json.loads(training_file.read_text())
    records[11]["conversations"][1]["value"] = "word " * 600
    training_file.write_text(json.dumps(records))
    runs = {
        "sharded": command(training_file, tmp_path / "sharded", *skipping, *FSDP, "--model_max_length", "600", batch=1),
        "limited": command(training_file, tmp_path / "out", *skipping, "--max_bad_samples", "2", batch=2),
    }
    ended = run_in_processes(tmp_path, runs, check=False)
    assert ended.returncode != 0
    assert "9 samples, 1 of them truncated, 0 without an answer to learn, 3 bad ones skipped" in ended.stdout
    assert "cut to --model_max_length, such as" in ended.stdout
    assert "record 11 (id 'p11'); `llava data check` lists all of them" in ended.stdout
    listed = [json.loads(line) for line in (tmp_path / "sharded" / "bad_samples.jsonl").read_text().splitlines()]
    assert [(line["index"], line["step"]) for line in listed] == [(1, 1), (3, 2), (5, 3)]
    assert "3 records could not be used, more than --max_bad_samples 2" in ended.stderr
    listed = [json.loads(line) for line in (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()]
    assert [(line["index"], line["step"]) for line in listed] == [(1, 1), (3, 1), (5, 2)]

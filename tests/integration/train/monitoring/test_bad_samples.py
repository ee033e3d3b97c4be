"""Real broken images in real runs: what is skipped, what is listed, and that the rest trains as if they were not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava.errors import DataError
from llava.train import train
from tests.support.training import DATA, STAGE_1, flags, history, result, run_in_processes

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
    trainer = train.make_trainer(*train.parse(command(by_hand, tmp_path / "other", *twice[:2])))
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
    for name in ("land.png", "square.png", "port.png"):
        (training_file.parent / "images" / name).write_bytes(b"")
    run(*command(training_file, tmp_path / "out", "--on_bad_sample", "skip"))
    assert history(tmp_path / "out", "loss") == [0.0] * 3
    assert all(tensor.isfinite().all() for tensor in result(tmp_path / "out").values())


@pytest.mark.slow
def test_every_process_stops_at_the_same_step(training_file, tmp_path):
    """The two bad records of the second step lie in one process's batch; the limit is passed in both."""
    limited = command(training_file, tmp_path / "out", "--on_bad_sample", "skip", "--max_bad_samples", "2", batch=2)
    ended = run_in_processes(tmp_path, {"limited": limited}, check=False)
    assert ended.returncode != 0
    assert "3 records could not be used, more than --max_bad_samples 2" in ended.stderr
    listed = [json.loads(line) for line in (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()]
    assert [(line["index"], line["step"]) for line in listed] == [(1, 1), (3, 1), (5, 2)]

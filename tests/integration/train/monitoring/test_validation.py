"""The loss on held-out records is the mean over their supervised tokens."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from llava.constants import IGNORE_INDEX
from llava.errors import DataError, InvalidRequest
from llava.train import train
from llava.train.monitoring.metrics import METRICS_FILE
from tests.support.training import DATA, STAGE_1, flags, history, result, write_records


def held_out(work, *more: str):
    training = write_records(work / "train.json", 4)
    validation = write_records(work / "held_out.json", 11)
    return (training, "--eval_data_path", str(validation), *more)


def validation_lines(output) -> list[dict]:
    lines = [json.loads(line) for line in (output / METRICS_FILE).read_text().splitlines()]
    return [line for line in lines if "eval_loss" in line]


@pytest.fixture
def by_hand(tmp_path) -> float:
    """Each record alone through the model, losses weighted by supervised tokens."""
    training, *more = held_out(tmp_path)
    trainer = train.make_trainer(*train.parse(flags(training, tmp_path / "hand", *STAGE_1, *more)))
    model, total, tokens = trainer.model.eval(), 0.0, 0
    with torch.no_grad():
        for index in range(11):
            batch = trainer.data_collator([trainer.eval_dataset[index]])
            batch.pop("report")
            count = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
            total += float(model(**batch).loss) * count
            tokens += count
    return total / tokens


@pytest.mark.parametrize("batch", ["1", "3", "8"])
def test_the_loss_does_not_depend_on_the_batch_size(tmp_path, by_hand, batch):
    training, *more = held_out(tmp_path, "--per_device_eval_batch_size", batch)
    trainer = train.make_trainer(*train.parse(flags(training, tmp_path / "out", *STAGE_1, *more)))
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(by_hand, abs=1e-5)
    assert metrics["eval_samples"] == 11
    assert trainer.model.training or batch  # evaluation leaves the mode as it was


def test_it_is_measured_every_so_many_steps_and_recorded(tmp_path):
    training, *more = held_out(tmp_path, "--eval_steps", "1")
    train.train(*train.parse(flags(training, tmp_path / "out", *STAGE_1, *more, batch=2)))
    assert [line["step"] for line in validation_lines(tmp_path / "out")] == [1, 2]


def test_a_held_out_record_that_cannot_be_read_stops_the_run_or_is_left_out_and_counted(tmp_path, by_hand):
    training, *more = held_out(tmp_path, "--per_device_eval_batch_size", "4")
    images = tmp_path / "images"
    shutil.copytree(DATA / "images", images)
    records = json.loads((tmp_path / "held_out.json").read_text())
    bad = {**records[0], "image": "cut.png", "id": "cut"}
    (tmp_path / "held_out.json").write_text(json.dumps([*records[:5], bad, *records[5:]]))
    (images / "cut.png").write_bytes((images / "land.png").read_bytes()[:2000])
    arguments = flags(training, tmp_path / "out", *STAGE_1, *more, "--image_folder", str(images))
    with pytest.raises(DataError, match=r"record 5 \(id .cut.\): cannot read image .*cut\.png.*held-out"):
        train.make_trainer(*train.parse(arguments)).evaluate()
    metrics = train.make_trainer(*train.parse([*arguments, "--on_bad_sample", "skip"])).evaluate()
    assert metrics["eval_loss"] == pytest.approx(by_hand, abs=1e-5)
    assert (metrics["eval_samples"], metrics["eval_bad_samples"]) == (11, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parallel", "sharded"])
def test_processes_share_the_records_also_when_the_model_is_sharded(two_processes, by_hand, name):
    work, outcomes = two_processes
    assert set(outcomes[name].codes) == {0}, outcomes[name].printed[-3000:]
    first = validation_lines(work / name)[0]
    assert first["step"] == 0
    assert first["eval_loss"] == pytest.approx(by_hand, abs=1e-5)
    assert first["eval_samples"] == 11
    assert outcomes[name].printed.count("validation loss") == len(validation_lines(work / name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["best parallel", "best sharded"])
def test_the_best_checkpoint_becomes_the_result(two_processes, tmp_path, name):
    """Oracle: the loss of the result, measured anew."""
    work, outcomes = two_processes
    assert set(outcomes[name].codes) == {0}, outcomes[name].printed[-3000:]
    good, ruined = [line["eval_loss"] for line in validation_lines(work / name)]
    assert good < ruined - 1
    training, *more = held_out(tmp_path, "--model_name_or_path", str(work / name), "--mm_use_im_start_end")
    trainer = train.make_trainer(*train.parse(flags(training, tmp_path / "out", *more)))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(good, abs=1e-4)


def test_validating_changes_nothing_in_the_training(tmp_path):
    """Workers and all: samples come in the same order, and random numbers are the same."""
    training, *more = held_out(tmp_path, "--eval_steps", "1", "--dataloader_num_workers", "1")
    run = ("--dataloader_num_workers", "1")
    train.train(*train.parse(flags(training, tmp_path / "with", *STAGE_1, *more, batch=1)))
    train.train(*train.parse(flags(training, tmp_path / "without", *STAGE_1, *run, batch=1)))
    assert history(tmp_path / "with", "loss", "grad_norm") == history(tmp_path / "without", "loss", "grad_norm")
    first, second = result(tmp_path / "with"), result(tmp_path / "without")
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_evaluation_without_records_is_refused_before_loading(tmp_path):
    training = write_records(tmp_path / "train.json", 4)
    with pytest.raises(InvalidRequest, match="Set --eval_data_path"):
        train.train(*train.parse(flags(training, tmp_path / "out", "--eval_strategy", "steps")))

"""What a resumed run reads, and which changes it accepts."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from llava.errors import InvalidRequest
from llava.train import train
from llava.train.data.dataset import ImageLoader
from tests.support.training import FSDP, STAGE_1, flags, history, result, run_in_processes, write_records

SAVES = ("--save_strategy", "steps", "--save_steps", "1")


def run(*arguments) -> None:
    train.train(*train.parse(arguments))


def keep_only(output, step: int) -> None:
    """Leaves a run as it was when it was killed after a step."""
    for child in output.iterdir():
        if child.name != f"checkpoint-{step}":
            shutil.rmtree(child) if child.is_dir() else child.unlink()


def test_no_image_of_a_skipped_sample_is_opened(tmp_path, monkeypatch):
    records = write_records(tmp_path / "train.json")
    arguments = flags(records, tmp_path / "out", *STAGE_1, *SAVES, "--train_sampling_strategy", "sequential")
    run(*arguments)
    keep_only(tmp_path / "out", 2)
    opened = []
    load = ImageLoader.load

    def counted(self, name, path, num_images):
        opened.append(name)
        return load(self, name, path, num_images)

    monkeypatch.setattr(ImageLoader, "load", counted)
    run(*arguments)
    # Records 8 to 11 are the last step; 11 has no image.
    assert [name.split("'")[1] for name in opened] == ["p8", "p9", "p10"]


def test_another_number_of_samples_a_step_is_an_error_that_names_both(tmp_path):
    records = write_records(tmp_path / "train.json")
    run(*flags(records, tmp_path / "out", *STAGE_1, *SAVES))
    with pytest.raises(InvalidRequest, match=r"a step had 4 samples .*, now 8"):
        run(*flags(records, tmp_path / "out", *STAGE_1, *SAVES, "--gradient_accumulation_steps", "2"))


def test_the_same_number_of_samples_may_be_split_otherwise(tmp_path):
    records = write_records(tmp_path / "train.json")
    run(*flags(records, tmp_path / "out", *STAGE_1, *SAVES))
    whole = history(tmp_path / "out", "loss")
    keep_only(tmp_path / "out", 1)
    run(*flags(records, tmp_path / "out", *STAGE_1, *SAVES, "--gradient_accumulation_steps", "4", batch=1))
    assert history(tmp_path / "out", "loss") == pytest.approx(whole, abs=1e-4)


def test_changed_data_are_an_error(tmp_path):
    records = write_records(tmp_path / "train.json")
    run(*flags(records, tmp_path / "out", *STAGE_1))
    write_records(records, 13)
    with pytest.raises(InvalidRequest, match=r"num_records was 12, now 13; the content of .*train\.json has changed"):
        run(*flags(records, tmp_path / "out", *STAGE_1))


def test_a_run_with_a_constant_rate_is_prolonged_from_its_last_step(tmp_path):
    records = write_records(tmp_path / "train.json")
    constant = (*STAGE_1, *SAVES, "--lr_scheduler_type", "constant")
    run(*flags(records, tmp_path / "long", *constant, "--num_train_epochs", "2"))
    run(*flags(records, tmp_path / "out", *constant))
    run(*flags(records, tmp_path / "out", *constant, "--num_train_epochs", "2"))
    assert history(tmp_path / "out", "loss") == history(tmp_path / "long", "loss")


def test_metrics_of_a_resumed_run_are_one_history(tmp_path):
    records = write_records(tmp_path / "train.json")
    arguments = flags(records, tmp_path / "out", *STAGE_1, *SAVES)
    run(*arguments)
    metrics = (tmp_path / "out" / "metrics.jsonl").read_text()
    keep_only(tmp_path / "out", 2)
    (tmp_path / "out" / "metrics.jsonl").write_text(metrics)
    run(*arguments)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    before = [json.loads(line) for line in metrics.splitlines()]
    assert steps == [(line["step"], line["loss"]) for line in before if "loss" in line]


def test_a_run_that_is_started_over_replaces_the_checkpoints_of_the_first(tmp_path, capsys):
    records, output = write_records(tmp_path / "train.json"), tmp_path / "out"
    run(*flags(records, output, *STAGE_1, *SAVES))
    again = (*SAVES, "--save_total_limit", "1", "--learning_rate", "1e-3", "--max_steps", "2")
    run(*flags(records, output, *STAGE_1, *again, "--resume_from_checkpoint", "False"))
    assert [child.name for child in output.glob("checkpoint-*")] == ["checkpoint-2"]
    assert json.loads((output / "checkpoint-2" / "llava_run.json").read_text())["learning_rate"] == 1e-3
    assert f"removing {output / 'checkpoint-3'}, which this run has left behind" in capsys.readouterr().out


def test_other_intervals_apply_to_a_resumed_run(tmp_path):
    records, output = write_records(tmp_path / "train.json", 24), tmp_path / "out"
    run(*flags(records, output, *STAGE_1, *SAVES))
    whole = history(output, "loss")
    keep_only(output, 1)
    run(*flags(records, output, *STAGE_1, "--save_strategy", "steps", "--save_steps", "3", "--logging_steps", "2"))
    assert sorted(child.name for child in output.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (1, 3, 6)]
    state = json.loads((output / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 4, 6]
    assert history(output, "loss")[-1] == pytest.approx(sum(whole[-2:]) / 2, abs=1e-3)


def test_a_shorter_run_does_not_take_a_later_checkpoint_for_its_end(tmp_path):
    records = write_records(tmp_path / "train.json")
    constant = (*STAGE_1, *SAVES, "--lr_scheduler_type", "constant")
    run(*flags(records, tmp_path / "out", *constant))
    with pytest.raises(InvalidRequest, match="the checkpoint is at step 3, but this run would end at step 2"):
        run(*flags(records, tmp_path / "out", *constant, "--max_steps", "2"))


@pytest.mark.slow
def test_a_sharded_checkpoint_is_read_by_one_process_and_not_the_other_way_round(tmp_path):
    records = write_records(tmp_path / "train.json")
    common = ("--mm_use_im_start_end", "True", *SAVES, "--learning_rate", "1e-4")
    two, plain = tmp_path / "two", tmp_path / "plain"
    run_in_processes(tmp_path, {"two": flags(records, two, *common, *FSDP, batch=2)})
    whole, weights = history(two, "loss"), result(two)
    keep_only(two, 1)
    run(*flags(records, two, *common, batch=4))
    assert history(two, "loss") == pytest.approx(whole, rel=1e-6)
    parts = result(two)
    assert all((parts[name] - weights[name]).abs().mean() < 1e-5 for name in weights)
    assert all(isinstance(tensor, torch.Tensor) for tensor in parts.values())
    run(*flags(records, plain, *common, batch=4))
    keep_only(plain, 1)
    refused = run_in_processes(tmp_path, {"refused": flags(records, plain, *common, *FSDP, batch=2)}, check=False)
    assert refused.returncode != 0
    assert "was written without --fsdp" in refused.stderr

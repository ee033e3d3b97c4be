"""When the loss on held-out records is measured."""

from __future__ import annotations

import pytest

from llava.errors import InvalidRequest
from llava.train.setup.arguments import DataArguments
from llava.train.setup.evaluation import describe_evaluation, fit_evaluation
from llava.train.setup.training_arguments import TrainingArguments

FILE = DataArguments(data_path="t.json", eval_data_path="h.json")


def arguments(tmp_path, **settings) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "after each epoch"),
        ({"evaluation_strategy": "no"}, "after each epoch"),
        ({"eval_steps": 50}, "every 50 steps"),
        ({"eval_steps": 1}, "after each step"),
        ({"eval_steps": 0.1}, "after every 10% of the steps"),
        ({"eval_strategy": "steps", "logging_steps": 7}, "every 7 steps"),
        ({"evaluation_strategy": "steps", "eval_steps": 5}, "every 5 steps"),
        ({"load_best_model_at_end": True, "save_steps": 30}, "every 30 steps"),
        ({"load_best_model_at_end": True, "save_steps": 30, "eval_steps": 10}, "every 10 steps"),
        ({"load_best_model_at_end": True, "save_strategy": "epoch"}, "after each epoch"),
    ],
)
def test_it_is_measured_as_the_flags_say_and_the_run_says_so(tmp_path, settings, said):
    training_args = arguments(tmp_path, **settings)
    fit_evaluation(FILE, training_args)
    assert describe_evaluation(training_args, 1234) == f"validation: 1,234 held-out records, {said}"
    assert training_args.eval_strategy != "no"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"eval_strategy": "epoch"}, "--eval_strategy epoch"),
        ({"eval_steps": 50}, "--eval_steps 50"),
        ({"load_best_model_at_end": True}, "--load_best_model_at_end"),
        ({"eval_on_start": True}, "--eval_on_start"),
        ({"do_eval": True}, "--do_eval"),
    ],
)
def test_a_flag_without_held_out_records_is_refused_by_name(tmp_path, settings, named):
    with pytest.raises(InvalidRequest, match=rf"^{named}.*Set --eval_data_path"):
        fit_evaluation(DataArguments(data_path="t.json"), arguments(tmp_path, **settings))


def test_nothing_is_measured_without_being_asked_for(tmp_path):
    training_args = arguments(tmp_path, evaluation_strategy="no")
    fit_evaluation(DataArguments(data_path="t.json"), training_args)
    assert training_args.eval_strategy == "no"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"metric_for_best_model": "accuracy"}, "--metric_for_best_model accuracy"),
        ({"metric_for_best_model": "eval_loss", "greater_is_better": True}, "--greater_is_better"),
    ],
)
def test_the_best_checkpoint_is_that_with_the_lowest_loss(tmp_path, settings, named):
    with pytest.raises(InvalidRequest, match=named):
        fit_evaluation(FILE, arguments(tmp_path, load_best_model_at_end=True, **settings))

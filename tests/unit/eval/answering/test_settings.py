"""The settings of a command that answers questions, as its command line gives them."""

from __future__ import annotations

import argparse
from types import ModuleType

import pytest

from llava.errors import InvalidRequest
from llava.eval import model_qa, model_vqa, model_vqa_loader
from llava.eval.answering.settings import AnsweringSettings, RunSettings
from llava.eval.data.questions import Question
from llava.text_generation.settings import Sampling


def settings(*words: str, module: ModuleType = model_vqa) -> RunSettings:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return RunSettings.from_args(parser.parse_args(words))


def test_flags_become_settings():
    given = settings("--model-name", "m", "--temperature", "0", "--conv-mode", "v1", "--num-chunks", "4")
    assert (given.model.model_path, given.model.num_gpus, given.num_chunks) == ("m", 1, 4)
    assert given.answering == AnsweringSettings(Sampling(0.0, max_new_tokens=1024, seed=0), "v1")
    assert settings(module=model_vqa_loader).answering.sampling.max_new_tokens == 128


def test_a_command_without_images_has_no_image_folder():
    assert settings().image_folder == ""
    assert settings(module=model_qa).image_folder is None


def test_a_batch_must_have_room_for_a_question():
    with pytest.raises(InvalidRequest, match="--batch-size 0: must be at least 1"):
        settings("--batch-size", "0")


def test_each_question_has_its_own_seed_that_depends_on_the_runs():
    first, second = (Question("here", {"question_id": number, "prompt": "Why?"}, "Why?") for number in (1, 2))
    seeds = [
        AnsweringSettings(Sampling(0.7, seed=seed)).sampling_for(question).seed
        for seed in (0, 1)
        for question in (first, second)
    ]
    assert len(set(seeds)) == 4
    assert AnsweringSettings(Sampling(0.0, seed=7)).sampling_for(first).seed is None


def test_a_record_repeats_only_settings_that_matter():
    greedy = AnsweringSettings(Sampling(0.0, max_new_tokens=9, seed=3))
    assert greedy.as_record() == {"temperature": 0.0, "max_new_tokens": 9}
    sampled = AnsweringSettings(Sampling(0.5, 0.9, num_beams=2, max_new_tokens=9, seed=3), answer_prompter=True)
    assert sampled.as_record() == {
        "temperature": 0.5,
        "top_p": 0.9,
        "num_beams": 2,
        "max_new_tokens": 9,
        "seed": 3,
        "answer_prompter": True,
    }

"""Which judge is asked, and with what: flags, configuration file, environment."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.support.reviews import arguments


def test_a_configuration_file_names_the_judge_and_flags_win(judge, files, output, review, tmp_path, monkeypatch):
    monkeypatch.delenv("LLAVA_JUDGE_MODEL")
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert "--judge-model is missing" in err
    config = tmp_path / "judge.json"
    config.write_text(json.dumps({"judge_model": "from-file", "max_tokens": 50}))
    monkeypatch.setenv("LLAVA_JUDGE_CONFIG", str(config))
    assert review(arguments(files, output, max_tokens=60))[0] == 0
    assert (judge.bodies[0]["model"], judge.bodies[0]["max_completion_tokens"]) == ("from-file", 60)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"judge_modle": "x"}', "'judge_modle' is not a known field. Did you mean 'judge_model'?"),
        ('{"concurrency": 0}', "'concurrency' is 0, expected a whole number, 1 or more"),
        ('{"reply_format": "xml"}', "'reply_format' is 'xml', expected auto or schema or text"),
        ('["x"]', "contains a JSON list, expected an object"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_named(config, said, judge, files, output, review, tmp_path):
    (tmp_path / "judge.json").write_text(config)
    code, _, err = review(arguments(files, output, config=tmp_path / "judge.json"))
    assert code == 1
    assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"max_cost": 5}, "--max-cost needs --price-in and --price-out"),
        ({"temperature": "-1"}, "--temperature is -1.0, expected a number, 0 or more"),
    ],
)
def test_flags_that_make_no_sense_are_named(words, said, judge, files, output, review):
    code, _, err = review(arguments(files, output, **words))
    assert code == 1
    assert said in err


def test_three_answer_files_are_not_silently_two(judge, files, output, review):
    argv = arguments(files, output)
    argv.insert(argv.index("--output"), str(files["ours"]))
    code, _, err = review(argv)
    assert code == 1
    assert "--answer-list names 3 files, but a review compares two" in err


def test_without_a_key_the_variable_is_named(judge, files, output, review, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert "OPENAI_API_KEY is not set" in err


def test_a_wrong_key_is_refused_by_a_service_that_checks_it(judge, files, output, review):
    judge.key = "sk-other"
    code, _, err = review(arguments(files, output))
    assert code == 1
    assert "HTTP 401: Incorrect API key provided." in err
    assert Counter() == judge.times_asked()

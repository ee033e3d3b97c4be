"""What holds for the scorers and conversions of every benchmark."""

from __future__ import annotations

import runpy

import pytest

from tests.support.benchmarks import answers, evaluate


def test_answers_to_another_benchmark_are_refused(seed_bench, tmp_path, capsys):
    result = answers(tmp_path / "a.jsonl", [("x", "A")])
    assert evaluate("eval_seed_bench", annotation_file=seed_bench, result_file=result) == 1
    assert "none of the 1 answers matches a question in" in capsys.readouterr().err


def test_an_answer_that_was_cut_off_is_named_with_its_line(seed_bench, tmp_path, capsys):
    result = answers(tmp_path / "a.jsonl", [(10, "A"), (11, "B")])
    result.write_text(result.read_text()[:-9])
    assert evaluate("eval_seed_bench", annotation_file=seed_bench, result_file=result) == 1
    assert "a.jsonl: line 2: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    "script",
    [
        "convert_gqa_for_eval",
        "convert_mmbench_for_submission",
        "convert_mmvet_for_eval",
        "convert_seed_for_submission",
        "convert_vizwiz_for_submission",
        "convert_vqav2_for_submission",
    ],
)
def test_a_conversion_is_there_under_the_name_that_users_know(script, repository):
    names = runpy.run_path(str(repository / "scripts" / f"{script}.py"))
    assert any(hasattr(value, "add_arguments") and hasattr(value, "main") for value in names.values())

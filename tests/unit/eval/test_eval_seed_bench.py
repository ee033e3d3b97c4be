"""SEED-Bench: the letter of an answer, and the submission, on cases worked out by hand."""

from __future__ import annotations

import json

from tests.support.benchmarks import answers, evaluate, odd


def test_seed_bench_takes_the_letter_alone_and_writes_a_submission(seed_bench, tmp_path, capsys):
    result = answers(tmp_path / "a.jsonl", [(10, "A"), (11, "B."), (12, "C")])
    output, upload = tmp_path / "o.json", tmp_path / "up" / "u.jsonl"
    words = {"annotation_file": seed_bench, "result_file": result, "output": output, "result_upload_file": upload}
    assert evaluate("eval_seed_bench", **words) == 0
    assert capsys.readouterr().out.startswith(
        "Scene Understanding: 50.00%\nAction Prediction: 100.00%\nTotal accuracy: 66.67%\n"
        "image accuracy: 50.00%\nvideo accuracy: 100.00%\n"
    )
    assert odd(output)["unparsable"] == ["11"]
    assert json.loads(upload.read_text().splitlines()[1]) == {"question_id": "11", "prediction": "B."}


def test_a_submission_that_is_not_whole_is_not_written(seed_bench, tmp_path, capsys):
    upload = tmp_path / "u.jsonl"
    result = answers(tmp_path / "a.jsonl", [(10, "A")])
    assert evaluate("eval_seed_bench", annotation_file=seed_bench, result_file=result, result_upload_file=upload) == 1
    assert "questions without an answer: 2 (11, 12). A submission must be complete" in capsys.readouterr().err
    assert not upload.exists()

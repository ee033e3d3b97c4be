"""MM-Vet: grades by capability, on cases worked out by hand."""

from __future__ import annotations

import json

from tests.support.benchmarks import answers, evaluate, values, write_json


def test_mm_vet_sums_up_grades_by_capability(tmp_path, capsys):
    """rec: (1 + 0.5) / 2; ocr: 0.5; two runs of the judge are averaged."""
    questions = write_json(
        tmp_path / "mm-vet.json",
        {
            f"v1_{n}": {"imagename": f"{n}.png", "question": "?", "answer": "x", "capability": capability}
            for n, capability in enumerate([["rec"], ["ocr", "rec"], ["math"]])
        },
    )
    grades = write_json(
        tmp_path / "grades.json",
        {"v1_0": {"model": "j", "content": ["1", "1"], "score": [1, 1.0]}, "v1_1": {"score": [0.4, 0.6]}},
    )
    answered = answers(tmp_path / "a.jsonl", [(0, "yes"), (1, "no")])
    texts, output = tmp_path / "t" / "texts.json", tmp_path / "o.json"
    assert evaluate("convert_mm_vet", src=answered, dst=texts) == 0
    assert json.loads(texts.read_text()) == {"v1_0": "yes", "v1_1": "no"}
    words = {"annotation_file": questions, "grade_file": grades, "answers_file": texts, "output": output}
    assert evaluate("eval_mm_vet", **words) == 0
    assert values(output) == {"rec": 75, "ocr": 50, "total": 75, "rec_ocr": 50}
    assert "questions without an answer: 1 (left out of the figures): v1_2" in capsys.readouterr().err
    write_json(grades, {"v1_0": {"score": [1.5]}})
    assert evaluate("eval_mm_vet", **words) == 1
    assert "v1_0: the score is [1.5], expected numbers from 0 to 1" in capsys.readouterr().err

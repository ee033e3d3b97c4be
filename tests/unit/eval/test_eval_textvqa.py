"""TextVQA: the question in a prompt, and its score, on cases worked out by hand."""

from __future__ import annotations

import pytest

from llava.eval.eval_textvqa import question_in
from tests.support.benchmarks import evaluate, odd, write_json, write_lines


@pytest.mark.parametrize(
    "prompt",
    [
        "What IS it?\nAnswer the question using a single word or phrase.",
        "What is it?\nReference OCR token: STOP, 42\nAnswer the question using a single word or phrase.",
        "Reference OCR token: STOP\nWhat is it?\nAnswer the question using a single word or phrase.",
        "OCR tokens: STOP. Question: What is it? Short answer:",
    ],
)
def test_textvqa_finds_the_question_in_every_known_prompt(prompt):
    assert question_in(prompt, "here") == "what is it?"


def test_textvqa_scores_a_file_or_a_folder_in_the_originals_words(tmp_path, capsys):
    """STOP of 3 stop, 7 go is 0.9; a missing answer is 0."""
    annotations = write_json(
        tmp_path / "val.json",
        {
            "data": [
                {"question_id": 1, "image_id": "i1", "question": "What is it?", "answers": ["stop"] * 3 + ["go"] * 7},
                {"question_id": 2, "image_id": "i1", "question": "Which colour?", "answers": ["red"] * 10},
                {"question_id": 3, "image_id": "i2", "question": "What is it?", "answers": ["42"] * 10},
            ]
        },
    )
    asked = [("i1", "what is it?", "STOP."), ("i1", "Which colour?", "blue")]
    folder = tmp_path / "r"
    folder.mkdir()
    result = write_lines(
        folder / "tiny.jsonl",
        [{"question_id": i, "prompt": f"{q}\nAnswer shortly.", "text": text} for i, q, text in asked],
    )
    output = tmp_path / "o.json"
    assert evaluate("eval_textvqa", annotation_file=annotations, result_file=result, output=output) == 0
    assert capsys.readouterr().out.startswith("tiny\nSamples: 2\nAccuracy: 30.00%\n")
    assert odd(output)["missing"] == ["3"]
    assert evaluate("eval_textvqa", annotation_file=annotations, result_dir=folder) == 0
    assert evaluate("eval_textvqa", annotation_file=annotations) == 1
    assert "pass --result-file or --result-dir" in capsys.readouterr().err
    write_lines(folder / "other.jsonl", [{"question_id": "i2", "prompt": "What is it?\nAnswer shortly.", "text": "42"}])
    words = {"annotation_file": annotations, "result_dir": folder}
    assert evaluate("eval_textvqa", **words) == 0
    out = capsys.readouterr().out
    assert out.index("other\nSamples: 1\nAccuracy: 33.33%") < out.index("tiny\nSamples: 2\nAccuracy: 30.00%")
    assert evaluate("eval_textvqa", **words, output=output) == 1
    assert "--output works with one answer file only" in capsys.readouterr().err

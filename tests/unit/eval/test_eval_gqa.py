"""GQA: open and binary questions, on cases worked out by hand."""

from __future__ import annotations

import json

from tests.support.benchmarks import answers, evaluate, odd, values, write_json


def test_gqa_compares_words_and_separates_open_from_binary_questions(tmp_path):
    def question(answer: str, structural: str, semantic: str, **more) -> dict:
        types = {"structural": structural, "semantic": semantic}
        return {"question": "?", "answer": answer, "imageId": "7", "types": types, "isBalanced": True} | more

    questions = write_json(
        tmp_path / "q.json",
        {
            "1": question("yes", "verify", "obj"),
            "2": question("red", "query", "attr"),
            "3": question("left", "choose", "rel"),
            "4": question("no", "verify", "obj", isBalanced=False),
        },
    )
    result = answers(tmp_path / "a.jsonl", [(1, "Yes."), (2, "dark red"), ("3", "left"), (4, "no")])
    output, predictions = tmp_path / "o.json", tmp_path / "p" / "predictions.json"
    assert evaluate("convert_gqa", src=result, dst=predictions) == 0
    assert json.loads(predictions.read_text())[0] == {"questionId": 1, "prediction": "yes"}
    for file in (result, predictions):
        assert evaluate("eval_gqa", question_file=questions, result_file=file, output=output) == 0
        figures = values(output)
        assert (figures["accuracy"], figures["binary"], figures["open"]) == (66.67, 100, 0)
        assert (figures["structural: choose"], odd(output)["unknown"]) == (100, [])

"""VQA, VQAv2 and VizWiz: agreement with people's answers, and submissions, on cases worked out by hand."""

from __future__ import annotations

import json

from tests.support.benchmarks import answers, evaluate, said, values, write_json, write_lines


def people(*counts: tuple[str, int]) -> list[dict[str, str]]:
    return [{"answer": text} for text, count in counts for _ in range(count)]


def test_vqa_scores_agreement_by_type_of_answer_from_answers_and_from_a_submission(tmp_path):
    """Red of 2 red, 8 blue is 0.6; 2 of ten times 2 is 1; yes of 1 yes, 9 no is 0.3."""
    annotations = write_json(
        tmp_path / "annotations.json",
        {
            "annotations": [
                {
                    "question_id": 1,
                    "image_id": 7,
                    "answer_type": "other",
                    "question_type": "what",
                    "answers": people(("red", 2), ("blue", 8)),
                },
                {
                    "question_id": 2,
                    "image_id": 8,
                    "answer_type": "number",
                    "question_type": "how many",
                    "answers": people(("2", 10)),
                },
                {
                    "question_id": 3,
                    "image_id": 9,
                    "answer_type": "yes/no",
                    "question_type": "is the",
                    "answers": people(("yes", 1), ("no", 9)),
                },
            ]
        },
    )
    lines = answers(tmp_path / "a.jsonl", [(1, "The red."), (2, "2"), (3, "Yes")])
    submission = write_json(
        tmp_path / "s.json", [{"question_id": i, "answer": text} for i, text in [(1, "red"), (2, "2"), (3, "yes")]]
    )
    for result in (lines, submission):
        output = tmp_path / "o.json"
        assert evaluate("eval_vqa", annotation_file=annotations, result_file=result, output=output) == 0
        figures = values(output)
        assert (figures["accuracy"], figures["answer: other"], figures["answer: number"]) == (63.33, 60, 100)
        assert figures["question: is the"] == 30


def test_vizwiz_finds_answers_by_their_image(tmp_path, capsys):
    annotations = write_json(
        tmp_path / "val.json",
        [
            {"image": "v_1.jpg", "question": "What?", "answer_type": "other", "answers": people(("soup", 10))},
            {
                "image": "v_2.jpg",
                "question": "Why?",
                "answer_type": "unanswerable",
                "answers": people(("unanswerable", 9), ("soup", 1)),
            },
        ],
    )
    questions = write_lines(
        tmp_path / "q.jsonl", [{"question_id": 5, "image": "v_1.jpg"}, {"question_id": 6, "image": "v_2.jpg"}]
    )
    result = answers(tmp_path / "a.jsonl", [(6, "Unanswerable"), (5, "soup")])
    assert evaluate("eval_vqa", annotation_file=annotations, result_file=result) == 1
    assert "answers with question_id need --question-file" in capsys.readouterr().err

    output, upload = tmp_path / "o.json", tmp_path / "up" / "u.json"
    words = {"annotation_file": annotations, "question_file": questions, "output": output}
    assert evaluate("eval_vqa", **words, result_file=result) == 0
    assert (values(output)["accuracy"], said(output)["benchmark"]) == (100, "VizWiz")
    assert evaluate("convert_vizwiz", annotation_file=questions, result_file=result, result_upload_file=upload) == 0
    assert json.loads(upload.read_text()) == [
        {"image": "v_1.jpg", "answer": "soup"},
        {"image": "v_2.jpg", "answer": "unanswerable"},
    ]
    assert evaluate("eval_vqa", annotation_file=annotations, result_file=upload, output=output) == 0
    assert values(output)["accuracy"] == 100


def test_vqa_says_that_a_test_split_has_no_answers(tmp_path, capsys):
    annotations = write_json(tmp_path / "a.json", {"annotations": [{"question_id": 1}]})
    assert evaluate("eval_vqa", annotation_file=annotations, result_file=answers(tmp_path / "a.jsonl", [(1, "x")])) == 1
    assert "A test split has none: convert the answers and submit them" in capsys.readouterr().err


def test_vqav2_asks_for_all_of_the_test_split(tmp_path, capsys):
    write_lines(tmp_path / "llava_vqav2_mscoco_test2015.jsonl", [{"question_id": i} for i in (3, 1, 2)])
    folder = tmp_path / "answers" / "test-dev" / "tiny"
    folder.mkdir(parents=True)
    answers(folder / "merge.jsonl", [(1, "The Dog."), (2, "Two")])
    assert evaluate("convert_vqav2", dir=tmp_path, split="test-dev", ckpt="tiny") == 0
    assert json.loads((tmp_path / "answers_upload" / "test-dev" / "tiny.json").read_text()) == [
        {"question_id": 3, "answer": ""},
        {"question_id": 1, "answer": "dog"},
        {"question_id": 2, "answer": "2"},
    ]
    captured = capsys.readouterr()
    assert captured.out.startswith("total results: 2, total split: 3\n")
    assert "questions without an answer: 1 (an empty answer): 3" in captured.err

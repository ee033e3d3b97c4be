"""POPE: its rule, its figures and its odd answers, on cases worked out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llava.eval.eval_pope import is_clear, says_no
from tests.support.benchmarks import answers, evaluate, odd, said, values, write_lines


@pytest.mark.parametrize(
    ("text", "no", "clear"),
    [
        ("No", True, True),
        ("no", True, True),
        ("No, there is none.", True, True),
        ("There is not a dog. Yes.", True, True),
        ("Yes. There is no dog.", False, True),
        ("Yes", False, True),
        ("NO", False, False),
        ("Nothing.", False, False),
        ("no\nreally", False, False),
        ("", False, False),
    ],
)
def test_pope_reads_an_answer_by_the_published_rule(text, no, clear):
    assert (says_no(text), is_clear(text)) == (no, clear)


@pytest.fixture
def pope(tmp_path: Path) -> dict[str, Path]:
    """Two images, three questions each, in one category; their labels stand in another order than the questions."""
    labels = [
        {"question_id": 1, "image": "b.jpg", "text": "Is there a car in the image?", "label": "no"},
        {"question_id": 2, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"},
        {"question_id": 3, "image": "a.jpg", "text": "Is there a cat in the image?", "label": "no"},
        {"question_id": 4, "image": "b.jpg", "text": "Is there a cup in the image?", "label": "yes"},
        {"question_id": 5, "image": "b.jpg", "text": "Is there a dog in the image?", "label": "yes"},
        {"question_id": 6, "image": "a.jpg", "text": "Is there a car in the image?", "label": "no"},
    ]
    asked = [("a", "dog"), ("a", "cat"), ("a", "car"), ("b", "car"), ("b", "cup"), ("b", "dog")]
    questions = [
        {
            "question_id": number,
            "image": f"{image}.jpg",
            "text": f"Is there a {thing} in the image?\nAnswer the question using a single word or phrase.",
            "category": "random",
        }
        for number, (image, thing) in enumerate(asked, start=10)
    ]
    (tmp_path / "coco").mkdir()
    return {
        "annotation_dir": write_lines(tmp_path / "coco" / "coco_pope_random.json", labels).parent,
        "question_file": write_lines(tmp_path / "questions.jsonl", questions),
    }


def test_pope_counts_by_image_and_question_in_the_originals_words(pope, tmp_path, capsys):
    """Truth yes no no no yes yes, said yes yes no no no yes: 2 true, 1 false positive, 2 true, 1 false negative."""
    texts = zip(range(10, 16), ["Yes", "Yes.", "No", "no", "No.", "yes"], strict=True)
    output = tmp_path / "out" / "pope.json"
    assert evaluate("eval_pope", **pope, result_file=answers(tmp_path / "a.jsonl", texts), output=output) == 0
    out = capsys.readouterr().out
    assert out.startswith("Category: random, # samples: 6\nTP\tFP\tTN\tFN\t\n2\t1\t2\t1\n")
    assert "Accuracy: 0.6666666666666666\nPrecision: 0.6666666666666666\nRecall: 0.6666666666666666\n" in out
    assert "\n0.667, 0.667, 0.667, 0.667, 0.500\n" in out
    figures = values(output)
    assert figures["accuracy"] == figures["random F1"] == 66.67
    assert figures["yes ratio"] == 50
    assert said(output)["model"] == "tiny"


def test_pope_takes_questions_about_one_image_together(pope, tmp_path):
    """One image all right, the other all wrong: accuracy 50, and the error of two images, sqrt(2 * 1.5²) / 6."""
    texts = zip(range(10, 16), ["Yes", "No", "No", "Yes", "No", "No"], strict=True)
    output = tmp_path / "pope.json"
    assert evaluate("eval_pope", **pope, result_file=answers(tmp_path / "a.jsonl", texts), output=output) == 0
    one = said(output)["estimates"]["accuracy"]
    assert (one["value"], one["gained"], one["possible"]) == (50, 3, 6)
    assert one["standard_error"] == pytest.approx(100 * (2 * 1.5**2) ** 0.5 / 6)


def test_pope_names_odd_answers_and_gives_no_credit_for_missing_ones(pope, tmp_path, capsys):
    texts = [("10", "Yes"), (11, "Maybe"), (12, "No"), (13, "No"), (10, "No"), (99, "Yes")]
    output = tmp_path / "pope.json"
    assert evaluate("eval_pope", **pope, result_file=answers(tmp_path / "a.jsonl", texts), output=output) == 0
    assert odd(output) == {"missing": ["14", "15"], "duplicate": ["10"], "unknown": ["99"], "unparsable": ["11"]}
    assert values(output)["accuracy"] == pytest.approx(33.33)
    err = capsys.readouterr().err
    assert "questions without an answer: 2 (counted as wrong): 14, 15" in err
    assert "says neither yes nor no: 1 (counted as yes, by the rule): 11" in err


def test_pope_without_a_single_yes_has_no_precision(pope, tmp_path, capsys):
    texts = [(number, "No") for number in range(10, 16)]
    assert evaluate("eval_pope", **pope, result_file=answers(tmp_path / "a.jsonl", texts)) == 0
    assert "Precision: n/a\nRecall: 0.0\nF1 score: n/a" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "c.jpg"}, r"question 1.*has no label for this question about c\.jpg"),
        ({"category": "popular"}, r"question 1\): .*coco_pope_popular\.json does not exist"),
        ({"category": None}, r"line 1 \(question 1\): 'category' is a JSON null"),
    ],
)
def test_pope_refuses_questions_without_labels(pope, tmp_path, capsys, change, message):
    question = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "category": "random"}
    pope["question_file"] = write_lines(tmp_path / "q.jsonl", [question | change])
    assert evaluate("eval_pope", **pope, result_file=answers(tmp_path / "a.jsonl", [(1, "Yes")])) == 1
    assert re.search(message, capsys.readouterr().err)

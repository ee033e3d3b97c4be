"""MME: its two figures, the files of its own tool and its odd answers, on cases worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.eval.eval_mme import says
from tests.support.benchmarks import evaluate, odd, said, values, write_lines


@pytest.mark.parametrize(
    ("text", "word"),
    [("Yes", "yes"), ("no.", "no"), ("  no", "no"), ("   no", None), ("Not so", "no"), ("I know", None), ("", None)],
)
def test_mme_reads_the_first_four_letters(text, word):
    assert says(text) == word


@pytest.fixture
def mme(tmp_path: Path) -> Path:
    """Two images of `existence`, in its own form, and one of `code_reasoning`, in the other."""
    folder = tmp_path / "MME_Benchmark_release_version"
    files = {
        "existence/questions_answers_YN/1.txt": (
            "Is there a dog? Please answer yes or no.",
            "Is there a cat? Please answer yes or no.",
        ),
        "existence/questions_answers_YN/2.txt": (
            "Is there a cup? Please answer yes or no.",
            "Is there a car? Please answer yes or no.",
        ),
        "code_reasoning/0001.txt": (
            "Is the output 1?  Please answer yes or no.",
            "Is the output 2? Please answer yes or no.",
        ),
    }
    for name, (first, second) in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{first}\tYes\n{second}\tNo\n")
    return folder


def mme_answers(path: Path, *texts: str) -> Path:
    asked = [
        ("existence/1.png", "dog"),
        ("existence/1.png", "cat"),
        ("existence/2.png", "cup"),
        ("existence/2.png", "car"),
    ]
    prompts = [(name, f"Is there a {thing}?") for name, thing in asked]
    prompts += [("code_reasoning/0001.png", f"Is the output {number}?") for number in (1, 2)]
    how = " Please answer yes or no.\nAnswer the question using a single word or phrase."
    rows = zip(prompts, texts, strict=False)
    return write_lines(path, [{"question_id": name, "prompt": p + how, "text": text} for (name, p), text in rows])


def test_mme_adds_accuracy_and_images_with_both_right(mme, tmp_path):
    """existence: 3 of 4 right, 1 of 2 images: 75 + 50. code_reasoning: 1 of 2, no image: 50."""
    output = tmp_path / "mme.json"
    result = mme_answers(tmp_path / "a.jsonl", "Yes", "No", "yes", "Yes.", "No", "No")
    assert evaluate("eval_mme", annotation_dir=mme, result_file=result, output=output) == 0
    figures = values(output)
    assert (figures["existence"], figures["existence accuracy"], figures["existence accuracy+"]) == (125, 75, 50)
    assert (figures["perception"], figures["cognition"], figures["code_reasoning"]) == (125, 50, 50)
    # The two images score 200 and 50, so that the error of their mean is 75 / sqrt(2).
    assert said(output)["estimates"]["existence"]["standard_error"] == pytest.approx(75 / 2**0.5)


def test_mme_writes_the_files_of_its_own_tool_and_reads_them_back(mme, tmp_path):
    result = mme_answers(tmp_path / "a.jsonl", "Yes", "No\nbecause\tso", "yes", "Yes.", "No", "No")
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    assert (
        evaluate("eval_mme", annotation_dir=mme, result_file=result, answers_dir=tmp_path / "tool", output=first) == 0
    )
    assert (tmp_path / "tool" / "existence.txt").read_text().splitlines()[1] == (
        "1.txt\tIs there a cat? Please answer yes or no.\tNo\tNo because so"
    )
    assert evaluate("eval_mme", results_dir=tmp_path / "tool", output=second) == 0
    assert values(first) == values(second)


def test_mme_counts_missing_and_unclear_answers_as_wrong_and_names_them(mme, tmp_path, capsys):
    output = tmp_path / "mme.json"
    result = mme_answers(tmp_path / "a.jsonl", "Yes", "Perhaps", "yes", "No")
    assert evaluate("eval_mme", annotation_dir=mme, result_file=result, output=output) == 0
    assert odd(output)["unparsable"] == ["existence/1 | Is there a cat?"]
    assert len(odd(output)["missing"]) == 2
    assert (values(output)["existence"], values(output)["cognition"]) == (125, 0)


def test_mme_refuses_an_image_with_one_question(mme, tmp_path, capsys):
    (mme / "existence" / "questions_answers_YN" / "3.txt").write_text("Is there a hat?\tYes\n")
    assert evaluate("eval_mme", annotation_dir=mme, result_file=mme_answers(tmp_path / "a.jsonl", "Yes")) == 1
    assert "3.txt: has 1 questions; every image of MME has two" in capsys.readouterr().err

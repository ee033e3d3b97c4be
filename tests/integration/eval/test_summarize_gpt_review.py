"""Figures of reviews: the original's numbers, intervals over images, differences, the effect of the order."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from llava.command_line import run
from llava.eval import summarize_gpt_review
from llava.eval.data import records
from tests.support.science_qa import write_lines

CATEGORIES = ("conv", "detail", "complex")


def reviews(gain: float = 1.0, *, images: int = 10, **more) -> list[dict]:
    """In v0's form: three questions an image; the image decides how good the second answer is."""
    return [
        {
            "id": 3 * image + place + 1,
            "question_id": 3 * image + place,
            "answer1_id": 3 * image + place,
            "answer2_id": "x",
            "category": category,
            "content": "Well.",
            "tuple": [8 + place / 2, min(10, 4 + image % 5 + gain)],
        }
        | more
        for image in range(images)
        for place, category in enumerate(CATEGORIES)
    ]


def with_images(lines: list[dict]) -> list[dict]:
    return [line | {"image": f"{line['question_id'] // 3}.jpg"} for line in lines]


@pytest.fixture
def summarize(capsys):
    """Runs the command in this process; gives (exit code, standard output, standard error)."""

    def run_it(*arguments: str | Path) -> tuple[int, str, str]:
        argv = [str(argument) for argument in arguments]
        code = run(summarize_gpt_review.add_arguments, summarize_gpt_review.main, argv=argv)
        return code, *capsys.readouterr()

    return run_it


@pytest.fixture
def figures(summarize):
    """What the command says as JSON."""

    def run_it(*arguments: str | Path) -> dict:
        code, out, err = summarize(*arguments, "--format", "json")
        assert code == 0, err
        return json.loads(out)

    return run_it


def by_category(model: dict) -> dict[str, dict]:
    return {figure["category"]: figure for figure in model["figures"]}


def test_the_originals_lines_come_out_to_the_last_digit(summarize, tmp_path):
    scores = [(8.5, 7), (9, 8.5), (10, 3), (8, 8), (9, 9), (7, 6)]
    lines = [
        {"question_id": number, "category": "conv" if number % 2 else "detail", "tuple": list(pair)}
        for number, pair in enumerate(scores)
    ]
    file = write_lines(tmp_path / "gpt4_text_llava-13b.jsonl", lines)
    code, out, _ = summarize("-f", file, "--format", "original")
    assert code == 0
    # by hand: 51.5 / 6 = 8.583, 41.5 / 6 = 6.917; 24 / 3 = 8, 22.5 / 3 = 7.5; 27.5 / 3 = 9.167, 19 / 3 = 6.333
    assert out == (
        "llava-13b\nall 80.6 85.8 69.2\nconv 93.8 80.0 75.0\ndetail 69.1 91.7 63.3\n=================================\n"
    )


@pytest.mark.parametrize("bad", [{"tuple": [-1, -1]}, {"tuple": [-1, -1], "unparsable": "prose", "content": "Hm."}])
def test_a_review_without_scores_is_in_no_figure_and_is_named(bad, figures, tmp_path):
    lines = reviews()
    whole = figures("-f", write_lines(tmp_path / "whole.jsonl", lines[:-1]))
    lines[-1] |= bad
    flagged = figures("-f", write_lines(tmp_path / "flagged.jsonl", lines))
    assert [f["relative"] for f in flagged["models"][0]["figures"]] == [
        f["relative"] for f in whole["models"][0]["figures"]
    ]
    assert flagged["models"][0]["unparsable"] == ["29"]
    assert any("reviews without scores, in no figure: 1 questions (29)" in note for note in flagged["notes"])


def test_intervals_are_wider_over_images_than_over_questions(figures, tmp_path):
    file = write_lines(tmp_path / "review.jsonl", reviews())
    questions = write_lines(
        tmp_path / "q.jsonl", [{"question_id": str(n), "image": f"{n // 3}.jpg", "text": "?"} for n in range(30)]
    )
    apart = figures("-f", file)
    together = figures("-f", file, "--question", questions)
    named = figures("-f", write_lines(tmp_path / "named.jsonl", with_images(reviews())))
    widths = [by_category(one["models"][0])["all"] for one in (apart, together, named)]
    one, other, same = (figure["high"] - figure["low"] for figure in widths)
    assert other > 1.4 * one, "answers about an image succeed and fail together"
    assert same == other
    assert any("with --question FILE" in note for note in apart["notes"])
    assert together["notes"] == []
    assert apart["models"][0]["num_images"] == 30
    assert together["models"][0]["num_images"] == 10


def test_an_interval_holds_the_figure_and_shrinks_with_more_images(figures, tmp_path):
    few = figures("-f", write_lines(tmp_path / "few.jsonl", with_images(reviews(images=10))))
    many = figures("-f", write_lines(tmp_path / "many.jsonl", with_images(reviews(images=160))))
    small, large = (by_category(one["models"][0])["all"] for one in (few, many))
    for figure in (small, large):
        assert figure["low"] < figure["relative"] < figure["high"]
    ratio = (small["high"] - small["low"]) / (large["high"] - large["low"])
    assert 3 < ratio < 5.3, "about the root of 16"


def test_one_image_alone_has_no_interval(figures, tmp_path):
    one = figures("-f", write_lines(tmp_path / "one.jsonl", with_images(reviews(images=1))))
    assert by_category(one["models"][0])["all"]["low"] is None


def test_two_models_are_compared_question_by_question(figures, tmp_path):
    first = write_lines(tmp_path / "a.jsonl", with_images(reviews(0)))
    second = write_lines(tmp_path / "b.jsonl", with_images(reviews(1))[3:])
    found = figures("-f", first, second)
    difference = {d["category"]: d for d in found["differences"]}["all"]
    assert difference["num_questions"] == 27, "those that both have"
    assert difference["difference"] == pytest.approx(100 / 8.5, abs=1e-9)
    # One model is better by the same amount on every question, so the pair is known far better than either.
    assert difference["low"] == pytest.approx(difference["high"])
    single = by_category(found["models"][0])["all"]
    assert single["high"] - single["low"] > 5


def test_both_orders_of_a_question_are_one_and_the_gap_is_reported(figures, summarize, tmp_path):
    forward = with_images(reviews(0))
    swapped = [
        line | {"order": "swapped", "tuple": [line["tuple"][0] - 1, min(10, line["tuple"][1] + 1)]} for line in forward
    ]
    file = write_lines(tmp_path / "review.jsonl", [*forward, *swapped])
    found = figures("-f", file)
    [model] = found["models"]
    assert (model["num_reviews"], by_category(model)["all"]["num_questions"]) == (60, 30)
    assert by_category(model)["all"]["mean1"] == 8.0
    gap = model["order_gap"]
    assert gap["gap"] == pytest.approx(gap["swapped"] - gap["forward"])
    assert gap["gap"] > 10
    assert gap["low"] > 0
    assert gap["num_flipped"] == sum(
        (one["tuple"][1] - one["tuple"][0]) * (two["tuple"][1] - two["tuple"][0]) < 0
        for one, two in zip(forward, swapped, strict=True)
    )
    assert "reference first" in summarize("-f", file)[1]


def test_a_question_with_scores_in_one_order_only_is_named(figures, tmp_path):
    forward = with_images(reviews(0))
    swapped = [line | {"order": "swapped"} for line in forward]
    swapped[4]["tuple"] = [-1, -1]
    [model] = figures("-f", write_lines(tmp_path / "r.jsonl", [*forward, *swapped]))["models"]
    assert model["one_order_only"] == ["4"]
    assert model["order_gap"]["num_questions"] == 29


def test_reviews_of_the_original_without_categories_and_with_score_are_read(figures, tmp_path):
    lines = [{"review_id": "r", "question_id": n, "text": "8 6\nwell", "score": [8.0, 6.0]} for n in range(4)]
    [model] = figures("-f", write_lines(tmp_path / "review_vicuna-13b.jsonl", lines))["models"]
    assert [f["category"] for f in model["figures"]] == ["all"]
    assert model["figures"][0]["relative"] == 75.0


def test_a_question_that_was_reviewed_again_counts_once_with_its_last_review(figures, tmp_path):
    lines = [{"question_id": 1, "tuple": [8, 4]}, {"question_id": "1", "tuple": [8, 8]}]
    found = figures("-f", write_lines(tmp_path / "r.jsonl", lines))
    assert found["models"][0]["figures"][0]["relative"] == 100.0
    assert any("reviewed more than once, the last review counts: 1" in note for note in found["notes"])


def test_each_judge_in_a_file_has_figures_of_its_own(figures, tmp_path):
    lines = reviews(0, judge_snapshot="judge-a") + reviews(2, judge_snapshot="judge-b")
    found = figures("-f", write_lines(tmp_path / "r.jsonl", lines))
    assert [model["name"] for model in found["models"]] == ["r by judge-a", "r by judge-b"]
    assert any("Several judges (judge-a, judge-b)" in note for note in found["notes"])


# Which files


def test_without_arguments_it_reads_the_originals_folder_and_says_so(summarize, tmp_path, monkeypatch):
    monkeypatch.setattr(summarize_gpt_review, "REPOSITORY", tmp_path / "no")
    monkeypatch.setattr(summarize_gpt_review, "EVAL_FOLDER", tmp_path / "no")
    monkeypatch.chdir(tmp_path)
    code, out, err = summarize()
    assert (code, out) == (1, "")
    assert f"gpt4_text*.jsonl in {tmp_path / 'vqa/reviews/coco2014_val80'}" in err
    assert f"review*.json or review*.jsonl in {tmp_path}. Name them with -f FILE" in err

    write_lines(tmp_path / "review.json", reviews())
    code, out, err = summarize()
    assert code == 0
    assert "note: reading review.json" in err

    (tmp_path / "vqa/reviews/coco2014_val80").mkdir(parents=True)
    write_lines(tmp_path / "vqa/reviews/coco2014_val80/gpt4_text_13b.jsonl", reviews())
    code, out, err = summarize()
    assert code == 0
    assert "gpt4_text_13b.jsonl" in err
    assert "\n13b " in out


def test_files_are_chosen_by_folder_name_judge_and_questions(figures, summarize, tmp_path):
    for name in ("gpt4_text_llava-7b", "gpt4_text_llava-13b", "gpt4_text_llava-13b-0613"):
        write_lines(tmp_path / f"{name}.jsonl", reviews())

    def names(*arguments: str) -> list[str]:
        return [model["name"] for model in figures("-d", tmp_path, *arguments)["models"]]

    assert names() == ["llava-13b-0613", "llava-13b", "llava-7b"]
    assert names("-s", "13b", "llava") == ["llava-13b-0613", "llava-13b"]
    assert names("-v", "0613") == ["llava-13b-0613"]
    assert names("-v", "0314", "-s", "7b") == ["llava-7b"]
    assert figures("-d", tmp_path, "-f", "gpt4_text_llava-7b.jsonl", "-i", "0", "1")["models"][0]["num_reviews"] == 28
    assert "none of the 3 files has a matching name" in summarize("-d", tmp_path, "-s", "34b")[2]
    assert "none of the 3 files is by this judge" in summarize("-d", tmp_path, "-v", "0125")[2]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"question_id": 1, "tuple": [8]}], r"line 1 (question 1): 'tuple' is [8], expected two numbers"),
        ([{"question_id": 1, "tuple": "8 7"}], "'tuple' is a JSON string, expected two numbers"),
        ([{"question_id": 1, "tuple": [8, None]}], "'tuple' is [8, None], expected two numbers"),
        ([{"question_id": 1, "text": "It is."}], "has neither 'tuple' nor 'score'. Is this a file of reviews?"),
        ([{"tuple": [1, 2]}], "line 1 has no 'question_id'"),
        ([], "contains no reviews"),
        ([{"question_id": 1, "tuple": [-1, -1]}], "no review has scores"),
    ],
)
def test_a_file_that_holds_something_else_is_named_with_its_line(lines, said, summarize, tmp_path):
    code, out, err = summarize("-f", write_lines(tmp_path / "r.jsonl", lines))
    assert (code, out) == (1, "")
    assert said in err


# Output


def test_every_format_says_the_same_and_a_folder_gets_all_of_them(summarize, figures, tmp_path):
    files = [write_lines(tmp_path / f"{name}.jsonl", with_images(reviews(gain))) for name, gain in (("a", 0), ("b", 1))]
    folder = tmp_path / "made" / "summary"
    code, out, err = summarize("-f", *files, "--output", folder)
    assert code == 0
    assert "wrote summary.json, summary.csv, summary-differences.csv, summary.md, summary.svg" in err
    found = json.loads((folder / "summary.json").read_text())
    assert found == figures("-f", *files)
    overview = out.split("\n\n")[1].splitlines()
    assert overview[0].split() == ["model", "conv", "detail", "complex", "all"]
    total = by_category(found["models"][0])["all"]
    assert overview[1].endswith(f"{total['relative']} ({total['low']:.1f} to {total['high']:.1f})")
    rows = list(csv.DictReader(io.StringIO((folder / "summary.csv").read_text())))
    assert [(row["model"], row["category"], float(row["relative"])) for row in rows] == [
        (model["name"], figure["category"], figure["relative"])
        for model in found["models"]
        for figure in model["figures"]
    ]
    page = (folder / "summary.md").read_text()
    assert "![Relative scores with their intervals](summary.svg)" in page
    assert "## Differences between models" in page
    words = {"".join(text.itertext()) for text in ElementTree.parse(folder / "summary.svg").iter() if text.text}
    assert {"a", "b", "conv", "Relative score, % of the reference"} <= words


def test_the_plot_can_be_a_png(summarize, tmp_path):
    file = write_lines(tmp_path / "a.jsonl", with_images(reviews()))
    assert summarize("-f", file, "--output", tmp_path / "made", "--plot", "png")[0] == 0
    with Image.open(tmp_path / "made" / "summary.png") as image:
        assert image.width > 600


def test_a_relative_path_is_looked_for_where_readme_commands_mean_it(summarize, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "REPOSITORY", tmp_path)
    write_lines(tmp_path / "r.jsonl", reviews())
    assert summarize("-f", "r.jsonl")[0] == 0

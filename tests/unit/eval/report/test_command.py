"""The evaluation report: what is read, which figures come out, and what reaches the page."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from llava.command_line import run
from llava.eval import eval_science_qa
from llava.eval.report import command
from tests.support.images import noise
from tests.support.runs import HOSTILE, mark, review, write_marks
from tests.support.science_qa import answer, make_science_qa, right, write_lines


def report(*words: object) -> int:
    return run(command.add_arguments, command.main, argv=[str(word) for word in words])


def figures(folder: Path, *words: object) -> dict:
    """The report as JSON."""
    assert report(*words, "--output", folder / "report.json") == 0
    return json.loads((folder / "report.json").read_text())


def page(folder: Path, *words: object) -> str:
    assert report(*words, "--output", folder / "report.html") == 0
    return (folder / "report.html").read_text(encoding="utf-8")


def data_of(html: str) -> dict:
    """What the page's script reads."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


# Figures


def test_accuracy_comes_with_wilsons_interval_and_answers_without_a_mark_do_not_count(tmp_path):
    alone = [mark(n, float(n <= 8), image=None) for n in range(1, 11)]
    marks = write_marks(tmp_path / "a.json", [*alone, mark(11, None, "Hm.", parsed="hm", image=None)])
    (told,) = figures(tmp_path, marks)["runs"]
    assert told["score"]["value"] == 80
    assert told["score"]["possible"] == 10
    assert told["score"]["interval_95"] == pytest.approx([49.02, 94.33], abs=0.01)  # of 8 in 10, from textbooks
    assert told["outcomes"] == {"right": 8, "wrong": 2, "not marked": 1}


def test_questions_about_one_image_widen_the_interval(tmp_path):
    """All answers about an image are right, or all are wrong: there are 10 facts here, not 20."""
    scores = [float(n <= 10) for n in range(1, 21)]
    apart = write_marks(tmp_path / "a.json", [mark(n, s, image=None) for n, s in enumerate(scores, start=1)])
    together = write_marks(tmp_path / "b.json", [mark(n, s) for n, s in enumerate(scores, start=1)])
    errors = [figures(tmp_path, file)["runs"][0]["score"]["standard_error"] for file in (apart, together)]
    assert errors[1] == pytest.approx(errors[0] * 2**0.5)


def test_two_runs_are_compared_question_by_question_on_what_both_have_marks_for(tmp_path):
    first = write_marks(tmp_path / "a.json", [mark(n, s, image=None) for n, s in enumerate([1, 1, 0, 0, 1], start=1)])
    second = write_marks(tmp_path / "b.json", [mark(n, s, image=None) for n, s in enumerate([1, 1, 1, 0], start=1)])
    told = figures(tmp_path, f"A={first}", f"B={second}")
    (difference,) = told["differences"]
    assert difference["difference"]["value"] == pytest.approx(25)
    assert (difference["first_better"], difference["second_better"], difference["same"]) == (0, 1, 3)
    # The gains are 0, 0, 1, 0: their deviations from 1/4 squared sum to 3/4.
    assert difference["difference"]["standard_error"] == pytest.approx(100 * 0.75**0.5 / 4)
    assert any("B: no record of 1 question" in remark for remark in told["remarks"])
    assert [question["disagreeing"] for question in told["questions"]] == [False, False, True, False, True]


def test_every_category_has_figures_of_its_own(tmp_path):
    marks = write_marks(tmp_path / "a.json", [mark(n, float(n in (1, 3))) for n in range(1, 7)])
    told = figures(tmp_path, marks)["categories"]
    assert {name: (of["questions"], of["scores"]["tiny"]["value"]) for name, of in told.items()} == {
        "easy": (4, 25.0),
        "hard": (2, 50.0),
    }


def test_partial_marks_are_averaged(tmp_path):
    marks = write_marks(tmp_path / "a.json", [mark(1, 0.3), mark(2, 1.0), mark(3, 0.0)], benchmark="TextVQA")
    (told,) = figures(tmp_path, marks)["runs"]
    assert told["score"]["value"] == pytest.approx(130 / 3)
    assert told["outcomes"] == {"partly right": 1, "right": 1, "wrong": 1}


def test_a_scorers_own_figures_are_shown_with_its_intervals(tmp_path):
    own = {"figures": {"F1": 84.0}, "estimates": {"F1": {"interval_95": [80.0, 88.0]}}}
    html = page(tmp_path, write_marks(tmp_path / "a.json", [mark(1, 1.0)], **own))
    assert "84.00 (80.00 to 88.00)" in html


# ScienceQA


def test_answers_to_science_qa_are_marked_as_its_scorer_marks_them(tmp_path, data, capsys):
    golden = data / "golden" / "science_qa"
    told = figures(tmp_path, golden / "sqa_pred.jsonl", "--base-dir", golden)
    words = [
        "--base-dir",
        golden,
        "--result-file",
        golden / "sqa_pred.jsonl",
        "--output-file",
        tmp_path / "marked.json",
    ]
    assert run(eval_science_qa.add_arguments, eval_science_qa.main, argv=list(map(str, words))) == 0
    from_scorer = figures(tmp_path, tmp_path / "marked.json")
    for score in (told["runs"][0]["score"], from_scorer["runs"][0]["score"]):
        assert (score["gained"], score["possible"]) == (8, 12)
    outcomes = told["runs"][0]["outcomes"]
    assert outcomes == from_scorer["runs"][0]["outcomes"]
    assert told["categories"]["IMG"]["questions"] == sum("IMG" in one["categories"] for one in told["questions"])


def test_problems_without_an_answer_are_wrong_and_named(tmp_path):
    base = make_science_qa(tmp_path / "sqa")
    answers = write_lines(tmp_path / "a.jsonl", [answer(n, right(n)) for n in range(1, 11)])
    told = figures(tmp_path, answers, "--base-dir", base)
    assert told["runs"][0]["score"]["value"] == pytest.approx(1000 / 12)
    assert told["runs"][0]["outcomes"] == {"right": 10, "missing": 2}
    assert any("2 without an answer, counted as wrong: 11, 12" in remark for remark in told["remarks"])


def test_an_answer_that_is_no_letter_by_itself_names_none(tmp_path):
    """An empty answer and two letters together are parts of `ABCDE`, but no letters."""
    base = make_science_qa(tmp_path / "sqa")
    answers = [answer(n, {1: "", 2: "BC"}.get(n, right(n))) for n in range(1, 13)]
    told = figures(tmp_path, write_lines(tmp_path / "a.jsonl", answers), "--base-dir", base)
    assert told["runs"][0]["outcomes"] == {"right": 10, "unparsable": 2}


# Plain answers and questions


def test_answers_without_marks_are_shown_and_not_counted(tmp_path):
    texts = {"a": ("a dog", "a cat"), "b": ("a fox", "A cat ")}
    files = [write_lines(tmp_path / f"{n}.jsonl", [answer(1, t[0]), answer(2, t[1])]) for n, t in texts.items()]
    told = figures(tmp_path, *files)
    assert told["differences"] == []
    assert [one["outcomes"] for one in told["runs"]] == [{"not marked": 2}] * 2
    assert [one["name"] for one in told["runs"]] == ["m (a)", "m (b)"]
    assert [question["disagreeing"] for question in told["questions"]] == [True, False]
    assert "accuracy" not in page(tmp_path, *files).partition("<script")[0]


def test_a_question_file_says_what_was_asked_and_about_which_image(tmp_path):
    answers = write_lines(tmp_path / "a.jsonl", [answer(7, "A dog.", prompt="What?\nAnswer shortly.")])
    asked = {"question_id": "7", "text": "What?", "image": "7.png", "category": "conv"}
    told = figures(tmp_path, answers, "--question-file", write_lines(tmp_path / "q.jsonl", [asked]))
    (question,) = told["questions"]
    assert (question["text"], question["image"], question["categories"]) == ("What?", "7.png", ["conv"])
    assert question["answers"]["m"]["prompt"] == "What?\nAnswer shortly."
    listed = [{"id": "7", "conversations": [{"value": "Why?"}, {"value": "Because."}], "image": "8.png"}]
    (tmp_path / "q.json").write_text(json.dumps(listed))
    (question,) = figures(tmp_path, answers, "--question-file", tmp_path / "q.json")["questions"]
    assert (question["text"], question["target"], question["image"]) == ("Why?", "Because.", "8.png")


def test_questions_that_share_the_id_of_an_image_stay_apart(tmp_path):
    asked = [{"question_id": "1.png", "text": text, "image": "1.png"} for text in ("A dog?", "A cat?")]
    answers = [answer("1.png", text, prompt=prompt) for text, prompt in (("Yes.", "A dog?"), ("No.", "A cat?"))]
    files = write_lines(tmp_path / "a.jsonl", answers), write_lines(tmp_path / "q.jsonl", asked)
    questions = figures(tmp_path, files[0], "--question-file", files[1])["questions"]
    assert [(one["text"], one["answers"]["m"]["text"]) for one in questions] == [("A dog?", "Yes."), ("A cat?", "No.")]


# Reviews


def test_reviews_give_both_sides_their_means_and_the_published_ratio(tmp_path):
    """Two reviews in both orders, one without scores; the answers lend their texts and names."""
    records = [
        review(1, [8, 6]),
        review(1, [6, 6], order="swapped"),
        review(2, [9, 9]),
        review(3, [-1, -1], unparsable="the reply is empty"),
    ]
    reviews = write_lines(tmp_path / "review.jsonl", records)
    references = write_lines(
        tmp_path / "gpt4.jsonl", [{"question_id": n, "text": f"Reference {n}."} for n in (1, 2, 3)]
    )
    answers = [answer(n, f"Answer {n}.", answer_id=f"b{n}", model_id="ckpt/llava") for n in (1, 2, 3)]
    told = figures(tmp_path, reviews, write_lines(tmp_path / "llava.jsonl", answers), references)
    assert [(one["name"], one["score"]["value"]) for one in told["runs"]] == [("gpt4", 8), ("llava", 7.5)]
    (relative,) = told["relative_scores"]
    assert {name: of["value"] for name, of in relative["percent"].items()} == {"all": 93.8, "conv": 85.7, "detail": 100}
    first, second, third = told["questions"]
    assert first["answers"]["llava"]["text"] == "Answer 1."
    assert first["answers"]["gpt4"]["text"] == "Reference 1."
    assert "The judge saw the second answer first." in first["note"]
    outcomes = [one["answers"]["llava"]["outcome"] for one in (first, second, third)]
    assert outcomes == ["worse", "even", "unparsable"]
    assert any("reviews without scores, which are not counted: 1 (3)" in remark for remark in told["remarks"])


def test_reviews_of_other_answers_are_refused(tmp_path, capsys):
    reviews = write_lines(tmp_path / "review.jsonl", [review(1, [8, 6]), review(2, [8, 6])])
    answers = [answer(1, "One.", answer_id="b1"), answer(2, "Two.", answer_id="of another run")]
    assert report(reviews, write_lines(tmp_path / "a.jsonl", answers), "--output", tmp_path / "r.html") == 1
    message = capsys.readouterr().err
    assert (
        f"{reviews}: the review of question 2 is about the answer b2, which {tmp_path / 'a.jsonl'} does not contain"
        in message
    )


# What reaches the page


@pytest.fixture
def hostile_page(tmp_path) -> str:
    marks = [mark(1, 1.0, HOSTILE, question=HOSTILE, target=HOSTILE, categories=(HOSTILE, "\ud800"), note=HOSTILE)]
    return page(tmp_path, write_marks(tmp_path / "a.json", marks, model=HOSTILE), "--title", HOSTILE)


def test_hostile_text_is_data_and_never_markup(hostile_page):
    assert hostile_page.count("<script") == 2
    assert "<img" not in hostile_page.partition('id="data">')[0]
    content = hostile_page.partition('id="data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(content)
    assert data_of(hostile_page)["answers"][0][0]["text"] == HOSTILE


def test_the_pages_policy_allows_its_own_script_and_style_only(hostile_page):
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', hostile_page)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    script = re.search(r"<script>(.*?)</script>", hostile_page, re.DOTALL)[1]
    style = re.search(r"<style>(.*?)</style>", hostile_page, re.DOTALL)[1]
    for text, kind in ((script, "script-src"), (style, "style-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy


def test_the_page_asks_for_nothing_from_elsewhere(hostile_page):
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", hostile_page)
    assert "url(" not in hostile_page


def test_markdown_shows_tables_and_what_was_not_right_as_plain_text(tmp_path, capsys):
    marks = [mark(1, 1.0), mark(2, 0.0, "*No*, `it` is <b>not</b>.", parsed="no")]
    assert report(write_marks(tmp_path / "a.json", marks), "--format", "markdown", "--output", "-") == 0
    text = capsys.readouterr().out
    assert "| tiny | 50.00 |" in text
    assert "### Question 2" in text
    assert "### Question 1\n" not in text
    assert r"\*No\*, \`it\` is \<b\>not\</b\>." in text


def test_fewer_answers_leave_the_figures_as_they_are(tmp_path):
    marks = write_marks(tmp_path / "a.json", [mark(n, float(n > 1)) for n in range(1, 5)])
    html = page(tmp_path, marks, "--max-answers", 1)
    assert "75.00" in html
    assert "answers of the first 1 are shown" in html
    assert [question["id"] for question in data_of(html)["questions"]] == ["1"]


# Images


def images_of(html: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in data_of(html)["images"]]


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (1, 2):
        noise(640, 400).save(folder / f"{number}.png")
    return folder


def test_images_are_in_the_page_once_each_as_thumbnails_or_whole(tmp_path, images):
    words = (write_marks(tmp_path / "a.json", [mark(n, 1.0) for n in range(1, 5)]), "--image-folder", images)
    assert [image.size for image in images_of(page(tmp_path, *words))] == [(320, 200)] * 2
    assert [image.size for image in images_of(page(tmp_path, *words, "--full-images"))] == [(640, 400)] * 2
    assert images_of(page(tmp_path, *words, "--no-images")) == []


def test_earlier_spellings_of_the_flags_of_images_are_understood(tmp_path, images):
    words = (write_marks(tmp_path / "a.json", [mark(1, 1.0)]), "--image-folder", images)
    assert [image.size for image in images_of(page(tmp_path, *words, "--full-pictures"))] == [(640, 400)]
    assert images_of(page(tmp_path, *words, "--no-pictures")) == []
    assert images_of(page(tmp_path, *words, "--picture-megabytes", 0.0003)) == []


def test_thumbnails_shrink_to_fit_and_what_does_not_fit_is_said(tmp_path, images, capsys):
    words = (write_marks(tmp_path / "a.json", [mark(n, 1.0) for n in range(1, 5)]), "--image-folder", images)
    small = page(tmp_path, *words, "--image-megabytes", 0.02)
    assert [image.width < 320 for image in images_of(small)] == [True, True]
    assert sum(map(len, data_of(small)["images"])) <= 20_100
    tiny = page(tmp_path, *words, "--image-megabytes", 0.0003)
    assert images_of(tiny) == []
    assert "images left out: 2 (1.png, 2.png): over the limit of 0.0003 MB" in tiny
    assert "images left out: 2 (1.png, 2.png)" in capsys.readouterr().err


def test_images_that_are_missing_damaged_or_outside_of_the_folder_are_counted_and_named(tmp_path, images):
    (images / "2.png").write_bytes(b"no image")
    noise().save(tmp_path / "private.png")
    marks = [mark(1, 1.0), mark(3, 1.0), mark(5, 1.0), mark(7, 1.0, image="../private.png")]
    html = page(tmp_path, write_marks(tmp_path / "a.json", marks), "--image-folder", images)
    assert len(images_of(html)) == 1
    assert "left out: 1 (3.png): not in" in html
    assert "left out: 1 (2.png): " in html
    assert "left out: 1 (../private.png): ../private.png is not inside" in html


# Wrong input


def test_files_that_do_not_fit_together_are_refused_with_file_line_and_id(tmp_path, capsys):
    a = write_marks(tmp_path / "a.json", [mark(1, 1.0)])
    other_benchmark = write_marks(tmp_path / "b.json", [mark(1, 1.0)], benchmark="MME", model="b")
    other_ids = write_marks(tmp_path / "c.json", [mark(9, 1.0)], model="c")
    other_target = write_marks(tmp_path / "d.json", [mark(1, 1.0, target="no")], model="d")
    questions = write_lines(tmp_path / "q.jsonl", [{"question_id": 5, "text": "What?"}])
    answers = write_lines(tmp_path / "e.jsonl", [answer(5, "A dog."), answer(6, "A cat.")])
    for words, message in (
        ([a, other_benchmark], f"{a} is of POPE, {other_benchmark} of MME"),
        ([a, other_ids], f"{other_ids} answers none of the questions of {a}: the first are 9, and 1"),
        ([a, other_target], f"{other_target}: mark 1 (question 1): the correct answer is 'no', but 'yes' in {a}"),
        ([answers, "--question-file", questions], f"{answers}: line 2 (question 6): not a question of {questions}"),
        ([f"A={a}", f"A={other_ids}"], "two runs are called 'A'"),
        ([a, a], "given twice"),
    ):
        assert report(*words, "--output", tmp_path / "report.html") == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question_id": 1, "text": "A dog."}\n{"question_id": 2, "te', "line 2: not JSON"),
        ('{"question_id": 1, "te', "line 1: not JSON"),
        ('{"question_id": 1, "prompt": "What?"}\n', r"line 1 (question 1): 'text' is missing"),
        ('{"text": "A dog."}\n{"text": "A cat."}\n', "line 1 has no 'question_id'"),
        ("", "the file is empty"),
        ("[]", "a JSON list"),
        (
            '{"accuracy": 85}',
            "neither answers (JSON Lines), nor reviews, nor the output of a scorer; it has the fields",
        ),
        ('{\n "marks": [{"question_id": 1}]\n}', "mark 1 (question 1): 'score' is missing"),
        (
            '{"question_id": 1, "answer2_id": 2, "tuple": [8]}\n',
            "line 1 (question 1): 'tuple' is [8], expected two numbers",
        ),
        (
            '{"question_id": 1, "answer2_id": 2, "tuple": [8, 80]}\n',
            "question 1: the scores are (8.0, 80.0), expected up to 10",
        ),
        ('{"acc": 1, "outputs": {"1": "A"}, "results": {}}', "Give --base-dir"),
    ],
)
def test_a_file_that_is_no_run_is_refused(tmp_path, capsys, content, message):
    (tmp_path / "run").write_text(content)
    code = report(tmp_path / "run", "--output", tmp_path / "report.html")
    error = capsys.readouterr().err
    assert code == 1
    assert str(tmp_path / "run") in error
    assert message in error


def test_the_formats_name_and_flag_must_agree(tmp_path, capsys):
    marks = write_marks(tmp_path / "a.json", [mark(1, 1.0)])
    assert report(marks, "--output", tmp_path / "r.md", "--format", "json") == 1
    assert "the name says markdown, --format says json" in capsys.readouterr().err
    assert report(tmp_path / "nothing.json") == 1
    assert "no such file" in capsys.readouterr().err

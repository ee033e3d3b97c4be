"""The scorers of POPE, MME, MMBench, VQA, VizWiz, TextVQA, GQA, SEED-Bench and MM-Vet, on cases worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.eval.eval_mme import says
from llava.eval.eval_pope import is_clear, says_no
from llava.eval.eval_textvqa import question_in
from llava.eval.marks import read_marks
from llava.eval.mmbench import named_option
from tests.support.benchmarks import answers, evaluate, write_json, write_lines


def said(path: Path) -> dict:
    """What a scorer wrote, its marks checked by their reader."""
    read_marks(path)
    return json.loads(path.read_text())


def values(path: Path) -> dict[str, float]:
    return {name: round(one, 2) for name, one in said(path)["figures"].items()}


def odd(path: Path) -> dict[str, list[str]]:
    return {name: said(path)[name] for name in ("missing", "duplicate", "unknown", "unparsable")}


# POPE


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
    """Two pictures, three questions each, in one category; their labels stand in another order than the questions."""
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


def test_pope_counts_by_picture_and_question_in_the_originals_words(pope, tmp_path, capsys):
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


def test_pope_takes_questions_about_one_picture_together(pope, tmp_path):
    """One picture all right, the other all wrong: accuracy 50, and the error of two pictures, sqrt(2 * 1.5²) / 6."""
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
        ({"category": "popular"}, r"there is no .*coco_pope_popular\.json"),
        ({"category": None}, r"line 1 \(question 1\): 'category' is a JSON null"),
    ],
)
def test_pope_refuses_questions_without_labels(pope, tmp_path, capsys, change, message):
    question = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "category": "random"}
    pope["question_file"] = write_lines(tmp_path / "q.jsonl", [question | change])
    assert evaluate("eval_pope", **pope, result_file=answers(tmp_path / "a.jsonl", [(1, "Yes")])) == 1
    assert pytest.importorskip("re").search(message, capsys.readouterr().err)


# MME


@pytest.mark.parametrize(
    ("text", "word"),
    [("Yes", "yes"), ("no.", "no"), ("  no", "no"), ("   no", None), ("Not so", "no"), ("I know", None), ("", None)],
)
def test_mme_reads_the_first_four_letters(text, word):
    assert says(text) == word


@pytest.fixture
def mme(tmp_path: Path) -> Path:
    """Two pictures of `existence`, in its own form, and one of `code_reasoning`, in the other."""
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


def test_mme_adds_accuracy_and_pictures_with_both_right(mme, tmp_path):
    """existence: 3 of 4 right, 1 of 2 pictures: 75 + 50. code_reasoning: 1 of 2, no picture: 50."""
    output = tmp_path / "mme.json"
    result = mme_answers(tmp_path / "a.jsonl", "Yes", "No", "yes", "Yes.", "No", "No")
    assert evaluate("eval_mme", annotation_dir=mme, result_file=result, output=output) == 0
    figures = values(output)
    assert (figures["existence"], figures["existence accuracy"], figures["existence accuracy+"]) == (125, 75, 50)
    assert (figures["perception"], figures["cognition"], figures["code_reasoning"]) == (125, 50, 50)
    # The two pictures score 200 and 50, so that the error of their mean is 75 / sqrt(2).
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


def test_mme_refuses_a_picture_with_one_question(mme, tmp_path, capsys):
    (mme / "existence" / "questions_answers_YN" / "3.txt").write_text("Is there a hat?\tYes\n")
    assert evaluate("eval_mme", annotation_dir=mme, result_file=mme_answers(tmp_path / "a.jsonl", "Yes")) == 1
    assert "3.txt: has 1 questions; every picture of MME has two" in capsys.readouterr().err


# MMBench


OPTIONS = {"A": "a red cup", "B": "a blue cup", "C": "a dog"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C) a dog", "C"),
        ("The answer is B", "B"),
        ("It is A dog", "C"),
        ("A", "A"),
        ("A or B", None),
        ("a Blue cup, of course", "B"),
        ("a cup", None),
        ("a red cup and a dog", None),
        ("D", None),
        ("", None),
    ],
)
def test_mmbench_finds_the_one_option_that_is_named(text, letter):
    assert named_option(text, OPTIONS) == letter


MMBENCH_COLUMNS = [
    "index",
    "question",
    "hint",
    "A",
    "B",
    "C",
    "D",
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
    "split",
]


def mmbench_row(index: int, options: str, answer: str, category: str = "colour") -> list[str]:
    letters = [*options.split("/"), "", "", ""][:4]
    return [
        str(index),
        f"What is {index}?",
        "nan",
        *letters,
        answer,
        category,
        "x" * 200_000,
        "own",
        "seeing",
        "",
        "dev",
    ]


def mmbench_table(path: Path, *rows: list[str]) -> Path:
    path.write_text("\n".join("\t".join(row) for row in [MMBENCH_COLUMNS, *rows]) + "\n", encoding="utf-8")
    return path


def test_mmbench_counts_a_question_only_if_all_its_rotations_in_the_table_are_right(tmp_path):
    table = mmbench_table(
        tmp_path / "dev.tsv",
        mmbench_row(1, "red/blue", "A"),
        mmbench_row(2, "dog/cat", "B", "animal"),
        mmbench_row(1_000_001, "blue/red", "B"),
        mmbench_row(1_000_002, "cat/dog", "A", "animal"),
    )
    output = tmp_path / "o.json"
    result = answers(tmp_path / "a.jsonl", [(1, "A"), (2, "B"), (1_000_001, "B"), (1_000_002, "B. dog")], round_id=0)
    assert evaluate("eval_mmbench", annotation_file=table, result_file=result, output=output) == 0
    assert values(output) == {
        "accuracy": 100,
        "circular": 50,
        "circular seeing": 50,
        "circular animal": 0,
        "circular colour": 100,
    }


def test_mmbench_maps_letters_back_where_the_generator_rotated_the_options(tmp_path):
    """Question 1 is right in both rounds, question 2 in the first alone."""
    table = mmbench_table(tmp_path / "dev.tsv", mmbench_row(1, "red/blue", "A"), mmbench_row(2, "dog/cat", "B"))
    rounds = [(1, 0, "A", "AB"), (1, 1, "B", "BA"), (2, 0, "cat", "AB"), (2, 1, "B", "BA")]
    result = write_lines(
        tmp_path / "a.jsonl",
        [{"question_id": i, "round_id": r, "text": text, "option_char": list(o)} for i, r, text, o in rounds],
    )
    output = tmp_path / "o.json"
    assert evaluate("eval_mmbench", annotation_file=table, result_file=result, output=output) == 0
    assert (values(output)["accuracy"], values(output)["circular"]) == (100, 50)
    assert said(output)["marks"][3] | {"question": None} == {
        "question_id": "2 | 1",
        "score": 0.0,
        "text": "B",
        "parsed": "A. dog",
        "target": "B. cat",
        "question": None,
        "categories": ["colour", "seeing"],
    }


def test_mmbench_names_a_rotation_without_an_answer(tmp_path, capsys):
    table = mmbench_table(
        tmp_path / "dev.tsv", mmbench_row(1, "red/blue", "A"), mmbench_row(1_000_001, "blue/red", "B")
    )
    assert evaluate("eval_mmbench", annotation_file=table, result_file=answers(tmp_path / "a.jsonl", [(1, "A")])) == 0
    captured = capsys.readouterr()
    assert "questions without an answer: 1 (counted as wrong): 1000001 | 0" in captured.err
    assert captured.out.splitlines()[2].split()[:2] == ["circular", "0.00"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["1", "q"], "line 3: has 2 fields, the header 14"),
        (mmbench_row(1, "red/blue", "A"), "line 3: index 1 is there twice"),
        (mmbench_row(2, "red/blue", "C"), "index 2: the answer 'C' is none of the options A, B"),
    ],
)
def test_mmbench_names_the_row_that_is_wrong(tmp_path, capsys, row, message):
    table = mmbench_table(tmp_path / "dev.tsv", mmbench_row(1, "red/blue", "A"), row)
    assert evaluate("eval_mmbench", annotation_file=table, result_file=answers(tmp_path / "a.jsonl", [(1, "A")])) == 1
    assert message in capsys.readouterr().err


# VQA and VizWiz


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


def test_vizwiz_finds_answers_by_their_picture(tmp_path, capsys):
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
    assert "answers of the generator need --question-file" in capsys.readouterr().err

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


# TextVQA


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
    result = write_lines(
        tmp_path / "r" / "tiny.jsonl" if (tmp_path / "r").mkdir() is None else tmp_path,
        [{"question_id": i, "prompt": f"{q}\nAnswer shortly.", "text": text} for i, q, text in asked],
    )
    output = tmp_path / "o.json"
    assert evaluate("eval_textvqa", annotation_file=annotations, result_file=result, output=output) == 0
    assert capsys.readouterr().out.startswith("tiny\nSamples: 2\nAccuracy: 30.00%\n")
    assert odd(output)["missing"] == ["3"]
    assert evaluate("eval_textvqa", annotation_file=annotations, result_dir=tmp_path / "r") == 0
    assert evaluate("eval_textvqa", annotation_file=annotations) == 1
    assert "give --result-file or --result-dir" in capsys.readouterr().err


# GQA


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


# SEED-Bench


@pytest.fixture
def seed_bench(tmp_path: Path) -> Path:
    kinds = {"Scene Understanding": 1, "Action Prediction": 11}
    rows = [("10", 1, "A", "image"), ("11", 1, "B", "image"), ("12", 11, "C", "video")]
    questions = [
        {
            "question_id": i,
            "question_type_id": kind,
            "answer": answer,
            "data_type": medium,
            "question": "?",
            "data_id": i,
        }
        for i, kind, answer, medium in rows
    ]
    return write_json(tmp_path / "SEED-Bench.json", {"questions": questions, "question_type": kinds})


def test_seed_bench_takes_the_letter_alone_and_writes_a_submission(seed_bench, tmp_path, capsys):
    result = answers(tmp_path / "a.jsonl", [(10, "A"), (11, "B."), (12, "C")])
    output, upload = tmp_path / "o.json", tmp_path / "up" / "u.jsonl"
    words = {"annotation_file": seed_bench, "result_file": result, "output": output, "result_upload_file": upload}
    assert evaluate("convert_seed_bench", **words) == 0
    assert capsys.readouterr().out.startswith(
        "Scene Understanding: 50.00%\nAction Prediction: 100.00%\nTotal accuracy: 66.67%\n"
        "image accuracy: 50.00%\nvideo accuracy: 100.00%\n"
    )
    assert odd(output)["unparsable"] == ["11"]
    assert json.loads(upload.read_text().splitlines()[1]) == {"question_id": "11", "prediction": "B."}


def test_a_submission_that_is_not_whole_is_not_written(seed_bench, tmp_path, capsys):
    upload = tmp_path / "u.jsonl"
    result = answers(tmp_path / "a.jsonl", [(10, "A")])
    assert (
        evaluate("convert_seed_bench", annotation_file=seed_bench, result_file=result, result_upload_file=upload) == 1
    )
    assert "questions without an answer: 2 (11, 12). A submission must be whole" in capsys.readouterr().err
    assert not upload.exists()


# MM-Vet


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


# Submissions of VQAv2 and MMBench


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


@pytest.fixture
def mmbench_submission(tmp_path: Path) -> dict[str, object]:
    table = mmbench_table(tmp_path / "dev.tsv", mmbench_row(7, "red/=1+1", "A"), mmbench_row(8, "dog/cat", "B"))
    rounds = [(7, 0, "=B\x01"), (7, 1, "A")]
    write_lines(tmp_path / "tiny.jsonl", [{"question_id": i, "round_id": r, "text": text} for i, r, text in rounds])
    return {"annotation_file": table, "result_dir": tmp_path, "upload_dir": tmp_path / "up", "experiment": "tiny"}


def test_mmbench_submission_is_a_workbook_with_the_predictions_as_texts(mmbench_submission, tmp_path, capsys):
    openpyxl = pytest.importorskip("openpyxl")
    assert evaluate("convert_mmbench", **mmbench_submission) == 0
    rows = list(openpyxl.load_workbook(tmp_path / "up" / "tiny.xlsx").active.iter_rows())
    assert [[cell.value for cell in row] for row in rows] == [
        ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"],
        [7, "What is 7?", "red", "=1+1", None, None, "=B", "A", "dev"],
        [8, "What is 8?", "dog", "cat", None, None, None, "B", "dev"],
    ]
    assert rows[1][6].data_type == "s"
    err = capsys.readouterr().err
    assert "questions without an answer: 1 (an empty cell): 8 | 0" in err
    assert "1 answers of later rounds are left out" in err


def test_mmbench_submission_can_be_plain_text(mmbench_submission, tmp_path):
    assert evaluate("convert_mmbench", **mmbench_submission, format="csv") == 0
    lines = (tmp_path / "up" / "tiny.csv").read_text().splitlines()
    assert lines[2] == "8,What is 8?,dog,cat,,,,B,dev"


# All of them


def test_answers_to_another_benchmark_are_refused(seed_bench, tmp_path, capsys):
    result = answers(tmp_path / "a.jsonl", [("x", "A")])
    assert evaluate("convert_seed_bench", annotation_file=seed_bench, result_file=result) == 1
    assert "none of its 1 answers belongs to a question of" in capsys.readouterr().err


def test_an_answer_that_was_cut_off_is_named_with_its_line(seed_bench, tmp_path, capsys):
    result = answers(tmp_path / "a.jsonl", [(10, "A"), (11, "B")])
    result.write_text(result.read_text()[:-9])
    assert evaluate("convert_seed_bench", annotation_file=seed_bench, result_file=result) == 1
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
    import runpy

    names = runpy.run_path(str(repository / "scripts" / f"{script}.py"))
    assert any(hasattr(value, "add_arguments") and hasattr(value, "main") for value in names.values())

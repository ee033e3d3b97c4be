"""What GPT review asks the judge, and what it writes."""

from __future__ import annotations

import json

import pytest

from llava.eval import eval_gpt_review, eval_gpt_review_bench
from tests.conftest import REPOSITORY
from tests.support.fake_judge import MODEL, SNAPSHOT
from tests.support.reviews import arguments, change, read_lines
from tests.support.science_qa import write_lines


def test_a_prompt_is_laid_out_as_the_originals(judge, files, output, review):
    assert review(arguments(files, output))[0] == 0
    rule = json.loads((REPOSITORY / "llava" / "eval" / "table" / "rule.json").read_text())["detail"]["prompt"]
    system, user = judge.bodies[1]["messages"]
    assert system["role"] == "system"
    assert user["content"] == (
        "[Context]\nDog 0.\nA dog.\n\ndog: [0.25, 0.5, 0.75, 0.9]\ndog: [0.25, 0.5, 0.75, 0.9]\n\n"
        "[Question]\nWhat is 1?\n\n"
        "[Assistant 1]\nIt is 1.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\naa\n\n[End of Assistant 2]\n\n"
        f"[System]\n{rule}\n\n"
    )


def test_a_review_has_the_originals_fields_and_says_who_judged_what_by_which_rule(judge, files, output, review):
    code, out, _ = review(arguments(files, output, temperature="0.2"))
    assert code == 0
    assert f"9 reviews by {MODEL}" in out
    second = read_lines(output)[1]
    assert {name: second[name] for name in ("id", "question_id", "answer1_id", "answer2_id", "category", "tuple")} == {
        "id": 2,
        "question_id": 1,
        "answer1_id": 1,  # the reference answers have no answer_id
        "answer2_id": "a1",
        "category": "detail",
        "tuple": [1.5, 3.0],
    }
    assert second["content"] == "1.5 3\nAssistant 1 is longer."
    assert (second["judge_model"], second["judge_snapshot"], second["system_fingerprint"]) == (MODEL, SNAPSHOT, "fp_1")
    assert (second["answer2_model"], second["image"], second["parsed"]) == (
        "LLaVA-13B-v0",
        "000000000000.jpg",
        "schema",
    )
    assert second["client"].startswith("httpx ")
    assert len(second["rule_sha256"]) == len(second["prompt_sha256"]) == 64
    assert second["usage"]["completion_tokens"] == 20
    body = judge.bodies[0]
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == (MODEL, 0.2, 1024)


def test_answers_are_joined_by_id_whatever_their_order_and_spelling(judge, files, output, review, tmp_path):
    assert review(arguments(files, output))[0] == 0
    expected = [(record["question_id"], record["tuple"]) for record in read_lines(output)]
    shuffled = [record | {"question_id": str(record["question_id"])} for record in reversed(read_lines(files["ours"]))]
    write_lines(files["ours"], shuffled)
    for line in range(3):
        name = f"COCO_val2014_{line:012d}.jpg"
        change(files["context"], line, image=name)
    other = tmp_path / "other.jsonl"
    assert review(arguments(files, other))[0] == 0
    assert [(record["question_id"], record["tuple"]) for record in read_lines(other)] == expected


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            lambda f: change(f["questions"], 4, category="poetry"),
            "line 5 (question 4): category 'poetry' has no rule",
        ),
        (lambda f: change(f["questions"], 4, image="x.jpg"), "line 5 (question 4): its image x.jpg is not in"),
        (lambda f: change(f["ours"], 4, question_id=77), "ours.jsonl: no answer to 1 of 9 questions (4)."),
        (lambda f: change(f["ours"], 4, text=None), "line 5 (question 4): 'text' is a JSON null, expected a string"),
        (lambda f: change(f["context"], 1, instances=None), "line 2 (000000000001.jpg): 'instances' is missing"),
        (lambda f: change(f["context"], 1, captions=3), "line 2 (000000000001.jpg): 'captions' is missing, or neither"),
        (lambda f: change(f["questions"], 4, question_id=3), "questions.jsonl: asks 3 more than once"),
        (lambda f: f["reference"].write_text('{"question_id": 1, "te'), "line 1: not JSON"),
    ],
)
def test_files_that_do_not_fit_are_named_before_anything_is_asked(what, said, judge, files, output, review):
    what(files)
    code, out, err = review(arguments(files, output))
    assert (code, out) == (1, "")
    assert said in err
    assert judge.bodies == []


def test_questions_without_answers_can_be_left_out_and_are_counted(judge, files, output, review):
    change(files["ours"], 4, question_id=77)
    code, _, err = review(arguments(files, output, skip_missing=True))
    assert code == 0
    assert "no answer to 1 of 9 questions (4); left out" in err
    assert "ids that no question has: 1 (77)" in err
    assert [record["question_id"] for record in read_lines(output)] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_text_only_questions_have_no_context_and_fall_back_to_the_default_rule(judge, files, output, review):
    for number in range(9):
        change(files["questions"], number, category="writing")
    argv = [word for word in arguments(files, output) if word not in ("--context", str(files["context"]))]
    assert review(argv, eval_gpt_review)[0] == 0
    assert judge.bodies[0]["messages"][1]["content"].startswith("[Question]\nWhat is 0?\n\n[Assistant 1]\n")
    assert {record["category"] for record in read_lines(output)} == {"writing"}


def test_llava_bench_has_one_caption_and_rules_of_its_own(judge, files, output, review):
    for number in range(3):
        change(files["context"], number, caption=f"A dog with the number {number}.")
    assert review(arguments(files, output), eval_gpt_review_bench)[0] == 0
    assert judge.bodies[0]["messages"][1]["content"].startswith("[Context]\nA dog with the number 0.\n\n[Question]")
    assert read_lines(output)[0]["category"] == "llava_bench_conv"


def test_both_orders_are_asked_and_scores_stay_in_the_order_of_the_files(judge, files, output, review):
    assert review(arguments(files, output, swap=True))[0] == 0
    records = read_lines(output)
    assert [record["order"] for record in records] == ["forward"] * 9 + ["swapped"] * 9
    assert [record["id"] for record in records] == list(range(1, 19))
    prompt = judge.bodies[9]["messages"][1]["content"]
    assert "[Assistant 1]\na\n\n" in prompt
    assert "[Assistant 2]\nIt is 0.\n\n" in prompt
    # The judge gives half a point to whichever answer comes first.
    assert (records[0]["tuple"], records[9]["tuple"]) == ([1.5, 2.0], [1.0, 2.5])
    assert records[9]["content"].startswith("2.5 1\n")

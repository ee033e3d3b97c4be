"""Every question has one right answer; its own answers count as right and others do not."""

from __future__ import annotations

import random
import re

import pytest

from scripts.pocket import fashion, photograph_questions, questions, records, scene_questions, scenes


def _questions(kind: str, count: int = 150):
    rng = random.Random(5)
    for seed in range(count):
        scene = scenes.sample(seed)
        question = scene_questions.ASKERS[kind][0](scene, rng)
        if question is not None:
            yield scene, question


@pytest.mark.parametrize("kind", scene_questions.ASKERS)
def test_every_form_of_an_answer_about_a_scene_count_as_right(kind):
    asked = list(_questions(kind))
    assert len(asked) > 50
    for _, question in asked:
        assert question.key, question
        assert question.right(question.sentence), question
        assert not question.short or question.right(question.short), question
        assert not question.brief or question.right(question.brief), question


@pytest.mark.parametrize("kind", photograph_questions.ASKERS)
@pytest.mark.parametrize("clothing", fashion.CLASSES)
def test_every_form_of_an_answer_about_a_photograph_count_as_right(kind, clothing):
    rng = random.Random(5)
    for _ in range(20):
        question = photograph_questions.ASKERS[kind][0](clothing, rng)
        assert question.right(question.sentence), question
        assert not question.short or question.right(question.short), question
        assert not question.brief or question.right(question.brief), question


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("colour", "It is red or blue."),
        ("shape", "I do not know."),
        ("size", "It is small and large."),
        ("position", "It is in the picture."),
        ("is there", "Maybe."),
        ("count", "There are many."),
        ("character", "It is the letter A or B."),
        ("drawing or photograph", "It is a drawing or a photograph."),
        ("can't tell", "It is red."),
        ("colour", "I can't tell: there is no star in the picture."),
    ],
)
def test_an_answer_that_hedges_or_evades_is_wrong(kind, wrong):
    assert not any(question.right(wrong) for _, question in _questions(kind))


def test_the_wrong_one_of_two_values_is_wrong():
    for scene, question in _questions("colour"):
        for colour in scenes.COLOURS:
            assert question.right(f"It is {colour}.") == ([colour] == question.key)
        assert question.key[0] in {item.colour for item in scene.objects}


def test_swapped_colours_in_a_list_are_wrong():
    question = questions.Question("what is in it", "?", "", "A drawing of a red star and a blue ring.", "object")
    assert question.right("red star, blue ring")
    assert not question.right("blue star, red ring")


def test_a_shirt_is_no_t_shirt():
    question = photograph_questions.ask_what("shirt", random.Random(0))
    assert question.right("A photograph of a shirt.")
    assert not question.right("A photograph of a T-shirt.")


def test_what_lies_beside_an_object_is_the_only_thing_there():
    for scene, question in _questions("relation", 400):
        side = next(side for side in scene_questions.SIDES if side in question.text)
        named = question.text.split(side)[1].strip(" ?")
        targets = [o for o in scene.objects if named in scene_questions.references(scene, o, "position")]
        assert len(targets) == 1, (question, scene)
        there = [o for o in scene.objects if scene_questions.SIDES[side](o, targets[0])]
        assert [f"{o.colour} {scene_questions.name(o)}" for o in there] == [question.short]


def test_a_reference_names_one_object_only():
    for seed in range(300):
        scene = scenes.sample(seed)
        for hidden in ("kind", "colour", "size", "position"):
            names = [set(scene_questions.references(scene, item, hidden)) for item in scene.objects]
            for index, own in enumerate(names):
                assert not own & set().union(*names[:index])


def test_yes_and_no_are_about_equally_often_right():
    for kind in ("is there", "is it", "is it beside"):
        answers = [question.short for _, question in _questions(kind, 600)]
        assert 0.4 < answers.count("yes") / len(answers) < 0.6, kind


def test_a_count_names_what_it_counts():
    for scene, question in _questions("count"):
        named = [o for o in scene.objects if f"{o.colour} {scene_questions.name(o)}" in question.sentence]
        assert questions.NUMBERS[len(named)] == question.short, question


def test_yes_or_no_comes_after_what_it_rests_on():
    for scene, question in _questions("is it"):
        fact, _, answer = question.sentence.rstrip(".").rpartition(", so ")
        assert answer == question.short
        asked = question.text.rstrip("?").split()[-1]
        assert (asked in fact.split(" is ")[-1]) == (answer == "yes")
        assert fact.split(" is ")[-1] in {*(o.colour for o in scene.objects), *(o.size for o in scene.objects)}


def test_few_words_hold_the_fact_and_one_word_is_one_word():
    rng, seen = random.Random(0), set()
    for _, question in _questions("is it"):
        text, answer = question.turn(rng)
        if text.endswith(questions.ONE_WORD):
            assert answer == question.short
        elif text.endswith(questions.BRIEFLY):
            assert answer == question.brief
        else:
            assert answer == question.sentence
        seen.add(answer.count(" ") > 0)
    assert seen == {True, False}


def test_a_conversation_ends_with_what_tells_all():
    tell_all = (*scene_questions.DESCRIBE, *scene_questions.WHAT_IS_IT)
    rng, ends = random.Random(1), 0
    for seed in range(300):
        turns = records.scene_turns(scenes.sample(seed), rng)
        assert turns
        assert not any(text.startswith(tell_all) for text, _ in turns[:-1])
        ends += turns[-1][0].startswith(tell_all)
    assert ends > 30


@pytest.mark.parametrize(("picture", "subject"), [("scene", scenes.sample(3)), ("photograph", "coat")])
def test_an_exercise_is_one_question_and_most_compare(picture, subject):
    rng = random.Random(2)
    exercises = [records.exercise(picture, subject, rng) for _ in range(300)]
    assert {len(turns) for turns in exercises} == {1}
    compared = [turns for turns in exercises if turns[0][1].rstrip(".").split()[-1] in ("yes", "no")]
    assert len(compared) > 100


def test_a_conversation_asks_no_question_twice_and_shows_the_picture_once():
    rng = random.Random(1)
    for seed in range(50):
        turns = records.scene_turns(scenes.sample(seed), rng)
        row = records.record("r", "scene/0.png", turns, rng)
        values = [turn["value"] for turn in row["conversations"]]
        assert "".join(values).count(records.IMAGE) == values[0].count(records.IMAGE) == 1
        assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"] * (len(values) // 2)
        assert len({text for text, _ in turns}) == len(turns)


@pytest.mark.parametrize("kind", scene_questions.ASKERS)
def test_what_an_answer_speaks_of_is_in_the_picture_where_it_says(kind):
    for scene, question in _questions(kind):
        things = {item.cell: item for item in scene.objects}
        for mention in question.about:
            assert mention.called in question.text
            if mention.cell not in things:
                assert question.short in ("nothing", "no", "I can't tell")
            elif mention.words:
                assert mention.words in question.sentence
                item = things[mention.cell]
                column, row = scene_questions.COLUMNS[item.column], scene_questions.ROWS[item.row]
                told = (item.colour, item.size, column, row)
                assert scene_questions.name(item) in mention.words or mention.words in told
            if mention.named not in (None, questions.NOWHERE):
                assert mention.named in things


def test_what_lies_beside_what_is_told_by_what_differs():
    for _, question in _questions("is it beside"):
        first, second, _ = question.about
        assert first.words != second.words
        axis = scene_questions.ROWS if re.search("above|below", question.text) else scene_questions.COLUMNS
        before = axis.index(first.words) < axis.index(second.words)
        assert (question.short == "yes") == (before == bool(re.search("left of|above", question.text)))


@pytest.mark.parametrize("kind", ["is there", "is it"])
def test_a_verdict_looks_at_what_fits_and_nowhere_if_nothing_does(kind):
    for scene, question in _questions(kind):
        *_, verdict = question.about
        named = verdict.cell if verdict.named is None else verdict.named
        assert (named != questions.NOWHERE) == (question.short == "yes"), question
        if kind == "is there" and question.short == "yes":
            [item] = [item for item in scene.objects if item.cell == named]
            assert verdict.called in (scene_questions.name(item), f"{item.colour} {scene_questions.name(item)}")

"""Every question has one right answer; its own answers count as right and others do not."""

from __future__ import annotations

import random

import pytest

from scripts.pocket import fashion, language, photograph_questions, questions, records, scene_questions, scenes


def _questions(kind: str, count: int = 150):
    rng = random.Random(5)
    for seed in range(count):
        scene = scenes.sample(seed)
        question = scene_questions.ASKERS[kind][0](scene, rng)
        if question is not None:
            yield scene, question


@pytest.mark.parametrize("kind", scene_questions.ASKERS)
def test_both_forms_of_an_answer_about_a_scene_count_as_right(kind):
    asked = list(_questions(kind))
    assert len(asked) > 50
    for _, question in asked:
        assert question.key, question
        assert question.right(question.sentence), question
        assert not question.short or question.right(question.short), question


@pytest.mark.parametrize("kind", photograph_questions.ASKERS)
@pytest.mark.parametrize("clothing", fashion.CLASSES)
def test_both_forms_of_an_answer_about_a_photograph_count_as_right(kind, clothing):
    rng = random.Random(5)
    for _ in range(20):
        question = photograph_questions.ASKERS[kind][0](clothing, rng)
        assert question.right(question.sentence), question
        assert not question.short or question.right(question.short), question


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


def test_a_conversation_asks_no_question_twice_and_shows_the_picture_once():
    rng = random.Random(1)
    for seed in range(50):
        turns = records.scene_turns(scenes.sample(seed), rng)
        row = records.record("r", "scene/0.png", turns, rng)
        values = [turn["value"] for turn in row["conversations"]]
        assert "".join(values).count(records.IMAGE) == values[0].count(records.IMAGE) == 1
        assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"] * (len(values) // 2)
        assert len({text for text, _ in turns}) == len(turns)


def test_the_text_for_the_language_model_is_what_stage_two_trains_on():
    from llava.conversation import conv_templates

    turns = [("What is it?", "A star."), ("And its colour?", "It is red.")]
    conversation = conv_templates["v0_train"].copy()
    for text, answer in turns:
        conversation.append_message(conversation.roles[0], text)
        conversation.append_message(conversation.roles[1], answer)
    # What follows the last answer teaches the model to stop.
    assert language.conversation_text(turns) == conversation.get_prompt() + "### "

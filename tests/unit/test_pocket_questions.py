"""Every question has one right answer; its own answers count as right and others do not."""

from __future__ import annotations

import random
import re
from itertools import groupby

import pytest

from scripts.pocket import drills, fashion, language, photograph_questions, questions, records, scene_questions, scenes
from scripts.pocket.patch_words import Words


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


def test_the_language_model_learns_answers_and_not_what_it_is_shown(tmp_path):
    language.train_tokenizer(tmp_path, 300, 400)
    batches = language.Batches(tmp_path / "tokenizer.model", 8)
    forms = set()
    for step in (0, 300, *range(1000, 4000, 300)):
        batch = batches.draw(step)
        form = language.Lesson.at(step).form
        forms.add(form)
        assert int(batch.is_patch.sum()) == 9 * len(batch.shown)
        for row in range(8):
            length = int(batch.mask[row].sum())
            ids, is_learnt = batch.ids[row, :length], batch.labels[row, :length] != -100
            assert batch.labels[row, :length][is_learnt].equal(ids[is_learnt])
            assert (batch.ids[row, length:] == 0).all()
            assert (batch.labels[row, length:] == -100).all()
            assert not (batch.is_patch[row, :length] & is_learnt).any()
            # Texts that are told and texts that are learnt take turns; a question ends in a colon or a question mark.
            turns = [
                (learnt, batches.model.decode([int(ids[place]) for place in places]).strip("\u2047 \n"))
                for learnt, places in groupby(range(length), key=lambda place: bool(is_learnt[place]))
            ]
            assert [learnt for learnt, _ in turns] == [False, True] * (len(turns) // 2)
            for learnt, text in turns:
                if form == "drill":
                    assert text.endswith((":", "?")) != learnt
                else:
                    assert text.endswith("###" if learnt else "### Assistant:")
                    assert not learnt or "Human" not in text
        again = batches.draw(step)
        assert batch.ids.equal(again.ids)
        assert batch.labels.equal(again.labels)
    assert forms == {"drill", "exercise", "conversation"}


def test_patches_stand_for_what_is_asked_about(tmp_path):
    """An embedding in which each word is a direction of its own: the sums at the patches can be read."""
    import torch

    language.train_tokenizer(tmp_path, 2000, 700)
    words = Words(tmp_path / "tokenizer.model", torch.eye(700))
    batch = language.Batches(tmp_path / "tokenizer.model", 16).draw(2000)
    embeddings = batch.embeddings(words, noise=0.0)
    rows = batch.is_patch.any(1).nonzero().flatten().tolist()
    for row, subject in zip(rows, batch.shown, strict=True):
        patches_of_row = embeddings[row, batch.is_patch[row]]
        if isinstance(subject, str):
            assert (patches_of_row @ words("photograph", subject) >= 2).all()
            continue
        for item in subject.objects:
            assert patches_of_row[3 * item.row + item.column] @ words(item.colour) >= 1
            assert patches_of_row[3 * item.row + item.column] @ words(item.size) >= 1


def test_lessons_begin_with_drills_about_one_object_and_end_with_all_forms():
    first = [language.Lesson.at(step) for step in range(90)]
    assert {(lesson.most_objects, lesson.form) for lesson in first} == {(1, "drill")}
    last = [language.Lesson.at(step) for step in range(2500, 2900)]
    assert {lesson.form for lesson in last} == {"drill", "exercise", "conversation"}
    exercises = [language.example(index, language.Lesson(1, "exercise", False)) for index in range(100)]
    assert all(one.text.count("### Human:") == 1 for one in exercises)
    assert all(len(one.shown.objects) == 1 for one in exercises if isinstance(one.shown, scenes.Scene))
    conversations = [language.example(index, last[-1]) for index in range(100)]
    assert any(len(one.shown.objects) > 2 for one in conversations if isinstance(one.shown, scenes.Scene))


def test_answers_count_as_right_whole_or_not_at_all():
    import torch

    labels = torch.tensor([[-100, 5, 6, -100, 7, -100], [-100, -100, 8, 9, -100, -100]])
    said = torch.tensor([[5, 6, 0, 7, 0, 0], [0, 8, 3, 0, 0, 0]])
    logits = torch.nn.functional.one_hot(said, 10).float()
    assert language.answered_right(logits, labels) == pytest.approx(2 / 3)


def test_the_second_course_names_objects_by_two_properties_and_asks_all_kinds_of_questions():
    hard = [text for seed in range(50) for text, _ in drills.drill(scenes.sample(seed), random.Random(3), is_hard=True)]
    assert any(re.match("(small|large) (star|circle|ring|letter|number)", text) for text in hard)
    assert any(text.startswith("object at the ") for text in hard)
    rng = random.Random(3)
    asked = [records.exercise("scene", scenes.sample(seed), rng, of_all_kinds=True)[0][0] for seed in range(300)]
    assert any("background" in text for text in asked)
    assert not any("background" in records.exercise("scene", scenes.sample(s), rng)[0][0] for s in range(300))


def test_the_learning_rate_rises_and_falls_once_a_course():
    pace = [language.pace(step, 11_000) for step in range(11_000)]
    for begin, end, peak in ((0, 3000, 1.0), (3000, 7000, 0.7), (7000, 11_000, 0.7)):
        assert max(pace[begin:end]) == pytest.approx(peak, abs=0.01)
        assert pace[end - 1] == pytest.approx(0.02 * peak, abs=0.001)


def test_an_exercise_of_the_third_course_holds_several_questions():
    exercises = [language.example(index, language.Lesson(form="exercise", course=2)) for index in range(50)]
    answers = [sum(is_learnt for _, is_learnt in one.parts) for one in exercises]
    assert max(answers) > 2
    assert all(
        sum(is_learnt for _, is_learnt in language.example(i, language.Lesson(form="exercise")).parts) <= 2
        for i in range(50)
    )


@pytest.mark.parametrize("is_hard", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_each_question_of_a_drill_has_one_answer_and_it_is_right(seed, is_hard):
    scene = scenes.sample(seed)
    line = drills.drill(scene, random.Random(seed), is_hard=is_hard)
    assert 3 <= len(line) <= drills.LONGEST
    assert len({asked for asked, _ in line}) == len(line)
    for asked, answer in line:
        if match := re.fullmatch(r"(.+) (kind|colour|size|position):", asked):
            key, attribute = match.groups()
            [item] = [o for o in scene.objects if _is_called(o, key, scene, attribute)]
            assert answer == (scene_questions.name(item) if attribute == "kind" else getattr(item, attribute))
        elif asked.endswith("?"):
            key, _, value = asked[:-1].rpartition(" ")
            if value in (*scenes.COLOURS, *scenes.SIZES):
                hidden = "colour" if value in scenes.COLOURS else "size"
                items = [o for o in scene.objects if _is_called(o, key, scene, hidden)]
                assert answer == ("yes" if any(value in (o.colour, o.size) for o in items) else "no")
            else:
                pairs = {f"{o.colour} {scene_questions.name(o)}" for o in scene.objects}
                assert answer == ("yes" if asked[:-1] in pairs else "no")


def _is_called(item: scenes.Object, words: str, scene: scenes.Scene, hidden: str) -> bool:
    """Whether a drill may mean an object by these words when it asks for its `hidden` property."""
    single = (scene_questions.name(item), item.colour, item.size, item.position)
    return words in single or f"the {words}" in scene_questions.references(scene, item, hidden)


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


def test_the_text_for_the_language_model_is_what_stage_two_trains_on():
    from llava.conversation import conv_templates

    turns = [("What is it?", "A star."), ("And its colour?", "It is red.")]
    conversation = conv_templates["v0_train"].copy()
    for text, answer in turns:
        conversation.append_message(conversation.roles[0], text)
        conversation.append_message(conversation.roles[1], answer)
    # What follows the last answer teaches the model to stop.
    assert language.conversation_text(turns) == conversation.get_prompt() + "### "

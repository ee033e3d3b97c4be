"""What the embedded model's language model is shown, what of it is learnt, and where it is told to look."""

from __future__ import annotations

import json
import random

import pytest
import torch

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN
from llava.conversation import conv_templates
from llava.model.loading.tokenizer import add_special_tokens, load_tokenizer
from llava.train.data.labels import ImageTokens, encode
from llava.train.data.layouts import segments_of, training_template
from llava.train.data.records import load_records
from scripts.pocket import language, pointers, practice, records, scene_questions, scenes, sheets
from scripts.pocket.patch_words import Words


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    language.train_tokenizer(folder, 600, 500)
    return folder / "tokenizer.model"


@pytest.fixture(scope="module")
def batch(tokenizer):
    """Sheets of scenes with up to four things."""
    return language.Batches(tokenizer, count=4, length=256).draw(1000)


@pytest.fixture(scope="module")
def decode(tokenizer):
    model = sheets.Encoder(tokenizer).model
    return lambda ids: model.decode([int(token) for token in ids])


def _entries(batch):
    """Ids, labels and places of each conversation."""
    for row in range(len(batch.ids)):
        for number in range(1, int(batch.entry[row].max()) + 1):
            places = (batch.entry[row] == number).nonzero().flatten()
            yield row, places


def test_the_text_is_what_stage_two_trains_on(tokenizer, decode):
    turns = [("What is it?", "A star."), ("And its colour?", "It is red.")]
    conversation = conv_templates["v0_train"].copy()
    for text, answer in turns:
        conversation.append_message(conversation.roles[0], text)
        conversation.append_message(conversation.roles[1], answer)
    # What follows the last answer teaches the model to stop.
    expected = conversation.get_prompt() + "### "
    assert language.conversation_text(turns) == expected
    encoder = sheets.Encoder(tokenizer)
    entry = encoder.entry(practice.Conversation(tuple(practice.Turn(*turn) for turn in turns)))
    assert encoder.head + entry.after == [encoder.model.bos_id(), *encoder.model.encode(expected)]


@pytest.mark.parametrize("picture_first", [False, True])
def test_a_sample_of_stage_two_has_the_same_tokens_and_labels(tokenizer, tmp_path, picture_first):
    """But for <im_start> and <im_end> around its patches, and for learning that a first question comes."""
    turns = [practice.Turn("What is it?", "A star."), practice.Turn("And its colour?", "It is red.")]
    encoder = sheets.Encoder(tokenizer)
    entry = encoder.entry(practice.Conversation(tuple(turns), scenes.sample(1), picture_first))

    rng = next(random.Random(n) for n in range(99) if (random.Random(n).random() < 0.5) == picture_first)
    row = records.record("r", "scene.png", [(turn.asked, turn.answer) for turn in turns], rng)
    (tmp_path / "records.json").write_text(json.dumps([row]))
    [record] = load_records(tmp_path / "records.json")
    llavas = load_tokenizer(tokenizer.parent)
    add_special_tokens(llavas, [DEFAULT_IMAGE_PATCH_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN])
    segments = segments_of(record, training_template("v0"), images_first=False)
    encoded = encode(segments, llavas, ImageTokens(as_patches=True, start_end=True), image_lengths=[sheets.NUM_PATCHES])

    around = llavas.convert_tokens_to_ids([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN])
    patch = llavas.convert_tokens_to_ids(DEFAULT_IMAGE_PATCH_TOKEN)
    sample = [
        (None if token == patch else token, label)
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True)
        if token not in around
    ]
    sample[len(encoder.head)] = (sample[len(encoder.head)][0], sheets.IGNORED)
    labels = [token if learnt else sheets.IGNORED for token, learnt in zip(entry.after, entry.learnt, strict=True)]
    not_learnt = [(token, sheets.IGNORED) for token in (*encoder.head, *entry.before, *[None] * sheets.NUM_PATCHES)]
    assert sample == [*not_learnt, *zip(entry.after, labels, strict=True)]


def test_a_picture_stands_where_the_prompt_of_llava_puts_it(tokenizer, decode):
    encoder = sheets.Encoder(tokenizer)
    turn = practice.Turn("What is it?", "A star.")
    behind = encoder.entry(practice.Conversation((turn,), scenes.sample(1)))
    assert decode(behind.before) == "### Human: What is it?"
    assert decode(behind.after).strip() == "### Assistant: A star.\n###"
    first = encoder.entry(practice.Conversation((turn,), scenes.sample(1), picture_first=True))
    assert decode(first.before) == "### Human:"
    assert decode(first.after).strip() == "What is it?\n### Assistant: A star.\n###"


def test_answers_are_learnt_and_nothing_else(batch, decode):
    answers = 0
    for row, places in _entries(batch):
        learnt = batch.labels[row, places] != sheets.IGNORED
        assert batch.labels[row, places][learnt].equal(batch.ids[row, places][learnt])
        assert not (batch.is_patch[row, places] & learnt).any()
        # As stage 2 has it, the heading of an answer is learnt, too.
        nothing, *texts = decode(batch.ids[row, places][learnt]).replace("###", " ").split(" Assistant:")
        assert nothing.strip() == ""
        assert texts
        assert all(text.strip() and "Human" not in text and "?" not in text for text in texts)
        answers += len(texts)
    assert answers > 10
    assert (batch.labels[batch.entry < 1] == sheets.IGNORED).all()


def test_no_conversation_sees_another(batch):
    mask = batch.mask()[:, 0]
    for row, places in _entries(batch):
        seen = mask[row, places[-1]].nonzero().flatten()
        head = (batch.entry[row] == 0).nonzero().flatten()
        assert seen.equal(torch.cat([head, places]))
        assert batch.positions[row, seen].equal(torch.arange(len(seen)))


def test_a_sheet_gives_each_conversation_the_logits_that_it_has_alone(batch, tokenizer):
    model = language.new_model(500, seed=0)
    words = Words(tokenizer, model.model.embed_tokens.weight)
    with torch.no_grad():
        embeddings = batch.embeddings(words, noise=0.0)
        together = model(inputs_embeds=embeddings, attention_mask=batch.mask(), position_ids=batch.positions).logits
        for row, places in list(_entries(batch))[:6]:
            head = (batch.entry[row] == 0).nonzero().flatten()
            own = embeddings[row, torch.cat([head, places])][None]
            alone = model(inputs_embeds=own).logits[0, len(head) :]
            # The same sums in another order.
            torch.testing.assert_close(together[row, places], alone, atol=1e-4, rtol=1e-4)


def test_a_batch_follows_from_its_step(tokenizer, batch):
    again = language.Batches(tokenizer, count=4, length=256).draw(1000)
    assert batch.ids.equal(again.ids)
    assert batch.labels.equal(again.labels)
    assert batch.looks == again.looks


def test_training_begins_with_one_thing_and_ends_with_all():
    assert [language.most_objects(step) for step in (0, 79, 80, 299, 300, 4999)] == [1, 1, 2, 2, 4, 4]
    rng = random.Random(0)
    shown = [practice.conversation(rng, 1).shown for _ in range(60)]
    assert all(len(scene.objects) == 1 for scene in shown if isinstance(scene, scenes.Scene))
    shown = [practice.conversation(rng).shown for _ in range(60)]
    assert max(len(scene.objects) for scene in shown if isinstance(scene, scenes.Scene)) == 4


def test_patches_stand_for_what_is_asked_about(tokenizer, batch):
    """An embedding in which each word is a direction of its own: the sums at the patches can be read."""
    words = Words(tokenizer, torch.eye(500))
    embeddings = batch.embeddings(words, noise=0.0)
    sums = embeddings[batch.is_patch].view(-1, sheets.NUM_PATCHES, 500)
    assert len(sums) == len(batch.shown)
    for patches, subject in zip(sums, batch.shown, strict=True):
        if isinstance(subject, str):
            assert (patches @ words("photograph", subject) >= 2).all()
            continue
        for item in subject.objects:
            assert patches[item.cell] @ words(item.colour) >= 1
            assert patches[item.cell] @ words(item.size) >= 1


def test_answers_look_at_the_words_that_name_a_thing_and_at_its_patch(tokenizer, decode):
    scene = next(scene for scene in map(scenes.sample, range(500)) if len(scene.objects) == 3)
    encoder, rng = sheets.Encoder(tokenizer), random.Random(0)
    checked = 0
    for _ in range(40):
        question = scene_questions.ask_position(scene, rng)
        if question is None:
            continue
        turn = practice.Turn(question.text, question.sentence, question)
        for picture_first in (False, True):
            conversation = practice.Conversation((turn,), scene, picture_first)
            entries = iter([encoder.entry(conversation), sheets.Entry(None, [], [0] * 300)])
            batch = sheets.pack(entries, encoder.head, 1, 256)
            picture = int(batch.is_patch[0].nonzero()[0])
            for row, place, named, told, words in batch.looks:
                assert row == 0
                assert named == told == picture + question.about[0].cell
                assert batch.labels[0, place + 1] != sheets.IGNORED
                assert place >= max(words)
                assert all(decode([batch.ids[0, word]]) in question.about[0].called for word in words)
            checked += len(batch.looks)
    assert checked > 100


def test_the_loss_of_where_to_look_is_that_of_the_models_own_attention(batch, tokenizer):
    model = language.new_model(500, seed=0)
    model.set_attn_implementation("eager")
    words = Words(tokenizer, model.model.embed_tokens.weight)
    watched = pointers.Pointers(model)
    mask = batch.mask()
    added = torch.where(mask, 0.0, -1e9)
    with torch.no_grad():
        attentions = model.model(
            inputs_embeds=batch.embeddings(words, noise=0.0),
            attention_mask=added,
            position_ids=batch.positions,
            output_attentions=True,
        ).attentions
        loss, _ = watched.loss(batch, mask)
    expected = []
    for head in pointers.HEADS:
        shares = []
        for row, place, named, told, names in batch.looks:
            aims = names if head.target == "words" else [named if head.target == "named" else told]
            shares += [attentions[head.layer][row, head.number, place, aims].log().mean()] if aims else []
        expected.append(-torch.stack(shares).mean())
    torch.testing.assert_close(loss, torch.stack(expected).mean(), atol=1e-4, rtol=1e-4)


def test_the_learning_rate_rises_and_falls_and_the_loss_of_where_to_look_fades():
    rates = [language.pace(step, 5000) for step in range(5000)]
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[0] == 0.02
    assert rates[-1] == pytest.approx(0.05, abs=0.001)
    assert [language.pointer_weight(done) for done in (0, 0.5, 1)] == pytest.approx([1, 0.4, 0.05])

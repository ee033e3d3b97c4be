"""Ids and labels of training samples, against those that the original code computed for the same conversations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tokenizers import AddedToken

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import DataError
from llava.model.loading.tokenizer import add_special_tokens, load_tokenizer
from llava.text_generation.literal_text import control_tokens
from llava.train.data.labels import Encoded, ImageTokens, encode
from llava.train.data.layouts import Segment, segments_of, training_template
from llava.train.data.records import parse_record

DATA = Path(__file__).parents[3] / "data"
RECORDS = {
    item["id"]: parse_record(item, "train_conversations.json")
    for item in json.loads((DATA / "train_conversations.json").read_text(encoding="utf-8"))
}
GOLDEN_V0 = load_file(DATA / "train_golden_v0code.safetensors")
GOLDEN_HEAD = load_file(DATA / "train_golden_headcode.safetensors")
EOS = 2
PATCH = 2049
PATCHES = {"square": {"land.png": 256, "square.png": 256}, "keep": {"land.png": 16 * 21, "square.png": 256}}
"""Patches of each image: 224 x 224 pixels, or 224 x 298 where the aspect ratio is kept, in patches of 14."""


def cases(golden: dict) -> list[str]:
    return sorted(name.removesuffix(".input_ids") for name in golden if name.endswith(".input_ids"))


@pytest.fixture(scope="module")
def v0_tokenizer():
    return load_tokenizer(DATA / "llava-v0-tiny", tokenization="sentencepiece")


@pytest.fixture(scope="module")
def base_tokenizer():
    return load_tokenizer(DATA / "llama-vicuna-tiny", tokenization="sentencepiece")


@pytest.fixture(scope="module")
def v1_tokenizer():
    """As the v1 vectors of the first code were made: no [PAD], so the image tokens begin at 2048."""
    tokenizer = load_tokenizer(DATA / "llama-vicuna-tiny", tokenization="sentencepiece")
    add_special_tokens(tokenizer, ["<im_patch>", "<im_start>", "<im_end>"])
    return tokenizer


@pytest.fixture(scope="module")
def head_tokenizer():
    """As the vectors of the last code were made: transformers 4.37 no longer strips the text beside image tokens."""
    tokenizer = load_tokenizer(DATA / "llama-vicuna-tiny", tokenization="sentencepiece")
    tokens = [AddedToken(token, normalized=False, special=True) for token in ("<im_start>", "<im_end>")]
    tokenizer.add_tokens(tokens, special_tokens=True)
    return tokenizer


def encode_case(case: str, tokenizer, *, as_patches: bool, max_length: int | None = None) -> Encoded:
    version, _, start_end, aspect, identity = case.split(".")
    record, template = RECORDS[identity], training_template(version)
    patches = PATCHES.get(aspect, PATCHES["square"])
    return encode(
        segments_of(record, template, images_first=not as_patches),
        tokenizer,
        ImageTokens(as_patches, start_end=start_end == "se" and version != "plain"),
        image_lengths=[patches[image] for image in record.images],
        max_length=max_length,
        # The v0 code set the BOS token to "</s>" for every base model with "llama" in its path.
        bos_token_id=EOS if version == "v0" else None,
    )


def answers_cut_short(golden: dict, case: str) -> bool:
    return len(golden[f"{case}.labels"]) == int(case.split(".")[1][1:])


# ---- equal to the original -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in cases(GOLDEN_V0) if case.startswith("v1.")])
def test_v1_ids_and_labels_of_the_first_code_are_equal(case, v1_tokenizer):
    encoded = encode_case(case, v1_tokenizer, as_patches=True)
    ids, labels = GOLDEN_V0[f"{case}.input_ids"].tolist(), GOLDEN_V0[f"{case}.labels"].tolist()
    # The original cuts wherever the limit falls; `test_truncation_...` below says what we do there.
    if answers_cut_short(GOLDEN_V0, case):
        encoded_ids, encoded_labels = encoded.input_ids[: len(ids)], encoded.labels[: len(ids)]
    else:
        encoded_ids, encoded_labels = encoded.input_ids, encoded.labels
    assert encoded_ids == ids
    assert encoded_labels == labels


@pytest.mark.parametrize("case", cases(GOLDEN_HEAD))
def test_ids_and_labels_of_the_last_code_are_equal(case, head_tokenizer):
    encoded = encode_case(case, head_tokenizer, as_patches=False)
    length = len(GOLDEN_HEAD[f"{case}.input_ids"])
    if not answers_cut_short(GOLDEN_HEAD, case):
        assert len(encoded.input_ids) == length
    assert encoded.input_ids[:length] == GOLDEN_HEAD[f"{case}.input_ids"].tolist()
    assert encoded.labels[:length] == GOLDEN_HEAD[f"{case}.labels"].tolist()


@pytest.mark.parametrize("case", [case for case in cases(GOLDEN_V0) if case.startswith("v0.")])
def test_v0_ids_are_equal(case, v0_tokenizer):
    ids = GOLDEN_V0[f"{case}.input_ids"].tolist()
    encoded = encode_case(case, v0_tokenizer, as_patches=True).input_ids
    assert (encoded[: len(ids)] if answers_cut_short(GOLDEN_V0, case) else encoded) == ids


# ---- where v0 labels differ, and why ---------------------------------------------------------------------------------

V0_DIFFERENCES = {
    "one_turn_image": "the original masks the first token of the answer's `###`",
    "no_image_one_turn": "the original masks the first token of the answer's `###`",
    "unicode_emoji": "the original masks the first token of the answer's `###`",
    "empty_answer": "the original masks the first token of the answer's `###`",
    "long_truncated": "the original masks the first token of the answer's `###`",
    "three_turns_image": "the original drifts one token further with each turn: it trains words of questions "
    "and masks the first words of answers",
}
"""The v0 code places its masks by counting tokens of pieces that it tokenises on their own. Alone, `###` is the two
tokens `\u2581#` `##` of this small vocabulary (one token of LLaMA's, for which the count was made), so every piece is
counted one token too long and all later borders move. Ours stand where the text has them."""


def drifted_labels(case: str, tokenizer, ids: list[int]) -> list[int]:
    """The original's rule, told from its description: lengths of pieces tokenised alone, each with its own BOS."""
    version, _, start_end, aspect, identity = case.split(".")
    record = RECORDS[identity]
    template = training_template(version)
    labels, start = list(ids), 0
    pieces = [(f"{template.system}\n\n", "header")]
    for turn in record.turns:
        role = template.roles[0] if turn.role == "human" else template.roles[1]
        pieces.append((f"### {role}: {turn.text}\n", turn.role))
    for text, kind in pieces:
        for image in record.images:
            marker = "<im_patch>" * PATCHES[aspect][image]
            marker = f"<im_start>{marker}<im_end>" if start_end == "se" else marker
            text = text.replace("<image>", marker)
        length = 1 + len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if kind != "gpt":
            first = start + (2 if kind == "human" else 0)
            labels[first : start + length] = [IGNORE_INDEX] * len(labels[first : start + length])
        start += length
    return labels


@pytest.mark.parametrize("case", [case for case in cases(GOLDEN_V0) if case.startswith("v0.")])
def test_v0_labels_differ_only_by_the_originals_drift(case, v0_tokenizer):
    """Oracle: the original's labels follow from ours and its own way of counting, to the token."""
    golden = GOLDEN_V0[f"{case}.labels"].tolist()
    encoded = encode_case(case, v0_tokenizer, as_patches=True)
    assert drifted_labels(case, v0_tokenizer, encoded.input_ids)[: len(golden)] == golden
    if encoded.labels[: len(golden)] != golden:
        assert case.rsplit(".", 1)[1] in V0_DIFFERENCES


def test_v0_trains_answers_and_every_turn_signal_and_nothing_else(v0_tokenizer):
    encoded = encode_case("v0.L2048.se.square.three_turns_image", v0_tokenizer, as_patches=True)
    trained = [label for label in encoded.labels if label != IGNORE_INDEX]
    answers = ("Many.", "About 784 of them, I think.", "You are welcome.")
    # The ### of each question, then the whole answer, which begins with a ### of its own.
    assert v0_tokenizer.decode(trained) == "".join(f"###### Assistant: {answer}\n" for answer in answers) + "### "


# ---- our own rules ---------------------------------------------------------------------------------------------------


def test_truncation_never_cuts_inside_an_image(v0_tokenizer):
    """The original would keep 238 of the 256 patches; here the image and what follows it go."""
    encoded = encode_case("v0.L300.se.square.one_turn_image", v0_tokenizer, as_patches=True, max_length=300)
    assert encoded.truncated
    assert encoded.num_images == 0
    assert not {2049, 2050, 2051} & set(encoded.input_ids)
    assert encoded.answer_tokens == 0


@pytest.mark.parametrize("as_patches", [True, False])
def test_truncation_counts_an_image_by_its_patches_in_both_forms(as_patches, v0_tokenizer):
    encoded = encode_case("v1.L300.nose.square.three_turns_image", v0_tokenizer, as_patches=as_patches, max_length=350)
    positions = sum(256 if identity == IMAGE_TOKEN_INDEX else 1 for identity in encoded.input_ids)
    assert positions == 350
    assert encoded.num_images == 1
    assert encoded.truncated


@pytest.mark.parametrize("limit", range(47, 60))
def test_start_token_image_and_end_token_stay_or_go_together(limit, v0_tokenizer):
    segments = [Segment("word " * 20 + "<image>\nmore words", supervised=False)]
    encoded = encode(segments, v0_tokenizer, ImageTokens(True, True), image_lengths=[9], max_length=limit - 20)
    start, patches, end = (encoded.input_ids.count(identity) for identity in (2050, 2049, 2051))
    assert (start, patches, end) in {(0, 0, 0), (1, 9, 1)}
    assert encoded.num_images == start


def test_an_empty_answer_teaches_nothing_and_is_counted_as_such(v1_tokenizer):
    encoded = encode_case("v1.L2048.nose.square.empty_answer", v1_tokenizer, as_patches=False)
    assert encoded.answer_tokens == 0


def test_bos_is_the_tokenizers_own_unless_asked_otherwise(v0_tokenizer):
    segments = [Segment("hello", supervised=True)]
    own = encode(segments, v0_tokenizer, ImageTokens(True))
    asked = encode(segments, v0_tokenizer, ImageTokens(True), bos_token_id=EOS)
    assert own.input_ids[0] == v0_tokenizer("")["input_ids"][0]
    assert asked.input_ids[0] == EOS
    assert own.labels[0] == asked.labels[0] == IGNORE_INDEX


def test_two_images_of_one_question_stay_where_they_stand(v0_tokenizer):
    item = {
        "image": ["a.png", "b.png"],
        "conversations": [
            {"from": "human", "value": "Is <image> like <image>?"},
            {"from": "gpt", "value": "No."},
        ],
    }
    segments = segments_of(parse_record(item, "x.json: record 0"), training_template("v1"), images_first=True)
    encoded = encode(segments, v0_tokenizer, ImageTokens(False), image_lengths=[256, 100])
    assert encoded.num_images == 2
    assert "Is <image> like <image>?" in "".join(segment.text for segment in segments)


def test_an_image_token_spelled_out_in_the_text_is_refused(v0_tokenizer):
    with pytest.raises(DataError, match="1 image markers for 0 images"):
        encode([Segment("say <im_patch>", supervised=False)], v0_tokenizer, ImageTokens(True), name="r")


# ---- what users write ------------------------------------------------------------------------------------------------


def encoded_turns(
    tokenizer, version: str, *turns: tuple[str, str], system: str | None = None, images: tuple[int, ...] = (), **options
) -> Encoded:
    """Encodes (role, text) turns as the dataset does; `images` are the lengths of their images."""
    conversations = [{"from": role, "value": text} for role, text in turns]
    if system is not None:
        conversations.insert(0, {"from": "system", "value": system})
    item = {"conversations": conversations, "image": [f"{number}.png" for number in range(len(images))] or None}
    template = training_template(version)
    segments = segments_of(
        parse_record(item, "t.json: record 0"),
        template,
        images_first=template.image_first,
        control_tokens=control_tokens(tokenizer, without=["<image>"]),
    )
    form = ImageTokens(not template.image_first, start_end=not template.image_first)
    return encode(segments, tokenizer, form, image_lengths=images, **options)


def trained_text(tokenizer, encoded: Encoded) -> str:
    return tokenizer.decode([label for label in encoded.labels if label != IGNORE_INDEX])


@pytest.mark.parametrize("version", ["v0", "v1", "plain", "llava_llama_2"])
@pytest.mark.parametrize(
    "spelled",
    [
        *("</s>", "<s>", "<unk>", "[PAD]", "<im_start>", "<im_end>", "<im_patch>"),
        *("</s></s>", "<<s>s>", "<s></s>\u00e9", "<im_start><im_patch><im_end>"),
    ],
)
def test_a_control_token_that_a_user_spells_is_text(v0_tokenizer, version, spelled):
    """Oracle: the same record with a harmless word in its place has as many control ids, at its start and its end."""
    controls = {0, 1, 2, 2048, 2049, 2050, 2051, IMAGE_TOKEN_INDEX}
    found = []
    for text in (spelled, "word"):
        turns = ("human", f"<image>\nWhat is {text}?"), ("gpt", f"It is {text} and {text}{text}.")
        encoded = encoded_turns(v0_tokenizer, version, *turns, images=(4,))
        found.append([identity for identity in encoded.input_ids if identity in controls])
        assert f"It is {text} and {text}{text}." in trained_text(v0_tokenizer, encoded)
    assert found[0] == found[1]


@pytest.mark.parametrize("version", ["v0", "v1", "llava_llama_2"])
def test_taking_an_image_out_of_a_text_joins_no_control_token(v0_tokenizer, version):
    turns = ("human", "What is </<image>s> or <im_<image>end>?"), ("gpt", "Text.")
    two = encoded_turns(v0_tokenizer, version, *turns, images=(3, 3))
    one = encoded_turns(v0_tokenizer, version, ("human", "What is </<image>s>?"), ("gpt", "Text."), images=(3,))
    for encoded in (one, two):
        # Only the template's own: the one that ends the answer.
        assert encoded.input_ids[1:].count(EOS) == (0 if version == "v0" else 1)


def test_control_tokens_in_a_system_turn_are_text(v0_tokenizer):
    encoded = encoded_turns(v0_tokenizer, "v1", ("human", "Hi"), ("gpt", "Hello"), system="Never write </s>.")
    assert encoded.input_ids[1:].count(EOS) == 1
    assert v0_tokenizer.decode(encoded.input_ids[1:]).startswith("Never write </s>. USER: Hi")


def test_a_signal_of_the_template_in_an_answer_is_text_in_it(v0_tokenizer):
    encoded = encoded_turns(v0_tokenizer, "v0", ("human", "Hi"), ("gpt", "A\n### Human: B"))
    assert "A\n### Human: B\n### " in trained_text(v0_tokenizer, encoded)


@pytest.mark.parametrize("blank", ["", " ", "\n", " \t\n\u00a0\u3000"])
@pytest.mark.parametrize("version", ["v0", "v1", "plain", "llava_llama_2"])
def test_a_blank_answer_has_no_word_to_learn(v0_tokenizer, version, blank):
    assert encoded_turns(v0_tokenizer, version, ("human", "<image>"), ("gpt", blank), images=(2,)).answer_tokens == 0
    if version != "plain":
        turns = ("human", "<image>"), ("gpt", blank), ("human", "And?"), ("gpt", "A word.")
        assert encoded_turns(v0_tokenizer, version, *turns, images=(2,)).answer_tokens > 0


@pytest.mark.parametrize("version", ["v0", "v1", "llava_llama_2"])
def test_wherever_a_sample_is_cut_only_answers_and_their_ends_are_trained(v0_tokenizer, version):
    """A cut leaves no role name or separator supervised that belongs to an answer which is gone."""
    turns = ("human", "First question?"), ("gpt", "First answer."), ("human", "Second question?"), ("gpt", "Second.")
    whole = encoded_turns(v0_tokenizer, version, *turns)
    learnt = set()
    for limit in range(1, len(whole.input_ids)):
        encoded = encoded_turns(v0_tokenizer, version, *turns, max_length=limit)
        assert encoded.truncated
        assert encoded.input_ids == whole.input_ids[:limit]
        text = trained_text(v0_tokenizer, encoded)
        learnt.add(text)
        assert (encoded.answer_tokens == 0) == (text == "")
        assert "question" not in text
        last = max((n for n, label in enumerate(encoded.labels) if label != IGNORE_INDEX), default=None)
        if last is not None and version == "v0":
            ends = v0_tokenizer.decode([label for label in encoded.labels[: last + 1] if label != IGNORE_INDEX])
            assert not ends.rstrip().endswith("Assistant:")
    assert "" in learnt
    assert len(learnt) > 5


@pytest.mark.parametrize("as_patches", [True, False])
@pytest.mark.parametrize("lengths", [(9, 9), (5, 12), (816, 3)])
def test_a_cut_anywhere_leaves_whole_images_and_as_many_as_it_says(v0_tokenizer, lengths, as_patches):
    """Two images of one question, tiles included, with start and end tokens."""
    segments = [
        Segment("Is <image> like <image>, or is it not?", supervised=False),
        Segment(" No.", supervised=True, answer=True),
    ]
    form = ImageTokens(as_patches, start_end=True)
    whole = encode(segments, v0_tokenizer, form, image_lengths=lengths)
    full = len(whole.input_ids) + (0 if as_patches else sum(lengths) - 2)
    for limit in {*range(1, 40), *range(lengths[0], full)}:
        encoded = encode(segments, v0_tokenizer, form, image_lengths=lengths, max_length=limit)
        counts = [encoded.input_ids.count(identity) for identity in (2050, 2051)]
        assert counts == [encoded.num_images] * 2
        marks = encoded.input_ids.count(PATCH if as_patches else IMAGE_TOKEN_INDEX)
        assert marks == (sum(lengths[: encoded.num_images]) if as_patches else encoded.num_images)
        positions = len(encoded.input_ids) + (0 if as_patches else sum(lengths[: encoded.num_images]) - marks)
        assert positions <= limit
        assert encoded.input_ids == whole.input_ids[: len(encoded.input_ids)]

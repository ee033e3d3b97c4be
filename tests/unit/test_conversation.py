"""Templates: every released prompt is rendered to the character, and a checkpoint finds its template."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from llava.conversation import (
    Conversation,
    SeparatorStyle,
    conv_templates,
    conv_templates_v0,
    default_conversation,
    template,
)
from llava.errors import TemplateError, UnknownTemplate
from llava.template_choice import default_template_for, release_of

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
TABLES = {"v0": conv_templates_v0, "head": conv_templates}
DIALOGUES = {
    "1": ["Hello, who are you?", "I am LLaVA."],
    "2": ["What is this?", "A cat.", "What colour?", "Black & white.\nMostly black."],
    "3": ["What is this?", "A cat.", "What colour?", "Black & white.\nMostly black.", "Are you sure?", "Yes."],
}


def golden(release: str) -> dict:
    return json.loads((GOLDEN / f"prompts_{release}.json").read_text(encoding="utf-8"))


def golden_prompts() -> list:
    return [
        pytest.param(release, name, case, prompt, id=f"{release}-{name}-{case}")
        for release in TABLES
        for name, entry in golden(release).items()
        for case, prompt in entry["prompts"].items()
    ]


def converse(conversation: Conversation, case: str) -> Conversation:
    """Says the dialogue that a golden case is named after."""
    dialogue, kind = case.split("/")
    number, state = dialogue.split("_")
    texts: list = list(DIALOGUES[number])
    image = Image.new("RGB", (2, 2))
    if state == "open":
        texts[-1] = None
    if kind == "user_message_only":
        texts = texts[:1]
    elif kind == "image_in_text_end":
        texts[0] += "\n<image>"
    elif kind == "image_tuple_end":
        texts[0] = (texts[0] + "\n<image>", image, "Crop")
    elif kind == "image_tuple_first":
        texts[0] = ("<image>\n" + texts[0], image, "Crop")
    elif kind == "image_tuple_second_turn":
        texts[2] = (texts[2] + "\n<image>", image, "Crop")
    for index, text in enumerate(texts):
        conversation.append_message(conversation.roles[index % 2], text)
    return conversation


@pytest.mark.parametrize(("release", "name", "case", "expected"), golden_prompts())
def test_a_prompt_equals_the_original_one_to_the_character(release, name, case, expected):
    conversation = converse(TABLES[release][name].copy(), case)
    if isinstance(expected, dict):  # the original raises a bare TypeError here
        with pytest.raises(TemplateError, match=r"turn \d: .* holds one text"):
            conversation.get_prompt()
    else:
        assert conversation.get_prompt() == expected


@pytest.mark.parametrize("release", TABLES)
def test_every_field_of_every_released_template_is_kept(release):
    for name, entry in golden(release).items():
        ours, theirs = TABLES[release][name], entry["fields"]
        assert (ours.system, list(ours.roles), len(ours.messages), ours.offset) == (
            theirs["system"],
            theirs["roles"],
            theirs["n_messages"],
            theirs["offset"],
        ), name
        assert (ours.sep_style.name, ours.sep, ours.sep2, ours.version) == (
            theirs["sep_style"],
            theirs["sep"],
            theirs["sep2"],
            theirs["version"],
        ), name


def test_every_prompt_of_v0_is_reachable_through_the_table_of_today():
    changed = {"v1": "v0", "llava_v1": "v0_llava_v1"}
    for name, entry in golden("v0").items():
        conversation = converse(conv_templates[changed.get(name, name)].copy(), "2_open/image_in_text_end")
        assert conversation.get_prompt() == entry["prompts"]["2_open/image_in_text_end"], name


def test_the_training_text_of_v0_has_its_blank_line_headings_and_line_ends():
    conversation = template("v0_train")
    conversation.append_message("Human", "What is it?\n<image>")
    conversation.append_message("Assistant", "A cat.")
    conversation.append_message("Human", "Sure?")
    conversation.append_message("Assistant", None)
    assert conversation.get_prompt() == (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions.\n\n"
        "### Human: What is it?\n<image>\n### Assistant: A cat.\n### Human: Sure?\n### Assistant:"
    )
    assert conversation.stop_str == "###"


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        ("multimodal", "###"),
        ("llava_v0", "###"),
        ("llava_v1", "</s>"),
        ("llava_llama_2", "</s>"),
        ("mistral_instruct", "</s>"),
        ("mpt", "<|im_end|>"),
        ("plain", "\n"),
    ],
)
def test_an_answer_stops_at_the_text_that_ends_it(name, stop):
    assert conv_templates[name].stop_str == stop


def test_every_template_renders_an_open_question_that_ends_where_the_answer_begins():
    for name, entry in conv_templates.items():
        if entry.sep_style is SeparatorStyle.PLAIN:
            continue
        conversation = entry.copy()
        conversation.append_message(conversation.roles[0], "What is it?")
        conversation.append_message(conversation.roles[1], None)
        prompt = conversation.get_prompt()
        assert "What is it?" in prompt, name
        assert prompt.endswith((":", "[/INST]", conversation.roles[1])), name


def test_several_images_of_a_first_turn_keep_one_marker_each():
    conversation = template("llava_v1")
    images = [Image.new("RGB", (1, 1)), Image.new("RGB", (2, 2))]
    conversation.append_message("USER", ("<image> or <image>, which is larger?", images, "Pad"))
    assert conversation.get_prompt().endswith("USER: <image>\n<image>\nor , which is larger? ")
    assert conversation.get_images(return_pil=True) == images


def test_images_come_out_in_reading_order_without_those_of_the_template():
    conversation = template("multimodal")
    first, second = Image.new("RGB", (3, 3)), Image.new("L", (4, 4))
    conversation.append_message("Human", ("What?\n<image>", first, "Crop"))
    conversation.append_message("Assistant", "A square.")
    conversation.append_message("Human", ("And this?\n<image>", second, "Crop"))
    assert conversation.get_images(return_pil=True) == [first, second]
    assert all(text.startswith("iVBORw0KGgo") for text in conversation.get_images())  # base64 of PNG files


def test_a_log_line_has_the_texts_and_no_images():
    conversation = template("llava_v1")
    conversation.append_message("USER", ("Hello\n<image>", Image.new("RGB", (1, 1)), "Crop"))
    conversation.append_message("ASSISTANT", "Hi")
    line = json.loads(json.dumps(conversation.dict()))
    assert list(line) == ["system", "roles", "messages", "offset", "sep", "sep2"]
    assert line["messages"] == [["USER", "Hello\n<image>"], ["ASSISTANT", "Hi"]]


def test_a_copy_keeps_every_field_and_its_turns_are_its_own():
    conversation = Conversation(
        "S", ("A", "B"), [["A", "x"]], 1, SeparatorStyle.TWO, " ", "!", "v9", True, False, "mine"
    )
    copy = conversation.copy()
    assert vars(copy) == vars(conversation)
    copy.append_message("B", "y")
    copy.messages[0][1] = "changed"
    assert conversation.messages == [["A", "x"]]


def test_talking_to_a_template_by_name_leaves_the_template_alone():
    template("llava_v1").append_message("USER", "Hello")
    assert conv_templates["llava_v1"].messages == []


def test_an_instruction_template_wants_the_user_to_begin():
    conversation = template("llava_llama_2")
    conversation.append_message("ASSISTANT", "Hello")
    with pytest.raises(TemplateError, match="must begin with a text of 'USER'"):
        conversation.get_prompt()


def test_a_misspelt_template_is_an_error_that_names_the_nearest():
    with pytest.raises(UnknownTemplate, match=r"'llava_vl'.*'llava_v1'"):
        template("llava_vl")


def test_a_name_that_changed_its_meaning_has_both_meanings():
    assert "UW Madison WAIV Lab" in template("llava_v1", release="v0").system
    assert "UW Madison WAIV Lab" not in template("llava_v1").system
    assert template("mpt", release="v0") == conv_templates["mpt"]  # v0 has no such name


V0 = {"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14", "use_mm_proj": True}
V1_5 = V0 | {"mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False}
V1_6 = V1_5 | {"image_grid_pinpoints": [[336, 672]], "mm_patch_merge_type": "spatial_unpad"}


@pytest.mark.parametrize(
    ("config", "name", "expected"),
    [
        # The config says what the checkpoint is, whatever its folder is called.
        (V0, "any-name", "multimodal"),
        (V0 | {"model_type": "llama"}, "LLaVA-13B-v0", "multimodal"),
        (V0 | {"mm_projector_type": "linear", "mm_vision_select_feature": "patch"}, "", "multimodal"),
        (V0, "llava-13b-v1-1", "v0_llava_v1"),
        (V0 | {"conv_mode": "simple"}, "", "simple"),
        (V0 | {"conv_mode": "llava_v1"}, "", "v0_llava_v1"),
        (V0 | {"conv_mode": "v1"}, "", "v0"),
        (V1_5, "any-name", "llava_v1"),
        (V1_5, "llava-v1.5-7b", "llava_v1"),
        (V1_5 | {"conv_mode": "vicuna_v1"}, "llava-v1.5-7b", "vicuna_v1"),
        (V1_5, "llava-llama-2-13b-chat", "llava_llama_2"),
        (V1_5 | {"_name_or_path": "./checkpoints/Llama-2-7b-chat"}, "mine", "llava_llama_2"),
        (V1_6, "llava-v1.6-34b", "chatml_direct"),
        (V1_6 | {"hidden_size": 7168, "num_hidden_layers": 60}, "mine", "chatml_direct"),
        (V1_6 | {"model_type": "llava_mistral"}, "mine", "mistral_instruct"),
        (V1_5 | {"model_type": "llava_mpt"}, "mine", "mpt"),
        ({"model_type": "llava", "text_config": {"model_type": "llama"}}, "mine", "llava_v1"),
        ({"model_type": "llava_next", "text_config": {"model_type": "mistral"}}, "mine", "mistral_instruct"),
        # Only a name is known: the rules of the original's command lines.
        (None, "LLaVA-7B-v0", "multimodal"),
        (None, "llava-v1.6-mistral-7b", "mistral_instruct"),
        (None, "llava-v1.6-34b", "chatml_direct"),
        (None, "llava-v1.5-13b", "llava_v1"),
        (None, "llava-mpt-7b", "mpt"),
        (None, "something", "llava_v0"),
    ],
)
def test_a_checkpoint_finds_its_template(config, name, expected):
    assert default_template_for(config, name=name) == expected
    assert expected in conv_templates
    if config is not None:
        assert default_template_for(SimpleNamespace(**config), name=name) == expected


def test_a_config_that_names_no_template_is_an_error():
    with pytest.raises(UnknownTemplate, match="'llava_v9'"):
        default_template_for(V1_5 | {"conv_mode": "llava_v9"})


def test_a_config_without_images_is_of_no_old_generation():
    assert release_of({"model_type": "llama"}) == "head"
    assert release_of(V0) == "v0"
    assert default_conversation.version == "v1"

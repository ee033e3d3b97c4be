"""A folder's own words decide its template: they equal one of ours, or they are kept as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from llava.conversation import conv_templates
from llava.errors import TemplateError, UnknownTemplate
from llava.prompting import build_prompt
from llava.template_choice import conversation_for, default_template_for
from llava.templates.of_folder import FOLDER_TEMPLATE, chat_template_text, template_of_folder
from tests.support.chat_templates import DATED, FAMILIES, LLAMA_3, PARTS, QWEN_3

SAYS = ["<image>\nWhat is it?", "A cat.", "And\nnow?", "A dog.", "Sure?"]


def folder_with(path: Path, text: str, *, file: str = "tokenizer_config.json", eos: str = "</s>") -> Path:
    """A folder with a chat template in one of the places where it may stand."""
    path.mkdir(exist_ok=True)
    settings = {"eos_token": {"content": eos}}
    if file.endswith(".jinja"):
        (path / file).write_text(text)
    elif file == "tokenizer_config.json":
        settings["chat_template"] = text
    else:
        (path / file).write_text(json.dumps({"chat_template": text}))
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def of_transformers(text: str, count: int, eos: str, system: str | None = None) -> str:
    messages = [{"role": ("user", "assistant")[index % 2], "content": said} for index, said in enumerate(SAYS[:count])]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    rendered, _ = render_jinja_template(
        [messages], chat_template=text, add_generation_prompt=True, bos_token="", eos_token=eos
    )
    return rendered[0]


def ours(config, count: int, system: str | None = None) -> str:
    conversation = conversation_for(config)
    if system is not None:
        conversation = conversation.with_system(system)
    for index, said in enumerate(SAYS[:count]):
        conversation.append_message(conversation.roles[index % 2], said)
    conversation.append_message(conversation.roles[1], None)
    return conversation.get_prompt()


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_known_by_its_words_and_prompted_in_them(tmp_path, name, count):
    text, end = FAMILIES[name]
    record = template_of_folder(folder_with(tmp_path / "m", text, eos=end), "llama")
    assert record == {"conv_mode": name}
    assert ours(record, count) == of_transformers(text, count, end)
    assert conv_templates[name].stop_str == end


@pytest.mark.parametrize("name", ["qwen_1_5", "chatml", "llama_3", "phi_3", "olmo_2"])
def test_a_system_text_stands_where_the_family_puts_it(name):
    text, end = FAMILIES[name]
    assert ours({"conv_mode": name}, 3, "Be brief.") == of_transformers(text, 3, end, "Be brief.")


def test_gemma_has_no_system_turn_so_its_text_begins_the_first_question():
    assert ours({"conv_mode": "gemma"}, 1, "Be brief.").startswith("<start_of_turn>user\nBe brief.\n\n<image>\nWhat")


@pytest.mark.parametrize(("text", "end"), [(DATED, "<|im_end|>"), (PARTS, "<|end|>")], ids=["dated", "parts"])
def test_words_that_are_none_of_ours_are_kept(tmp_path, text, end):
    record = template_of_folder(folder_with(tmp_path / "m", text), "smollm3")
    assert record == {"conv_mode": FOLDER_TEMPLATE, "chat_template": text}
    assert default_template_for(record) == FOLDER_TEMPLATE
    conversation = conversation_for(record)
    assert conversation.stop_str == end
    prompt = build_prompt(record, "What is it?", 1)
    assert "<image>\nWhat is it?" in prompt.text
    assert prompt.stop == end
    if text is DATED:
        assert ours(record, 5) == of_transformers(DATED, 5, "</s>")


def test_qwen_3_is_prompted_as_its_template_does_though_it_thinks_in_answers(tmp_path):
    assert template_of_folder(folder_with(tmp_path / "m", QWEN_3), "qwen3") == {"conv_mode": "chatml"}


@pytest.mark.parametrize(
    "file", ["tokenizer_config.json", "chat_template.jinja", "chat_template.json", "processor_config.json"]
)
def test_it_is_found_wherever_it_was_written(tmp_path, file):
    assert chat_template_text(folder_with(tmp_path / "m", LLAMA_3, file=file)) == LLAMA_3


def test_of_several_named_templates_the_default_is_taken(tmp_path):
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": LLAMA_3}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert chat_template_text(tmp_path) == LLAMA_3


def test_llama_3_is_known_by_its_tokens_without_a_chat_template(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [{"content": "<|start_header_id|>"}]}')
    assert template_of_folder(tmp_path, "llama") == {"conv_mode": "llama_3"}
    assert template_of_folder(tmp_path, "qwen2") == {"conv_mode": "qwen_1_5"}


def test_llava_next_on_llama_3_is_asked_as_it_was_trained(tmp_path):
    """Its folder has the chat template of Llama 3, without the system text of LLaVA-NeXT's training."""
    folder = folder_with(tmp_path / "m", LLAMA_3, eos="<|eot_id|>")
    assert template_of_folder(folder, "llama", is_release=True) == {"conv_mode": "llava_llama_3"}
    text = ours({"conv_mode": "llava_llama_3"}, 1)
    assert text.startswith("<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision")


def test_llava_on_vicuna_keeps_the_templates_of_its_releases(tmp_path):
    """Its processors' chat templates have no control tokens, and no system text, which it was trained with."""
    text = "{% for message in messages %}{{ message['role'].upper() + ': ' + message['content'] }}{% endfor %}"
    assert template_of_folder(folder_with(tmp_path / "m", text), "llama") == {}


def test_an_unknown_language_model_without_words_is_refused():
    config = {"model_type": "llava_starcoder2", "mm_vision_tower": "x", "mm_use_im_patch_token": False}
    with pytest.raises(UnknownTemplate, match=r"nothing says which template .*starcoder2.*Give one with --conv-mode"):
        build_prompt(config, "What?", 1, name="mine")
    assert build_prompt(config, "What?", 1, conv_mode="chatml").text.startswith("<|im_start|>user\n<image>\nWhat?")


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages.__class__.__mro__ }}<|im_end|>",
        "{% for i in range(1000000000) %}x{% endfor %}<|im_end|>",
        "{% if %}<|im_end|>",
        "{{ raise_exception('no') }}<|im_end|>",
    ],
)
def test_a_hostile_or_broken_template_harms_nobody(tmp_path, text):
    record = template_of_folder(folder_with(tmp_path / "m", text), "starcoder2")
    if record:
        with pytest.raises(TemplateError, match="the chat template of the model cannot render this conversation"):
            build_prompt(record, "What?", 0)

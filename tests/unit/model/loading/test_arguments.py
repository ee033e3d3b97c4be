"""The flags that load a model, and the settings that they become."""

from __future__ import annotations

import argparse

import pytest

from llava.model.loading.arguments import ModelSettings, add_arguments, add_model_path


def parse(*words: str, **offered: object) -> ModelSettings:
    parser = argparse.ArgumentParser()
    add_model_path(parser, "--model-path")
    add_arguments(parser.add_argument_group("model"), **offered)  # type: ignore[arg-type]
    return ModelSettings.from_args(parser.parse_args(words))


def test_flags_that_a_command_does_not_offer_have_their_defaults():
    assert parse() == ModelSettings()
    assert parse(projector=True, split=True, flash_attention=True) == ModelSettings()
    assert parse(split=True, split_default=1).num_gpus == 1


@pytest.mark.parametrize(("text", "number"), [("2", 2), ("auto", None)])
def test_a_number_of_gpus_or_all(text, number):
    assert parse("--num-gpus", text, split=True, split_default=1).num_gpus == number


def test_settings_typed_again_are_the_same_settings():
    words = ["--model-path", "m", "--model-base", "b", "--vision-tower", "t", "--mm-projector", "p", "--device", "cpu"]
    words += ["--dtype", "float16", "--num-gpus", "2", "--load-8bit", "--use-flash-attn"]
    offered = {"projector": True, "split": True, "flash_attention": True}
    settings = parse(*words, **offered)
    typed = [word for flag in settings.as_flags() for word in flag]
    assert parse("--model-path", "m", *typed, **offered) == settings
    assert ModelSettings(model_path="m").as_flags() == []

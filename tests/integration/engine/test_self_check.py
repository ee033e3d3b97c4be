"""An engine whose batches would answer wrongly says so at its start and answers correctly, one request at a time."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import AttentionInterface

from llava.engine import EngineSettings
from llava.engine.ragged_attention import RAGGED, ragged_attention
from llava.errors import OutOfMemory
from tests.support.engines import answered_alone, engine, facts, loaded, mixed_requests

NAMES = ["llava-v0-tiny", "llava-v1.5-tiny"]


@pytest.fixture
def attention():
    """Puts another attention function in the place of the batches' own."""
    yield lambda function: AttentionInterface.register(RAGGED, function)
    AttentionInterface.register(RAGGED, ragged_attention)


def reverses_each_head(module, query, key, value, mask, **kwargs):
    """Wrong in batches only, and without an exception or an odd shape."""
    paged = kwargs.get("cache") is not None or "read_index" in kwargs
    output, weights = ragged_attention(module, query, key, value, mask, **kwargs)
    return (output.flip(-1) if paged else output), weights


@pytest.mark.parametrize("name", NAMES)
def test_wrong_batches_are_found_at_the_start_and_requests_answered_one_by_one(name, attention, caplog):
    attention(reverses_each_head)
    requests = mixed_requests(name, 6)
    expected = [facts(answered_alone(name, request)) for request in requests]
    with caplog.at_level(logging.WARNING), engine(name) as running:
        assert [facts(result) for result in running.generate(requests)] == expected
        assert running.limit == 1
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("llava.engine")]
    assert line.startswith(
        "Requests are answered one by one: batched answers are not the model's own with transformers"
    )


def test_a_manager_that_cannot_answer_at_all_is_not_used(attention, caplog):
    def breaks(module, query, key, value, mask, **kwargs):
        if kwargs.get("cache") is not None or "read_index" in kwargs:
            raise TypeError("update() got an unexpected keyword argument")
        return ragged_attention(module, query, key, value, mask, **kwargs)

    attention(breaks)
    [request] = mixed_requests(NAMES[1], 1)
    with engine(NAMES[1]) as running:
        assert [facts(result) for result in running.generate([request])] == [facts(answered_alone(NAMES[1], request))]
    assert "a batched request failed" in caplog.text


def test_too_little_memory_for_the_check_is_an_error_that_leaves_the_model_as_it_was(attention):
    def fills_memory(module, query, key, value, mask, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    attention(fills_memory)
    model = loaded(NAMES[1])[1]
    embedding = model.get_input_embeddings()
    with pytest.raises(OutOfMemory):
        engine(NAMES[1])
    assert model.get_input_embeddings() is embedding


@pytest.mark.parametrize("name", NAMES)
def test_batches_that_answer_as_the_model_does_are_kept_and_the_check_is_not_counted(name, caplog):
    with engine(name) as running:
        assert running.limit > 1
        assert (running.stats.answered, running.stats.images_encoded, running.stats.new_tokens) == (0, 0, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_context_too_short_for_the_check_is_no_reason_against_batches():
    with engine(NAMES[1], context_length=64) as running:
        assert running.limit > 1


def test_the_check_can_be_left_out(attention):
    attention(reverses_each_head)
    with engine(NAMES[1], EngineSettings(self_check=False)) as running:
        assert running.limit > 1

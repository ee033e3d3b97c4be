"""What users see of an exception from the model, and that it keeps nothing alive."""

from __future__ import annotations

import pytest
import torch

from llava.engine.failures import as_error
from llava.errors import ContextTooLong, EngineFailed, LlavaError, OutOfMemory
from llava.text_generation.answer_events import Failure


def raised(error: BaseException) -> BaseException:
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ContextTooLong(5, 4), ContextTooLong, "have 5 tokens"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), OutOfMemory, "20.00 GiB"),
        (MemoryError(), OutOfMemory, "out of memory"),
        (RuntimeError("not enough memory: you tried to allocate 8 bytes"), OutOfMemory, "8 bytes"),
        (IndexError("index out of range"), EngineFailed, "IndexError: index out of range"),
    ],
)
def test_an_exception_becomes_an_error_with_a_name_and_without_frames(error, kind, words):
    result = as_error(raised(error))
    assert type(result) is kind
    assert words in str(result)
    assert result.__traceback__ is None


def test_a_failure_gives_its_error_away_and_forgets_it():
    failure = Failure(LlavaError("once"))
    with pytest.raises(LlavaError, match="once"):
        raise failure.take()
    with pytest.raises(AssertionError):
        failure.take()

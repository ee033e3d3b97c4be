"""The buffer between the writers of a request's choices and its one reader."""

from __future__ import annotations

import asyncio

import pytest

from llava.errors import EngineFailed
from llava.serve.worker.answer_buffer import AnswerBuffer, ChoiceEvent
from llava.text_generation.answer_events import Answer, Piece


def taken(buffer: AnswerBuffer) -> list[ChoiceEvent]:
    """Everything that can be taken now."""

    async def take() -> list[ChoiceEvent]:
        events = []
        while (event := await buffer.get(0.0)) is not None:
            events.append(event)
            if buffer.is_done:
                break
        return events

    return asyncio.run(take())


def test_the_first_token_goes_at_once_and_the_others_in_pieces_of_the_interval():
    buffer = AnswerBuffer(stream_interval=3)
    buffer.put(0, Piece("A", 1))
    assert taken(buffer) == [ChoiceEvent(0, Piece("A", 1))]
    buffer.put(0, Piece(" cat", 1))
    buffer.put(0, Piece(" sits", 1))
    assert taken(buffer) == []
    buffer.put(0, Piece(".", 1))
    assert taken(buffer) == [ChoiceEvent(0, Piece(" cat sits.", 3))]


def test_what_was_held_back_goes_before_the_answer_and_counts_add_up():
    buffer = AnswerBuffer(stream_interval=9)
    answer = Answer("A cat.", "stop", 4, 4)
    for event in (Piece("A", 1), Piece(" cat", 1)):
        buffer.put(0, event)
    assert taken(buffer) == [ChoiceEvent(0, Piece("A cat", 2))]
    for event in (Piece(".", 1), Piece("", 1), answer):
        buffer.put(0, event)
    assert taken(buffer) == [ChoiceEvent(0, Piece(".", 2)), ChoiceEvent(0, answer)]
    assert buffer.is_done


def test_all_that_arrives_before_the_reader_comes_is_one_piece_for_each_choice():
    buffer = AnswerBuffer(num_choices=2)
    for _ in range(100):
        buffer.put(0, Piece("a", 1))
        buffer.put(1, Piece("b", 1))
    assert taken(buffer) == [ChoiceEvent(0, Piece("a" * 100, 100)), ChoiceEvent(1, Piece("b" * 100, 100))]
    assert not buffer.is_done


def test_an_error_comes_after_the_text_that_was_written_before_it():
    buffer = AnswerBuffer(stream_interval=9)

    async def read() -> None:
        buffer.put(0, Piece("A", 1))
        assert await buffer.get(1) == ChoiceEvent(0, Piece("A", 1))
        buffer.put(0, Piece(" cat", 1))
        buffer.fail(EngineFailed("the model failed."))
        buffer.fail(EngineFailed("and again."))
        assert await buffer.get(1) == ChoiceEvent(0, Piece(" cat", 1))
        with pytest.raises(EngineFailed, match="the model failed"):
            await buffer.get(1)

    asyncio.run(read())


def test_a_waiting_reader_wakes_with_the_first_event_and_after_the_timeout():
    async def read() -> None:
        buffer = AnswerBuffer()
        assert await buffer.get(0.01) is None
        asyncio.get_running_loop().call_later(0.01, buffer.put, 0, Piece("A", 1))
        assert await buffer.get(60) == ChoiceEvent(0, Piece("A", 1))

    asyncio.run(read())

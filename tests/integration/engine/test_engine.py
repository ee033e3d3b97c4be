"""The engine: batched answers equal single ones, images are encoded once, limits hold, nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest
import torch

from llava.engine import Answer, BatchSettings, EngineSettings, Piece, Request, Sampling
from llava.errors import (
    ContextTooLong,
    ImageTokenMismatch,
    QueueFull,
    ShuttingDown,
)
from tests.support.engines import answered_alone, ask, engine, facts, image, loaded, mixed_requests
from tests.support.serving import wait_until

V0, V15 = "llava-v0-tiny", "llava-v1.5-tiny"


@pytest.fixture
def v15():
    with engine(V15) as running:
        yield running


@pytest.mark.parametrize("name", [V0, V15])
@pytest.mark.parametrize(
    "batch",
    [BatchSettings(), BatchSettings(step_tokens=48, page_tokens=16), BatchSettings(max_running=3, cache_tokens=1400)],
    ids=["default", "prompts-cut-inside-images", "cache-for-three"],
)
def test_answers_of_a_batch_are_those_of_each_request_alone(name, batch):
    requests = mixed_requests(name, 14)
    expected = [facts(answered_alone(name, request)) for request in requests]
    with engine(name, EngineSettings(batch=batch)) as running:
        assert [facts(result) for result in running.generate(requests)] == expected


def test_second_question_about_an_image_encodes_it_once(v15):
    v15.generate([ask(V15, "What is it?", image(1))])
    v15.generate([ask(V15, "What colour is it?", image(1)), ask(V15, "Why?", image(2))])
    assert (v15.stats.images_encoded, v15.stats.images_found) == (2, 1)


def test_questions_that_come_together_about_one_image_read_it_once(v15):
    """Counted in the tokens that the model is given: the image's 256, the words before it, and each question."""
    seen: list[int] = []
    hook = loaded(V15)[1].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    answers = v15.generate([ask(V15, f"What is it, {number}?", image(3), max_new_tokens=2) for number in range(6)])
    hook.remove()
    assert sum(seen) < 1.7 * answers[0].num_prompt_tokens


def test_images_are_let_go_with_their_answers_and_not_by_some_garbage_collection_later(v15):
    images = [image(number) for number in range(4)]
    alive = [weakref.ref(one) for one in images]
    gc.collect()
    gc.disable()
    try:
        v15.generate([ask(V15, "What is it?", one) for one in images[:2]])
        stream = v15.iterate(ask(V15, "What is it?", images[2]))
        next(stream)
        stream.close()
        with pytest.raises(ContextTooLong):
            v15.generate([ask(V15, "Why? " * 3000, images[3])])
        del images, stream
        wait_until(lambda: not any(one() for one in alive))
    finally:
        gc.enable()


def test_pieces_add_up_to_the_answer_and_count_tokens(v15):
    *pieces, last = v15.iterate(ask(V15, "What is it?", image(0)))
    assert isinstance(last, Answer)
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert "".join(piece.text for piece in pieces) == last.text
    assert sum(piece.num_new_tokens for piece in pieces) == last.num_new_tokens == 24
    assert 0 <= last.timings.started_s <= last.timings.first_token_s <= last.timings.total_s


def test_an_answer_ends_before_the_first_of_several_stop_texts(v15):
    whole = v15.generate([ask(V15, "What is it?", image(0), stop=())])[0].text
    early, late = whole[5:8], whole[12:15]
    cut = v15.generate([ask(V15, "What is it?", image(0), stop=(late, early))])[0]
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(early)].rstrip(), "stop")
    assert cut.num_new_tokens < 24


def test_a_seed_gives_the_same_answer_alone_and_in_a_crowd(v15):
    seeded = ask(V15, "What is it?", image(0), temperature=1.0, top_p=0.9, seed=11)
    crowd = [ask(V15, "Why?", image(i), temperature=1.0) for i in range(5)]
    alone = v15.generate([seeded])[0]
    together = v15.generate([*crowd[:3], seeded, *crowd[3:]])[3]
    assert facts(alone) == facts(together)
    assert facts(alone) != facts(v15.generate([ask(V15, "What is it?", image(0), temperature=1.0, seed=12)])[0])


def test_without_a_seed_answers_differ(v15):
    request = ask(V15, "What is it?", image(0), temperature=1.5)
    assert len({result.text for result in v15.generate([request] * 4)}) > 1


def test_beam_search_goes_through_the_same_door(v15):
    request = ask(V15, "What is it?", image(0), num_beams=3, max_new_tokens=8)
    *pieces, last = v15.iterate(request)
    assert "".join(piece.text for piece in pieces) == last.text
    assert sum(piece.num_new_tokens for piece in pieces) == last.num_new_tokens
    assert facts(v15.generate([request])[0]) == facts(answered_alone(V15, request))


def test_an_answer_is_limited_to_what_the_context_leaves():
    request = ask(V15, "What is it?", image(0))
    length = answered_alone(V15, request).num_prompt_tokens
    with engine(V15, context_length=length + 3) as running:
        result = running.generate([request])[0]
        assert (result.num_new_tokens, result.finish_reason) == (3, "length")


def test_a_prompt_that_fills_the_context_fails_alone_and_says_so():
    long, short = ask(V15, "What is it? " * 40, image(0)), ask(V15, "Why?", image(0))
    with engine(V15, context_length=400) as running:
        refused, answered = running.generate([long, short], return_errors=True)
        assert isinstance(refused, ContextTooLong)
        assert "the model's context is 400" in str(refused)
        assert isinstance(answered, Answer)
        with pytest.raises(ContextTooLong):
            running.generate([short, long])


@pytest.fixture
def seen_by_tower():
    """How many images the tower was given at a time."""
    counts: list[int] = []
    tower = loaded(V15)[1].get_vision_tower()
    hook = tower.register_forward_pre_hook(lambda module, args: counts.append(len(args[0])))
    yield counts
    hook.remove()


def test_what_cannot_be_served_is_refused_before_its_images_are_encoded(seen_by_tower):
    with engine(V15, EngineSettings(image_rows=600), context_length=1400) as running:
        too_long = ask(V15, "What is it? " * 400, image(0))
        too_many = Request("<image> <image> <image> Why?", tuple(image(number) for number in range(3)))
        seen_by_tower.clear()  # the check at the start has an image of its own
        refused = running.generate([too_long, too_many], return_errors=True)
        assert [error.code for error in refused] == ["context_length_exceeded", "too_many_pictures"]
        assert seen_by_tower == []


def test_the_images_of_a_request_are_encoded_together_and_one_that_comes_twice_once(seen_by_tower):
    images = (image(0), image(1), image(0))
    request = Request("<image> <image> <image> Why?", images, Sampling(temperature=0, max_new_tokens=5))
    expected = facts(answered_alone(V15, request))
    with engine(V15) as running:
        seen_by_tower.clear()
        assert [facts(result) for result in running.generate([request])] == [expected]
        assert seen_by_tower == [2]
        assert (running.stats.images_encoded, running.images_in_use) == (2, 0)


def test_a_prompt_longer_than_the_cache_is_refused_before_the_model_sees_it():
    with engine(V15, EngineSettings(batch=BatchSettings(cache_tokens=320))) as running:
        [refused] = running.generate([ask(V15, "What is it? " * 10, image(0))], return_errors=True)
        assert isinstance(refused, ContextTooLong)
        assert running.stats.deaths == 0


def test_a_prompt_with_another_number_of_markers_than_images_is_refused():
    with pytest.raises(ImageTokenMismatch, match="1 <image> markers for 2 images"):
        Request("What is <image>?", (image(0), image(1)))


def test_an_image_token_written_into_a_question_is_refused_not_read_as_an_image():
    with engine(V0) as running:
        [refused] = running.generate([ask(V0, "What is <im_patch>?", image(0))], return_errors=True)
        assert isinstance(refused, ImageTokenMismatch)


def test_ids_of_images_can_run_out_in_the_middle_of_answers():
    requests = [ask(V15, "What is it?", image(i), max_new_tokens=20) for i in range(8)]
    expected = [facts(answered_alone(V15, request)) for request in requests]
    with engine(V15, EngineSettings(batch=BatchSettings(max_running=3))) as running:
        table = running._scheduler.batches.table
        table._max_id = table.embedding.vocabulary + 3 * 256 + 10
        assert [facts(result) for result in running.generate(requests)] == expected
        assert table._next < table._max_id


def test_closing_a_stream_frees_everything_it_held(v15):
    async def listen_for_two_pieces() -> None:
        stream = v15.stream(ask(V15, "What is it?", image(0), max_new_tokens=400))
        async for _ in stream:
            if v15.images_in_use:
                break
        await stream.aclose()
        while v15.queue_length:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(listen_for_two_pieces(), 60))
    assert (v15.images_in_use, v15.stats.cancelled, v15.stats.answered) == (0, 1, 0)
    assert v15.stats.new_tokens < 300
    assert v15.stats.most_steps_after_cancel <= 2


@pytest.mark.parametrize("one_by_one", [False, True])
def test_one_that_leaves_costs_two_more_steps_at_most(one_by_one):
    with engine(V15, EngineSettings(one_by_one=one_by_one)) as running:
        for number in range(4):
            stream = running.iterate(ask(V15, "What is it?", image(number % 2), max_new_tokens=400))
            next(stream)
            stream.close()
        wait_until(lambda: running.queue_length == 0)
        assert running.stats.cancelled == 4
        assert 1 <= running.stats.most_steps_after_cancel <= 2


def test_steps_for_nobody_are_counted_where_a_cancel_goes_unheard(v15, monkeypatch):
    monkeypatch.setattr("llava.engine.batcher.Batcher.cancel", lambda self, request_id: None)
    stream = v15.iterate(ask(V15, "What is it?", image(0), max_new_tokens=40))
    next(stream)
    stream.close()
    wait_until(lambda: v15.stats.most_steps_after_cancel > 2)
    assert v15.stats.steps_after_cancel == v15.stats.most_steps_after_cancel


def test_a_full_queue_refuses_streams_and_makes_lists_wait():
    settings = EngineSettings(batch=BatchSettings(max_running=1), max_waiting=1)
    requests = [ask(V15, "What is it?", image(i), max_new_tokens=30) for i in range(6)]
    with engine(V15, settings) as running:

        async def storm() -> list[str]:
            async def one(request: Request) -> str:
                try:
                    return [event async for event in running.stream(request)][-1].text
                except QueueFull:
                    return "full"

            return await asyncio.gather(*(one(request) for request in requests))

        assert asyncio.run(storm()).count("full") == 4
        assert len(running.generate(requests)) == 6


def test_requests_are_answered_in_the_order_in_which_they_came():
    order: list[int] = []
    requests = [ask(V15, "What is it?", image(i % 2), max_new_tokens=6) for i in range(12)]
    with engine(V15, EngineSettings(batch=BatchSettings(max_running=1))) as running:
        running.generate(requests, on_answer=lambda index, answer: order.append(index))
    assert order == list(range(12))


def test_many_threads_may_ask_at_once(v15):
    requests = mixed_requests(V15, 8)
    expected = [facts(answered_alone(V15, request)) for request in requests]
    results: list[list[tuple]] = []
    threads = [
        threading.Thread(target=lambda: results.append([facts(result) for result in v15.generate(requests)]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 3


def test_closing_the_engine_ends_what_runs_and_gives_the_model_back():
    tokenizer, model, _, _ = loaded(V15)
    before = model.get_input_embeddings(), model.config._attn_implementation
    running = engine(V15)
    stream = running.iterate(ask(V15, "What is it?", image(0), max_new_tokens=400))
    next(stream)
    running.close()
    with pytest.raises(ShuttingDown):
        list(stream)
    with pytest.raises(ShuttingDown):
        running.generate([ask(V15, "Why?", image(0))])
    assert (model.get_input_embeddings(), model.config._attn_implementation) == before
    with torch.inference_mode():
        ids = tokenizer("A cat", return_tensors="pt").input_ids
        assert model(ids).logits.shape[:2] == ids.shape


def test_one_by_one_is_there_for_who_wants_it():
    request = ask(V15, "What is it?", image(0))
    with engine(V15, EngineSettings(one_by_one=True)) as running:
        assert running.limit == 1
        assert facts(running.generate([request])[0]) == facts(answered_alone(V15, request))


def test_settings_that_make_no_sense_are_refused_before_anything_runs():
    with pytest.raises(Exception, match="temperature"):
        Sampling(temperature=float("nan"))

"""What goes wrong inside stays with the request that caused it; everything else goes on as if nothing had been."""

from __future__ import annotations

import random
import threading
import time

import pytest
import torch

from llava.engine import Answer, BatchSettings, EngineSettings
from llava.errors import EngineFailed, LogitsNotFinite, OutOfMemory
from tests.support.engines import answered_alone, ask, engine, facts, image, loaded, mixed_requests
from tests.support.serving import wait_until

NAME = "llava-v1.5-tiny"
POISON = "zebra"


@pytest.fixture
def running():
    with engine(NAME) as one:
        yield one


@pytest.fixture
def break_step():
    """Calls a function with the token ids of each step before it is computed; it may raise."""
    hooks = []

    def install(fault):
        def before(module, args, kwargs):
            if kwargs.get("cache") is not None:
                fault(kwargs["input_ids"][0].tolist())

        hooks.append(loaded(NAME)[1].register_forward_pre_hook(before, with_kwargs=True))

    yield install
    for hook in hooks:
        hook.remove()


def rarest_token() -> int:
    """A token of the word zebra that no other request has."""
    tokenizer = loaded(NAME)[0]
    ids = set(tokenizer(POISON, add_special_tokens=False).input_ids)
    plain = set(tokenizer("".join(request.prompt for request in mixed_requests(NAME, 14))).input_ids)
    [marker, *_] = sorted(ids - plain)
    return marker


@pytest.fixture
def broken_token():
    """The embedding of one token is NaN."""
    weight = loaded(NAME)[1].get_input_embeddings().weight
    marker = rarest_token()
    before = weight[marker].clone()
    weight.data[marker] = float("nan")
    yield
    weight.data[marker] = before


def poisoned(message: str = "index out of range", error: type[Exception] = RuntimeError):
    """Fails every step that holds the rarest token of the word zebra."""
    marker = rarest_token()

    def fault(step: list[int]) -> None:
        if marker in step:
            raise error(message)

    return fault


def test_streams_go_on_unseen_when_the_manager_dies_once(running, break_step):
    requests = mixed_requests(NAME, 10)
    expected = [facts(answered_alone(NAME, request)) for request in requests]
    steps = iter(range(10**9))

    def once(step: list[int]) -> None:
        if next(steps) == 12:
            raise RuntimeError("a cosmic ray")

    break_step(once)
    assert [facts(result) for result in running.generate(requests)] == expected
    assert running.stats.deaths == 1
    assert running.healthy


def test_a_request_that_kills_the_manager_fails_alone_and_leaves_its_traceback_in_the_log(running, break_step, caplog):
    requests = mixed_requests(NAME, 9)
    expected = [facts(answered_alone(NAME, request)) for request in requests]
    break_step(poisoned())
    bad = ask(NAME, f"Is it a {POISON}?", image(0))
    results = running.generate([*requests[:4], bad, *requests[4:]], return_errors=True)
    failed = results.pop(4)
    assert isinstance(failed, EngineFailed)
    assert "index out of range" in str(failed)
    assert "in fault" in caplog.text
    assert [facts(result) for result in results] == expected
    assert (running.stats.failed, running.queue_length, running.images_in_use) == (1, 0, 0)


def test_out_of_memory_is_named_with_advice_and_is_no_fault_of_the_server(running, break_step):
    break_step(poisoned("CUDA out of memory. Tried to allocate 20.00 GiB", torch.OutOfMemoryError))
    good, bad = ask(NAME, "Why?", image(0)), ask(NAME, f"Is it a {POISON}?", image(0))
    answered, failed = running.generate([good, bad], return_errors=True)
    assert isinstance(answered, Answer)
    assert isinstance(failed, OutOfMemory)
    assert (failed.code, failed.status) == ("out_of_memory", 400)
    assert "20.00 GiB" in str(failed)
    assert "fewer or smaller images" in str(failed)


def test_many_failures_leave_nothing_behind(running, break_step):
    break_step(poisoned())
    bad = ask(NAME, f"Is it a {POISON}?", image(0), max_new_tokens=4)
    results = running.generate([bad] * 30, return_errors=True)
    assert all(isinstance(result, EngineFailed) for result in results)
    assert (running.queue_length, running.images_in_use) == (0, 0)
    assert isinstance(running.generate([ask(NAME, "Why?", image(0))])[0], Answer)
    assert running.healthy


def test_an_image_that_cannot_be_encoded_fails_its_request_alone(running, monkeypatch):
    _, model, _, _ = loaded(NAME)
    encode = model.encode_images
    bad = image(5)

    def fault(images, sizes=None):
        if sizes == [bad.size]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(images, sizes)

    bad = bad.resize((33, 44))
    monkeypatch.setattr(model, "encode_images", fault)
    failed, answered = running.generate([ask(NAME, "Why?", bad), ask(NAME, "Why?", image(0))], return_errors=True)
    assert isinstance(failed, OutOfMemory)
    assert isinstance(answered, Answer)


def test_cancelling_at_random_leaves_the_others_right_and_nothing_behind(running):
    rng = random.Random(1)
    requests = mixed_requests(NAME, 12)
    expected = [facts(answered_alone(NAME, request)) for request in requests]
    results: dict[int, tuple] = {}

    def listen(index: int) -> None:
        results[index] = facts(running.generate([requests[index]])[0])

    def leave_early(delay_s: float) -> None:
        stream = running.iterate(ask(NAME, "Tell me everything.", image(4), max_new_tokens=300))
        if delay_s:
            next(stream)
            time.sleep(delay_s)
        stream.close()

    threads = [threading.Thread(target=listen, args=[i]) for i in range(len(requests))]
    threads += [threading.Thread(target=leave_early, args=[rng.choice([0, 0.01, 0.1])]) for _ in range(40)]
    rng.shuffle(threads)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[i] for i in range(len(requests))] == expected
    assert running.stats.most_steps_after_cancel <= 2
    deadline = time.monotonic() + 30
    while running.queue_length and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (running.queue_length, running.images_in_use, running._scheduler.batches.supervisor.num_running) == (0, 0, 0)


def test_a_request_cancelled_before_its_preparation_never_reaches_the_model(running, monkeypatch):
    scheduler = running._scheduler
    batches, go_on = scheduler.batches, threading.Event()
    prepare = batches._preparation.prepare
    monkeypatch.setattr(batches._preparation, "prepare", lambda state: go_on.wait(60) and prepare(state))
    first, second = (
        scheduler.submit(ask(NAME, "Why?", image(0), max_new_tokens=2), lambda event: None) for _ in range(2)
    )
    second.cancelled = True  # what `cancel` does first, before the engine's thread hears of it
    go_on.set()
    wait_until(lambda: first.done and not batches._num_preparing)
    assert (first.num_submissions, second.num_submissions) == (1, 0)
    scheduler.cancel(second)
    wait_until(lambda: running.queue_length == 0)
    assert (running.stats.answered, running.stats.cancelled, running.stats.deaths) == (1, 1, 0)


def test_an_engine_that_cannot_go_on_says_so_to_everyone(break_step):
    one = engine(NAME, EngineSettings(batch=BatchSettings(max_running=2)))

    def no_more(*args) -> None:
        raise EngineFailed("the device is gone")

    one._scheduler.batches.supervisor._start = no_more

    def always(step: list[int]) -> None:
        raise RuntimeError("unspecified launch failure")

    break_step(always)
    results = one.generate([ask(NAME, "Why?", image(i)) for i in range(3)], return_errors=True)
    assert all(isinstance(result, EngineFailed) for result in results)
    assert not one.healthy
    with pytest.raises(EngineFailed, match="the device is gone"):
        one.generate([ask(NAME, "Why?", image(0))])
    one.close()


def test_an_engine_whose_step_never_ends_is_not_healthy(running, break_step, monkeypatch):
    monkeypatch.setattr("llava.engine.scheduler._WEDGED_S", 0.3)
    stuck, go_on = threading.Event(), threading.Event()

    def wait(step: list[int]) -> None:
        stuck.set()
        go_on.wait(60)

    break_step(wait)
    stream = running.iterate(ask(NAME, "Why?", image(0)))
    thread = threading.Thread(target=lambda: list(stream))
    thread.start()
    assert stuck.wait(60)
    deadline = time.monotonic() + 30
    while running.healthy and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running.healthy
    go_on.set()
    thread.join()
    assert running.healthy


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_whose_logits_are_not_finite_fails_alone_and_names_the_weight(running, broken_token, temperature):
    requests = mixed_requests(NAME, 9)
    expected = [facts(answered_alone(NAME, request)) for request in requests]
    bad = ask(NAME, f"Is it a {POISON}?", image(0), temperature=temperature)
    for _ in range(2):  # what it left in the cache harms nobody
        results = running.generate([*requests[:4], bad, *requests[4:]], return_errors=True)
        failed = results.pop(4)
        assert isinstance(failed, LogitsNotFinite)
        assert "model.embed_tokens.weight" in str(failed) or "embed_tokens.text.weight" in str(failed)
        assert [facts(result) for result in results] == expected
    assert running.stats.deaths == 0
    assert running.healthy


@pytest.mark.parametrize("num_beams", [1, 2])
def test_answered_one_by_one_such_a_request_fails_too(broken_token, num_beams):
    bad = ask(NAME, f"Is it a {POISON}?", num_beams=num_beams)
    with pytest.raises(LogitsNotFinite, match=r"NaN or infinite values \(model\.embed_tokens\.weight"):
        answered_alone(NAME, bad)


def test_numbers_that_overflow_are_told_from_weights_that_are_broken(running):
    """Finite weights, infinite logits, as of a model of bfloat16 in float16."""
    head = loaded(NAME)[1].lm_head.weight
    before = head.data.clone()
    head.data.fill_(3e38)
    try:
        [failed] = running.generate([ask(NAME, "What is this?")], return_errors=True)
    finally:
        head.data.copy_(before)
    assert isinstance(failed, LogitsNotFinite)
    assert "its weights are finite" in str(failed)

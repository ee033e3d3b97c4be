"""Who gets the next request: load, speed, failures, heartbeats and owners, without a clock or a network."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from llava.errors import ModelNotFound, NoWorker, TryAgain, WorkerConflict
from llava.serve.cluster.registry import RegisteredWorker, Registry
from llava.serve.protocol.original import WorkerStatus
from llava.serve.service.addresses import AddressPolicy, WorkerAddress, parse_worker_address


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> Registry:
    return Registry(clock=clock, rng=random.Random(0))


def at(port: int, host: str = "127.0.0.1") -> WorkerAddress:
    return parse_worker_address(f"http://{host}:{port}", AddressPolicy())


def add(
    registry: Registry, port: int, *, model: str = "m", speed: float = 1, queue_length: int = 0, **more
) -> RegisteredWorker:
    status = WorkerStatus(model_names=[model], speed=speed, queue_length=queue_length)
    return registry.register(at(port), status, **more)


def shares(registry: Registry, times: int = 600) -> Counter[int]:
    return Counter(registry.choose("m").address.port for _ in range(times))


def test_the_less_busy_of_two_gets_the_request(registry: Registry):
    add(registry, 1, queue_length=3)
    add(registry, 2, queue_length=1)
    assert shares(registry) == {2: 600}


def test_a_queue_counts_by_the_speed_that_works_it_off(registry: Registry):
    add(registry, 1, queue_length=3, speed=4)
    add(registry, 2, queue_length=1)
    assert shares(registry) == {1: 600}


def test_requests_under_way_count_at_once_and_once(registry: Registry):
    worker, other = add(registry, 1), add(registry, 2)
    with registry.lease(worker), registry.lease(worker):
        assert registry.choose("m") is other
        assert registry.heart_beat(worker.address.key, 2)  # the same two, as the worker sees them
        assert worker.load == 2
        registry.heart_beat(worker.address.key, 5)  # and three from elsewhere
        assert worker.load == 5
    assert worker.load == 3


def test_addresses_handed_out_spread_until_the_next_heartbeat(registry: Registry):
    workers = [add(registry, 1), add(registry, 2)]
    chosen = []
    for _ in range(4):
        worker = registry.choose("m")
        worker.handed_out()
        chosen.append(worker)
    assert Counter(chosen) == dict.fromkeys(workers, 2)


def test_of_many_the_least_busy_is_not_swamped(registry: Registry):
    for port in range(1, 9):
        add(registry, port, queue_length=port)
    counts = shares(registry)
    assert 8 not in counts  # never the busiest of two
    assert counts[1] < 300  # its rivals get theirs, although its number is the lowest


def test_the_lottery_draws_by_speed(clock: Clock):
    registry = Registry("lottery", clock=clock, rng=random.Random(0))
    add(registry, 1, speed=1, queue_length=9)
    add(registry, 2, speed=3, queue_length=9)
    counts = shares(registry, 4000)
    assert counts[2] / counts[1] == pytest.approx(3, rel=0.2)  # 4000 draws: five standard deviations


def test_an_unknown_model_is_told_from_one_whose_workers_are_away(registry: Registry):
    worker = add(registry, 1)
    with pytest.raises(ModelNotFound, match="Available: m"):
        registry.choose("other")
    registry.failed(worker)
    with pytest.raises(NoWorker):
        registry.choose("m")
    assert registry.models() == ["m"]


def test_a_failed_worker_rests_until_it_is_heard_of_and_longer_each_time(registry: Registry, clock: Clock):
    worker = add(registry, 1)
    rests = []
    for _ in range(4):
        registry.failed(worker)
        failed_at = clock.now
        registry.heart_beat(worker.address.key, 0)
        while not worker.is_routable(clock.now):
            clock.now += 1
        rests.append(clock.now - failed_at)
    assert rests == [0, 2, 6, 14]
    worker.answered()
    registry.failed(worker)
    registry.heart_beat(worker.address.key, 0)
    assert registry.choose("m") is worker


def test_a_silent_worker_expires_and_one_without_heartbeats_does_not(registry: Registry, clock: Clock):
    silent = add(registry, 1)
    add(registry, 2, check_heart_beat=False)
    beating = add(registry, 3)
    clock.now += 20
    registry.heart_beat(beating.address.key, 0)
    clock.now += 20
    assert registry.expire() == [silent]
    assert silent.gone.is_set()
    assert not registry.heart_beat(silent.address.key, 0)  # so that it registers again
    assert len(registry) == 2


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_a_jump_of_the_wall_clock_expires_nobody(jump_s: float, monkeypatch):
    registry = Registry()
    worker = add(registry, 1)
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + jump_s)
    assert registry.expire() == []
    assert registry.choose("m") is worker


def test_one_address_is_one_worker_however_often_it_registers(registry: Registry):
    worker = add(registry, 1, model="old")
    with registry.lease(worker):
        again = registry.register(at(1), WorkerStatus(model_names=["m"], speed=2))
        assert again is worker
        assert (len(registry), registry.models(), worker.in_flight) == (1, ["m"], 1)
    assert worker.in_flight == 0


def test_live_workers_and_their_models_cannot_be_taken_over(registry: Registry, clock: Clock):
    add(registry, 1, owner="ann")
    with pytest.raises(WorkerConflict, match="another owner"):
        add(registry, 1, owner="bob", model="new")
    with pytest.raises(WorkerConflict, match="model 'm'"):
        add(registry, 2, owner="bob")
    add(registry, 2, owner="bob", model="new")
    clock.now += 31
    registry.expire()
    assert add(registry, 1, owner="bob").owner == "bob"


def test_there_is_a_limit_to_workers(clock: Clock):
    registry = Registry(clock=clock, max_workers=2)
    add(registry, 1)
    add(registry, 2)
    add(registry, 2)
    with pytest.raises(TryAgain, match="2 workers"):
        add(registry, 3)


def test_all_workers_together_look_like_one(registry: Registry):
    assert registry.totals() is None
    add(registry, 1, speed=2, queue_length=3)
    add(registry, 2, model="n", queue_length=1)
    assert registry.totals() == WorkerStatus(model_names=["m", "n"], speed=3, queue_length=4)

"""What several files of these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fake_backend import Plan
from tests.support.worker import Served, serving


@pytest.fixture(scope="module")
def _one_worker() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture
def served(_one_worker: Served) -> Iterator[Served]:
    """A worker with a fake engine, one for all tests of a file; each finds the engine with no plan and no memory."""
    yield _one_worker
    _one_worker.engine.plan = lambda request: Plan()
    _one_worker.engine.seen.clear()

"""The questions that the tests of SEED-Bench and of all benchmarks share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.benchmarks import write_json


@pytest.fixture
def seed_bench(tmp_path: Path) -> Path:
    kinds = {"Scene Understanding": 1, "Action Prediction": 11}
    rows = [("10", 1, "A", "image"), ("11", 1, "B", "image"), ("12", 11, "C", "video")]
    questions = [
        {
            "question_id": i,
            "question_type_id": kind,
            "answer": answer,
            "data_type": medium,
            "question": "?",
            "data_id": i,
        }
        for i, kind, answer, medium in rows
    ]
    return write_json(tmp_path / "SEED-Bench.json", {"questions": questions, "question_type": kinds})

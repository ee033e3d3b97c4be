"""Lines of the arena's logs, as the page and FastChat write them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGIN = 1_767_571_200.0
"""2026-01-05, midnight UTC."""

DAY = 86_400.0


def vote(
    left: str,
    right: str,
    kind: str = "leftvote",
    *,
    at: float = BEGIN,
    models: tuple[str, str] | None = ("", ""),
    conversation: str | None = None,
) -> dict[str, Any]:
    """One battle; anonymous unless `models` says what the page showed (None: the names)."""
    states: list[dict[str, Any]] = [
        {"template_name": "v1", "messages": [["USER", "What is it?"]], "offset": 0, "model_name": name}
        for name in (left, right)
    ]
    if conversation:
        for side, state in enumerate(states):
            state["conv_id"] = f"{conversation}{side}"
    shown = (left, right) if models is None else models
    return {"tstamp": at, "type": kind, "models": list(shown), "states": states, "ip": "192.0.2.1"}


def write_log(file: Path, rows: list[Any], end: str = "\n") -> Path:
    file.write_bytes("".join(f"{json.dumps(row)}{end}" for row in rows).encode())
    return file


def simulate(strengths: Mapping[str, float], count: int, seed: int, tie_share: float = 0.0) -> list[dict[str, Any]]:
    """Votes of people who prefer a model by its strength, in natural log odds; a tenth of them sees the names."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        left, right = chance.sample(sorted(strengths), 2)
        wins = chance.random() < 1 / (1 + math.exp(strengths[right] - strengths[left]))
        kind = "leftvote" if wins else "rightvote"
        if chance.random() < tie_share:
            kind = chance.choice(("tievote", "bothbad_vote"))
        models = None if chance.random() < 0.1 else ("", "")
        rows.append(vote(left, right, kind, at=BEGIN + 60 * number, models=models, conversation=f"c{number}"))
    return rows

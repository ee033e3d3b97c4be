"""The questions of the embedded model's training data do not depend on the process that makes them."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from scripts.pocket import records, scenes


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_questions_are_the_same_in_every_run(hash_seed, tmp_path):
    """Whatever order Python gives to sets."""
    code = (
        "import random; from scripts.pocket import records, scenes; rng = random.Random(1);"
        "print([records.scene_turns(scenes.sample(seed), rng) for seed in range(300)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    rng = random.Random(1)
    assert run.stdout.strip() == str([records.scene_turns(scenes.sample(seed), rng) for seed in range(300)])

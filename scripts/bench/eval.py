"""Measures the speed of evaluation: `model_vqa`, one question at a time, and static batches of transformers.

    python -m scripts.bench.eval --work /path/with/3GB [--layers 8]

The model is that of `scripts.bench.serve`. It answers 64 questions, three per image, with 32 new tokens each, greedily.
Each way runs in its own process on one thread and is measured from the moment the model is loaded. All ways must give
the same answers. Then the scorer of ScienceQA scores 4,241 answers. The script prints CPU seconds and ratios; compare
only the ratios between runs.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from scripts.bench.serve import (
    REPOSITORY,
    WORDS,
    Asked,
    Measured,
    OneByOne,
    Static,
    all_at_once,
    arguments,
    image,
    in_a_process,
    made_model,
)

NUM_QUESTIONS = 64
NEW_TOKENS = 32
QUESTIONS_PER_IMAGE = 3
NUM_SCIENCE = 4241
"""Number of problems in ScienceQA's test split."""


def questions() -> list[Asked]:
    """Returns the questions, the same for every way and every run."""
    rng = random.Random(4)
    return [
        Asked(" ".join(rng.choices(WORDS, k=rng.randint(8, 40))) + "?", number // QUESTIONS_PER_IMAGE, NEW_TOKENS)
        for number in range(NUM_QUESTIONS)
    ]


# The ways of answering, each run in its own process


class StaticOf32(Static):
    """Static batches as large as the engine's."""

    batch = 32


def measure(folder: Path, way: str) -> Measured:
    import torch

    torch.set_num_threads(1)
    return (
        _by_command(folder)
        if way == "model_vqa"
        else _by_hand({"one by one": OneByOne, "static": StaticOf32}[way](folder))
    )


def _by_hand(made: Any) -> Measured:
    made.answer([Asked("warm up?", 99, 4)])
    cpu, wall = time.process_time(), time.monotonic()
    texts = all_at_once(made, questions())
    return Measured(time.process_time() - cpu, time.monotonic() - wall, texts)


def _by_command(folder: Path) -> Measured:
    """Runs the command with its files; the clock starts when the model is loaded."""
    from llava.command_line import run
    from llava.eval import model_vqa
    from llava.eval.answering.local_model import LocalModel

    class Timed(LocalModel):
        async def open(self) -> None:
            await super().open()
            started.extend((time.process_time(), time.monotonic()))

    started: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        asked = questions()
        for number in {one.image for one in asked}:
            image(number).save(Path(place) / f"{number}.png")
        records = [
            {"question_id": number, "image": f"{one.image}.png", "text": one.question}
            for number, one in enumerate(asked)
        ]
        file = Path(place) / "questions.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        answers = Path(place) / "answers.jsonl"
        words = ["--model-name", folder, "--question-file", file, "--image-folder", place, "--answers-file", answers]
        settings = ["--device", "cpu", "--dtype", "float32", "--temperature", "0", "--max-new-tokens", NEW_TOKENS]
        with (
            mock.patch("llava.eval.answering.local_model.LocalModel", Timed),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            code = run(model_vqa.add_arguments, model_vqa.main, argv=[str(word) for word in [*words, *settings]])
        cpu, wall = time.process_time(), time.monotonic()
        if code:
            raise SystemExit(code)
        texts = [json.loads(line)["text"] for line in answers.read_text().splitlines()]
    return Measured(cpu - started[0], wall - started[1], texts)


# Scoring


def report_scorer() -> None:
    from tests.support.science_qa import answer, make_science_qa, right, write_lines

    with tempfile.TemporaryDirectory() as place:
        base = make_science_qa(Path(place) / "data", NUM_SCIENCE)
        answers = [answer(number, right(number) + " Because." * 60) for number in range(1, NUM_SCIENCE + 1)]
        file = write_lines(Path(place) / "a.jsonl", answers)
        marking: list[str | Path] = ["-m", "llava.eval.eval_science_qa", "--base-dir", base, "--result-file", file]
        written: list[str | Path] = ["--output-file", Path(place) / "o.json", "--output-result", Path(place) / "r.json"]
        start_s = cpu_of("-m", "llava.eval.eval_science_qa", "--help")
        print(f"\neval_science_qa, CPU seconds of the whole command: {start_s:.2f} to start (--help), ", end="")
        print(f"{cpu_of(*marking):.2f} for {NUM_SCIENCE} answers, {cpu_of(*marking, *written):.2f} with both its files")


def cpu_of(*words: str | Path) -> float:
    """Returns the CPU seconds of `python WORDS...`, the least of three runs."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


# The report

TASKS: dict[str, Callable[..., Any]] = {"measure": lambda folder, way: vars(measure(Path(folder), way))}


def report_answering(folder: Path) -> None:
    ways = ("model_vqa", "static", "one by one")
    results = {way: Measured(**in_a_process("measure", str(folder), way, module="scripts.bench.eval")) for way in ways}
    ours = results["model_vqa"]
    print(f"{NUM_QUESTIONS} questions, {QUESTIONS_PER_IMAGE} per image, {NEW_TOKENS} new tokens")
    for way, one in results.items():
        same = sum(a == b for a, b in zip(one.texts, ours.texts, strict=True))
        print(
            f"  {way:11} {one.cpu_s:7.1f} s of CPU, {NUM_QUESTIONS / one.cpu_s:5.2f} questions/s of CPU; model_vqa is "
            f"{one.cpu_s / ours.cpu_s:.2f} times as fast; {same} of {NUM_QUESTIONS} answers are equal, "
            f"{len(set(one.texts))} are distinct"
        )


def main() -> int:
    args = arguments(__doc__, "answer,score", TASKS)
    if args is None:
        return 0
    if "score" in args.parts:
        report_scorer()
    if "answer" in args.parts:
        report_answering(made_model(args.work, args.layers))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes the training records in LLaVA's format, and the images that they name.

Stage 1 has one question per image, about what it shows; stage 2 has conversations of several turns.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llava.command_line import run
from scripts.pocket import fashion, photograph_questions, scene_questions, scenes
from scripts.pocket.folders import add_fashion, add_work
from scripts.pocket.questions import Question

IMAGE = "<image>"
LONGEST = 260
"""Longest conversation in characters, counting TURN more for each turn. Conversations are short because later answers
can be read from earlier ones instead of the image, and of similar length because a batch is padded to its longest."""
TURN = 26
"""Characters that each turn counts in addition to its text."""
PAIRS = 0.15
"""Fraction of conversations about scenes that start with a question and one that refers to its answer."""
EXERCISES = 0.6
"""Fraction of stage 2 records with a single question."""
EASY_EXERCISES = 0.1
"""Fraction of exercises about scenes that use scenes with one or two objects."""

SMALL_TALK = (
    ("Hi!", "Hi! Show me a picture and ask me about it."),
    ("Hello!", "Hello! Show me a picture and ask me about it."),
    ("Who are you?", "I am a small LLaVA. I know coloured shapes, letters, numbers and clothes."),
    ("What can you do?", "I can answer questions about pictures of shapes, letters, numbers and clothes."),
    ("What is in the picture?", "I can't tell: there is no picture."),
    ("Describe the picture.", "I can't tell: there is no picture."),
    ("What do you see?", "I can't tell: there is no picture."),
    ("Thank you!", "You are welcome."),
)

Turn = tuple[str, str]


def scene_turns(scene: scenes.Scene, rng: random.Random) -> list[Turn]:
    """Generates a conversation about a scene in which no question occurs twice."""
    pair = scene_questions.follow_up(scene, rng) if rng.random() < PAIRS else ()
    return _turns(scene_questions.ASKERS, scene, rng, pair)


def photograph_turns(clothing: str, rng: random.Random) -> list[Turn]:
    """Generates a conversation about a photograph."""
    return _turns(photograph_questions.ASKERS, clothing, rng)


def _turns(askers: dict[str, Any], subject: Any, rng: random.Random, pair: Sequence[Question] = ()) -> list[Turn]:
    """Puts the pair first, if there is one, and a question that answers most others last."""
    kinds = list(askers)
    weights = [askers[kind][1] for kind in kinds]
    turns = [question.turn(rng) for question in pair]
    asked, missed = {question.text for question in pair}, 0
    # Some subjects run out of questions.
    while missed < 5 or not turns:
        question = askers[rng.choices(kinds, weights)[0]][0](subject, rng)
        turn = question.turn(rng) if question else ("", "")
        if question is None or question.text in asked or (turns and _letters([*turns, turn]) > LONGEST):
            missed += 1
            continue
        asked.add(question.text)
        turns.append(turn)
        if question.kind in scene_questions.TELL_ALL:
            break
    return turns


def exercise(picture: str, subject: Any, rng: random.Random, *, of_all_kinds: bool = False) -> list[Turn]:
    """Generates a single question, usually one that compares.

    Args:
        of_all_kinds: makes half of the questions of any kind, all kinds equally often.
    """
    questions = scene_questions if picture == "scene" else photograph_questions
    kinds, weights = list(questions.COMPARING), list(questions.COMPARING.values())
    if of_all_kinds and rng.random() < 0.5:
        kinds, weights = list(questions.ASKERS), [1.0] * len(questions.ASKERS)
    while True:
        question = questions.ASKERS[rng.choices(kinds, weights)[0]][0](subject, rng)
        if question is not None:
            return [question.turn(rng)]


def _letters(turns: list[Turn]) -> int:
    return sum(TURN + len(text) + len(answer) for text, answer in turns)


def first_question(kind: str, subject: Any, rng: random.Random) -> Turn:
    """Generates a question for stage 1: what the image shows, or where its objects are."""
    if kind == "photograph":
        question = photograph_questions.ask_what(subject, rng)
        return question.text, question.sentence
    asker = rng.choice((scene_questions.ask_what, scene_questions.ask_describe, scene_questions.ask_describe))
    question = asker(subject, rng)
    return question.text, question.sentence


def record(name: str, image: str | None, turns: list[Turn], rng: random.Random) -> dict:
    """Returns a record of the training file; the image comes before or after the first question."""
    conversation = []
    for index, (text, answer) in enumerate(turns):
        if image and index == 0:
            text = f"{IMAGE}\n{text}" if rng.random() < 0.5 else f"{text}\n{IMAGE}"
        conversation += [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    return {"id": name, **({"image": image} if image else {}), "conversations": conversation}


class Pictures:
    """Writes each image once and returns its path relative to the image folder."""

    def __init__(self, folder: Path, drawn: Path, photographs: Path):
        self.folder = folder
        with np.load(drawn) as stored:
            self.scenes = stored["pictures"]
        pictures, labels = fashion.read(photographs, "train")
        self.photographs, self.labels = pictures[: -fashion.WATCHED], labels[: -fashion.WATCHED]
        for name in ("scene", "photograph"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def scene(self, seed: int) -> tuple[str, scenes.Scene]:
        """Writes a scene; returns its path and the scene."""
        scene = scenes.sample(seed)
        name = f"scene/{seed:06d}.png"
        if not (self.folder / name).exists():
            self._write(Image.fromarray(self.scenes[seed]), name)
        return name, scene

    def photograph(self, index: int) -> tuple[str, str]:
        """Writes a photograph; returns its path and its class."""
        name = f"photograph/{index:05d}.png"
        if not (self.folder / name).exists():
            self._write(Image.fromarray(self.photographs[index]), name)
        return name, fashion.CLASSES[int(self.labels[index])]

    def _write(self, picture: Image.Image, name: str) -> None:
        temporary = self.folder / f"{name}.tmp"
        picture.save(temporary, format="PNG", compress_level=1)
        os.replace(temporary, self.folder / name)


def build(pictures: Pictures, args: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """Returns the records of stage 1 and of stage 2."""
    rng = random.Random(args.seed)
    first: list[dict] = []
    second: list[dict] = []
    total = args.first + args.second
    easy = [seed for seed in range(len(pictures.scenes)) if len(scenes.sample(seed).objects) <= 2]
    subject: Any
    for index in range(total):
        if index and index % 10_000 == 0:
            print(f"{index} of {total} records", flush=True)
        stage = first if index < args.first else second
        if stage is second and rng.random() < 0.02:
            stage.append(record(f"talk-{index}", None, rng.sample(SMALL_TALK, rng.randint(1, 3)), rng))
            continue
        is_exercise = stage is second and rng.random() < EXERCISES
        if rng.random() < args.photographs:
            kind = "photograph"
            image, subject = pictures.photograph(
                int(np.random.default_rng((args.seed, index)).integers(len(pictures.labels)))
            )
        else:
            kind = "scene"
            is_easy = is_exercise and rng.random() < EASY_EXERCISES
            image, subject = pictures.scene(rng.choice(easy) if is_easy else index % len(pictures.scenes))
        if stage is first:
            turns = [first_question(kind, subject, rng)]
        elif is_exercise:
            turns = exercise(kind, subject, rng, of_all_kinds=True)
        else:
            turns = scene_turns(subject, rng) if kind == "scene" else photograph_turns(subject, rng)
        stage.append(record(f"{kind}-{index}", image, turns, rng))
    return first, second


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file completely or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_work(parser)
    add_fashion(parser)
    parser.add_argument("--first", type=int, default=1300, metavar="N", help="Records of stage 1 (default: 1300).")
    parser.add_argument("--second", type=int, default=32_000, metavar="N", help="Records of stage 2 (default: 32000).")
    parser.add_argument(
        "--photographs",
        type=float,
        default=0.15,
        metavar="X",
        help="Fraction about photographs, 0 to 1 (default: 0.15).",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="Seed of the questions (default: 1).")


def main(args: argparse.Namespace) -> int:
    pictures = Pictures(args.work / "pictures", args.work / "scenes.npz", fashion.locate(args.work, args.fashion))
    first, second = build(pictures, args)
    write_json(args.work / "stage1.json", first)
    write_json(args.work / "stage2.json", second)
    turns = sum(len(r["conversations"]) // 2 for r in second)
    print(f"wrote {len(first)} records for stage 1 and {len(second)} with {turns} questions for stage 2")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

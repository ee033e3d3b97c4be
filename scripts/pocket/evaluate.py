"""Asks a model about images that it never saw, and prints the accuracy for each kind of question.

Works with any LLaVA folder; answers are greedy. Scenes come from seeds that are not used in training, and scenes with
the same objects in the same places as a training scene are skipped. Photographs are the test split of Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import run
from scripts.pocket import fashion, patches, photograph_questions, records, scene_questions, scenes
from scripts.pocket.folders import add_fashion, add_work
from scripts.pocket.questions import Question

if TYPE_CHECKING:
    from PIL import Image

FIRST_SEED = {"test": patches.HELD_OUT_SEED * 3, "watch": patches.HELD_OUT_SEED * 2}
MAIN_PHOTOGRAPH_KIND = "clothing"


@dataclass(frozen=True)
class Case:
    """A question about an image, as the model gets it."""

    group: str
    """`scenes` or `photographs`."""
    picture: Callable[[], Image.Image]
    subject: str
    """Seed of the scene or class of clothing, to inspect mistakes."""
    question: Question
    text: str
    before: tuple[records.Turn, ...] = ()
    """Earlier turns of the dialogue, with their correct answers."""


@dataclass(frozen=True)
class Reply:
    """The model's answer to a case."""

    case: Case
    text: str

    @property
    def right(self) -> bool:
        """Tells whether the answer is correct."""
        return self.case.question.right(self.text)


def scene_cases(
    split: str, per_kind: int, trained: int, rng: random.Random, most_objects: int = scenes.MOST_OBJECTS
) -> Iterator[Case]:
    """Yields `per_kind` questions of each kind, each about a different scene."""
    known = {scenes.sample(seed).key for seed in range(trained)}
    seed = FIRST_SEED[split]
    for kind in (*scene_questions.ASKERS, "second turn"):
        count = 0
        while count < per_kind:
            seed += 1
            scene = scenes.sample(seed)
            if scene.key in known or len(scene.objects) > most_objects:
                continue
            before: tuple[records.Turn, ...] = ()
            if kind == "second turn":
                first, question = scene_questions.follow_up(scene, rng)
                before = (first.turn(rng),)
            else:
                asked = scene_questions.ASKERS[kind][0](scene, rng)
                if asked is None:
                    continue
                question = asked
            count += 1
            text = question.turn(rng)[0]
            yield Case("scenes", _scene_picture(scene), str(scene.seed), question, text, before)


def _scene_picture(scene: scenes.Scene) -> Callable[[], Image.Image]:
    return lambda: scenes.render(scene)


def photograph_cases(folder: Path, split: str, per_kind: int, main: int, rng: random.Random) -> Iterator[Case]:
    """Yields `main` questions about what a photograph shows, and `per_kind` questions of each other kind."""
    pictures, labels = fashion.read(folder, "test" if split == "test" else "train")
    if split == "watch":
        pictures, labels = pictures[-fashion.WATCHED :], labels[-fashion.WATCHED :]
    for kind, (asker, _) in photograph_questions.ASKERS.items():
        for index in range(min(main if kind == MAIN_PHOTOGRAPH_KIND else per_kind, len(labels))):
            clothing = fashion.CLASSES[int(labels[index])]
            question = asker(clothing, rng)
            yield Case("photographs", _photograph(pictures[index]), clothing, question, question.turn(rng)[0])


def _photograph(pixels: Any) -> Callable[[], Image.Image]:
    from PIL import Image

    return lambda: Image.fromarray(pixels).convert("RGB")


class Asker:
    """A loaded model that answers batches of cases."""

    def __init__(self, folder: str, conv_mode: str | None, max_new_tokens: int):
        from llava.conversation import template
        from llava.model.builder import load_pretrained_model
        from llava.template_choice import default_template_for, release_of

        self.tokenizer, self.model, self.image_processor, _ = load_pretrained_model(folder)
        self.model.eval()
        release = release_of(self.model.config)
        name = conv_mode or default_template_for(self.model.config, name=Path(folder).name)
        self.template, self.picture_first = template(name, release=release), release != "v0"
        self.max_new_tokens = max_new_tokens

    def prompt(self, case: Case) -> str:
        """Returns the dialogue up to the answer."""
        from llava.prompting import place_images

        conversation = self.template.copy()
        asker, answerer = conversation.roles
        for index, (text, answer) in enumerate((*case.before, (case.text, None))):
            if index == 0:
                text = place_images(text, 1, first=self.picture_first)
            conversation.append_message(asker, text)
            conversation.append_message(answerer, answer)
        return conversation.get_prompt()

    def replies(self, cases: list[Case]) -> list[Reply]:
        """Answers a batch greedily."""
        import torch

        from llava.prompting import encode_prompt

        parts = [
            encode_prompt(self.prompt(case), [case.picture()], self.model, self.tokenizer, self.image_processor)
            for case in cases
        ]
        longest = max(part.input_ids.shape[1] for part in parts)
        ids = torch.zeros(len(parts), longest, dtype=torch.long)
        mask = torch.zeros(len(parts), longest, dtype=torch.long)
        for row, part in enumerate(parts):
            length = part.input_ids.shape[1]
            ids[row, longest - length :] = part.input_ids[0]
            mask[row, longest - length :] = 1
        stop = self.template.stop_str
        device = self.model.device
        with torch.inference_mode():
            generated = self.model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                images=[image for part in parts for image in part.images],
                image_sizes=[size for part in parts for size in part.image_sizes],
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                stop_strings=[stop],
                tokenizer=self.tokenizer,
            )
        texts = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [Reply(case, text.split(stop)[0].strip()) for case, text in zip(cases, texts, strict=True)]


def table(replies: list[Reply]) -> list[dict[str, Any]]:
    """Returns the rows of the result: for each group its kinds of question, then the whole group."""
    rows = []
    for group in dict.fromkeys(reply.case.group for reply in replies):
        own = [reply for reply in replies if reply.case.group == group]
        for kind in dict.fromkeys(reply.case.question.kind for reply in own):
            rows.append(_row(group, kind, [r for r in own if r.case.question.kind == kind]))
        rows.append(_row(group, "all", own))
    return rows


def _row(group: str, kind: str, replies: list[Reply]) -> dict[str, Any]:
    right = sum(reply.right for reply in replies)
    return {
        "group": group,
        "kind": kind,
        "right": right,
        "asked": len(replies),
        "percent": round(100 * right / len(replies), 1),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the rows as the Markdown table of the model card."""
    print("| pictures | question | right | asked | % |\n|---|---|---:|---:|---:|")
    for row in rows:
        print(f"| {row['group']} | {row['kind']} | {row['right']} | {row['asked']} | {row['percent']} |")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=None, metavar="DIR", help="LLaVA folder (default: the embedded model).")
    add_work(parser)
    add_fashion(parser)
    parser.add_argument(
        "--split",
        choices=("test", "watch"),
        default="test",
        help="Images to use; watch is for development (default: test).",
    )
    parser.add_argument("--per-kind", type=int, default=200, metavar="N", help="Questions of each kind (default: 200).")
    parser.add_argument(
        "--photographs", type=int, default=10_000, metavar="N", help="Photographs to name (default: 10000)."
    )
    parser.add_argument(
        "--trained-scenes", type=int, default=50_000, metavar="N", help="Training scenes to exclude (default: 50000)."
    )
    parser.add_argument(
        "--most-objects",
        type=int,
        default=scenes.MOST_OBJECTS,
        metavar="N",
        help="Objects in a scene, at most 4 (default: 4).",
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="Questions per batch (default: 64).")
    parser.add_argument(
        "--max-new-tokens", type=int, default=90, metavar="N", help="Longest answer in tokens (default: 90)."
    )
    parser.add_argument("--conv-mode", metavar="NAME", help="Prompt template (default: the checkpoint's own).")
    parser.add_argument("--seed", type=int, default=2, metavar="N", help="Seed of the questions (default: 2).")
    parser.add_argument("--mistakes", type=int, default=0, metavar="N", help="Wrong answers to print (default: 0).")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Output file for the rows, as JSON (default: none).")


def main(args: argparse.Namespace) -> int:
    from llava import pocket

    folder = args.model or str(pocket.find())
    rng = random.Random(args.seed)
    cases = list(scene_cases(args.split, args.per_kind, args.trained_scenes, rng, args.most_objects))
    photographs = fashion.locate(args.work, args.fashion)
    cases += photograph_cases(photographs, args.split, args.per_kind, args.photographs, rng)
    asker, replies = Asker(folder, args.conv_mode, args.max_new_tokens), []
    start = time.monotonic()
    for first in range(0, len(cases), args.batch):
        replies += asker.replies(cases[first : first + args.batch])
        if first // args.batch % 10 == 9:
            rate = len(replies) / (time.monotonic() - start)
            print(f"{len(replies)} of {len(cases)}, {rate:.0f} a second", file=sys.stderr, flush=True)
    rows = table(replies)
    print_table(rows)
    wrong = [reply for reply in replies if not reply.right]
    for reply in random.Random(0).sample(wrong, min(args.mistakes, len(wrong))):
        question = reply.case.question
        print(
            f"{question.kind} [{reply.case.subject}] {reply.case.text!r}: {reply.text!r}, right: {question.sentence!r}"
        )
    if args.out:
        confused = Counter(
            (r.case.subject, r.text) for r in wrong if r.case.question.kind == MAIN_PHOTOGRAPH_KIND
        ).most_common(12)
        records.write_json(
            args.out, {"model": folder, "split": args.split, "rows": rows, "photographs_confused": confused}
        )
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

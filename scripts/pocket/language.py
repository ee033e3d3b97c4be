"""Makes the language model: a sentencepiece tokenizer and a LlamaForCausalLM that know our questions, but no picture.

In place of a picture it is shown what the patches would say in words: nine sums of its own embeddings
(`scripts.pocket.patch_words`), or, now and then, a description. It learns first to look things up, from drills
(`scripts.pocket.drills`) about one object, two and more; then from exercises, single questions most of which are to be
answered yes or no, and whole conversations. What it is shown and asked is not learnt, only what it answers. The result
is a plain LLaMA folder, for `--model_name_or_path`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llava.command_line import run
from llava.conversation import conv_templates
from scripts.pocket import drills, fashion, patches, photograph_questions, records, scene_questions, scenes
from scripts.pocket.patch_words import Words, photograph_table, scene_tables, scene_words

if TYPE_CHECKING:
    import torch

SYSTEM = conv_templates["v0_train"].system
FIRST_SCENE = 5_000_000
"""Scenes that are only described here, never drawn."""
TOKENIZER_EXAMPLES = 6000
CONFIG: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    # Few and wide: most of a narrow head turns with the distance, and what is looked up lies at any distance.
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
TOKENIZER = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "add_eos_token": False,
    "legacy": True,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 1024,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}


PICTURE = "<picture>"
"""Where the nine patches stand in a text."""
NUM_PATCHES = patches.GRID**2


def conversation_text(turns: list[records.Turn], system: str = SYSTEM) -> str:
    """The text that LLaVA v0 trains on."""
    rounds = "".join(f"### Human: {text}\n### Assistant: {answer}\n" for text, answer in turns)
    return f"{system}\n\n{rounds}### "


LESSONS = (
    (90, 1, 1.0, 0.0),
    (240, 2, 1.0, 0.0),
    (750, scenes.MOST_OBJECTS, 1.0, 0.0),
    (1200, 2, 0.25, 0.6),
    (3000, scenes.MOST_OBJECTS, 0.2, 0.4),
    (7000, scenes.MOST_OBJECTS, 0.25, 0.45),
    (math.inf, scenes.MOST_OBJECTS, 0.2, 0.6),
)
"""Until which step: the most objects in a scene, and the shares of drills and of exercises."""
COURSES = ((3000, 1.0), (7000, 0.7), (math.inf, 0.7))
"""Until which step, and the peak of the learning rate, which rises once more for each course.

From the second on, drills and exercises are harder; in the third, an exercise holds several questions, because what a
small model learns last, looking up in a picture what a sentence names, takes many tries."""
QUESTIONS_IN_THIRD = 4
"""Of an exercise in the third course."""
TOLD_IN_WORDS = 0.08
"""Share of the examples with a description in place of patches."""
SYSTEM_IN_EXERCISES = 0.2
"""Share of the exercises that begin with the long system text; the others are shorter by half."""
NOISE = 0.2
"""Added to the patches, in standard deviations of their values: those of a tower are never exact."""


Form = Literal["drill", "exercise", "conversation"]


@dataclass(frozen=True)
class Example:
    parts: tuple[tuple[str, bool], ...]
    """Its text, and what of it is learnt. Every part but the first begins with a space. The first may hold PICTURE."""
    shown: scenes.Scene | str | None = None
    """What the patches show: a scene, or the class of a photograph."""

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.parts)


@dataclass(frozen=True)
class Lesson:
    """What all examples of one step have in common, so that they are of like length."""

    most_objects: int = scenes.MOST_OBJECTS
    form: Form = "conversation"
    has_system: bool = True
    course: int = 0
    """Which of COURSES."""

    @classmethod
    def at(cls, step: int) -> Lesson:
        rng = random.Random(step)
        most_objects, drills_, exercises = next(rest for until, *rest in LESSONS if step <= until)
        choice = rng.random()
        form: Form = "drill" if choice < drills_ else "exercise" if choice < drills_ + exercises else "conversation"
        has_system = form != "exercise" or rng.random() < SYSTEM_IN_EXERCISES
        return cls(int(most_objects), form, has_system, _course(step))


def example(index: int, lesson: Lesson) -> Example:
    """The example number `index`."""
    rng = random.Random(index)
    if lesson.form == "drill":
        scene = _scene(index, lesson.most_objects)
        questions = drills.drill(scene, rng, is_hard=lesson.course > 0)
        line = [part for asked, answer in questions for part in ((asked, False), (answer, True))]
        first, *others = ((f" {text}", is_learnt) for text, is_learnt in line)
        return Example(((PICTURE + first[0].strip(), False), *others), scene)
    if lesson.form == "conversation" and rng.random() < 0.04:
        return Example(_parts(rng.sample(records.SMALL_TALK, rng.randint(1, 3)), SYSTEM))
    subject: Any
    if rng.random() < 0.15:
        picture, subject = "photograph", rng.choice(fashion.CLASSES)
        description = photograph_questions.ask_describe(subject, rng).sentence
    else:
        picture, subject = "scene", _scene(index, lesson.most_objects)
        description = scene_questions.describe(subject)
    if lesson.form == "exercise":
        count = QUESTIONS_IN_THIRD if lesson.course > 1 else 1
        asked = [records.exercise(picture, subject, rng, of_all_kinds=lesson.course > 0) for _ in range(count)]
        turns = list(dict(turn for one in asked for turn in one).items())
    else:
        turns = records.scene_turns(subject, rng) if picture == "scene" else records.photograph_turns(subject, rng)
    in_words = rng.random() < TOLD_IN_WORDS
    shown = description if in_words else PICTURE
    question, answer = turns[0]
    question = f"{shown}\n{question}" if rng.random() < 0.5 else f"{question}\n{shown}"
    parts = _parts([(question, answer), *turns[1:]], SYSTEM if lesson.has_system else "")
    return Example(parts, None if in_words else subject)


def _scene(index: int, most_objects: int) -> scenes.Scene:
    """One that is only described here, never drawn."""
    return next(
        scene
        for scene in (scenes.sample(FIRST_SCENE + 100 * index + attempt) for attempt in range(100))
        if len(scene.objects) <= most_objects
    )


def _parts(turns: list[records.Turn], system: str) -> tuple[tuple[str, bool], ...]:
    """A conversation, of which answers are learnt, and the marks that end them."""
    text = conversation_text(turns, system).lstrip()
    told, *rest = re.split(r"(?<=### Assistant:)(?= )|(?<=###)(?= Human:)", text)
    start = [told]
    while not start[-1].endswith("### Assistant:"):  # before the first question there is nothing to learn
        start.append(rest.pop(0))
    return ("".join(start), False), *((part, not part.endswith("### Assistant:")) for part in rest)


def train_tokenizer(folder: Path, examples: int, vocabulary: int) -> None:
    """Writes `tokenizer.model` and its configuration: BPE with byte fallback, as LLaMA's."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "making"
    sentencepiece.SentencePieceTrainer.train(
        # Lines, because the trainer takes a line break to be the end of a sentence; as a token it is a byte.
        sentence_iterator=iter(
            [line for i in range(examples) for line in _words(example(-1 - i, Lesson())).splitlines() if line]
        ),
        model_prefix=str(temporary),
        model_type="bpe",
        vocab_size=vocabulary,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    os.replace(temporary.with_suffix(".model"), folder / "tokenizer.model")
    temporary.with_suffix(".vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER, indent=2) + "\n")


def _words(one: Example) -> str:
    return one.text.replace(PICTURE, "")


@dataclass(frozen=True)
class Batch:
    """Conversations, one a row, [count, length]."""

    ids: torch.Tensor
    """int64; anything where patches are."""
    mask: torch.Tensor
    labels: torch.Tensor
    """-100 where nothing is learnt."""
    is_patch: torch.Tensor
    shown: list[scenes.Scene | str]
    """By row, for rows with patches."""

    def embeddings(self, words: Words, noise: float) -> torch.Tensor:
        """[count, length, hidden], with the patches' sums in their places."""
        import torch

        tables, photographs = scene_tables(words), photograph_table(words)
        drawn = [subject for subject in self.shown if isinstance(subject, scenes.Scene)]
        targets = np.stack([np.stack(list(patches.targets(scene).values())) for scene in drawn])
        of_scenes = iter(scene_words(targets, tables))
        rows = [
            photographs[fashion.CLASSES.index(subject)].expand(NUM_PATCHES, -1)
            if isinstance(subject, str)
            else next(of_scenes)
            for subject in self.shown
        ]
        sums = torch.cat(rows)
        sums = sums + noise * sums.detach().std() * torch.randn_like(sums)
        return words.table[self.ids].index_put((self.is_patch,), sums)


class Batches:
    """Batches drawn from the step's number alone, so that a resumed run continues exactly."""

    def __init__(self, tokenizer: Path, count: int):
        import sentencepiece

        self.model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        self.count = count

    def draw(self, step: int) -> Batch:
        import torch

        lesson = Lesson.at(step)
        examples = [example(index, lesson) for index in range(step * self.count, (step + 1) * self.count)]
        rows = [self._row(one) for one in examples]
        length = max(len(row) for row, _, _ in rows)
        ids = torch.zeros(self.count, length, dtype=torch.int64)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        is_patch = torch.zeros_like(ids, dtype=torch.bool)
        for place, (row, learnt, picture) in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
            for begin, end in learnt:
                labels[place, begin:end] = ids[place, begin:end]
            if picture is not None:
                is_patch[place, picture : picture + NUM_PATCHES] = True
        return Batch(ids, mask, labels, is_patch, [one.shown for one in examples if one.shown is not None])

    def _row(self, one: Example) -> tuple[list[int], list[tuple[int, int]], int | None]:
        """Ids, from where to where they are learnt, and where the picture begins."""
        before, marker, _ = one.text.partition(PICTURE)
        row = [self.model.bos_id()]
        if marker:
            row += self.model.encode(before) + [0] * NUM_PATCHES
        picture = len(row) - NUM_PATCHES if marker else None
        begin, text, learnt = len(row), "", []
        end = begin
        for part, is_learnt in one.parts:
            text += part.partition(PICTURE)[2] if PICTURE in part else part
            # No token crosses a space, so a beginning has the same tokens as in the whole.
            place, end = end, begin + len(self.model.encode(text))
            if is_learnt:
                learnt.append((place, end))
        return row + self.model.encode(text), learnt, picture


def train(folder: Path, args: argparse.Namespace) -> None:
    """Trains the model and writes it to `folder`; continues from `language.pt`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llava.train.muon import Muon, parameter_groups
    from scripts.pocket.tower import save_state

    batches = Batches(folder / "tokenizer.model", args.batch)
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=args.vocabulary, **CONFIG))
    optimizer = Muon(parameter_groups(model, weight_decay=0.03), lr=args.learning_rate)
    step, spent, checkpoint = 0, 0.0, args.work / "language.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent_s"]
    start, saved = time.monotonic() - spent, time.monotonic()
    right: dict[str, float] = {}
    table = model.get_input_embeddings().weight
    assert isinstance(table, torch.Tensor)
    words = Words(folder / "tokenizer.model", table)
    while step < args.steps:
        batch = batches.draw(step)
        torch.manual_seed(step)
        embeddings = batch.embeddings(words, NOISE)
        output = model(inputs_embeds=embeddings, attention_mask=batch.mask, labels=batch.labels)
        loss = output.loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * pace(step, args.steps)
        optimizer.step()
        optimizer.zero_grad()
        form, share = Lesson.at(step).form, answered_right(output.logits, batch.labels)
        right[form] = 0.95 * right.get(form, share) + 0.05 * share
        step += 1
        spent = time.monotonic() - start
        if step % 25 == 0:
            left = spent / step * (args.steps - step) / 60
            print(
                f"step {step}, right: {', '.join(f'{form}s {share:.2f}' for form, share in sorted(right.items()))}, "
                f"{step * args.batch / spent:.0f} examples/s, {left:.0f} min left",
                flush=True,
            )
        if step == args.steps or time.monotonic() - saved > 120:
            saved = time.monotonic()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent_s": spent}
            save_state(checkpoint, state)
    model.save_pretrained(folder)


def pace(step: int, steps: int) -> float:
    """The learning rate in parts of its peak: for each course up within 50 steps, and down a cosine to 2 %."""
    course = _course(step)
    begin = COURSES[course - 1][0] if course else 0
    end, peak = COURSES[course]
    done = (step - begin) / (min(end, steps) - begin)
    return peak * min((step - begin + 1) / 50, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _course(step: int) -> int:
    return next(index for index, (end, _) in enumerate(COURSES) if step < end)


def answered_right(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of answers none of whose tokens is missed, each token given those before it."""
    expected = labels[:, 1:]
    is_answer = expected >= 0
    begins = is_answer & ~(labels[:, :-1] >= 0)
    number = begins.flatten().cumsum(0)[is_answer.flatten()] - 1
    missed = (logits[:, :-1].argmax(-1) != expected)[is_answer]
    return float((number.new_zeros(int(begins.sum())).index_add(0, number, missed.long()) == 0).float().mean())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", type=Path, default=Path("work/pocket"), help="folder of the parts (work/pocket)")
    parser.add_argument("--vocabulary", type=int, default=1000, help="tokens (1000)")
    parser.add_argument("--steps", type=int, default=11_000, help="training steps (11000)")
    parser.add_argument("--batch", type=int, default=40, help="examples a step (40)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak (0.003)")
    parser.add_argument("--seed", type=int, default=0, help="of weights (0)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (torch's choice)")


def main(args: argparse.Namespace) -> int:
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    folder = args.work / "language"
    if not (folder / "tokenizer.model").exists():
        train_tokenizer(folder, TOKENIZER_EXAMPLES, args.vocabulary)
        print("tokenizer written", flush=True)
    train(folder, args)
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

"""Makes the language model: a sentencepiece tokenizer and a LlamaForCausalLM that know our questions, but no picture.

It learns from conversations in which a description stands where the picture will stand: first from exercises, single
questions about one object, most of them to be answered yes or no; then about two; then from whole conversations. What
it is told is not learnt, only what it answers. To compare what was asked with what is there is hard to learn among the
patches of a picture, and easy among a few words. The result is a plain LLaMA folder, for `--model_name_or_path`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import run
from llava.conversation import conv_templates
from scripts.pocket import fashion, photograph_questions, records, scene_questions, scenes

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
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
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


def conversation_text(turns: list[records.Turn]) -> str:
    """The text that LLaVA v0 trains on."""
    rounds = "".join(f"### Human: {text}\n### Assistant: {answer}\n" for text, answer in turns)
    return f"{SYSTEM}\n\n{rounds}### "


LESSONS = ((0.25, 1, 0.9), (0.55, 2, 0.8), (1.0, scenes.MOST_OBJECTS, 0.35))
"""Until which share of the training: the most objects in a scene, and the share of exercises."""


def example(index: int, progress: float = 1.0) -> tuple[str, str]:
    """The conversation number `index`, about something described in words, for that point of the training (0 to 1).

    Returns:
        the text up to the first answer, and the rest.
    """
    rng = random.Random(index)
    if rng.random() < 0.02:
        return _parts(rng.sample(records.SMALL_TALK, rng.randint(1, 3)))
    most_objects, exercises = next((most, share) for until, most, share in LESSONS if progress <= until)
    is_exercise = rng.random() < exercises
    subject: Any
    if rng.random() < 0.15:
        picture, subject = "photograph", rng.choice(fashion.CLASSES)
        description = photograph_questions.ask_describe(subject, rng).sentence
    else:
        picture, subject = "scene", _scene(index, most_objects)
        description = scene_questions.describe(subject)
    if is_exercise:
        turns = records.exercise(picture, subject, rng)
    else:
        turns = records.scene_turns(subject, rng) if picture == "scene" else records.photograph_turns(subject, rng)
    question, answer = turns[0]
    question = f"{description}\n{question}" if rng.random() < 0.5 else f"{question}\n{description}"
    return _parts([(question, answer), *turns[1:]])


def _scene(index: int, most_objects: int) -> scenes.Scene:
    """One that is only described here, never drawn."""
    return next(
        scene
        for scene in (scenes.sample(FIRST_SCENE + 100 * index + attempt) for attempt in range(100))
        if len(scene.objects) <= most_objects
    )


def _parts(turns: list[records.Turn]) -> tuple[str, str]:
    text = conversation_text(turns)
    first_answer = text.index("### Assistant:") + len("### Assistant:")
    return text[:first_answer], text[first_answer:]


def train_tokenizer(folder: Path, examples: int, vocabulary: int) -> None:
    """Writes `tokenizer.model` and its configuration: BPE with byte fallback, as LLaMA's."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "making"
    sentencepiece.SentencePieceTrainer.train(
        # Lines, because the trainer takes a line break to be the end of a sentence; as a token it is a byte.
        sentence_iterator=iter(
            [line for i in range(examples) for line in "".join(example(-1 - i)).splitlines() if line]
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


class Batches:
    """Conversations, one a row, drawn from the step's number alone, so that a resumed run continues exactly."""

    def __init__(self, tokenizer: Path, count: int, steps: int):
        import sentencepiece

        self.model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        self.count, self.steps = count, steps

    def draw(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, attention mask and labels, [count, length] int64; what comes before the first answer is not trained."""
        import torch

        rows = []
        for index in range(step * self.count, (step + 1) * self.count):
            told, answered = example(index, step / self.steps)
            # No token crosses a space, so what is told has the same tokens alone and with what follows.
            rows.append((1 + len(self.model.encode(told)), [self.model.bos_id(), *self.model.encode(told + answered)]))
        ids = torch.zeros(self.count, max(len(row) for _, row in rows), dtype=torch.int64)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for place, (start_length, row) in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
            labels[place, start_length : len(row)] = ids[place, start_length : len(row)]
        return ids, mask, labels


def train(folder: Path, args: argparse.Namespace) -> None:
    """Trains the model and writes it to `folder`; continues from `language.pt`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llava.train.muon import Muon, parameter_groups
    from scripts.pocket.tower import save_state

    batches = Batches(folder / "tokenizer.model", args.batch, args.steps)
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=args.vocabulary, **CONFIG))
    optimizer = Muon(parameter_groups(model, weight_decay=0.03), lr=args.learning_rate)
    step, spent, checkpoint = 0, 0.0, args.work / "language.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent_s"]
    start, saved, mean = time.monotonic() - spent, time.monotonic(), 0.0
    while step < args.steps:
        ids, mask, labels = batches.draw(step)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = args.learning_rate * min(
            (step + 1) / 50, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.item() if mean == 0 else 0.95 * mean + 0.05 * loss.item()
        step += 1
        spent = time.monotonic() - start
        if step % 25 == 0:
            left = spent / step * (args.steps - step) / 60
            print(
                f"step {step}, loss {mean:.3f}, {step * args.batch / spent:.0f} conversations/s, {left:.0f} min left",
                flush=True,
            )
        if step == args.steps or time.monotonic() - saved > 120:
            saved = time.monotonic()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent_s": spent}
            save_state(checkpoint, state)
    model.save_pretrained(folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", type=Path, default=Path("work/pocket"), help="folder of the parts (work/pocket)")
    parser.add_argument("--vocabulary", type=int, default=1000, help="tokens (1000)")
    parser.add_argument("--steps", type=int, default=1800, help="training steps (1800)")
    parser.add_argument("--batch", type=int, default=24, help="conversations a step (24)")
    # A rate of 3e-3 learns the words sooner, but never to compare.
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak (0.001)")
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

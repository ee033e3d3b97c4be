"""Makes the language model: a SentencePiece tokenizer and a LlamaForCausalLM that know our questions, but no images.

Instead of an image, the model sees its patches in words: nine sums of its own embeddings
(`scripts.pocket.patch_words`). It practises on short conversations (`scripts.pocket.practice`), many of which share one
system text (`scripts.pocket.sheets`), first about one object, then about more. It learns to write the answers, and
where to look for them (`scripts.pocket.pointers`), but not the questions. The result is a plain LLaMA folder for
`--model_name_or_path`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.command_line import run
from scripts.pocket import fashion, photograph_questions, records, scene_questions, scenes, sheets
from scripts.pocket.folders import add_work
from scripts.pocket.patch_words import Words
from scripts.pocket.practice import FIRST_SCENE, conversation

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

TOKENIZER_TEXTS = 6000
"""Number of conversations that the tokenizer is trained on."""
CONFIG: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    # Few wide heads: most of a narrow head rotates with the distance, and what a head looks up can be at any distance.
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
FEW_OBJECTS = ((80, 1), (300, 2))
"""Pairs of a step and the largest number of objects in a scene before it."""
MATRIX_RATE = 1.5
"""Learning rate of the layers' matrices, relative to that of all other parameters."""
NOISE = 0.2
"""Noise on the patches, in standard deviations of their values, because a tower's patches are never exact."""


def conversation_text(turns: list[records.Turn], system: str = sheets.SYSTEM) -> str:
    """Returns the text that LLaVA v0 trains on."""
    rounds = "".join(f"### Human: {text}\n### Assistant: {answer}\n" for text, answer in turns)
    return f"{system}\n\n{rounds}### "


def tokenizer_text(index: int) -> str:
    """Returns a conversation that the tokenizer is trained on."""
    rng = random.Random(-1 - index)
    if rng.random() < 0.04:
        return conversation_text(rng.sample(records.SMALL_TALK, rng.randint(1, 3)))
    if rng.random() < 0.15:
        clothing = rng.choice(fashion.CLASSES)
        description = photograph_questions.ask_describe(clothing, rng).sentence
        turns = records.photograph_turns(clothing, rng)
    else:
        scene = scenes.sample(FIRST_SCENE - 100 * (index + 1))
        description = scene_questions.describe(scene)
        turns = records.scene_turns(scene, rng)
    shown = description if rng.random() < 0.08 else ""  # An image usually has no words.
    (question, answer), *others = turns
    question = f"{shown}\n{question}" if rng.random() < 0.5 else f"{question}\n{shown}"
    turns = [(question, answer), *others]
    return conversation_text(turns)


def train_tokenizer(folder: Path, texts: int, vocabulary: int) -> None:
    """Writes `tokenizer.model` and its configuration: BPE with byte fallback, like LLaMA's tokenizer."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "making"
    # The trainer reads lines; the token of a line break is a byte.
    lines = [line for index in range(texts) for line in tokenizer_text(index).splitlines() if line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
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
    """Draws batches that depend only on the number of the step, so that a resumed run continues exactly."""

    def __init__(self, tokenizer: Path, count: int, length: int):
        self.encoder = sheets.Encoder(tokenizer)
        self.count, self.length = count, length

    def draw(self, step: int) -> sheets.Batch:
        """Returns the sheets of one step."""
        return sheets.pack(self._entries(step), self.encoder.head, self.count, self.length)

    def _entries(self, step: int) -> Iterator[sheets.Entry]:
        rng, most = random.Random(step), most_objects(step)
        while True:
            yield self.encoder.entry(conversation(rng, most))


def most_objects(step: int) -> int:
    """Returns the largest number of objects in a scene at a step of training."""
    return next((most for until, most in FEW_OBJECTS if step < until), scenes.MOST_OBJECTS)


def new_model(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """Creates a model whose initial weights already look things up.

    A token attends to similar tokens (queries and keys start equal), copies what they hold (values and outputs start as
    multiples of the identity), and predicts what it holds (the output layer starts as the embeddings).
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **CONFIG))
    same = 0.15 * torch.eye(CONFIG["hidden_size"])
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
        for layer in model.model.layers:
            attention = layer.self_attn
            queries = attention.q_proj.weight.normal_(0, 0.05)
            starts = ((attention.k_proj, queries), (attention.v_proj, same), (attention.o_proj, same))
            for projection, start in starts:
                projection.weight.copy_(start + 0.01 * torch.randn_like(same))
    return model


def train(folder: Path, args: argparse.Namespace) -> None:
    """Trains the model and writes it to `folder`; resumes from `language.pt`."""
    import torch

    from llava.train.setup.muon import MuonWithAdamW, parameter_groups
    from scripts.pocket.pointers import Pointers
    from scripts.pocket.training_state import load_state, save_state

    batches = Batches(folder / "tokenizer.model", args.sheets, args.length)
    model = new_model(args.vocabulary, args.seed)
    optimizer = MuonWithAdamW(parameter_groups(model, weight_decay=0.03), lr=args.learning_rate)
    checkpoint = args.work / "language.pt"
    step, spent = load_state(checkpoint, model, optimizer)
    start, saved = time.monotonic() - spent, time.monotonic()
    pointers, progress = Pointers(model), Progress(args)
    words = Words(folder / "tokenizer.model", model.model.embed_tokens.weight)
    while step < args.steps:
        batch = batches.draw(step)
        torch.manual_seed(step)
        mask = batch.mask()
        states = model.model(
            inputs_embeds=batch.embeddings(words, NOISE),
            attention_mask=mask,
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        labels = batch.labels[:, 1:]
        is_learnt = labels != sheets.IGNORED
        logits, wanted = model.lm_head(states[:, :-1][is_learnt]), labels[is_learnt]
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        looking, found = pointers.loss(batch, mask)
        (loss + pointer_weight(step / args.steps) * looking).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * pace(step, args.steps) * (MATRIX_RATE if group["orthogonal"] else 1)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        spent = time.monotonic() - start
        progress.add(step, spent, float((logits.argmax(-1) == wanted).float().mean()), found)
        if step == args.steps or time.monotonic() - saved > 120:
            saved = time.monotonic()
            save_state(checkpoint, model, optimizer, step, spent)
    model.save_pretrained(folder)


def pace(step: int, steps: int) -> float:
    """Returns the learning rate relative to its peak: 50 steps of warm-up, then a cosine down to a twentieth."""
    return min((step + 1) / 50, 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def pointer_weight(done: float) -> float:
    """Returns the weight of the pointers' loss after a fraction `done` of the steps."""
    return max(0.05, 1 - 1.2 * done)


class Progress:
    """Prints running means every 25 steps."""

    def __init__(self, args: argparse.Namespace):
        self.steps = args.steps
        self.means: dict[str, float] = {}

    def add(self, step: int, spent_s: float, right: float, found: float) -> None:
        """Adds a step: its fractions of correct tokens, and of tokens whose patch was found."""
        for name, value in (("tokens right", right), ("patches found", found)):
            self.means[name] = 0.97 * self.means.get(name, value) + 0.03 * value
        if step % 25 == 0:
            means = ", ".join(f"{name} {value:.3f}" for name, value in self.means.items())
            left = spent_s / step * (self.steps - step) / 60
            print(f"step {step}: {means}, {left:.0f} min left", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_work(parser)
    parser.add_argument(
        "--vocabulary", type=int, default=1000, metavar="N", help="Size of the vocabulary in tokens (default: 1000)."
    )
    parser.add_argument("--steps", type=int, default=4300, metavar="N", help="Training steps (default: 4300).")
    parser.add_argument("--sheets", type=int, default=8, metavar="N", help="Sheets per step (default: 8).")
    parser.add_argument(
        "--length", type=int, default=256, metavar="N", help="Length of a sheet in tokens (default: 256)."
    )
    parser.add_argument(
        "--learning-rate", type=float, default=3e-3, metavar="X", help="Peak learning rate (default: 0.003)."
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Seed of the initial weights (default: 0).")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="Number of torch threads (default: torch's choice)."
    )


def main(args: argparse.Namespace) -> int:
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    folder = args.work / "language"
    if not (folder / "tokenizer.model").exists():
        train_tokenizer(folder, TOKENIZER_TEXTS, args.vocabulary)
        print("tokenizer written", flush=True)
    train(folder, args)
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

"""Makes the language model: a sentencepiece tokenizer and a LlamaForCausalLM that know our questions, but no picture.

It learns from conversations in which a description stands where the picture will stand. The result is a plain LLaMA
folder, ready for `--model_name_or_path`.
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

import numpy as np

from llava.command_line import run
from llava.conversation import conv_templates
from scripts.pocket import fashion, photograph_questions, records, scene_questions, scenes

if TYPE_CHECKING:
    import torch

SYSTEM = conv_templates["v0_train"].system
FIRST_SCENE = 5_000_000
"""Scenes that are only described here, never drawn."""
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


def example(index: int) -> str:
    """The conversation number `index`, about something described in words."""
    rng = random.Random(index)
    if rng.random() < 0.02:
        return conversation_text(rng.sample(records.SMALL_TALK, rng.randint(1, 3)))
    if rng.random() < 0.2:
        clothing = rng.choice(fashion.CLASSES)
        turns, description = (
            records.photograph_turns(clothing, rng),
            photograph_questions.ask_describe(clothing, rng).sentence,
        )
    else:
        scene = scenes.sample(FIRST_SCENE + index)
        turns, description = records.scene_turns(scene, rng), scene_questions.describe(scene)
    question, answer = turns[0]
    question = f"{description}\n{question}" if rng.random() < 0.5 else f"{question}\n{description}"
    return conversation_text([(question, answer), *turns[1:]])


def train_tokenizer(folder: Path, examples: int, vocabulary: int) -> None:
    """Writes `tokenizer.model` and its configuration: BPE with byte fallback, as LLaMA's."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "making"
    sentencepiece.SentencePieceTrainer.train(
        # Lines, because the trainer takes a line break to be the end of a sentence; as a token it is a byte.
        sentence_iterator=iter([line for i in range(examples) for line in example(-1 - i).splitlines() if line]),
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


class Rows:
    """Token rows of one length, conversations one after another, drawn from the step's number alone."""

    def __init__(self, tokenizer: Path, length: int, examples: int):
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        ids: list[int] = []
        for index in range(examples):
            ids += [model.bos_id(), *model.encode(example(index))]
        self.rows = np.array(ids[: len(ids) // length * length], dtype=np.int64).reshape(-1, length)

    def draw(self, step: int, count: int) -> torch.Tensor:
        """[count, length] int64; every row once before any comes again."""
        import torch

        per_pass = len(self.rows) // count
        order = np.random.default_rng((7, step // per_pass)).permutation(len(self.rows))
        first = step % per_pass * count
        return torch.from_numpy(self.rows[order[first : first + count]])


def train(folder: Path, args: argparse.Namespace) -> None:
    """Trains the model and writes it to `folder`; continues from `language.pt`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llava.train.muon import Muon, parameter_groups
    from scripts.pocket.tower import save_state

    rows = Rows(folder / "tokenizer.model", args.length, args.examples)
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
        ids = rows.draw(step, args.batch)
        loss = model(input_ids=ids, labels=ids).loss
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
                f"step {step}, loss {mean:.3f}, {step * ids.numel() / spent:.0f} tokens/s, {left:.0f} min left",
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
    parser.add_argument("--examples", type=int, default=8000, help="conversations (8000)")
    parser.add_argument("--steps", type=int, default=420, help="training steps (420)")
    parser.add_argument("--batch", type=int, default=12, help="rows a step (12)")
    parser.add_argument("--length", type=int, default=256, help="tokens a row (256)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak (0.003)")
    parser.add_argument("--seed", type=int, default=0, help="of weights (0)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (torch's choice)")


def main(args: argparse.Namespace) -> int:
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    folder = args.work / "language"
    if not (folder / "tokenizer.model").exists():
        train_tokenizer(folder, min(args.examples, 6000), args.vocabulary)
        print("tokenizer written", flush=True)
    train(folder, args)
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

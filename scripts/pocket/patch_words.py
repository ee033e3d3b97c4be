"""Describes each patch of an image as a sum of the language model's word embeddings.

The language model learns to answer from these sums, and the projector is initialised to map the tower's patches to
them, so the two fit together before they are trained together.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scripts.pocket import fashion, patches, scenes

if TYPE_CHECKING:
    import torch


class Words:
    """Looks up embeddings of words; a word with several tokens is represented by its last one."""

    def __init__(self, tokenizer: Path, table: torch.Tensor):
        """
        Args:
            tokenizer: SentencePiece file of the language model.
            table: embeddings of the language model, [vocabulary, hidden].
        """
        import sentencepiece

        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        self.table = table

    def __call__(self, *words: str) -> torch.Tensor:
        """Returns the sum of the words' embeddings, [hidden]."""
        return self.table[[self.tokenizer.encode(word)[-1] for word in words]].sum(0)


def read_words(language: Path) -> Words:
    """Reads the words of a trained language model."""
    from safetensors.torch import load_file

    table = load_file(language / "model.safetensors")["model.embed_tokens.weight"].float()
    return Words(language / "tokenizer.model", table)


def scene_tables(words: Words) -> dict[str, torch.Tensor]:
    """Returns for each name in patches.TARGETS what its answers add to a patch, [answers, hidden]."""
    import torch

    kinds = []
    for kind in scenes.KINDS:
        family = "shape" if kind in scenes.SHAPES else "number" if kind in scenes.DIGITS else "letter"
        kinds.append(words(kind, family))
    numbers = ("one", "two", "three", "four")
    return {
        "kind": torch.stack([*kinds, words("background"), words("photograph")]),
        "colour": torch.stack([words(name) for name in scenes.COLOURS]),
        "size": torch.stack([words(name) for name in scenes.SIZES]),
        "cell": torch.stack([0.7 * words(*position.split()) for row in scenes.POSITIONS for position in row]),
        "background": torch.stack([0.4 * words(name) for name in scenes.BACKGROUNDS]),
        "count": torch.stack([0.4 * words(number) for number in numbers]),
    }


def scene_words(targets: np.ndarray, tables: dict[str, torch.Tensor]) -> torch.Tensor:
    """Turns targets, [n, questions, patches], into sums of embeddings, [n, patches, hidden]."""
    import torch

    total = torch.zeros(())
    for place, name in enumerate(patches.TARGETS):
        asked = torch.from_numpy(targets[:, place].astype(np.int64))
        total = total + tables[name][asked.clamp_min(0)] * (asked >= 0)[..., None]
    return total


def photograph_table(words: Words) -> torch.Tensor:
    """Returns the sum for every patch of a photograph, by class, [classes, hidden]."""
    import torch

    return torch.stack([words("photograph", name) for name in fashion.CLASSES])

"""What each patch of a picture says in words: as a sum of the language model's own embeddings.

The language model learns to answer from such sums, and the projector begins where it maps the tower's patches to them,
so the two meet half-way before they have seen each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scripts.pocket import fashion, patches, scenes

if TYPE_CHECKING:
    import torch


class Words:
    """The embedding of a word: of its last token, for the few words that have several."""

    def __init__(self, tokenizer: Path, table: torch.Tensor):
        """`table`: the language model's embeddings, [vocabulary, hidden]."""
        import sentencepiece

        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        self.table = table

    def __call__(self, *words: str) -> torch.Tensor:
        """The sum of the words' embeddings, [hidden]."""
        return self.table[[self.tokenizer.encode(word)[-1] for word in words]].sum(0)


def read_words(language: Path) -> Words:
    """Those of a finished language model."""
    from safetensors.torch import load_file

    table = load_file(language / "model.safetensors")["model.embed_tokens.weight"].float()
    return Words(language / "tokenizer.model", table)


def scene_tables(words: Words) -> dict[str, torch.Tensor]:
    """For each question of patches.TARGETS that has words: what its answers add to a patch, [answers, hidden]."""
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
    """Targets [n, questions, patches] to sums of embeddings [n, patches, hidden]."""
    import torch

    total = torch.zeros(())
    for place, name in enumerate(patches.TARGETS):
        asked = torch.from_numpy(targets[:, place].astype(np.int64))
        total = total + tables[name][asked.clamp_min(0)] * (asked >= 0)[..., None]
    return total


def photograph_table(words: Words) -> torch.Tensor:
    """What every patch of a photograph says, [classes, hidden]."""
    import torch

    return torch.stack([words("photograph", name) for name in fashion.CLASSES])

"""Packs many short conversations into sheets that share one system text.

The cost of a batch is its tokens, and a question with its image has a third as many tokens as the system text. A sheet
therefore has the system text once. Each conversation after it has the positions that it would have alone, and a mask
that lets it see only the system text and itself.

A sheet also records where answers look: for the tokens of an answer, the words of the question that name an object, and
the patch that shows it (`scripts.pocket.pointers`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llava.conversation import conv_templates
from scripts.pocket import fashion, patches, scenes
from scripts.pocket.patch_words import Words, photograph_table, scene_tables, scene_words
from scripts.pocket.practice import Conversation, Turn
from scripts.pocket.questions import NOWHERE

if TYPE_CHECKING:
    import torch

SYSTEM = conv_templates["v0_train"].system
HEAD = f"{SYSTEM}\n\n"
NUM_PATCHES = patches.GRID**2
IGNORED = -100
"""Label of a token that is not trained."""
NOT_NAMING = {"the", "object", "at", "in", "to", "of"}
"""Words in an object's name that do not distinguish it from others."""


@dataclass
class Entry:
    """A conversation as tokens."""

    shown: scenes.Scene | str | None
    """The scene or the class of the photograph, or None."""
    before: list[int]
    """Tokens before the image; empty if there is no image."""
    after: list[int] = field(default_factory=list)
    """Tokens after the image, or all tokens if there is no image."""
    learnt: list[bool] = field(default_factory=list)
    """Tells for each token of `after` whether it is trained."""
    looked_up: list[tuple[int, int, int, list[int]]] = field(default_factory=list)
    """For each token that describes an object: its position in `after`, the cell of the object that the question names,
    the cell of the described object (or NOWHERE), and the positions of the naming words in `before` + `after`."""

    @property
    def num_patches(self) -> int:
        """Number of patches of the image."""
        return 0 if self.shown is None else NUM_PATCHES

    @property
    def length(self) -> int:
        """Number of tokens and patches."""
        return len(self.before) + self.num_patches + len(self.after)


class Encoder:
    """Tokenises conversations piece by piece, into the same tokens that the whole text would have."""

    def __init__(self, tokenizer: Path):
        import sentencepiece

        self.model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        self.head = [self.model.bos_id(), *self.model.encode(HEAD)]

    def entry(self, conversation: Conversation) -> Entry:
        """Returns the tokens of a conversation, which of them are trained (as in stage 2), and where answers look."""
        first, *_ = conversation.turns
        # LLaVA's tokenizer drops the line break beside an image.
        if conversation.shown is None:
            before, text = "", f"### Human: {first.asked}\n"
        elif conversation.picture_first:
            before, text = "### Human:", f"{first.asked}\n"
        else:
            before, text = f"### Human: {first.asked}", ""
        entry = Entry(conversation.shown, self._encode(before, HEAD) if before else [])
        start = HEAD if conversation.shown is None else ""
        for turn in conversation.turns:
            if turn is not first:
                text += f" Human: {turn.asked}\n"
            self._extend(entry, start, text, is_learnt=False)
            text += "### Assistant:"
            self._extend(entry, start, text, is_learnt=True)
            is_before = turn is first and turn.asked in before
            answer = f" {turn.answer}\n###"
            self._look_up(entry, _Spot(turn, before if is_before else text, start, is_before), start, text, answer)
            text += answer
            self._extend(entry, start, text, is_learnt=True)
        self._extend(entry, start, f"{text} ", is_learnt=True)
        return entry

    def _encode(self, text: str, start: str) -> list[int]:
        """Returns the tokens of a text after `start`, which is the head, or empty for text after an image."""
        return self.model.encode(start + text)[len(self.head) - 1 if start else 0 :]

    def _extend(self, entry: Entry, start: str, text: str, *, is_learnt: bool) -> None:
        """Adds the new end of `text`. No token crosses a space, so earlier tokens stay the same."""
        entry.after = self._encode(text, start)
        entry.learnt += [is_learnt] * (len(entry.after) - len(entry.learnt))

    def _look_up(self, entry: Entry, spot: _Spot, start: str, text: str, answer: str) -> None:
        """Records for each token of the answer which object it describes."""
        question = spot.turn.question
        end, place = 0, len(entry.after)
        for mention in question.about if question else ():
            at = answer.find(mention.words, end)
            if at < 0:  # A short answer leaves it out.
                continue
            end = at + len(mention.words) if mention.words else len(answer)
            until = len(self._encode(text + answer[:end], start))
            named = mention.cell if mention.named is None else mention.named
            names = self._names(entry, spot, mention.called)
            entry.looked_up += [(token, named, mention.cell, names) for token in range(place, until)]
            place = until

    def _names(self, entry: Entry, spot: _Spot, called: str) -> list[int]:
        """Returns the positions of the words that name an object in the question, in `before` + `after`."""
        begin = spot.text.rfind(spot.turn.asked)
        at = spot.text.lower().find(called.lower(), begin) if called else -1
        if begin < 0 or at < 0:
            return []
        places = []
        for word in called.split(" "):
            at += len(word)
            if word not in NOT_NAMING:
                last = len(self._encode(spot.text[:at], HEAD if spot.is_before else spot.start)) - 1
                places.append(last if spot.is_before else len(entry.before) + last)
            at += 1
        return places


@dataclass(frozen=True)
class _Spot:
    """Position of a turn's question."""

    turn: Turn
    text: str
    """The text before the answer, on the same side of the image as the question."""
    start: str
    """The head, or empty for text after an image."""
    is_before: bool
    """True if the question comes before the image."""


@dataclass
class Batch:
    """Sheets, one per row; all tensors are [count, length]."""

    ids: torch.Tensor
    """Token ids, int64; any value for patches."""
    labels: torch.Tensor
    """Token ids to learn; IGNORED for all other positions."""
    entry: torch.Tensor
    """0 for the system text, then the number of the conversation; -1 after the last one."""
    positions: torch.Tensor
    """Position of each token within its conversation, counted from the start of the system text."""
    is_patch: torch.Tensor
    """True for patches."""
    shown: list[scenes.Scene | str] = field(default_factory=list)
    """Subjects of the images, in reading order."""
    looks: list[tuple[int, int, int, int, list[int]]] = field(default_factory=list)
    """For each looking token: row, position, position of the named patch, position of the described patch (of the first
    token if there is none), and positions of the naming words."""

    def mask(self) -> torch.Tensor:
        """Returns the attention mask, [count, 1, length, length]; True lets one token see another."""
        import torch

        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        same = (self.entry[:, :, None] == self.entry[:, None, :]) | (self.entry[:, None, :] == 0)
        return (causal & same)[:, None]

    def embeddings(self, words: Words, noise: float) -> torch.Tensor:
        """Returns the embeddings, [count, length, hidden], with noisy sums of words in place of patches."""
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


def pack(entries: Iterator[Entry], head: list[int], count: int, length: int) -> Batch:
    """Fills `count` sheets of `length` tokens; the first entry that does not fit ends a sheet and is dropped."""
    import torch

    batch = Batch(
        ids=torch.zeros(count, length, dtype=torch.int64),
        labels=torch.full((count, length), IGNORED),
        entry=torch.full((count, length), -1),
        positions=torch.zeros(count, length, dtype=torch.int64),
        is_patch=torch.zeros(count, length, dtype=torch.bool),
    )
    for row in range(count):
        end = len(head)
        batch.ids[row, :end] = torch.tensor(head)
        batch.entry[row, :end] = 0
        batch.positions[row, :end] = torch.arange(end)
        number = 1
        while end + (entry := next(entries)).length <= length:
            _write(batch, row, end, number, len(head), entry)
            end += entry.length
            number += 1
    return batch


def _write(batch: Batch, row: int, begin: int, number: int, position: int, entry: Entry) -> None:
    import torch

    picture = begin + len(entry.before)
    after, end = picture + entry.num_patches, begin + entry.length
    batch.ids[row, begin:picture] = torch.tensor(entry.before, dtype=torch.int64)
    batch.ids[row, after:end] = torch.tensor(entry.after)
    learnt = torch.tensor(entry.learnt)
    batch.labels[row, after:end] = torch.where(learnt, batch.ids[row, after:end], IGNORED)
    batch.entry[row, begin:end] = number
    batch.positions[row, begin:end] = torch.arange(position, position + entry.length)
    batch.is_patch[row, picture:after] = True
    if entry.shown is None:
        return
    batch.shown.append(entry.shown)
    for token, named, told, names in entry.looked_up:
        words = [begin + place + (entry.num_patches if place >= len(entry.before) else 0) for place in names]
        at_named, at_told = (0 if cell == NOWHERE else picture + cell for cell in (named, told))
        batch.looks.append((row, after + token - 1, at_named, at_told, words))

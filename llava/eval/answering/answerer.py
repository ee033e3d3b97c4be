"""What answers the questions of an evaluation, as the run sees it: a model in this process, or a server."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Protocol

from llava.errors import LlavaError
from llava.eval.data.questions import Question
from llava.text_generation.settings import MAX_SEED, Sampling

LETTER_TOKENS = 64
"""At most, for the letter that an answer prompter asks for."""


@dataclass(frozen=True)
class Manner:
    """How all questions of a run are answered."""

    sampling: Sampling
    """Its seed is the run's; see `sampling_for`."""
    conv_mode: str | None = None
    """None: the checkpoint's own template."""
    answer_prompter: bool = False
    """Ask once more, behind the explanation, for the letter of the answer (ScienceQA)."""

    def sampling_for(self, question: Question) -> Sampling:
        """The run's settings with a seed of this question's own, so that its answer depends on no other question."""
        if self.sampling.temperature == 0:
            return replace(self.sampling, seed=None)
        text = f"{self.sampling.seed}\0" + "\0".join(map(str, question.key))
        seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big") & MAX_SEED
        return replace(self.sampling, seed=seed)

    def as_record(self) -> dict[str, Any]:
        """What an answer's record tells of it; what is off is left out."""
        sampling = self.sampling
        told = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "num_beams": sampling.num_beams if sampling.num_beams > 1 else None,
            "max_new_tokens": sampling.max_new_tokens,
            "seed": sampling.seed if sampling.temperature > 0 else None,
            "answer_prompter": self.answer_prompter or None,
        }
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True)
class Written:
    """An answer."""

    text: str
    is_cut: bool = False
    """It ran into the limit of tokens."""


class Answerer(Protocol):
    async def identify(self) -> tuple[str, dict[str, Any]]:
        """The model's name, and what tells it and its settings apart from another; before anything heavy is loaded.

        Raises:
            LlavaError: there is no such model or server.
        """

    async def open(self) -> None:
        """Makes ready for questions.

        Raises:
            LlavaError: the model cannot be loaded.
        """

    async def answer(self, question: Question) -> Written:
        """Answers one question of many at once.

        Raises:
            LlavaError: it cannot be answered; see `is_hopeless`.
        """

    def is_hopeless(self, error: LlavaError) -> bool:
        """Whether an error of `answer` would come with every other question, too."""

    async def close(self) -> None:
        """Ends what `open` began."""

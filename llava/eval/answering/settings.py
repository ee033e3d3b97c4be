"""The settings of a command that answers questions, built once from its command line."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass, replace
from typing import Any

from llava.errors import InvalidRequest
from llava.eval.data.questions import Question
from llava.model.loading.arguments import ModelSettings
from llava.text_generation.settings import MAX_SEED, Sampling


@dataclass(frozen=True, slots=True)
class AnsweringSettings:
    """How all questions of a run are answered."""

    sampling: Sampling
    """How tokens are chosen; its seed is the run's, see `sampling_for`."""
    conv_mode: str | None = None
    """Prompt template; None is the checkpoint's own."""
    answer_prompter: bool = False
    """Whether the letter of the answer is asked for separately, after the explanation (ScienceQA)."""

    def sampling_for(self, question: Question) -> Sampling:
        """Returns the run's sampling settings with a seed derived from the question.

        The answer to a question therefore depends on no other question.
        """
        if self.sampling.temperature == 0:
            return replace(self.sampling, seed=None)
        text = f"{self.sampling.seed}\0" + "\0".join(map(str, question.key))
        seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big") & MAX_SEED
        return replace(self.sampling, seed=seed)

    def as_record(self) -> dict[str, Any]:
        """Returns what the record of an answer says about these settings; settings that are off are left out."""
        sampling = self.sampling
        record = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "num_beams": sampling.num_beams if sampling.num_beams > 1 else None,
            "max_new_tokens": sampling.max_new_tokens,
            "seed": sampling.seed if sampling.temperature > 0 else None,
            "answer_prompter": self.answer_prompter or None,
        }
        return {name: value for name, value in record.items() if value is not None}


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a command that answers questions does."""

    question_file: str
    """File of the questions."""
    answers_file: str
    """Output file (JSON Lines)."""
    model: ModelSettings
    """The model to load. With `server`, its `model_path` names one of the server's models."""
    answering: AnsweringSettings
    """How questions are answered."""
    server: str | None = None
    """Address of a running server to ask; None loads the model in this process."""
    image_folder: str | None = None
    """Folder of the images; None if no images are read from files."""
    overwrite: bool = False
    """Whether existing answers are deleted."""
    skip_unanswerable: bool = False
    """Whether questions that cannot be answered are skipped, not an error."""
    batch_size: int = 32
    """Number of questions answered at once."""
    num_chunks: int = 1
    """Number of parts that the questions are divided into."""
    chunk_idx: int = 0
    """Which part this process answers; the first is 0."""

    @classmethod
    def from_args(cls, args: argparse.Namespace, *, answer_prompter: bool = False) -> RunSettings:
        """Builds the settings from what `arguments.add_arguments` parsed.

        Raises:
            InvalidRequest: a value is out of range.
        """
        if args.batch_size < 1:
            raise InvalidRequest(f"--batch-size {args.batch_size}: must be at least 1.")
        sampling = Sampling(args.temperature, args.top_p, args.num_beams, args.max_new_tokens, seed=args.seed)
        return cls(
            question_file=args.question_file,
            answers_file=args.answers_file,
            model=ModelSettings.from_args(args),
            answering=AnsweringSettings(sampling, args.conv_mode, answer_prompter),
            server=args.server,
            image_folder=args.image_folder,
            overwrite=args.overwrite,
            skip_unanswerable=args.skip_unanswerable,
            batch_size=args.batch_size,
            num_chunks=args.num_chunks,
            chunk_idx=args.chunk_idx,
        )

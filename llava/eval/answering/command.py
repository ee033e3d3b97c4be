"""One run of an evaluation's generation, whichever benchmark asks: resumed, batched, shown, kept.

Questions are answered many at once, those about one image together. Each answer is written down when it is there; at
the end the file is in the order of the questions. Run again, the same command answers what is left. Several processes
share a run: by --num-chunks and --chunk-idx with a file each, or, started by torchrun, with one file for all.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.errors import DataError, InvalidRequest, LlavaError
from llava.eval.answering.answerer import Answerer, Manner, Written
from llava.eval.answering.arguments import add_answer_arguments, add_model_arguments
from llava.eval.data.answers_file import AnswersFile
from llava.eval.data.questions import Question, by_image, chunk, distinct, note, with_files
from llava.eval.data.records import locate, some
from llava.text_generation.settings import Sampling

if TYPE_CHECKING:
    from tqdm import tqdm

_AHEAD = 8
"""Questions under way beyond those that the model answers at once, so that it never waits for an image."""
_HOPELESS_IN_A_ROW = 32
"""When the first so many questions have all failed, the others would, too."""
_SHOWN = 5
_SHOW_EVERY_S = 20.0
"""In a log, where progress is a line and not a bar."""


# The flags


def add_arguments(
    parser: argparse.ArgumentParser,
    *,
    questions: str,
    question_file: str = "tables/question.jsonl",
    with_images: bool = True,
    max_new_tokens: int = 1024,
) -> None:
    """The flags that all generators have.

    Args:
        questions: what the question file is, for its help line.
        question_file: the default, the original's.
        with_images: whether there are images in files.
        max_new_tokens: the default.
    """
    add_model_arguments(parser, split=True)
    parser.add_argument(
        "--server",
        metavar="URL",
        help="ask a running server (controller, worker, any OpenAI-compatible one) in place of loading a model; "
        "--model-name then says which of its models, and LLAVA_API_KEY is shown",
    )
    parser.add_argument(
        "--question-file",
        default=question_file,
        metavar="FILE",
        help=f"{questions}; looked for here, then in the repository, then in llava/eval (default: {question_file})",
    )
    if with_images:
        parser.add_argument("--image-folder", default="", metavar="FOLDER", help="of the images (default: here)")
    parser.add_argument(
        "--answers-file",
        default="answer.jsonl",
        metavar="FILE",
        help="where to write, JSON Lines; a file that is there is gone on with (default: answer.jsonl)",
    )
    parser.add_argument("--overwrite", action="store_true", help="begin anew whatever is in --answers-file")
    parser.add_argument(
        "--skip-unanswerable",
        action="store_true",
        help="leave out questions whose image is missing or damaged, or that are too long, and say which "
        "(default: a missing image is an error before anything is asked; the others end the run with exit code 1)",
    )
    add_answer_arguments(parser, max_new_tokens=max_new_tokens)
    parser.add_argument(
        "--seed", type=int, default=0, help="another one gives other answers at a temperature above 0 (default: 0)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="questions answered at once (default: 32)"
    )
    parser.add_argument("--num-chunks", type=int, default=1, metavar="N", help="parts of the questions (default: 1)")
    parser.add_argument("--chunk-idx", type=int, default=0, metavar="I", help="which part to answer, from 0")


def manner_of(args: argparse.Namespace, *, answer_prompter: bool = False) -> Manner:
    """What the flags say about how to answer.

    Raises:
        InvalidRequest: values that make no sense.
    """
    if args.batch_size < 1:
        raise InvalidRequest(f"--batch-size {args.batch_size}: give a number from 1.")
    sampling = Sampling(args.temperature, args.top_p, args.num_beams, args.max_new_tokens, seed=args.seed)
    return Manner(sampling, args.conv_mode, answer_prompter)


# The run


@dataclass
class Outcome:
    """What became of the questions of this process."""

    num_before: int = 0
    """Answered by an earlier run."""
    answered: list[Question] = field(default_factory=list)
    empty: list[Question] = field(default_factory=list)
    cut: list[Question] = field(default_factory=list)
    failed: list[tuple[Question, LlavaError]] = field(default_factory=list)
    seconds: float = 0.0


def answer_all(
    args: argparse.Namespace, questions: Sequence[Question], *, manner: Manner, told: dict[str, Any] | None = None
) -> int:
    """Answers questions as the flags of `add_arguments` say; returns the exit code.

    Args:
        questions: of the whole file; images still by name.
        told: further settings of the benchmark that every record tells.

    Raises:
        LlavaError: nothing could be begun, or not all questions were answered; says what is left and why.
    """
    world = _World.of_environment()
    args.local_rank, args.is_first = world.local_rank, world.rank == 0
    say = note if args.is_first else _nothing
    mine = chunk(distinct(questions, say=say), args.num_chunks, args.chunk_idx)
    missing: list[tuple[Question, LlavaError]] = []
    folder = getattr(args, "image_folder", None)
    here = list(mine)
    if folder is not None:
        place = locate(folder or ".")
        here = with_files(
            mine, place, lambda question, name: missing.append((question, _not_there(name, place))), say=say
        )
    if missing and not args.skip_unanswerable:
        raise DataError(
            f"{_listed(missing)} ({len(missing)} of {len(mine)} questions). Put the images there, check "
            "--image-folder, or leave such questions out with --skip-unanswerable."
        )
    answerer = _answerer(args, manner)
    run = _Run(args, answerer, manner, world, here, told or {})
    try:
        outcome = asyncio.run(run.go())
    except KeyboardInterrupt:
        if run.num_kept is not None:
            print(f"\n{args.answers_file}: {run.num_kept} answers are kept; the same command goes on", file=sys.stderr)
        raise
    outcome.failed = missing + outcome.failed
    return _report(args, outcome, len(mine), world)


class _Run:
    def __init__(
        self,
        args: argparse.Namespace,
        answerer: Answerer,
        manner: Manner,
        world: _World,
        questions: list[Question],
        told: dict[str, Any],
    ):
        self._args = args
        self._answerer = answerer
        self._manner = manner
        self._world = world
        self._questions = questions
        self._told = told
        self.num_kept: int | None = None
        """Answers in the file; None until it was read."""

    async def go(self) -> Outcome:
        try:
            return await self._go()
        finally:
            await self._answerer.close()

    async def _go(self) -> Outcome:
        args, world = self._args, self._world
        name, model = await self._answerer.identify()
        settings = {"model_id": name, "metadata": {**model, **self._manner.as_record(), **self._told}}
        with AnswersFile(args.answers_file, settings, shared=world.size > 1, overwrite=args.overwrite) as file:
            done = file.answered(self._questions)
            mine = chunk(self._questions, world.size, world.rank)
            left = [question for question in mine if question.key not in done]
            outcome = Outcome(num_before=len(mine) - len(left))
            self.num_kept = outcome.num_before
            if left:
                await self._answerer.open()
                await self._answer(by_image(left), outcome, file)
            file.finish(self._questions)
        return outcome

    async def _answer(self, questions: list[Question], outcome: Outcome, file: AnswersFile) -> None:
        start = time.monotonic()
        waiting = iter(questions)
        with _progress(outcome.num_before, len(questions), self._world) as bar:

            async def work() -> None:
                for question in waiting:
                    self._note(question, await self._ask(question, outcome), outcome, file)
                    bar.update()

            workers = [
                asyncio.ensure_future(work()) for _ in range(min(len(questions), self._args.batch_size + _AHEAD))
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                outcome.seconds = time.monotonic() - start

    async def _ask(self, question: Question, outcome: Outcome) -> Written | LlavaError:
        """The answer, or why there is none.

        Raises:
            LlavaError: there will be none to the other questions, either.
        """
        try:
            return await self._answerer.answer(question)
        except LlavaError as error:
            if self._answerer.is_hopeless(error):
                raise
            if not outcome.answered and len(outcome.failed) + 1 >= _HOPELESS_IN_A_ROW:
                raise DataError(
                    f"the first {_HOPELESS_IN_A_ROW} questions all failed, the last one so: {question.place}: {error}"
                ) from error
            return error

    def _note(self, question: Question, answer: Written | LlavaError, outcome: Outcome, file: AnswersFile) -> None:
        if isinstance(answer, LlavaError):
            outcome.failed.append((question, answer))
            return
        file.append({**question.record, "text": answer.text, "answer_id": answer_id(question, answer.text)})
        self.num_kept = (self.num_kept or 0) + 1
        outcome.answered.append(question)
        if not answer.text.strip():
            outcome.empty.append(question)
        if answer.is_cut:
            outcome.cut.append(question)


def answer_id(question: Question, text: str) -> str:
    """22 letters and digits for an answer; the same answer to the same question has the same one."""
    digest = hashlib.sha256(json.dumps([*question.key, text]).encode()).digest()
    return base64.b64encode(digest, altchars=b"Aa").decode("ascii")[:22]


def _answerer(args: argparse.Namespace, manner: Manner) -> Answerer:
    if args.server:
        from llava.eval.answering.server_model import ServerModel

        return ServerModel(args, manner)
    from llava.eval.answering.local_model import LocalModel

    return LocalModel(args, manner)


@dataclass(frozen=True)
class _World:
    """The processes that torchrun started."""

    rank: int = 0
    size: int = 1
    local_rank: int | None = None
    """Among those of this machine; None where there is one process only."""

    @classmethod
    def of_environment(cls) -> _World:
        rank, size = os.environ.get("RANK"), int(os.environ.get("WORLD_SIZE", "1"))
        if rank is None or size < 2:
            return cls()
        return cls(int(rank), size, int(os.environ.get("LOCAL_RANK", "0")))


# What a user sees


def _progress(num_before: int, num_left: int, world: _World) -> tqdm[Any]:
    from tqdm import tqdm

    on_terminal = sys.stderr.isatty()
    return tqdm(
        total=num_before + num_left,
        initial=num_before,
        desc="answering" if world.size == 1 else f"answering, process 1 of {world.size}",
        unit=" questions",
        mininterval=0.5 if on_terminal else _SHOW_EVERY_S,
        ncols=None if on_terminal else 100,
        smoothing=0.05,
        file=sys.stderr,
        disable=world.rank > 0,
    )


def _nothing(text: str) -> None:
    """For all processes but the first: what the first says is true of all."""


def _not_there(name: str, folder: Path) -> LlavaError:
    return DataError(f"{name} is not in {folder.absolute()}")


def _listed(failed: Sequence[tuple[Question, LlavaError]]) -> str:
    first = "; ".join(f"{question.place}: {str(error).rstrip('.')}" for question, error in failed[:_SHOWN])
    return f"{first}; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else first


def _report(args: argparse.Namespace, outcome: Outcome, num_questions: int, world: _World) -> int:
    """Says what was done; returns the exit code.

    Raises:
        DataError: questions are left.
    """
    num_here = outcome.num_before + len(outcome.answered)
    process = f", process {world.rank + 1} of {world.size}" if world.size > 1 else ""
    earlier = f", {outcome.num_before} of them from an earlier run" if outcome.num_before else ""
    speed = f"; {len(outcome.answered) / outcome.seconds:.2f} questions/s" if outcome.answered else ""
    print(f"{args.answers_file}: {num_here} answers{earlier}{speed}{process}", flush=True)
    for found, what in ((outcome.empty, "answers are empty"), (outcome.cut, "answers were cut at --max-new-tokens")):
        if found:
            ids = some([question.key[0] for question in found])
            note(f"{len(found)} {what}: questions {ids}")
    if not outcome.failed:
        return 0
    count = f"{len(outcome.failed)} of {num_questions} questions"
    if args.skip_unanswerable:
        note(f"left out: {count}: {_listed(outcome.failed)}")
        return 0
    raise DataError(
        f"{count} have no answer: {_listed(outcome.failed)}. The other answers are kept: the same command asks what is "
        "left, --skip-unanswerable leaves it out."
    )

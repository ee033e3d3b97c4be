"""Answers the questions of a run, many at once, and saves each answer as soon as it is complete."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

from llava.errors import DataError, LlavaError
from llava.eval.answering.answerer import Answerer, EvalAnswer
from llava.eval.answering.report import AnsweringOutcome, progress_bar
from llava.eval.answering.settings import RunSettings
from llava.eval.answering.torchrun import TorchrunProcess
from llava.eval.data.answers_file import AnswersFile
from llava.eval.data.questions import Question, by_image, chunk

_AHEAD = 8
"""Number of questions in progress beyond the batch size, so that the model never waits for an image."""
_HOPELESS_IN_A_ROW = 32
"""If this many questions fail and none succeeds, the run stops: the others would fail too."""


class AnsweringRun:
    """One process's share of a run."""

    def __init__(
        self,
        settings: RunSettings,
        answerer: Answerer,
        process: TorchrunProcess,
        questions: Sequence[Question],
        extra_metadata: dict[str, Any],
    ):
        """
        Args:
            settings: the settings of the run.
            answerer: what answers the questions.
            process: this process among those of the run.
            questions: the questions of all processes, with image files in place of names.
            extra_metadata: settings of the benchmark that every record repeats.
        """
        self._settings = settings
        self._answerer = answerer
        self._process = process
        self._questions = questions
        self._extra_metadata = extra_metadata
        self.num_saved: int | None = None
        """Number of this process's answers in the file; None until the file was read."""

    async def go(self) -> AnsweringOutcome:
        """Answers what has no answer yet.

        Raises:
            LlavaError: the model or the answers file cannot be used, or all questions would fail.
        """
        try:
            return await self._go()
        finally:
            await self._answerer.close()

    async def _go(self) -> AnsweringOutcome:
        name, model = await self._answerer.identify()
        metadata = {**model, **self._settings.answering.as_record(), **self._extra_metadata}
        with AnswersFile(
            self._settings.answers_file,
            {"model_id": name, "metadata": metadata},
            shared=self._process.size > 1,
            overwrite=self._settings.overwrite,
        ) as file:
            done = file.answered(self._questions)
            mine = chunk(self._questions, self._process.size, self._process.rank)
            left = [question for question in mine if question.key not in done]
            outcome = AnsweringOutcome(num_before=len(mine) - len(left))
            self.num_saved = outcome.num_before
            if left:
                await self._answerer.open()
                await self._answer(by_image(left), outcome, file)
            file.finish(self._questions)
        return outcome

    async def _answer(self, questions: list[Question], outcome: AnsweringOutcome, file: AnswersFile) -> None:
        start = time.monotonic()
        waiting = iter(questions)
        with progress_bar(outcome.num_before, len(questions), self._process) as bar:

            async def work() -> None:
                for question in waiting:
                    self._save(question, await self._ask(question, outcome), outcome, file)
                    bar.update()

            num_workers = min(len(questions), self._settings.batch_size + _AHEAD)
            workers = [asyncio.ensure_future(work()) for _ in range(num_workers)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                outcome.seconds = time.monotonic() - start

    async def _ask(self, question: Question, outcome: AnsweringOutcome) -> EvalAnswer | LlavaError:
        """Returns the answer, or why there is none.

        Raises:
            LlavaError: all other questions would fail too.
        """
        try:
            return await self._answerer.answer(question)
        except LlavaError as error:
            if self._answerer.is_hopeless(error):
                raise
            if not outcome.answered and len(outcome.failed) + 1 >= _HOPELESS_IN_A_ROW:
                raise DataError(
                    f"the first {_HOPELESS_IN_A_ROW} questions failed; stopping. Last error: {question.place}: {error}"
                ) from error
            return error

    def _save(
        self, question: Question, answer: EvalAnswer | LlavaError, outcome: AnsweringOutcome, file: AnswersFile
    ) -> None:
        if isinstance(answer, LlavaError):
            outcome.failed.append((question, answer))
            return
        file.append({**question.record, "text": answer.text, "answer_id": answer_id(question, answer.text)})
        self.num_saved = (self.num_saved or 0) + 1
        outcome.answered.append(question)
        if not answer.text.strip():
            outcome.empty.append(question)
        if answer.is_cut:
            outcome.cut.append(question)


def answer_id(question: Question, text: str) -> str:
    """Returns 22 letters and digits that identify an answer; the same answer to the same question has the same id."""
    digest = hashlib.sha256(json.dumps([*question.key, text]).encode()).digest()
    return base64.b64encode(digest, altchars=b"Aa").decode("ascii")[:22]

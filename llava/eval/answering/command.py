"""Carries out a command that answers questions, whichever benchmark they are from.

Questions are answered many at once, those about the same image together. Each answer is saved as soon as it is
complete; at the end the file is in the order of the questions. The same command run again answers what is left. Several
processes share a run either with --num-chunks and --chunk-idx and one file each, or under torchrun with one file.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from llava.errors import DataError, LlavaError
from llava.eval.answering.answerer import Answerer
from llava.eval.answering.report import listed, report
from llava.eval.answering.run import AnsweringRun
from llava.eval.answering.settings import RunSettings
from llava.eval.answering.torchrun import TorchrunProcess
from llava.eval.data.questions import Question, chunk, distinct, note, with_files
from llava.eval.data.records import locate


def answer_all(
    settings: RunSettings, questions: Sequence[Question], *, extra_metadata: dict[str, Any] | None = None
) -> None:
    """Answers questions, saves the answers and reports what was done.

    Args:
        settings: the settings of the command.
        questions: the questions of the whole file, with images by name.
        extra_metadata: settings of the benchmark that every record repeats.

    Raises:
        LlavaError: the run cannot start, or not all questions were answered; says what is left and why.
    """
    process = TorchrunProcess.of_environment()
    say = note if process.is_first else _ignore
    mine = chunk(distinct(questions, say=say), settings.num_chunks, settings.chunk_idx)
    missing: list[tuple[Question, LlavaError]] = []
    answerable = list(mine)
    if settings.image_folder is not None:
        folder = locate(settings.image_folder or ".")

        def on_missing(question: Question, name: str) -> None:
            missing.append((question, DataError(f"{name} is not in {folder.absolute()}")))

        answerable = with_files(mine, folder, on_missing, say=say)
    if missing and not settings.skip_unanswerable:
        raise DataError(
            f"{listed(missing)} ({len(missing)} of {len(mine)} questions). Add the images, check --image-folder, or "
            "skip such questions with --skip-unanswerable."
        )
    run = AnsweringRun(settings, _answerer(settings, process), process, answerable, extra_metadata or {})
    try:
        outcome = asyncio.run(run.go())
    except KeyboardInterrupt:
        if run.num_saved is not None:
            print(
                f"\n{settings.answers_file}: {run.num_saved} answers are saved. Run the same command to continue.",
                file=sys.stderr,
            )
        raise
    outcome.failed = missing + outcome.failed
    report(settings, outcome, len(mine), process)


def _answerer(settings: RunSettings, process: TorchrunProcess) -> Answerer:
    if settings.server:
        from llava.eval.answering.server_model import ServerModel

        return ServerModel(settings.server, settings.model, settings.answering)
    from llava.eval.answering.local_model import LocalModel

    return LocalModel(settings.model, settings.answering, batch_size=settings.batch_size, process=process)


def _ignore(text: str) -> None:
    """Stands in for `note` in all processes but the first, which would only repeat it."""

"""Asks a hosted model text-only questions, whose answers are a baseline for eval_gpt_review.

    python -m llava.eval.qa_baseline_gpt35 --model NAME --question QUESTIONS.jsonl --output ANSWERS.jsonl

The command is named after the model it was written for, but any model of any OpenAI-compatible service will do. The
answers are in the order of the questions. Repeat an interrupted command to continue it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from llava.command_line import DONE, run
from llava.errors import DataError
from llava.eval.data.records import Joined, locate, read_answers, read_questions, some
from llava.eval.judge.settings import JudgeSettings, add_judge_arguments, judge_settings
from llava.files.json_files import write_jsonl

if TYPE_CHECKING:
    from llava.eval.judge.model import JudgeReply
    from llava.eval.judge.run import Job, JudgeOutcome, RunReport
    from llava.files.jsonl_log import JsonlLog

SYSTEM = "You answer questions helpfully and truthfully."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-q", "--question", required=True, metavar="FILE", help="Questions (JSON Lines with question_id and text)."
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="Output file for the answers (JSON Lines). An existing file is resumed.",
    )
    parser.add_argument(
        "--system", metavar="TEXT", default=SYSTEM, help='System message for the model (default: "%(default)s").'
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="Print the number of calls and tokens and the cost, and ask nothing."
    )
    add_judge_arguments(parser, leave_out=("reply_format",))


@dataclass(frozen=True, slots=True)
class BaselineSettings:
    """What is asked, and which model."""

    model: JudgeSettings
    question: str
    """Question file."""
    output: Path
    """File of answers."""
    system: str
    """System message."""
    dry_run: bool
    """Whether the cost is printed and nothing is asked."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> BaselineSettings:
        return cls(judge_settings(args), args.question, Path(args.output), args.system, args.dry_run)


def main(args: argparse.Namespace) -> int:
    settings = BaselineSettings.from_args(args)

    from llava.eval.judge.costs import estimate, preview
    from llava.files.jsonl_log import JsonlLog

    model, output = settings.model, settings.output
    questions = read_questions(locate(settings.question))
    if questions.duplicates:
        raise DataError(f"{questions.path}: asks {some(questions.duplicates)} more than once. Remove the duplicates.")
    jobs = [_job(questions, identity, settings.system) for identity in questions.lines]
    if settings.dry_run:
        left = _unanswered(output, jobs, model)
        print(preview(model, len(jobs) - len(left), estimate(model, [job.messages for job in left], [])))
        return DONE
    with JsonlLog(output) as log:
        left = _unanswered(output, jobs, model)
        if left and (code := _ask(left, model, output, log)) != DONE:
            return code
        answers = read_answers(output).lines
        write_jsonl(output, [answers[identity].record for identity in questions.lines])
    print(f"{output}: {len(jobs)} answers by {model.judge_model}")
    return DONE


def _ask(jobs: list[Job], settings: JudgeSettings, output: Path, log: JsonlLog) -> int:
    from llava.eval.judge.costs import Spending
    from llava.eval.judge.model import ChatModel
    from llava.eval.judge.run import JudgeRun, report_run

    spending = Spending(settings)

    async def ask() -> RunReport:
        async with ChatModel(settings) as model:
            return await JudgeRun(model, spending, _accept, lambda outcome: _save(log, outcome, settings)).ask_all(jobs)

    return report_run(asyncio.run(ask()), len(jobs), output, spending)


def _job(questions: Joined, identity: str, system: str) -> Job:
    from llava.eval.judge.run import Job

    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": questions.text(identity, "text")},
    ]
    return Job(f"question {identity}", messages, (identity, questions.lines[identity].record.get("question_id")))


def _unanswered(output: Path, jobs: list[Job], settings: JudgeSettings) -> list[Job]:
    """Returns the jobs whose questions have no answer in the file.

    Raises:
        DataError: the file contains answers to other questions, or of another model.
    """
    if not output.exists() or not output.stat().st_size:
        return jobs
    answers = read_answers(output)
    wanted = {job.subject[0]: _digest(job) for job in jobs}
    for identity, line in answers.lines.items():
        metadata = line.record.get("metadata")
        prompt = metadata.get("prompt_sha256") if isinstance(metadata, dict) else None
        if line.record.get("model_id") != settings.judge_model or wanted.get(identity) != prompt:
            raise DataError(
                f"{answers.place(identity)}: the answer is to another question or by another model. "
                "Give another --output."
            )
    return [job for job in jobs if job.subject[0] not in answers.lines]


def _accept(reply: JudgeReply) -> str:
    from llava.eval.judge.run import Unusable

    if not reply.text.strip():
        raise Unusable("the model refused" if reply.refusal else "the answer is empty")
    return reply.text


def _save(log: JsonlLog, outcome: JudgeOutcome[str], settings: JudgeSettings) -> None:
    _, question_id = outcome.job.subject
    metadata: dict[str, Any] = {
        "prompt_sha256": _digest(outcome.job),
        "snapshot": outcome.reply.snapshot,
        "finish_reason": outcome.reply.finish_reason,
        "unusable": outcome.reason,
    }
    log.append(
        {
            "answer_id": uuid4().hex,
            "question_id": question_id,
            "model_id": settings.judge_model,
            "text": outcome.value or "",
            "metadata": metadata,
        }
    )


def _digest(job: Job) -> str:
    return hashlib.sha256("\n".join(message["content"] for message in job.messages).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))

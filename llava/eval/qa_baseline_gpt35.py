"""Has a hosted model answer text-only questions, as a baseline for eval_gpt_review.

    python -m llava.eval.qa_baseline_gpt35 --model NAME --question QUESTIONS.jsonl --output ANSWERS.jsonl

The name is that of the model that it once asked; today any model of any OpenAI-compatible service will do. The answers
are in the order of the questions. Started again, it asks only for what is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
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
    from llava.eval.judge.run import Job, Outcome, RunReport
    from llava.files.jsonl_log import JsonlLog

SYSTEM = "You answer questions helpfully and truthfully."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-q", "--question", required=True, metavar="FILE", help="questions, JSON Lines: question_id, text"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="answers, JSON Lines; a run goes on from what is there"
    )
    parser.add_argument("--system", metavar="TEXT", default=SYSTEM, help="the system's message")
    parser.add_argument("--dry-run", action="store_true", help="only say how many calls and tokens it takes")
    add_judge_arguments(parser, leave_out=("reply_format",))


def main(args: argparse.Namespace) -> int:
    from llava.eval.judge.costs import estimate, preview
    from llava.files.jsonl_log import JsonlLog

    settings = judge_settings(args)
    questions = read_questions(locate(args.question))
    if questions.duplicates:
        raise DataError(f"{questions.path}: asks {some(questions.duplicates)} more than once. Remove the repetitions.")
    output = Path(args.output)
    jobs = [_job(questions, identity, args.system) for identity in questions.lines]
    if args.dry_run:
        left = _unanswered(output, jobs, settings)
        print(preview(settings, len(jobs) - len(left), estimate(settings, [job.messages for job in left], [])))
        return DONE
    with JsonlLog(output) as log:
        left = _unanswered(output, jobs, settings)
        if left and (code := _ask(left, settings, output, log)) != DONE:
            return code
        answers = read_answers(output).lines
        write_jsonl(output, [answers[identity].record for identity in questions.lines])
    print(f"{output}: {len(jobs)} answers by {settings.judge_model}")
    return DONE


def _ask(jobs: list[Job], settings: JudgeSettings, output: Path, log: JsonlLog) -> int:
    from llava.eval.judge.costs import Spending
    from llava.eval.judge.model import ChatModel
    from llava.eval.judge.run import Run, say_how_it_went

    spending = Spending(settings)

    async def ask() -> RunReport:
        async with ChatModel(settings) as model:
            return await Run(model, spending, _accept, lambda outcome: _save(log, outcome, settings)).ask_all(jobs)

    return say_how_it_went(asyncio.run(ask()), len(jobs), output, spending)


def _job(questions: Joined, identity: str, system: str) -> Job:
    from llava.eval.judge.run import Job

    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": questions.text(identity, "text")},
    ]
    return Job(f"question {identity}", messages, (identity, questions.lines[identity].record.get("question_id")))


def _unanswered(output: Path, jobs: list[Job], settings: JudgeSettings) -> list[Job]:
    """The questions that the file has no answer to.

    Raises:
        DataError: it holds answers to other questions, or of another model.
    """
    if not output.exists() or not output.stat().st_size:
        return jobs
    answers = read_answers(output)
    wanted = {job.subject[0]: _digest(job) for job in jobs}
    for identity, line in answers.lines.items():
        metadata = line.record.get("metadata")
        prompt = metadata.get("prompt_sha256") if isinstance(metadata, dict) else None
        if line.record.get("model_id") != settings.judge_model or wanted.get(identity) != prompt:
            raise DataError(f"{answers.place(identity)}: an answer to something else. Give another --output.")
    return [job for job in jobs if job.subject[0] not in answers.lines]


def _accept(reply: JudgeReply) -> str:
    from llava.eval.judge.run import Unusable

    if not reply.text.strip():
        raise Unusable("the model refused" if reply.refusal else "the answer is empty")
    return reply.text


def _save(log: JsonlLog, outcome: Outcome[str], settings: JudgeSettings) -> None:
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

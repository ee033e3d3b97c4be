"""Makes reviews through a service's batch queue."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from pathlib import Path

from llava.command_line import DONE, FAILED
from llava.errors import InvalidRequest
from llava.eval.data.records import some
from llava.eval.judge.batch import BatchFile, Call, collect, submit
from llava.eval.judge.costs import Spending, estimated_usage
from llava.eval.judge.model import ChatModel, JudgeReply
from llava.eval.judge.run import Job, JudgeOutcome, Unusable
from llava.eval.reviews.log import Existing, tidy
from llava.eval.reviews.prompts import ReviewPrompt
from llava.eval.reviews.run import ReviewRun
from llava.eval.reviews.scores import Scores
from llava.files.jsonl_log import JsonlLog


def batch_file(output: Path) -> BatchFile:
    """Returns the file that records the batches of a file of reviews."""
    return BatchFile(output.with_name(f"{output.name}.batch.json"))


def run_batch(run: ReviewRun, log: JsonlLog) -> int:
    """Submits the calls or collects the reviews, and returns the exit code."""
    file = batch_file(run.output)
    existing = run.existing()

    async def act() -> int:
        async with run.model() as model:
            if run.settings.batch == "submit":
                return await _submit(run, model, file, existing)
            return await _collect(run, model, file, existing, log)

    return asyncio.run(act())


async def _submit(run: ReviewRun, model: ChatModel, file: BatchFile, existing: Existing) -> int:
    calls = [Call(_custom_id(prompt), run.messages(prompt)) for prompt in run.to_ask(existing)]
    if not calls:
        run.print_end()
        return DONE
    spending = Spending(run.judge, existing.usage)
    if any(spending.reserve(call.messages) is None for call in calls):
        raise InvalidRequest(
            f"{len(calls)} calls could cost more than --max-cost {run.judge.max_cost:g} if every reply were as long as "
            "--max-tokens. Raise --max-cost or lower --max-tokens; --dry-run prints the likely cost."
        )
    ids = await submit(model, file, calls)
    print(f"submitted {len(calls)} calls: batch {', '.join(ids)}\nnext: the same command with --batch collect")
    return DONE


async def _collect(run: ReviewRun, model: ChatModel, file: BatchFile, existing: Existing, log: JsonlLog) -> int:
    collected, waiting = await collect(model, file, run.output.parent)
    prompts = {_custom_id(prompt): prompt for prompt in run.reviews.prompts}
    failed: dict[str, str] = {}
    for one in collected:
        prompt = prompts.get(one.custom_id)
        if prompt is None:
            failed[one.custom_id] = f"the files have changed since; the reply is kept in {run.output.parent}"
        elif one.reply is None:
            failed[prompt.name] = one.reason or "no reply"
        elif prompt.key not in existing.usable:
            run.save(log, model.endpoint, _outcome(run, prompt, one.reply))
    file.write(model, waiting)
    if failed:
        reason = next(iter(failed.values()))
        print(
            f"error: no review from {len(failed)} of {len(collected)} calls ({some(failed)}). First error: {reason}. "
            "Submit the missing calls again, or make them without --batch.",
            file=sys.stderr,
        )
        return FAILED
    if waiting:
        print(f"collected {len(collected)} reviews; {len(waiting)} batches have not ended. Collect again later.")
        return FAILED
    tidy(run.output, existing)
    run.print_end()
    return DONE


def _outcome(run: ReviewRun, prompt: ReviewPrompt, reply: JudgeReply) -> JudgeOutcome[Scores]:
    job = Job(prompt.name, run.messages(prompt), prompt)
    usage = reply.usage or estimated_usage(job.messages, reply.text)
    try:
        return JudgeOutcome(job, run.accept(reply), None, reply, 1, usage)
    except Unusable as error:
        return JudgeOutcome(job, None, str(error), reply, 1, usage)


def _custom_id(prompt: ReviewPrompt) -> str:
    """Returns the id of a prompt in a batch: at most 64 characters, unique to the question, order and prompt."""
    digest = hashlib.sha256(f"{prompt.identity}\n{prompt.sha256}".encode()).hexdigest()[:24]
    readable = re.sub(r"[^\w.-]", "_", prompt.identity, flags=re.ASCII)[:24]
    return f"{readable}-{prompt.order}-{digest}"

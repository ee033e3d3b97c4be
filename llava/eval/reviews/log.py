"""Reads and writes a file of reviews while it grows: what it contains, what is still to be asked, and its records.

The records are those of the original (`id`, `question_id`, `answer1_id`, `answer2_id`, `category`, `content`,
`tuple`) with additional fields. `tuple` is in the order of the answer files, whichever answer the judge saw first.
`content` is what the judge wrote, in the order it saw the answers. If no scores could be read, `tuple` is the
original's [-1, -1], and `unparsable` says why.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llava import __version__
from llava.errors import DataError
from llava.eval.data.records import normal_id, some
from llava.eval.judge.model import JudgeReply
from llava.eval.judge.run import JudgeOutcome
from llava.eval.judge.settings import JudgeSettings
from llava.eval.reviews.prompts import ReviewPrompt, ReviewSet
from llava.eval.reviews.scores import Scores
from llava.files.json_files import Line, read_jsonl, write_jsonl
from llava.serve.client.openai_client import TokenUsage

Key = tuple[str, str]
"""Question id and order."""

NO_SCORES = [-1, -1]


@dataclass(frozen=True, slots=True)
class Existing:
    """The reviews that a file already contains."""

    usable: dict[Key, dict[str, Any]]
    """Reviews of this run's prompts by its judge. The last one counts if a prompt has several."""
    flagged: dict[Key, dict[str, Any]]
    """Reviews of this run's prompts by its judge that have no scores."""
    other: list[Line]
    """Reviews of other answers, by another rule, by another judge or from another program."""
    usage: TokenUsage
    """Tokens that all records together have used."""

    def to_ask(self, prompts: Iterable[ReviewPrompt], *, redo_unparsable: bool) -> list[ReviewPrompt]:
        """Returns the prompts that still have to be asked."""
        done = set(self.usable) if redo_unparsable else self.usable.keys() | self.flagged.keys()
        return [prompt for prompt in prompts if prompt.key not in done]

    def measured(self, prompts: Iterable[ReviewPrompt]) -> list[tuple[ReviewPrompt, TokenUsage]]:
        """Returns prompts that were answered in one call, with the tokens of that call."""
        pairs = [(prompt, self.usable[prompt.key]) for prompt in prompts if prompt.key in self.usable]
        return [(prompt, used) for prompt, record in pairs if record.get("tries") == 1 and (used := _usage(record))]


def read_existing(path: Path, prompts: Sequence[ReviewPrompt], settings: JudgeSettings, *, replace: bool) -> Existing:
    """Reads a review file, which need not exist.

    Args:
        replace: whether the file may contain reviews that are not of this run. They will be asked again.

    Raises:
        DataError: the file is not a review file, or contains reviews that are not of this run.
    """
    lines = read_jsonl(path) if path.exists() else []
    wanted: dict[Key, ReviewPrompt] = {prompt.key: prompt for prompt in prompts}
    usable: dict[Key, dict[str, Any]] = {}
    flagged: dict[Key, dict[str, Any]] = {}
    other = []
    for line in lines:
        key, record = key_of(line, path), line.record
        prompt = wanted.get(key)
        if not _is_by(record, settings) or (prompt and record.get("prompt_sha256") != prompt.sha256):
            other.append(line)
        elif is_flagged(record):
            flagged[key] = record
        else:
            usable[key] = record
            flagged.pop(key, None)
    if other and not replace:
        raise DataError(_not_of_this_run(path, other, len(lines), settings))
    total = TokenUsage()
    for line in lines:
        total += _usage(line.record) or TokenUsage()
    return Existing(usable, {key: record for key, record in flagged.items() if key not in usable}, other, total)


def tidy(path: Path, existing_before: Existing) -> None:
    """Sorts the reviews of a finished run by question and keeps one per question and order.

    Reviews of questions that are no longer asked stay. Reviews that were replaced are removed.
    """
    replaced = {line.number for line in existing_before.other}
    latest: dict[Key, dict[str, Any]] = {}
    lines = read_jsonl(path)
    for line in lines:
        if line.number not in replaced:
            key = key_of(line, path)
            if key not in latest or is_flagged(latest[key]) or not is_flagged(line.record):
                latest[key] = line.record
    in_order = sorted(latest.values(), key=lambda record: record["id"])
    if in_order != [line.record for line in lines]:
        write_jsonl(path, in_order)


def review_record(
    outcome: JudgeOutcome[Scores], *, reviews: ReviewSet, settings: JudgeSettings, endpoint: str
) -> dict[str, Any]:
    """Returns one line of the file.

    Args:
        outcome: the result of a job whose subject is a ReviewPrompt.
        endpoint: address of the service.
    """
    prompt: ReviewPrompt = outcome.job.subject
    scores, reply, usage = outcome.value, outcome.reply, outcome.usage
    first, second = (scores.first, scores.second) if scores else NO_SCORES
    if prompt.order == "swapped":
        first, second = second, first
    return {
        "id": prompt.number,
        "question_id": prompt.question_id,
        "answer1_id": prompt.answers[0].answer_id,
        "answer2_id": prompt.answers[1].answer_id,
        "category": prompt.category,
        "content": scores.content if scores else reply.text,
        "tuple": [first, second],
        "order": prompt.order,
        "image": prompt.image,
        "answer1_model": prompt.answers[0].model,
        "answer2_model": prompt.answers[1].model,
        "parsed": scores.parsed if scores else None,
        "unparsable": outcome.reason,
        **_judge_fields(reply, settings, endpoint),
        "prompt_sha256": prompt.sha256,
        "rule_sha256": reviews.rules.sha256,
        "tries": outcome.tries,
        "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
        **_software_fields(),
    }


def _judge_fields(reply: JudgeReply, settings: JudgeSettings, endpoint: str) -> dict[str, Any]:
    return {
        "judge_model": settings.judge_model,
        "judge_snapshot": reply.snapshot,
        "system_fingerprint": reply.fingerprint,
        "endpoint": endpoint,
        "temperature": settings.temperature,
        "finish_reason": reply.finish_reason,
    }


def _software_fields() -> dict[str, str]:
    return {
        "client": f"httpx {version('httpx')}",
        "llava": __version__,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def key_of(line: Line, path: Path) -> Key:
    """Returns the key of a record.

    Raises:
        DataError: the record has no question id.
    """
    place = f"{path}: line {line.number}"
    if "question_id" not in line.record:
        raise DataError(f"{place} has no 'question_id'. Is this a file of reviews?")
    return normal_id(line.record["question_id"], f"{place}: 'question_id'"), str(line.record.get("order", "forward"))


def is_flagged(record: dict[str, Any]) -> bool:
    """Returns whether a review has no scores: ours say so, the original's have negative ones."""
    scores = record.get("tuple", record.get("score"))
    return bool(record.get("unparsable")) or (isinstance(scores, list) and any(_is_negative(s) for s in scores))


def print_existing(path: Path, existing: Existing) -> None:
    """Reports on standard error what a file already contains."""
    if existing.usable:
        print(f"note: {path}: already contains {len(existing.usable)} reviews", file=sys.stderr)
    if existing.other:
        print(
            f"note: {path}: {len(existing.other)} reviews do not belong to this run and are asked again",
            file=sys.stderr,
        )


def _is_negative(score: Any) -> bool:
    return isinstance(score, int | float) and score < 0


def _is_by(record: dict[str, Any], settings: JudgeSettings) -> bool:
    return record.get("judge_model") == settings.judge_model


def _usage(record: dict[str, Any]) -> TokenUsage | None:
    usage = record.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return TokenUsage(prompt, completion) if isinstance(prompt, int) and isinstance(completion, int) else None


def _not_of_this_run(path: Path, other: list[Line], total: int, settings: JudgeSettings) -> str:
    judges = {str(line.record.get("judge_model")) for line in other} - {settings.judge_model, "None"}
    foreign = [line for line in other if "prompt_sha256" not in line.record]
    if foreign:
        what = (
            f"{len(foreign)} of {total} lines were made by another program, the first one in line {foreign[0].number}"
        )
    elif judges:
        what = f"{len(other)} of {total} reviews are by another judge, {', '.join(sorted(judges))}"
    else:
        ids = list(dict.fromkeys(str(line.record["question_id"]) for line in other))
        what = f"{len(other)} of {total} reviews are of other answers or by another rule (questions {some(ids)})"
    return f"{path}: {what}. Give another --output, or ask these again with --replace."

"""Uses the batch queue of an OpenAI-compatible service: submits many calls as files, and collects the replies later.

A small JSON file records what was submitted. It is written before anything is sent, so a run that is killed in between
finds its batches again by a mark in their metadata, and nothing is paid for twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from llava.errors import DataError, LlavaError, RemoteError, TryAgain
from llava.eval.judge.model import CallFailed, ChatModel, JudgeReply, Messages, ServiceRefuses, as_reply, judge_error
from llava.files.json_files import read_json, read_jsonl, write_json, write_text

T = TypeVar("T")

ENDPOINT: Final = "/v1/chat/completions"
WINDOW: Final = "24h"
MOST_CALLS: Final = 50_000
MOST_BYTES: Final = 190_000_000
"""Limits per file. OpenAI accepts 50,000 calls and 200 MB."""

_ENDED: Final = ("completed", "failed", "expired", "cancelled")
_MARK: Final = "llava"


class BatchUnfinished(TryAgain):
    """No batch has ended yet."""

    code, status = "batch_unfinished", 503


@dataclass(frozen=True, slots=True)
class Call:
    """One line of a batch."""

    custom_id: str
    """Id that the reply repeats, at most 64 characters."""
    messages: Messages


@dataclass(frozen=True, slots=True)
class Collected:
    """The result of one call in a batch that has ended."""

    custom_id: str
    reply: JudgeReply | None
    reason: str | None
    """Why there is no reply; None if there is one."""


@dataclass
class BatchPart:
    """One batch of a submission, which is a file of calls."""

    mark: str
    """Mark in the batch's metadata, by which an interrupted submission is found again."""
    calls: list[str]
    """Custom ids of the calls."""
    batch_id: str | None = None
    """The service's id of the batch; None if the submission may not have succeeded."""


class BatchFile:
    """The file that records batches. It exists as long as there is something to collect."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def read(self, model: ChatModel) -> list[BatchPart]:
        """Returns the batches that are not collected yet.

        Raises:
            DataError: the file is missing or malformed, or the batches are with another service.
        """
        value = read_json(self.path, remedy="Nothing was submitted for this output. Submit with --batch submit.")
        try:
            endpoint, parts = value["endpoint"], [BatchPart(**part) for part in value["parts"]]
        except (KeyError, TypeError):
            raise DataError(f"{self.path}: not written by --batch submit. Remove the file and submit again.") from None
        if endpoint != model.endpoint:
            raise DataError(f"{self.path}: the batch is with {endpoint}, not {model.endpoint}. Give its --base-url.")
        return parts

    def write(self, model: ChatModel, parts: Sequence[BatchPart]) -> None:
        """Records the batches, or removes the file if nothing is left to collect."""
        if parts:
            listed = [{"mark": p.mark, "calls": p.calls, "batch_id": p.batch_id} for p in parts]
            write_json(self.path, {"endpoint": model.endpoint, "parts": listed})
        else:
            self.path.unlink(missing_ok=True)


async def submit(model: ChatModel, file: BatchFile, calls: Sequence[Call]) -> list[str]:
    """Submits calls and returns the ids of their batches.

    An interrupted submission is continued, for which `calls` must be the same as before.

    Raises:
        DataError: batches of this output are waiting to be collected, or `calls` has changed.
        ServiceRefuses, ServiceBusy, CallFailed: the service did not accept the calls.
    """
    lines = {call.custom_id: _line(model, call) for call in calls}
    resumed = file.exists
    parts = file.read(model) if resumed else _parts(lines)
    if all(part.batch_id for part in parts):
        ids = ", ".join(str(part.batch_id) for part in parts)
        raise DataError(f"{file.path}: batch {ids} was submitted already. Fetch its replies with --batch collect.")
    if unknown := [one for part in parts if not part.batch_id for one in part.calls if one not in lines]:
        raise DataError(
            f"{file.path}: a submission was interrupted, and the files have changed since ({len(unknown)} calls). "
            "Give the same files as before, or remove this file to start over."
        )
    file.write(model, parts)
    for part in parts:
        if part.batch_id is None:
            part.batch_id = await _found(model, part) if resumed else None
            part.batch_id = part.batch_id or await _submit_part(model, part, [lines[one] for one in part.calls])
            file.write(model, parts)
    return [str(part.batch_id) for part in parts]


async def collect(model: ChatModel, file: BatchFile, keep: Path) -> tuple[list[Collected], list[BatchPart]]:
    """Fetches the replies of all batches that have ended.

    Args:
        keep: folder in which the service's own files are kept, as `batch_ID.jsonl`.

    Returns:
        What was collected, and the batches that have not ended.

    Raises:
        BatchUnfinished: no batch has ended yet. The message says how far they are.
        DataError: there is nothing to collect, or the submission was interrupted.
    """
    parts = file.read(model)
    if any(part.batch_id is None for part in parts):
        raise DataError(f"{file.path}: the submission was interrupted. Repeat --batch submit to continue it.")
    collected, waiting, states = [], [], []
    for part in parts:
        batch = await _guarded(model, model.client.get(f"/batches/{part.batch_id}"))
        if batch.get("status") in _ENDED:
            collected += await _results(model, part, batch, keep)
        else:
            waiting.append(part)
            counts = batch.get("request_counts")
            done = "not started"
            if counts:
                done = f"{counts.get('completed', 0) + counts.get('failed', 0)} of {counts.get('total', 0)} done"
            states.append(f"{part.batch_id} is {batch.get('status')}, {done}")
    if not collected:
        raise BatchUnfinished(f"the batch has not ended: {'; '.join(states)}. Collect again later.", retry_after_s=60)
    return collected, waiting


def _line(model: ChatModel, call: Call) -> str:
    return json.dumps(
        {"custom_id": call.custom_id, "method": "POST", "url": ENDPOINT, "body": model.body(call.messages)}
    )


def _parts(lines: dict[str, str]) -> list[BatchPart]:
    parts: list[list[str]] = [[]]
    size = 0
    for custom_id, line in lines.items():
        if parts[-1] and (len(parts[-1]) == MOST_CALLS or size + len(line) > MOST_BYTES):
            parts.append([])
            size = 0
        parts[-1].append(custom_id)
        size += len(line) + 1
    return [BatchPart(hashlib.sha256("\n".join(calls).encode()).hexdigest()[:32], calls) for calls in parts]


async def _submit_part(model: ChatModel, part: BatchPart, lines: list[str]) -> str:
    content = "".join(f"{line}\n" for line in lines).encode()
    upload = ("requests.jsonl", content, "application/jsonl")
    uploaded = await _guarded(model, model.client.post("/files", files={"file": upload}, data={"purpose": "batch"}))
    request = {
        "input_file_id": uploaded.get("id"),
        "endpoint": ENDPOINT,
        "completion_window": WINDOW,
        "metadata": {_MARK: part.mark},
    }
    batch = await _guarded(model, model.client.post("/batches", json=request))
    return str(batch.get("id"))


async def _found(model: ChatModel, part: BatchPart) -> str | None:
    """Returns the id of the batch that an interrupted submission created, if the service has it."""
    page = await _guarded(model, model.client.get("/batches", params={"limit": 100}))
    for batch in page.get("data") or ():
        if (batch.get("metadata") or {}).get(_MARK) == part.mark and batch.get("status") not in ("failed", "cancelled"):
            return str(batch["id"])
    return None


async def _results(model: ChatModel, part: BatchPart, batch: dict[str, Any], keep: Path) -> list[Collected]:
    text = ""
    for file_id in (batch.get("output_file_id"), batch.get("error_file_id")):
        if file_id:
            lines = await _guarded(model, model.client.text(f"/files/{file_id}/content"))
            text += lines if lines.endswith("\n") or not lines else lines + "\n"
    raw = keep / f"{part.batch_id}.jsonl"
    write_text(raw, text)
    found = {one.custom_id: one for one in (_collected(line.record, raw) for line in read_jsonl(raw))}
    nothing = f"the batch is {batch.get('status')}{_reasons(batch)}"
    return [found.get(custom_id, Collected(custom_id, None, nothing)) for custom_id in part.calls]


def _collected(record: dict[str, Any], raw: Path) -> Collected:
    custom_id = record.get("custom_id")
    if not isinstance(custom_id, str):
        raise DataError(f"{raw}: a result has no 'custom_id'. The service's file does not follow the batch protocol.")
    response = record.get("response") or {}
    error = record.get("error") or (response.get("body") or {}).get("error")
    if error or response.get("status_code") != 200:
        message = error.get("message") if isinstance(error, dict) else error
        return Collected(custom_id, None, f"HTTP {response.get('status_code', '-')}: {message}")
    try:
        return Collected(custom_id, as_reply(response.get("body")), None)
    except CallFailed:
        return Collected(custom_id, None, "the reply does not follow the protocol")


def _reasons(batch: dict[str, Any]) -> str:
    errors = (batch.get("errors") or {}).get("data") or []
    return f": {errors[0].get('message')}" if errors else ""


async def _guarded(model: ChatModel, call: Awaitable[T]) -> T:
    try:
        return await call
    except LlavaError as error:
        if isinstance(error, RemoteError) and error.status == 404:
            raise ServiceRefuses(
                f"the service has no such batch, or no batch queue at all (HTTP 404: {error})"
            ) from error
        raise judge_error(error, model.settings) from error

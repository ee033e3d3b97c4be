"""Defines the original's protocol between controller, workers and clients: requests, frames and errors.

A stream consists of JSON objects, each followed by a NUL byte: `{"text": ..., "error_code": 0}`. `text` is the prompt
and the answer so far. A failure is reported by a last frame whose `error_code` is not 0. Our frames also carry an
`error` object with a stable code, which the original's clients ignore.

Workers and controller authenticate each other with the cluster token (`llava.serve.service.security.ClusterToken`):

- A worker sends `CLUSTER_TOKEN_HEADER` with each /register_worker, /receive_heart_beat and /deregister_worker.
- Before the controller answers a registration, it sends a challenge to the worker's own address: POST
  /worker_get_status with `CHALLENGE_HEADER: <nonce>`. The worker adds `"proof": token.prove(nonce)` to its status.
  Therefore a worker listens before it registers, and /worker_get_status requires no key. The original's workers do not
  support this; they may register only from the controller's own machine.
- From then on, the controller sends `CLUSTER_TOKEN_HEADER` with every request to the worker, in place of an API key.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from enum import IntEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from llava.errors import InvalidField, LlavaError, RemoteError, TryAgain
from llava.serve.protocol.constants import MAX_IMAGES, MAX_STOPS

CLUSTER_TOKEN_HEADER: Final = "x-llava-cluster-token"
CHALLENGE_HEADER: Final = "x-llava-challenge"

GENERATE_PATH: Final = "/worker_generate_stream"
STATUS_PATH: Final = "/worker_get_status"
CHAT_PATH: Final = "/v1/chat/completions"

MAX_FRAME_BYTES: Final = 8 * 1024 * 1024
MAX_MODELS_A_WORKER: Final = 64

UNKNOWN_FAILURE: Final = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
"""The original's text for every failure. We use it only for unexpected failures."""


class ErrorCode(IntEnum):
    """The four error codes of the original."""

    OK = 0
    WORKER = 1
    NO_WORKER = 2
    WORKER_UNREACHABLE = 3


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/@+-]{1,128}$")]
"""The name of a model or a worker. Contains no character with a special meaning in logs, URLs or shells."""
WorkerName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""A worker's address; `llava.serve.service.addresses.parse_worker_address` looks at it closely."""


def _well_formed(text: str) -> str:
    # JSON can contain half of a surrogate pair, which UTF-8 cannot encode and a tokenizer would fail on much later.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("contains half of a surrogate pair") from None
    return text


WellFormed = Annotated[str, AfterValidator(_well_formed)]
Stop = Annotated[str, StringConstraints(max_length=256), AfterValidator(_well_formed)]


class Message(BaseModel):
    """Base of all requests. Unknown fields are ignored, as in the original."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class WorkerStatus(Message):
    """The state of a worker."""

    model_names: Annotated[list[Name], Field(min_length=1, max_length=MAX_MODELS_A_WORKER)]
    speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Speed relative to other workers; a worker of speed 2 gets twice as many requests."""
    queue_length: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Number of requests running and waiting."""
    proof: Annotated[str, StringConstraints(max_length=128)] | None = None
    """The response to a challenge; see the module's docstring."""


class RegisterWorker(Message):
    """A worker asks the controller for requests."""

    worker_name: WorkerName
    check_heart_beat: bool = True
    worker_status: WorkerStatus | None = None
    """None makes the controller ask the worker."""


class HeartBeat(Message):
    """A worker reports that it is alive."""

    worker_name: WorkerName
    queue_length: Annotated[int, Field(ge=0, le=1_000_000)]


class DeregisterWorker(Message):
    """A worker asks the controller for no more requests."""

    worker_name: WorkerName


class GetWorkerAddress(Message):
    """A client asks which worker serves a model."""

    model: Name


class GenerateRequest(Message):
    """A request for a stream of frames."""

    model: Name
    prompt: WellFormed
    """The prompt, with one `<image>` marker per image."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    max_new_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    images: Annotated[list[str], Field(max_length=MAX_IMAGES)] | None = None
    """Images in base64, in the order of the `<image>` markers."""


class ErrorBody(BaseModel):
    """A failure, as programs read it."""

    code: str
    """The stable code of the error."""
    message: str
    request_id: str | None = None

    @classmethod
    def of(cls, error: LlavaError, request_id: str | None = None) -> ErrorBody:
        return cls(code=error.code, message=str(error), request_id=request_id)


def frame(text: str, error_code: int = ErrorCode.OK, *, error: ErrorBody | None = None) -> bytes:
    """Returns one frame of a stream."""
    content: dict[str, Any] = {"text": text, "error_code": int(error_code)}
    if error is not None:
        content["error"] = error.model_dump()
    return json.dumps(content, ensure_ascii=False).encode(errors="replace") + b"\0"


def error_frame(error: LlavaError, request_id: str | None = None) -> bytes:
    """Returns the last frame of a failed stream, with the original's code for this kind of failure."""
    return frame(str(error), error_code_of(error), error=ErrorBody.of(error, request_id))


def error_code_of(error: LlavaError) -> ErrorCode:
    """Returns the original's code for an error."""
    return _ERROR_CODES.get(error.code, ErrorCode.WORKER)


_ERROR_CODES: Final = {
    "model_not_found": ErrorCode.NO_WORKER,
    "no_worker": ErrorCode.NO_WORKER,
    "worker_lost": ErrorCode.WORKER_UNREACHABLE,
    "worker_timeout": ErrorCode.WORKER_UNREACHABLE,
}


def raise_for_frame(content: dict[str, Any]) -> None:
    """Raises the failure that a frame reports, if any.

    Raises:
        RemoteError: has the code of the `error` field, or a code for the original's number.
    """
    number = content.get("error_code", 0)
    if not number:
        return
    error = content.get("error")
    error = error if isinstance(error, dict) else {}
    kinds = {ErrorCode.NO_WORKER: "no_worker", ErrorCode.WORKER_UNREACHABLE: "worker_lost"}
    raise RemoteError(
        str(error.get("message") or content.get("text") or UNKNOWN_FAILURE),
        code=str(error.get("code") or kinds.get(number, "internal")),
    )


class FrameSplitter:
    """Splits a stream of bytes into frames, however the network divided it.

    Raises:
        InvalidField: a frame is longer than `MAX_FRAME_BYTES` or is not a JSON object.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """Takes the next bytes and yields the frames that they complete."""
        # Only new bytes can contain a delimiter, so a long frame in small chunks is not searched again and again.
        start = len(self._rest)
        self._rest += chunk
        begin = 0
        while (end := self._rest.find(b"\0", max(begin, start))) >= 0:
            if end > begin:
                yield self._parse(bytes(self._rest[begin:end]))
            begin = end + 1
        del self._rest[:begin]
        if len(self._rest) > MAX_FRAME_BYTES:
            raise InvalidField(f"a frame of the stream is longer than {MAX_FRAME_BYTES >> 20} MiB.")

    def close(self) -> None:
        """Checks that the stream is complete. Call it at the end of the stream.

        Raises:
            InvalidField: the stream ended inside a frame.
        """
        if self._rest:
            raise InvalidField("the stream ended in the middle of a frame.")

    @staticmethod
    def _parse(data: bytes) -> dict[str, Any]:
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidField("the stream contains data that is not a JSON frame.") from error
        if not isinstance(content, dict):
            raise InvalidField("the stream contains data that is not a JSON frame.")
        return content


async def read_frames(chunks: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Yields the frames of a stream that arrives in chunks of any size. Raises the errors of `FrameSplitter`."""
    splitter = FrameSplitter()
    async for chunk in chunks:
        for content in splitter.feed(chunk):
            yield content
    splitter.close()


def read_frames_sync(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yields the frames of a stream like `read_frames`, for blocking clients."""
    splitter = FrameSplitter()
    for chunk in chunks:
        yield from splitter.feed(chunk)
    splitter.close()


def openai_error(error: LlavaError, request_id: str | None = None) -> dict[str, Any]:
    """Returns an error in OpenAI's format, with the request id added."""
    body: dict[str, Any] = {
        "message": str(error),
        "type": _error_type(error.status),
        "param": error.param,
        "code": error.code,
    }
    if request_id:
        body["request_id"] = request_id
    return {"error": body}


def retry_after_header(error: LlavaError) -> dict[str, str]:
    """Returns `Retry-After` in whole seconds, for temporary errors."""
    return {"retry-after": str(max(1, round(error.retry_after_s)))} if isinstance(error, TryAgain) else {}


def _error_type(status: int) -> str:
    types = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    return types.get(status, "invalid_request_error" if status < 500 else "server_error")

"""What controller, workers and clients say to each other: the original's requests and frames, as types.

A stream is JSON objects, each followed by a NUL byte: `{"text": ..., "error_code": 0}`. `text` is the prompt and all of
the answer so far. A failure is one last frame whose `error_code` is not 0; ours carry beside it an `error` object with
a stable code, which the original's clients ignore.

Worker and controller prove themselves with the cluster token (`llava.serve.service.security.ClusterToken`):

- A worker sends `CLUSTER_TOKEN_HEADER` with each /register_worker, /receive_heart_beat and /deregister_worker.
- The controller answers a registration only after it has asked the worker's own address: POST /worker_get_status with
  `CHALLENGE_HEADER: <nonce>`. The worker adds `"proof": token.prove(nonce)` to its status. So a worker listens before
  it registers, and /worker_get_status asks for no key. The original's workers know nothing of this; they may register
  from the controller's own machine.
- Once a worker is proven, the controller sends it `CLUSTER_TOKEN_HEADER` with every request, in place of an API key.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from enum import IntEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from llava.errors import InvalidField, LlavaError, RemoteError, TryAgain

HEART_BEAT_INTERVAL_S: Final = 15
HEART_BEAT_EXPIRATION_S: Final = 30

CLUSTER_TOKEN_HEADER: Final = "x-llava-cluster-token"
CHALLENGE_HEADER: Final = "x-llava-challenge"

GENERATE_PATH: Final = "/worker_generate_stream"
STATUS_PATH: Final = "/worker_get_status"
CHAT_PATH: Final = "/v1/chat/completions"

MAX_FRAME_BYTES: Final = 8 * 1024 * 1024
MAX_IMAGES: Final = 16
MAX_STOPS: Final = 8
MAX_MODELS_A_WORKER: Final = 64

UNKNOWN_FAILURE: Final = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
"""The original's text for every failure; here only for those that have no name."""


class ErrorCode(IntEnum):
    """The original's four."""

    OK = 0
    WORKER = 1
    NO_WORKER = 2
    WORKER_UNREACHABLE = 3


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/@+-]{1,128}$")]
"""A model's or a worker's name: nothing that a log, a URL or a shell reads as more than letters."""
WorkerName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""A worker's address; `llava.serve.service.addresses.parse_worker_address` looks at it closely."""


def _well_formed(text: str) -> str:
    # JSON can carry half of a character that UTF-8 cannot; a tokenizer would stumble over it much later.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair") from None
    return text


WellFormed = Annotated[str, AfterValidator(_well_formed)]
Stop = Annotated[str, StringConstraints(max_length=256), AfterValidator(_well_formed)]


class Message(BaseModel):
    """Base of all requests: fields that are not known are ignored, as the original does."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class WorkerStatus(Message):
    """What a worker says about itself."""

    model_names: Annotated[list[Name], Field(min_length=1, max_length=MAX_MODELS_A_WORKER)]
    speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Relative to other workers: one of speed 2 gets twice the requests."""
    queue_length: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Requests running and waiting."""
    proof: Annotated[str, StringConstraints(max_length=128)] | None = None
    """Answer to a challenge; see the module's text."""


class RegisterWorker(Message):
    worker_name: WorkerName
    check_heart_beat: bool = True
    worker_status: WorkerStatus | None = None
    """None: the controller asks the worker."""


class HeartBeat(Message):
    worker_name: WorkerName
    queue_length: Annotated[int, Field(ge=0, le=1_000_000)]


class DeregisterWorker(Message):
    worker_name: WorkerName


class GetWorkerAddress(Message):
    model: Name


class GenerateRequest(Message):
    """A request for a stream of frames."""

    model: Name
    prompt: WellFormed
    """With one `<image>` an image."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    max_new_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    images: Annotated[list[str], Field(max_length=MAX_IMAGES)] | None = None
    """Base64, in the order of the `<image>` marks."""


class ErrorBody(BaseModel):
    """What a program needs to know about a failure."""

    code: str
    message: str
    request_id: str | None = None

    @classmethod
    def of(cls, error: LlavaError, request_id: str | None = None) -> ErrorBody:
        return cls(code=error.code, message=str(error), request_id=request_id)


def frame(text: str, error_code: int = ErrorCode.OK, *, error: ErrorBody | None = None) -> bytes:
    """One frame of a stream."""
    content: dict[str, Any] = {"text": text, "error_code": int(error_code)}
    if error is not None:
        content["error"] = error.model_dump()
    return json.dumps(content, ensure_ascii=False).encode(errors="replace") + b"\0"


def error_frame(error: LlavaError, request_id: str | None = None) -> bytes:
    """The last frame of a stream that failed, with the original's code for a failure of this kind."""
    return frame(str(error), error_code_of(error), error=ErrorBody.of(error, request_id))


def error_code_of(error: LlavaError) -> ErrorCode:
    return _ERROR_CODES.get(error.code, ErrorCode.WORKER)


_ERROR_CODES: Final = {
    "model_not_found": ErrorCode.NO_WORKER,
    "no_worker": ErrorCode.NO_WORKER,
    "worker_lost": ErrorCode.WORKER_UNREACHABLE,
    "worker_timeout": ErrorCode.WORKER_UNREACHABLE,
}


def raise_for_frame(content: dict[str, Any]) -> None:
    """Raises what a frame reports, if it reports a failure.

    Raises:
        RemoteError: with the code of the `error` field, or one for the original's number.
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
    """Cuts bytes into frames, wherever the network cut them.

    Raises:
        InvalidField: more than `MAX_FRAME_BYTES` without an end, or a frame that is no JSON object.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        # Only what is new can hold a delimiter: a long frame in small pieces is not searched over and over.
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
        """To be called at the end of the stream.

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
            raise InvalidField("the stream holds something that is no JSON frame.") from error
        if not isinstance(content, dict):
            raise InvalidField("the stream holds something that is no JSON frame.")
        return content


async def read_frames(chunks: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The frames of a stream that arrives in pieces of any size; see `FrameSplitter` for what it raises."""
    splitter = FrameSplitter()
    async for chunk in chunks:
        for content in splitter.feed(chunk):
            yield content
    splitter.close()


def read_frames_sync(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """As `read_frames`, for blocking clients."""
    splitter = FrameSplitter()
    for chunk in chunks:
        yield from splitter.feed(chunk)
    splitter.close()


def openai_error(error: LlavaError, request_id: str | None = None) -> dict[str, Any]:
    """An error in the shape that OpenAI's clients read, with the request id beside it."""
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
    """`Retry-After` in whole seconds, for errors that pass by themselves."""
    return {"retry-after": str(max(1, round(error.retry_after_s)))} if isinstance(error, TryAgain) else {}


def _error_type(status: int) -> str:
    types = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    return types.get(status, "invalid_request_error" if status < 500 else "server_error")

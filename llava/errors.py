"""One family of typed errors: everything a user can cause or meet.

A message says what is wrong, where (file, line, row, field), and what to do. `code` is stable and travels over HTTP,
`status` is the HTTP status that goes with it. Imports nothing heavy: every part of the package may import it.
"""

from __future__ import annotations

from collections.abc import Sequence


class LlavaError(Exception):
    """Base of every error that a user can cause or meet."""

    code = "internal"
    status = 500
    param: str | None = None
    """The field of a request that is at fault, where there is one."""


class InvalidRequest(LlavaError):
    """An argument or a combination of arguments that makes no sense."""

    code, status = "invalid_request", 400


class ImageError(LlavaError):
    """Base of everything wrong with one image."""

    code, status = "invalid_image", 400


class CheckpointError(LlavaError):
    """Base of everything wrong with a model folder."""

    code, status = "invalid_checkpoint", 500


class DataError(LlavaError):
    """A training or evaluation file that does not say what it should; names file and record."""

    code, status = "invalid_data", 400


class ImageTokenMismatch(LlavaError):
    """A prompt whose image markers do not match its images; names row, expected and found."""

    code, status = "image_token_mismatch", 400


# Conversations (llava.conversation)


class TemplateError(InvalidRequest):
    """A conversation that its template cannot render; says which turn and why."""

    code, status = "invalid_conversation", 400


class UnknownTemplate(InvalidRequest):
    """A template name that no table has; names the nearest ones."""

    code, status = "unknown_template", 400


# Images (llava.images.loading, llava.images.fetching, llava.mm_utils)


class ImageUnreadable(ImageError):
    """An image file that is missing, is no regular file, or may not be read."""

    code, status = "image_unreadable", 400


class ImageTooLarge(ImageError):
    """More bytes, more pixels or a longer side than the limits allow; found before decoding."""

    code, status = "image_too_large", 413


class UnsupportedImage(ImageError):
    """Data that are no image, or an image of a kind that is not read; says what they look like."""

    code, status = "unsupported_image", 415


class ImageDamaged(ImageError):
    """An image whose data end early or contradict themselves."""

    code, status = "image_damaged", 400


class ImageUrlRefused(ImageError):
    """An image address that may not be fetched: URLs are off, or it leads to a private address."""

    code, status = "image_url_refused", 403


class ImageFetchFailed(ImageError):
    """An image address that was tried and gave no image: no answer, an error status, too slow."""

    code, status = "image_fetch_failed", 400


class ImageShapeError(ImageError):
    """An image whose proportions the chosen aspect mode cannot serve."""

    code, status = "image_shape", 400


class TokenizerNotFound(CheckpointError):
    """A model folder without any tokenizer file."""

    code = "tokenizer_not_found"

    def __init__(self, folder: object, files: tuple[str, ...]):
        super().__init__(
            f"{folder}: no tokenizer here (looked for {' and '.join(files)}). "
            "Copy the tokenizer files of the base model into the folder."
        )


class WeightsNotFound(CheckpointError):
    """A folder without any weight file."""

    code = "weights_not_found"

    def __init__(self, folder: object, files: tuple[str, ...]):
        super().__init__(f"{folder}: no weights here (looked for {', '.join(files)}). Check the path.")


class MissingShard(CheckpointError):
    """An index that names weight files which are not in the folder."""

    code = "missing_shard"

    def __init__(self, index: object, absent: list[str], total: int):
        shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        super().__init__(f"{index}: {len(absent)} of {total} weight files are missing: {shown}. Fetch them again.")


class BrokenShard(CheckpointError):
    """A weight file that cannot be read: truncated, damaged, or not weights at all."""

    code = "broken_shard"

    def __init__(self, file: object, reason: str):
        super().__init__(f"{file}: cannot be read as weights ({reason}). The file may be truncated; fetch it again.")


class VisionTowerNotFound(CheckpointError):
    """A checkpoint whose vision tower is neither in its folder nor anywhere else we may look."""

    code = "vision_tower_not_found"

    def __init__(self, name: str, model_folder: object | None, reason: str):
        places = f"in {model_folder}, " if model_folder is not None else ""
        super().__init__(
            f"vision tower {name!r} was not found (looked {places}in the current folder and on the hub: {reason}) "
            "Say where it is with --vision-tower FOLDER, or load_pretrained_model(..., vision_tower=FOLDER)."
        )


class ShapeMismatch(CheckpointError):
    """A tensor whose shape is not the one that the model's config asks for."""

    code = "shape_mismatch"

    def __init__(self, name: str, file: object, found: tuple[int, ...], expected: tuple[int, ...]):
        super().__init__(
            f"{file}: {name} has shape {list(found)}, the model expects {list(expected)}. "
            "The file belongs to a model of another size or kind."
        )


class BaseMismatch(CheckpointError):
    """A base model and a delta (or a model and its base) that do not belong together; says why."""

    code = "base_mismatch"


class NotFinite(CheckpointError):
    """A value that is not a number or infinite among weights that were to be written."""

    code = "weights_not_finite"

    def __init__(self, name: str, count: int, dtype: str):
        hint = " Values beyond float16's range become infinite: try --dtype bfloat16 or float32." * (dtype == "float16")
        super().__init__(
            f"{name}: {count} of its values would be NaN or infinite in {dtype}, so nothing was written. "
            f"One of the inputs is damaged or is not what it should be.{hint}"
        )


class ContextTooLong(LlavaError):
    """Prompt and images fill the model's context, so nothing can be answered."""

    code, status = "context_length_exceeded", 400

    def __init__(self, num_tokens: int, limit: int):
        super().__init__(
            f"prompt and images have {num_tokens} tokens, the model's context {limit}. "
            "Shorten the question or give fewer images."
        )


# The engine (llava.engine)


class EngineFailed(LlavaError):
    """The model failed on a request, twice; the requests beside it went on."""

    code, status = "engine_failed", 500


class OutOfMemory(LlavaError):
    """A request that needs more memory than the device has left. Not a server's fault: the same again fails again."""

    code, status = "out_of_memory", 400


# Serving (llava.serve, llava.engine)


class InvalidField(InvalidRequest):
    """A field of a request that is missing, of the wrong kind or out of its bounds; `param` is its name."""

    code, status = "invalid_request", 422

    def __init__(self, message: str, *, param: str | None = None):
        super().__init__(message)
        self.param = param


class UnsupportedParameter(InvalidRequest):
    """A field that means something, but that this server cannot honour; `param` is its name."""

    code, status = "unsupported_parameter", 400

    def __init__(self, message: str, *, param: str | None = None):
        super().__init__(message)
        self.param = param


class Unauthorized(LlavaError):
    """No key or token, or a wrong one, where one is asked for."""

    code, status = "invalid_api_key", 401


class Forbidden(LlavaError):
    """Something that this caller may not do, whatever key it shows."""

    code, status = "forbidden", 403


class AddressRefused(Forbidden):
    """A worker address that is malformed, or that leads where this controller may not connect."""

    code, status = "worker_address_refused", 403


class ModelNotFound(LlavaError):
    """A model name that nothing here serves."""

    code, status = "model_not_found", 404

    def __init__(self, model: str, available: Sequence[str] = ()):
        there = f"There are: {', '.join(available)}." if available else "No model is being served yet."
        super().__init__(f"no model named {model!r} is served here. {there}")
        self.param = "model"


class RequestTimeout(LlavaError):
    """A client that took too long to send its request."""

    code, status = "request_timeout", 408


class WorkerConflict(LlavaError):
    """A worker address or a model name that belongs to a live worker of somebody else."""

    code, status = "worker_conflict", 409


class RequestTooLarge(LlavaError):
    """A body with more bytes, more values or deeper nesting than is accepted."""

    code, status = "request_too_large", 413


class UnsupportedMediaType(LlavaError):
    """A body that does not say that it is JSON."""

    code, status = "unsupported_media_type", 415


class TryAgain(LlavaError):
    """Base of what passes by itself: the same request may succeed `retry_after_s` seconds later."""

    code, status = "unavailable", 503

    def __init__(self, message: str, *, retry_after_s: float = 1.0):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(TryAgain):
    """One caller asked too often."""

    code, status = "rate_limited", 429


class QueueFull(TryAgain):
    """As many requests wait as may wait."""

    code, status = "queue_full", 503


class ShuttingDown(TryAgain):
    """The service finishes what it has and takes nothing new."""

    code, status = "shutting_down", 503


class NotReady(TryAgain):
    """The service has started but its model is not loaded yet."""

    code, status = "not_ready", 503


class NoWorker(TryAgain):
    """The model is known, but none of its workers can be reached now."""

    code, status = "no_worker", 503


class WorkerLost(LlavaError):
    """A worker that could not be reached, or that broke off in the middle of an answer."""

    code, status = "worker_lost", 502


class WorkerTimeout(LlavaError):
    """A worker that keeps the connection but sends nothing for too long."""

    code, status = "worker_timeout", 504


class RemoteError(LlavaError):
    """An error that another service reported: its message, with its own `code` and `status`."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "internal",
        status: int = 500,
        param: str | None = None,
        retry_after_s: float | None = None,
    ):
        super().__init__(message)
        self.code, self.status, self.param = code, status, param
        self.retry_after_s = retry_after_s


class CannotListen(LlavaError):
    """A port that is taken, or an address that this machine does not have."""

    code = "cannot_listen"

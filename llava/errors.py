"""Defines the errors that a user can cause or meet, as one family of types.

A message says what is wrong, where (file, line, row, field), and what to do. `code` is stable and sent over HTTP;
`status` is its HTTP status. This module imports nothing heavy, so every part of the package may import it.
"""

from __future__ import annotations

from collections.abc import Sequence


class LlavaError(Exception):
    """The base of every error that a user can cause or meet."""

    code = "internal"
    status = 500
    param: str | None = None
    """The field of a request that caused the error, if there is one."""


class InvalidRequest(LlavaError):
    """An argument, or a combination of arguments, is not valid."""

    code, status = "invalid_request", 400


class ImageError(LlavaError):
    """The base of errors about one image."""

    code, status = "invalid_image", 400


class CheckpointError(LlavaError):
    """The base of errors about a model folder."""

    code, status = "invalid_checkpoint", 500


class DataError(LlavaError):
    """A training or evaluation file has invalid content; the message names file and record."""

    code, status = "invalid_data", 400


class NotFiniteError(LlavaError):
    """A loss or gradient of a training run is infinite or not a number; the message names step and records."""

    code = "not_finite"


class ImageTokenMismatch(LlavaError):
    """The image markers of a prompt do not match its images; the message names the row, expected and found."""

    code, status = "image_token_mismatch", 400


# Conversations (llava.conversation)


class TemplateError(InvalidRequest):
    """A template cannot render a conversation; the message says which turn and why."""

    code, status = "invalid_conversation", 400


class UnknownTemplate(InvalidRequest):
    """No template has this name; the message suggests similar names."""

    code, status = "unknown_template", 400


# Images (llava.images.loading, llava.images.fetching, llava.mm_utils)


class ImageUnreadable(ImageError):
    """An image file is missing, is not a regular file, or cannot be opened."""

    code, status = "image_unreadable", 400


class ImageTooLarge(ImageError):
    """An image has more bytes, more pixels or a longer side than allowed; this is checked before decoding."""

    code, status = "image_too_large", 413


class UnsupportedImage(ImageError):
    """The data are not an image, or one of an unsupported format; the message says what they look like."""

    code, status = "unsupported_image", 415


class ImageDamaged(ImageError):
    """The data of an image are truncated or inconsistent."""

    code, status = "image_damaged", 400


class ImageUrlRefused(ImageError):
    """An image URL must not be fetched: URLs are not allowed, or it leads to a private address."""

    code, status = "image_url_refused", 403


class ImageFetchFailed(ImageError):
    """An image URL could not be fetched: no connection, an error status, or too slow."""

    code, status = "image_fetch_failed", 400


class ImageShapeError(ImageError):
    """The selected aspect-ratio mode does not support the proportions of an image."""

    code, status = "image_shape", 400


class TokenizerNotFound(CheckpointError):
    """A model folder has no tokenizer file."""

    code = "tokenizer_not_found"

    def __init__(self, folder: object, files: tuple[str, ...]):
        super().__init__(
            f"{folder}: no tokenizer found (looked for {' and '.join(files)}). "
            "Copy the tokenizer files of the base model into the folder."
        )


class WeightsNotFound(CheckpointError):
    """A model folder has no weight file."""

    code = "weights_not_found"

    def __init__(self, folder: object, files: tuple[str, ...], others: Sequence[str] = ()):
        message = f"{folder}: no weights found (looked for {', '.join(files)}). "
        if others:
            message += f"The folder has {', '.join(others[:3])}, which is read under no such name or in no such format."
        super().__init__(message + ("" if others else "Check the path."))


class MissingShard(CheckpointError):
    """An index names weight files that are not in the folder."""

    code = "missing_shard"

    def __init__(self, index: object, absent: list[str], total: int):
        shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        super().__init__(f"{index}: {len(absent)} of {total} weight files are missing: {shown}. Download them again.")


class BrokenShard(CheckpointError):
    """A weight file cannot be read: it is truncated, damaged, or does not contain weights."""

    code = "broken_shard"

    def __init__(self, file: object, reason: str):
        super().__init__(f"{file}: cannot be read as weights ({reason}). The file may be truncated; download it again.")


class QuantizedWeights(CheckpointError):
    """A weight file holds quantised tensors, which would be read as plain numbers."""

    code = "quantized_weights"

    def __init__(self, file: object, name: str, method: str):
        super().__init__(
            f"{file}: {name} was quantised with {method}, which cannot be read. Use the checkpoint that is not "
            "quantised; --load-8bit and --load-4bit quantise it while loading."
        )


class NotWeights(CheckpointError):
    """A weight file is something else: a pointer to the real file, or a page that was saved in its place."""

    code = "not_weights"


class VisionTowerNotFound(CheckpointError):
    """The vision tower of a checkpoint is neither in its folder nor in the other places that are searched."""

    code = "vision_tower_not_found"

    def __init__(self, name: str, model_folder: object | None, reason: str):
        places = f"in {model_folder}, " if model_folder is not None else ""
        super().__init__(
            f"vision tower {name!r} was not found (looked {places}in the current folder and on the hub: {reason}) "
            "Pass its folder with --vision-tower DIR, or load_pretrained_model(..., vision_tower=DIR)."
        )


class ShapeMismatch(CheckpointError):
    """A tensor does not have the shape that the model's config requires."""

    code = "shape_mismatch"

    def __init__(self, name: str, file: object, found: tuple[int, ...], expected: tuple[int, ...]):
        why = "The file belongs to a model of a different size or kind."
        if 0 in found and 0 not in expected:
            why = "It is empty, as in files that DeepSpeed ZeRO-3 saves without gathering the weights. Save it again."
        super().__init__(f"{file}: {name} has shape {list(found)}, the model expects {list(expected)}. {why}")


class BaseMismatch(CheckpointError):
    """A base model and a delta (or a model and its base) do not belong together; the message says why."""

    code = "base_mismatch"


class WeightsNotFinite(CheckpointError):
    """A tensor of a weight file contains NaN or infinite values."""

    code = "weights_not_finite"

    def __init__(self, name: str, file: object, count: int):
        super().__init__(
            f"{file}: {name} holds NaN or infinite values ({count:,}). The file is damaged, or its training diverged; "
            "fetch it again, or use an earlier checkpoint."
        )


class NotFinite(CheckpointError):
    """Weights that were about to be written contain NaN or infinite values."""

    code = "weights_not_finite"

    def __init__(self, name: str, count: int, dtype: str):
        message = f"{name}: {count} of its values would be NaN or infinite in {dtype}, so nothing was written. "
        message += "One of the inputs is damaged or is the wrong one."
        if dtype == "float16":
            message += " Values outside float16's range become infinite: try --dtype bfloat16 or float32."
        super().__init__(message)


class ContextTooLong(LlavaError):
    """Prompt and images fill the model's context, which leaves no room for an answer."""

    code, status = "context_length_exceeded", 400

    def __init__(self, num_tokens: int, limit: int):
        super().__init__(
            f"prompt and images have {num_tokens} tokens, but the model's context is {limit}. "
            "Shorten the question or use fewer images."
        )


# The engine (llava.engine)


class EngineFailed(LlavaError):
    """The model failed on a request twice; other requests were not affected."""

    code, status = "engine_failed", 500


class LogitsNotFinite(LlavaError):
    """The model's logits for a request are NaN or infinite; other requests were not affected."""

    code, status = "logits_not_finite", 500


class OutOfMemory(LlavaError):
    """A request needs more memory than the device has. The status is 400 because the same request would fail again."""

    code, status = "out_of_memory", 400


# Serving (llava.serve, llava.engine)


class InvalidField(InvalidRequest):
    """A field of a request is missing, has the wrong type or is out of bounds; `param` is its name."""

    code, status = "invalid_request", 422

    def __init__(self, message: str, *, param: str | None = None):
        super().__init__(message)
        self.param = param


class UnsupportedParameter(InvalidRequest):
    """This server does not support a known field of a request; `param` is its name."""

    code, status = "unsupported_parameter", 400

    def __init__(self, message: str, *, param: str | None = None):
        super().__init__(message)
        self.param = param


class Unauthorized(LlavaError):
    """The required key or token is missing or wrong."""

    code, status = "invalid_api_key", 401


class Forbidden(LlavaError):
    """The caller must not do this, whatever its key."""

    code, status = "forbidden", 403


class AddressRefused(Forbidden):
    """A worker's address is malformed, or the controller must not connect to it."""

    code, status = "worker_address_refused", 403


class ModelNotFound(LlavaError):
    """No worker serves a model of this name."""

    code, status = "model_not_found", 404

    def __init__(self, model: str, available: Sequence[str] = ()):
        choice = f"Available: {', '.join(available)}." if available else "No model is being served yet."
        super().__init__(f"no model named {model!r} is served here. {choice}")
        self.param = "model"


class RequestTimeout(LlavaError):
    """A client took too long to send its request."""

    code, status = "request_timeout", 408


class WorkerConflict(LlavaError):
    """A worker address or a model name already belongs to another live worker."""

    code, status = "worker_conflict", 409


class RequestTooLarge(LlavaError):
    """The body of a request has more bytes, more values or deeper nesting than allowed."""

    code, status = "request_too_large", 413


class UnsupportedMediaType(LlavaError):
    """The body of a request is not declared as JSON."""

    code, status = "unsupported_media_type", 415


class TryAgain(LlavaError):
    """The base of temporary errors: the same request may succeed after `retry_after_s` seconds."""

    code, status = "unavailable", 503

    def __init__(self, message: str, *, retry_after_s: float = 1.0):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(TryAgain):
    """A client has sent too many requests."""

    code, status = "rate_limited", 429


class QueueFull(TryAgain):
    """The queue of waiting requests is full."""

    code, status = "queue_full", 503


class ShuttingDown(TryAgain):
    """The service finishes running requests and accepts no new ones."""

    code, status = "shutting_down", 503


class NotReady(TryAgain):
    """The service has started but its model is not loaded yet."""

    code, status = "not_ready", 503


class NoWorker(TryAgain):
    """The model is known, but none of its workers can be reached at the moment."""

    code, status = "no_worker", 503


class WorkerLost(LlavaError):
    """A worker could not be reached, or failed in the middle of an answer."""

    code, status = "worker_lost", 502


class WorkerTimeout(LlavaError):
    """A worker is connected but has sent nothing for too long."""

    code, status = "worker_timeout", 504


class RemoteError(LlavaError):
    """Another service reported an error; message, `code` and `status` are those of that service."""

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
    """A port is in use, or this machine does not have the address."""

    code = "cannot_listen"

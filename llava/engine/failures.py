"""Turns exceptions from the model into the errors that users see."""

from __future__ import annotations

import logging
from typing import Any

import torch

from llava.errors import EngineFailed, LlavaError, LogitsNotFinite, OutOfMemory
from llava.model.weights.finite import first_not_finite

logger = logging.getLogger(__name__)


def as_error(error: BaseException) -> LlavaError:
    """Returns the error that a user sees for an exception; logs an unexpected exception with its traceback.

    The result has no traceback: its frames would keep the images of the request alive.
    """
    if isinstance(error, LlavaError):
        return error.with_traceback(None)
    text = str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in text.lower():
        return OutOfMemory(
            "the device does not have enough memory for this request "
            f"({text.splitlines()[0] if text else 'out of memory'}). "
            "Give fewer or smaller images, a shorter prompt, or ask for fewer tokens."
        )
    logger.error("the model failed on a request", exc_info=error)
    return EngineFailed(f"the model failed on this request: {type(error).__name__}: {text}")


def logits_not_finite(model: Any) -> LogitsNotFinite:
    """Returns the error of a request whose logits are NaN or infinite, with the weight that is to blame."""
    name = first_not_finite(model)
    if name is not None:
        return LogitsNotFinite(
            f"the model cannot answer this request: its weights hold NaN or infinite values ({name} is the first). "
            "Load another copy of the model."
        )
    precision = str(model.dtype).removeprefix("torch.")
    return LogitsNotFinite(
        f"the model's numbers became infinite on this request in {precision}, though its weights are finite. "
        "Load it with --dtype bfloat16 or float32."
    )

"""Turns exceptions from the model into the errors that users see."""

from __future__ import annotations

import logging

import torch

from llava.errors import EngineFailed, LlavaError, OutOfMemory

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

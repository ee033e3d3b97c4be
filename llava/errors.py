"""One family of typed errors: everything a user can cause or meet.

A message says what is wrong, where (file, line, row, field), and what to do. `code` is stable and travels over HTTP,
`status` is the HTTP status that goes with it. Imports nothing heavy: every part of the package may import it.
"""

from __future__ import annotations


class LlavaError(Exception):
    """Base of every error that a user can cause or meet."""

    code = "internal"
    status = 500


class InvalidRequest(LlavaError):
    """An argument or a combination of arguments that makes no sense."""

    code, status = "invalid_request", 400


class ImageError(LlavaError):
    """Base of everything wrong with one picture."""

    code, status = "invalid_image", 400


class CheckpointError(LlavaError):
    """Base of everything wrong with a model folder."""

    code, status = "invalid_checkpoint", 500


class DataError(LlavaError):
    """A training or evaluation file that does not say what it should; names file and record."""

    code, status = "invalid_data", 400


class ImageTokenMismatch(LlavaError):
    """A prompt whose image markers do not match its pictures; names row, expected and found."""

    code, status = "image_token_mismatch", 400
